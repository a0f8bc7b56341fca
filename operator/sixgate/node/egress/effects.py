"""What this node does when a pair comes, goes or is asked after. Who owns what is decided in owners.py."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sixgate.errors import ApplyError, BpfError
from sixgate.node.egress import owners as own
from sixgate.node.egress.maps import OWNER, EgressMaps, Own

if TYPE_CHECKING:
    from sixgate.node.egress.floating import Floating
    from sixgate.node.egress.known import Known
    from sixgate.node.egress.sessions import Handover
    from sixgate.node.egress.ways import Ways
    from sixgate.node.heartbeat import Heartbeat

log = logging.getLogger(__name__)

REPEATS = 5  # of what is told about a change of owner, one heartbeat apart


@dataclass(slots=True)
class Effects:
    """The interpreter of what owners.py decides. `tell` is called when the status has changed, `wake` before a pair's
    address comes here. `reasons` are those of claims by pair; `draining` pairs are served until a time, for connections
    that were begun here."""

    known: Known
    owners: own.Owners
    maps: EgressMaps
    ways: Ways
    floating: Floating
    heart: Heartbeat
    handover: Handover
    clock: Callable[[], float]
    tell: Callable[[], None]
    wake: Callable[[int], None]
    reasons: dict[int, str] = field(default_factory=dict)
    _repeat: dict[int, int] = field(default_factory=dict)
    _draining: dict[int, float] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def do(self, effect: own.Effect) -> None:
        match effect:
            case own.Claim():
                self.reasons[effect.pair] = effect.reason
                self._spawn(self._claim(effect))
            case own.Yield():
                self._spawn(self._yield(effect))
            case own.Move():
                self._spawn(self.move(effect))
            case own.Probe():
                self._spawn(self._probe(effect.pair))
            case own.Ask():
                self.heart.ask(self.known.peers())

    async def stop(self) -> None:
        """What has begun is given up."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def forget(self) -> None:
        """The maps are gone."""
        for known in (self.reasons, self._repeat, self._draining):
            known.clear()

    def draining(self, number: int) -> bool:
        return number in self._draining

    def forget_pair(self, number: int) -> None:
        self._draining.pop(number, None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, ApplyError | BpfError | OSError):
            log.error("Egress: %s", error)
        elif error is not None:
            raise error

    async def _claim(self, effect: own.Claim) -> None:
        """Data plane first, then the address, then everybody is told."""
        number = effect.pair
        known = self.known.pairs[number]
        self._draining.pop(number, None)
        self.wake(number)
        self.maps.set_own(number, Own(OWNER, effect.epoch))
        self.ways.refresh(frozenset((number,)))
        self._repeat[number] = REPEATS
        self.heart.beat(self.known.peers())
        self.heart.publish((number,))
        log.warning("Takes %s of %s: %s.", " and ".join(known.addresses), known.policy.name, effect.reason)
        await self.floating.put_on(known.addresses, known.policy.device, self.known.own_address)
        if number in self.owners.mine() and known.policy.announce == "L2":
            await self.floating.announce(known.addresses)
        self.tell()

    async def _yield(self, effect: own.Yield) -> None:
        number = effect.pair
        known = self.known.pairs[number]
        log.warning("Gives %s of %s up: %s.", " and ".join(known.addresses), known.policy.name, effect.reason)
        epoch = self.owners.epoch(number)
        self.maps.set_own(number, Own(0, epoch))
        self._draining[number] = self.clock() + known.policy.drain_s
        self.ways.refresh(frozenset((number,)))
        await self.floating.take_off(known.addresses)
        self.tell()
        holder = self.owners.holder(number)
        if holder not in ("", self.known.node):
            await self._give(number, holder)

    async def move(self, effect: own.Move) -> None:
        number = effect.pair
        known = self.known.pairs[number]
        log.info("Hands %s of %s over to %s.", " and ".join(known.addresses), known.policy.name, effect.to)
        # The connections first, then the pair, then what was made meanwhile: nobody meets a gateway that knows nothing.
        await self._give(number, effect.to)
        if effect.to not in self.known.gateways:
            self.owners.stays(number)
            return
        self.owners.grant(number, self.clock())
        self.heart.beat(self.known.peers())

    async def _give(self, number: int, to: str) -> None:
        address = self.known.gateways.get(to)
        if address is None:
            log.warning("Connections of pair %d stay here: %s is no gateway any more.", number, to)
            return
        try:
            count, taken = await self.handover.give(number, address)
        except (OSError, BpfError, TimeoutError, EOFError) as error:
            log.warning("Connections of pair %d did not get to %s: %s.", number, to, error or type(error).__name__)
            return
        if count:
            log.info("Gave %d connections of pair %d to %s, which took %d.", count, number, to, taken)

    async def _probe(self, number: int) -> None:
        known = self.known.pairs[number]
        answered = True  # without a segment to ask nobody takes anything
        try:
            answered = await self.floating.alive(known.addresses, known.policy.device, self.known.own_address)
        finally:
            self.owners.answer(number, answered, self.clock())

    async def look_after(self) -> None:
        """Addresses that somebody took off by hand come back."""
        await self.floating.look()
        self.ways.take_frames()
        for number in self.owners.mine():
            known = self.known.pairs.get(number)
            if known is not None and any(self.floating.holds(address) is None for address in known.addresses):
                await self.floating.put_on(known.addresses, known.policy.device, self.known.own_address)
                if known.policy.announce == "L2":
                    await self.floating.announce(known.addresses)

    def publish_again(self) -> None:
        """News of owners, as often as they are to be told."""
        if self._repeat:
            self.heart.publish(self._repeat)
            self._repeat = {number: left - 1 for number, left in self._repeat.items() if left > 1}

    def end_drains(self, now: float) -> None:
        for number in [number for number, until in self._draining.items() if now >= until]:
            del self._draining[number]
            if number not in self.owners.mine():
                self.maps.drop_own(number)
