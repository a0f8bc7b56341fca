"""Pods of this node to the maps of egress: a birth is a few writes here, and nowhere else."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.errors import ApplyError, BpfError
from sixgate.node import rtlink
from sixgate.node.egress.ports import bind, find_ports
from sixgate.node.egress.tables import contents
from sixgate.node.events import KernelEvents
from sixgate.node.model import AddressSeen
from sixgate.node.netlink import devices_with

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor

    from sixgate.api.nodeconfig import EgressPolicy
    from sixgate.node.egress.maps import EgressMaps
    from sixgate.node.egress.pods import PodSource, Population

log = logging.getLogger(__name__)

SETTLE_S = 0.02  # events come in bursts
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
    _population: Population | None = None
    _bound: dict[str, int] = field(default_factory=dict)
    _inside: dict[tuple[int, tuple[int, ...]], tuple[tuple[int, bytes], ...]] = field(default_factory=dict)
    _ask_again: float = 0.0
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def configure(self, policies: tuple[EgressPolicy, ...]) -> None:
        self._policies = policies
        self._wake.set()

    def forget(self) -> None:
        """There are no policies any more, and no maps that anything was written to. Not while `run` runs."""
        self.selected, self._policies, self._population, self._bound = {}, (), None, {}
        self._inside.clear()

    def addresses(self) -> dict[str, list[str]]:
        """Addresses of the pods of this node, by namespace and name."""
        return self._named

    async def run(self, changed: Callable[[], None]) -> None:
        """Until cancelled. `changed` is called when `selected` or `addresses` has changed."""
        loop = asyncio.get_running_loop()
        follower = asyncio.create_task(self._follow())
        with KernelEvents(pods=True) as events:

            def heard() -> None:
                if events.drain():
                    self._wake.set()

            loop.add_reader(events.fileno(), heard)
            try:
                while True:
                    if follower.done():
                        follower.result()
                    before = self.selected, self._named
                    missing = await loop.run_in_executor(self.pool, self._sync)
                    if (self.selected, self._named) != before:
                        changed()
                    with_timeout = UNBOUND_S if missing else RESYNC_S
                    try:
                        # Not wait_for: on Python 3.11 it forgets a cancellation that comes together with the wake.
                        async with asyncio.timeout(with_timeout):
                            await self._wake.wait()
                        await asyncio.sleep(SETTLE_S)
                    except TimeoutError:
                        pass
                    self._wake.clear()
            finally:
                loop.remove_reader(events.fileno())
                follower.cancel()
                await asyncio.gather(follower, return_exceptions=True)

    async def _follow(self) -> None:
        if self.source is None:
            return
        async for population in self.source.populations():
            self._population = population
            self._wake.set()

    def _sync(self) -> bool:
        """One look at devices, and the maps made so. True if a pod's device was not found. Until pods are known for the
        first time, what a former agent wrote stays."""
        population = self._population
        if population is None and self.source is not None:
            return False
        try:
            bound = self._bind()
            pods = population.pods.values() if population is not None else ()
            namespaces = population.namespaces if population is not None else {}
            wanted = contents(self._policies, pods, namespaces, bound)
            changed = self.maps.write(wanted)
        except (ApplyError, BpfError, OSError) as error:
            log.error("Pods of egress could not be written: %s", error)
            return True
        if changed:
            log.debug("Wrote %d entries for %d pods.", changed, len(wanted.pods))
        self.selected = wanted.selected
        self._named = {str(pod): sorted(pod.addresses) for pod in pods}
        return any(address not in bound for pod in pods for address in pod.addresses)

    def _bind(self) -> dict[str, int]:
        """Straight from rtnetlink: a burst of births makes many looks, and pyroute2 takes its time."""
        addresses: dict[int, list[AddressSeen]] = {}
        for index, packed, length, scope in rtlink.own_addresses():
            addresses.setdefault(index, []).append(AddressSeen(str(ipaddress.ip_address(packed)), length, scope))
        devices = devices_with(addresses)
        by_index = {device.ifindex: device.name for device in devices.values()}
        routes = rtlink.host_routes()
        ways_out = (by_index.get(index, "") for index in rtlink.default_routes())
        ports = find_ports(devices, set(routes.values()), ways_out)
        behind: dict[int, tuple[int, ...]] = {}
        for name in sorted(ports.pods):
            device = devices[name]
            behind[device.netnsid] = (*behind.get(device.netnsid, ()), device.ifindex)
        if time.monotonic() >= self._ask_again:
            self._ask_again = time.monotonic() + RESYNC_S
            self._inside.clear()

        def inside(netnsid: int) -> tuple[tuple[int, bytes], ...]:
            """Asked once of a pod that has anything, and again at every resync. Indexes of devices are never used
            again, so a namespace that gets a dead one's number is asked anew."""
            key = (netnsid, behind[netnsid])
            self._inside[key] = self._inside.get(key) or rtlink.addresses_in(netnsid)
            return self._inside[key]

        self._bound = bind(devices, ports.pods, routes, inside, self._bound)
        return self._bound
