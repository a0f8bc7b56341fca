"""Announces virtual addresses on the segment: one node has each of them, and the next one takes it over.

A NodeConfig names the nodes that may have an address, in the order of preference. The first puts it on its device and
tells everybody (gratuitous ARP, unsolicited neighbour advertisement). The others ask the segment once a second; when
nobody has answered for a while, the next one takes the address. It gives it back as soon as somebody else answers for
it again. The kernel of a living node answers whatever became of its agent, so a restart moves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.errors import ApplyError
from sixgate.node.egress.floating import Floating

if TYPE_CHECKING:
    from sixgate.api.nodeconfig_lb import Balancer

log = logging.getLogger(__name__)

LOOK_S = 1.0
SILENT_LOOKS = 2  # without an answer, for each node that comes before
ASKED_PER_LOOK = 200


@dataclass(slots=True)
class _Vip:
    """`rank` is this node's place among those that may have it, 0 for the first."""

    rank: int
    device: str
    silent: int = 0


@dataclass(slots=True)
class Announcer:
    """`node` is this node's name; `changed` is called when it has other addresses than before, or cannot have one. All
    methods belong to one event loop."""

    node: str
    changed: Callable[[], None]
    held: frozenset[str] = frozenset()
    trouble: str = ""
    _vips: dict[str, _Vip] = field(default_factory=dict)
    _foreign: set[str] = field(default_factory=set)  # what other nodes announce
    _floating: Floating | None = None
    _task: asyncio.Task[None] | None = None
    _told: set[asyncio.Task[None]] = field(default_factory=set)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _asked: int = 0

    def follow(self, balancers: tuple[Balancer, ...]) -> None:
        """Announce these addresses from now on."""
        wanted: dict[str, _Vip] = {}
        foreign: set[str] = set()
        for item in balancers:
            device = item.devices[0] if len(item.devices) == 1 and not set(item.devices[0]) & set("*?[") else "auto"
            for vip in item.vips:
                if vip.announcers and self.node not in vip.announcers:
                    foreign.add(vip.address)
                elif vip.announcers:
                    rank = vip.announcers.index(self.node)
                    before = self._vips.get(vip.address)
                    wanted[vip.address] = _Vip(rank, device, before.silent if before is not None else 0)
        if wanted != self._vips or foreign != self._foreign:
            self._vips, self._foreign = wanted, foreign
            self._wake.set()
        if (wanted or foreign) and self._task is None:
            self._floating = Floating(ThreadPoolExecutor(1, "sixgate-lb-addr"))
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
            trouble = ""
            try:
                await self._look(floating)
            except (ApplyError, OSError) as error:
                trouble = f"Addresses cannot be announced: {error}"
            self._tell(floating, trouble)
            with contextlib.suppress(TimeoutError):  # not wait_for: see the checker
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()

    def _tell(self, floating: Floating, trouble: str) -> None:
        held = frozenset(address for address in self._vips if floating.holds(address) is not None)
        if (held, trouble) != (self.held, self.trouble):
            if trouble and trouble != self.trouble:
                log.error("%s", trouble)
            self.held, self.trouble = held, trouble
            self.changed()

    async def _look(self, floating: Floating) -> None:
        await floating.look()
        await floating.take_off((self.held - self._vips.keys()) | self._foreign)
        for address, vip in list(self._vips.items()):
            if vip.rank == 0 and floating.holds(address) is None:
                await self._take(floating, address, vip)
        others = [(address, vip) for address, vip in self._vips.items() if vip.rank > 0]
        start = self._asked % len(others) if others else 0
        now = (others[start:] + others[:start])[:ASKED_PER_LOOK]
        self._asked = start + len(now)
        for address, vip in now:
            await self._ask(floating, address, vip)

    async def _ask(self, floating: Floating, address: str, vip: _Vip) -> None:
        if await floating.alive((address,), vip.device, ""):
            vip.silent = 0
            if floating.holds(address) is not None:
                log.warning("Gives %s back: another node has it again.", address)
                await floating.take_off((address,))
            return
        vip.silent += 1
        if floating.holds(address) is None and vip.silent > SILENT_LOOKS * vip.rank:
            log.warning("Takes %s: no node has answered for it for %d looks.", address, vip.silent)
            await self._take(floating, address, vip)

    async def _take(self, floating: Floating, address: str, vip: _Vip) -> None:
        await floating.put_on((address,), vip.device, "")
        task = asyncio.create_task(floating.announce((address,)))
        self._told.add(task)
        task.add_done_callback(self._told.discard)
