"""Asks the backends of this node's balancers whether they work: one asyncio component beside the reconciler.

One task begins checks in the order of their times; each check is a task of its own with a timeout of its own, so a
backend that does not answer delays nobody. How many begin per second, and how many are under way, is bounded for the
whole node: what does not fit is asked later.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.node.lb import checks, probes
from sixgate.node.lb.want import Health

if TYPE_CHECKING:
    from sixgate.api.nodeconfig_lb import Balancer, BalancerCheck

log = logging.getLogger(__name__)

PER_SECOND, BURST, AT_ONCE = 500.0, 50.0, 256

Target = tuple[str, str]  # name of the balancer, address of the backend
Ask = Callable[["BalancerCheck", str], Awaitable[str | None]]


@dataclass(slots=True)
class _Watch:
    """One backend that is checked. `turn` changes whenever it is scheduled anew: an older time counts no more then."""

    check: BalancerCheck
    backend: checks.Backend
    turn: int = 0


@dataclass(slots=True)
class Checker:
    """`changed` is called when a backend's state has changed. All methods belong to one event loop."""

    changed: Callable[[], None]
    clock: Callable[[], float]
    ask: Ask = probes.ask
    dice: random.Random = field(default_factory=random.Random)
    per_second: float = PER_SECOND
    _watched: dict[Target, _Watch] = field(default_factory=dict)
    _due: list[tuple[float, int, Target]] = field(default_factory=list)
    _under_way: set[asyncio.Task[None]] = field(default_factory=set)
    _task: asyncio.Task[None] | None = None
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _turns: int = 0

    def follow(self, balancers: tuple[Balancer, ...], known: Health) -> None:
        """Check these backends from now on. One that is new begins with what is `known` of it; what a backend was found
        to be stays when its check is declared otherwise."""
        wanted: dict[Target, BalancerCheck] = {
            (item.name, backend.address): item.check
            for item in balancers
            if item.check is not None
            for backend in item.backends
            if backend.state == "Active"
        }
        gone = self._watched.keys() - wanted.keys()
        for target in gone:
            del self._watched[target]
        for target, check in wanted.items():
            watch = self._watched.get(target)
            if watch is None:
                why = known.why(*target)
                watch = self._watched[target] = _Watch(check, checks.Backend(why is not None, why=why or ""))
            elif watch.check == check:
                continue
            watch.check = check
            self._schedule(target, watch, checks.first_pause_s(check, self.dice))
        if self._watched and self._task is None:
            self._task = asyncio.create_task(self._run())
        self._wake.set()

    def health(self) -> Health:
        """What is known now."""
        return Health({target: watch.backend.why for target, watch in self._watched.items() if watch.backend.down})

    async def stop(self) -> None:
        for task in (self._task, *self._under_way):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._task = None

    def _schedule(self, target: Target, watch: _Watch, pause_s: float) -> None:
        self._turns += 1
        watch.turn = self._turns
        heapq.heappush(self._due, (self.clock() + pause_s, watch.turn, target))
        self._wake.set()

    async def _run(self) -> None:
        allowance = checks.Allowance(self.per_second, BURST)
        while True:
            self._wake.clear()
            pause = self._due[0][0] - self.clock() if self._due else None
            if pause is None or pause > 0:
                # Not wait_for: in Python 3.11 it forgets a cancellation that comes together with the wake.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                continue
            _, turn, target = heapq.heappop(self._due)
            watch = self._watched.get(target)
            if watch is None or watch.turn != turn:
                continue
            while len(self._under_way) >= AT_ONCE:
                await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(allowance.wait_s(self.clock()))
            task = asyncio.create_task(self._check(target, watch))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _check(self, target: Target, watch: _Watch) -> None:
        check = watch.check
        wrong = await self.ask(check, target[1])
        if self._watched.get(target) is not watch:
            return
        was_down = watch.backend.down
        if watch.backend.heard(check, wrong):
            if watch.backend.down != was_down:
                now = f"is not used any more: {wrong}" if watch.backend.down else "works again"
                log.warning("Backend %s of %s %s.", target[1], target[0], now)
            self.changed()
        if watch.check is check:  # otherwise it is scheduled already
            self._schedule(target, watch, checks.next_pause_s(check, self.dice))
