"""Announces addresses on the segment: one node has each of them, and the next one takes it over.

A NodeConfig names the nodes that may have an address, in the order of preference. The first puts it on its device and
tells everybody (gratuitous ARP, unsolicited neighbour advertisement). The others ask the segment once a second; when
nobody has answered for a while, the next one takes the address. It gives it back as soon as somebody else answers for
it again. The kernel of a living node answers whatever became of its agent, so a restart moves nothing.

An address that is `asked_first` is taken by nobody while somebody answers for it: the first node waits, too, until the
one that has it is gone or gives it back. Nor is it put where no subnet has it, for nobody would ask for it there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from sixgate.errors import ApplyError
from sixgate.node.egress.floating import Floating
from sixgate.node.egress.uplink import AUTO, subnet_device

if TYPE_CHECKING:
    from sixgate.api.nodeconfig import NodeConfigSpec
    from sixgate.node.model import Device

log = logging.getLogger(__name__)

LOOK_S = 1.0
SILENT_LOOKS = 2  # without an answer, for each node that comes before
ASKED_PER_LOOK = 200
PATIENT_LOOKS = 5  # a former owner gives an address up within a look or two; who answers longer has it by right


@dataclass(frozen=True, slots=True)
class Announced:
    """One address. `device` is a name or `auto` where any will do, `devices` are patterns where a subnet is needed."""

    address: str
    announcers: tuple[str, ...]
    device: str = "auto"
    asked_first: bool = False
    devices: tuple[str, ...] = ()


def announced_by(spec: NodeConfigSpec) -> tuple[Announced, ...]:
    """Everything that a NodeConfig wants announced, by this node or others."""
    found: list[Announced] = []
    for item in spec.balancers:
        device = item.devices[0] if len(item.devices) == 1 and not set(item.devices[0]) & set("*?[") else "auto"
        found += [Announced(vip.address, vip.announcers, device) for vip in item.vips if vip.announcers]
    for each in spec.announcements:
        found += [
            Announced(one.address, one.announcers, asked_first=True, devices=each.devices) for one in each.addresses
        ]
    return tuple(found)


@dataclass(slots=True)
class _Wanted:
    """`rank` is this node's place among those that may have it, 0 for the first. `silent` and `answered` count looks
    since the other."""

    rank: int
    said: Announced
    silent: int = 0
    answered: int = 0


@dataclass(slots=True)
class Announcer:
    """`node` is this node's name; `changed` is called when it has other addresses than before, or cannot have one. All
    methods belong to one event loop."""

    node: str
    changed: Callable[[], None]
    held: frozenset[str] = frozenset()
    troubles: Mapping[str, str] = field(default_factory=dict)  # address to a sentence
    _wanted: dict[str, _Wanted] = field(default_factory=dict)
    _foreign: set[str] = field(default_factory=set)  # what other nodes announce
    _floating: Floating | None = None
    _task: asyncio.Task[None] | None = None
    _told: set[asyncio.Task[None]] = field(default_factory=set)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _asked: int = 0
    _troubles: dict[str, str] = field(default_factory=dict)

    def follow(self, announced: Iterable[Announced]) -> None:
        """Announce these addresses from now on."""
        wanted: dict[str, _Wanted] = {}
        foreign: set[str] = set()
        for item in announced:
            if self.node not in item.announcers:
                foreign.add(item.address)
                continue
            before = self._wanted.get(item.address)
            made = _Wanted(item.announcers.index(self.node), item)
            if before is not None:
                made.silent, made.answered = before.silent, before.answered
            wanted[item.address] = made
        if wanted != self._wanted or foreign != self._foreign:
            self._wanted, self._foreign = wanted, foreign
            self._wake.set()
        if (wanted or foreign) and self._task is None:
            self._floating = Floating(ThreadPoolExecutor(1, "sixgate-addr"))
            self._task = asyncio.create_task(self._run(self._floating))

    async def stop(self) -> None:
        """Addresses stay where they are, as the data plane does."""
        for task in (self._task, *self._told):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._floating is not None:
            self._floating.close()
            self._floating.pool.shutdown(wait=False)
        self._task = self._floating = None

    async def _run(self, floating: Floating) -> None:
        while True:
            self._wake.clear()
            try:
                await self._look(floating)
            except (ApplyError, OSError) as error:
                self._troubles |= dict.fromkeys(self._wanted, f"Addresses cannot be announced: {error}")
            self._tell(floating)
            with contextlib.suppress(TimeoutError):  # not wait_for: see the checker
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()

    def _tell(self, floating: Floating) -> None:
        held = frozenset(address for address in self._wanted if floating.holds(address) is not None)
        troubles = {address: text for address, text in self._troubles.items() if address in self._wanted}
        if (held, troubles) != (self.held, self.troubles):
            for text in sorted(set(troubles.values()) - set(self.troubles.values())):
                log.error("%s", text)
            self.held, self.troubles = held, troubles
            self.changed()

    async def _look(self, floating: Floating) -> None:
        await floating.look()
        self._troubles = {}
        await floating.take_off((self.held - self._wanted.keys()) | self._foreign)
        now = [
            item
            for item in self._wanted.values()
            if item.rank == 0 and not item.said.asked_first and floating.holds(item.said.address) is None
        ]
        await self._take(floating, [(item, item.said.device) for item in now])
        asking = [
            item
            for item in self._wanted.values()
            if item.rank > 0 or (item.said.asked_first and floating.holds(item.said.address) is None)
        ]
        start = self._asked % len(asking) if asking else 0
        chosen = (asking[start:] + asking[:start])[:ASKED_PER_LOOK]
        self._asked = start + len(chosen)
        await self._take(floating, await self._ask(floating, chosen))

    async def _ask(self, floating: Floating, items: list[_Wanted]) -> list[tuple[_Wanted, str]]:
        """Asks for all of them; those that this node has to take now, and where."""
        by_device: dict[str, list[_Wanted]] = {}
        for item in items:
            said = item.said
            device = (
                _subnet_of(said, floating.seen()) if said.asked_first else floating.device(said.address, said.device)
            )
            if device and floating.seen()[device].up:
                by_device.setdefault(device, []).append(item)
                continue
            await self._heard(floating, item, True, device)  # who cannot ask does not take
            if said.asked_first:
                self._troubles[said.address] = _nowhere(said)
        taken: list[tuple[_Wanted, str]] = []
        for device, asked in by_device.items():
            answered = await floating.answered([item.said.address for item in asked], device)
            for item in asked:
                if await self._heard(floating, item, item.said.address in answered, device):
                    taken.append((item, device))
        return taken

    async def _heard(self, floating: Floating, item: _Wanted, answered: bool, device: str) -> bool:
        """Whether this node has to take the address now."""
        address = item.said.address
        here = floating.holds(address) is not None
        item.silent, item.answered = (0, item.answered + 1) if answered else (item.silent + 1, 0)
        if answered and here:
            log.warning("Gives %s back: another node has it again.", address)
            await floating.take_off((address,))
        elif answered and item.said.announcers == (self.node,) and item.answered > PATIENT_LOOKS:
            self._troubles[address] = (
                f"{address} should be announced on {device}, but another machine there answers for it."
            )
        if answered or here or item.silent <= SILENT_LOOKS * item.rank:
            return False
        if item.rank:
            log.warning("Takes %s: no node has answered for it for %d looks.", address, item.silent)
        return True

    async def _take(self, floating: Floating, items: list[tuple[_Wanted, str]]) -> None:
        taken = []
        for item, device in items:
            address = item.said.address
            try:
                await floating.put_on((address,), device, "")
            except (ApplyError, OSError) as error:
                self._troubles[address] = f"Addresses cannot be announced: {error}"
            else:
                taken.append(address)
        if taken:
            task = asyncio.create_task(floating.announce(taken))
            self._told.add(task)
            task.add_done_callback(self._told.discard)


def _subnet_of(said: Announced, devices: Mapping[str, Device]) -> str:
    found = sorted(devices.values(), key=lambda device: device.ifindex)
    fitting = (d for d in found if not d.ours and any(p == AUTO or fnmatchcase(d.name, p) for p in said.devices))
    return subnet_device(said.address, fitting)


def _nowhere(said: Announced) -> str:
    return (
        f"{said.address} should be announced (spec.announce), but no device of spec.devices that is up has a subnet "
        "with it: give one an address of that network, or route the address to this node and set spec.announce to None."
    )
