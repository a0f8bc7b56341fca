"""Pods of this node to the maps of egress: a birth is a few writes here, and nowhere else."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.errors import ApplyError, BpfError
from sixgate.node.egress.ports import Inside, PortFinder, Ports, bind, routed
from sixgate.node.egress.tables import Memo, contents
from sixgate.node.events import KernelEvents
from sixgate.node.mirror import Mirror

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from concurrent.futures import Executor

    from sixgate.api.nodeconfig import EgressPolicy
    from sixgate.node.egress.maps import EgressMaps
    from sixgate.node.egress.pods import PodSource, Population
    from sixgate.node.egress.tables import Pod

log = logging.getLogger(__name__)

SETTLE_S = 0.02  # events come in bursts; looks that take longer wait longer, so that they leave the CPU to others
MAX_SETTLE_S = 0.05
UNBOUND_S = 0.1  # between looks while a pod's device is not found: an address inside a pod causes no event here
RESYNC_S = 10.0


@dataclass(slots=True)
class People:
    """`selected` is the number of pods by policy and pair, as written last."""

    maps: EgressMaps
    source: PodSource | None
    pool: Executor
    selected: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    _policies: tuple[EgressPolicy, ...] = ()
    _named: dict[str, list[str]] = field(default_factory=dict)
    _named_of: tuple[Pod, ...] | None = None
    _population: Population | None = None
    _seen: tuple[Population | None, tuple[Pod, ...], tuple[str, ...]] = (None, (), ())  # pods and their addresses
    _bound: dict[str, int] = field(default_factory=dict)
    _inside: Inside = field(default_factory=Inside)
    _ports: tuple[int, Ports] = (-1, Ports())  # as of a version of the mirror
    _finder: PortFinder = field(default_factory=PortFinder)
    _memo: Memo = field(default_factory=Memo)
    _anew_due: float = 0.0
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def configure(self, policies: tuple[EgressPolicy, ...]) -> None:
        if policies != self._policies:
            self._policies = policies
            self._wake.set()

    def forget(self) -> None:
        """There are no policies any more, and no maps that anything was written to. Not while `run` runs."""
        self.selected, self._policies, self._population, self._bound = {}, (), None, {}
        self._seen = (None, (), ())
        self._inside, self._ports, self._memo, self._anew_due = Inside(), (-1, Ports()), Memo(), 0.0

    def addresses(self) -> dict[str, list[str]]:
        """Addresses of the pods of this node, by namespace and name."""
        return self._named

    async def run(self, changed: Callable[[], None]) -> None:
        """Until cancelled. `changed` is called when `selected` or `addresses` has changed."""
        loop = asyncio.get_running_loop()
        follower = asyncio.create_task(self._follow())
        self._anew_due, self._ports = 0.0, (-1, Ports())
        with KernelEvents(pods=True) as events, Mirror() as mirror:

            def heard() -> None:
                if events.drain():
                    self._wake.set()

            loop.add_reader(events.fileno(), heard)
            look: asyncio.Future[bool] | None = None
            try:
                while True:
                    if follower.done():
                        follower.result()
                    before = self.selected, self._named
                    began = time.monotonic()
                    look = loop.run_in_executor(self.pool, self._sync, mirror)
                    missing = await asyncio.shield(look)
                    took_s = time.monotonic() - began
                    if (self.selected, self._named) != before:
                        changed()
                    with_timeout = UNBOUND_S if missing else RESYNC_S
                    try:
                        # Not wait_for: on Python 3.11 it forgets a cancellation that comes together with the wake.
                        async with asyncio.timeout(with_timeout):
                            await self._wake.wait()
                        await asyncio.sleep(max(SETTLE_S, min(MAX_SETTLE_S, took_s)))
                    except TimeoutError:
                        pass
                    self._wake.clear()
            finally:
                loop.remove_reader(events.fileno())
                follower.cancel()
                # The mirror must not be closed under a look that goes on.
                await asyncio.gather(*(task for task in (follower, look) if task is not None), return_exceptions=True)

    async def _follow(self) -> None:
        if self.source is None:
            return
        async for population in self.source.populations():
            self._population = population
            self._wake.set()

    def _sync(self, mirror: Mirror) -> bool:
        """One look at what has changed, at everything now and then, and the maps made so. True if there is more to be
        looked at soon: a pod's device was not found. Until pods are known for the first time, what a former agent
        wrote stays."""
        population = self._population
        if population is None and self.source is not None:
            return False
        if self._seen[0] is not population or population is None:
            pods = tuple(population.pods.values()) if population is not None else ()
            self._seen = population, pods, tuple(address for pod in pods for address in pod.addresses)
        _, pods, addresses = self._seen
        namespaces = population.namespaces if population is not None else {}
        anew = time.monotonic() >= self._anew_due
        try:
            mirror.look(anew=anew)
            bound = self._bind(mirror, addresses)
            wanted = contents(self._policies, pods, namespaces, bound, self._memo)
            changed = self.maps.write(wanted, anew=anew)
        except (ApplyError, BpfError, OSError) as error:
            log.error("Pods of egress could not be written: %s", error)
            self._anew_due = 0.0
            return True
        if anew:
            self._anew_due = time.monotonic() + RESYNC_S
        if changed:
            log.debug("Wrote %d entries for %d pods.", changed, len(wanted.pods))
        self.selected = wanted.selected
        if self._named_of is not pods:
            self._named, self._named_of = {str(pod): sorted(pod.addresses) for pod in pods}, pods
        return self._inside.overdue or not bound.keys() >= set(addresses)

    def _bind(self, mirror: Mirror, addresses: Iterable[str]) -> dict[str, int]:
        """Which device leads to each address. Pods are asked only where a route does not tell of all that matter."""
        version, ports = self._ports
        if version != mirror.version:
            ways_out = (mirror.names.get(index, "") for index in mirror.default_devices)
            ports = self._finder.find(mirror.devices, frozenset(mirror.host_routes.values()), ways_out)
            self._ports = mirror.version, ports
        self._inside.overdue = False
        bound = routed(mirror.devices, ports.pods, mirror.host_routes)
        if not bound.keys() >= set(addresses):
            self._inside.begin([mirror.devices[name] for name in ports.pods])
            bound = bind(mirror.devices, ports.pods, mirror.host_routes, self._inside.addresses, self._bound)
        self._bound = bound
        return bound
