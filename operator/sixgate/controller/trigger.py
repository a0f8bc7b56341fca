"""One level-triggered queue with one place in it: something has changed, look at everything."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(slots=True)
class Trigger:
    """Any number of `fire` before a `wait` returns cause one look.

    After a look that took T seconds the next one begins T * `rest` later at the earliest (at most `longest_s`), so that
    a stream of changes leaves some of a core to others; an idle operator answers a change after `settle_s`.
    """

    settle_s: float = 0.01
    rest: float = 0.25
    longest_s: float = 1.0
    clock: Callable[[], float] = time.monotonic
    _event: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _not_before: float = field(default=0.0, init=False)

    def fire(self) -> None:
        self._event.set()

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Until fired and settled; False after `timeout_s` without any fire."""
        try:
            async with asyncio.timeout(timeout_s):  # wait_for of Python 3.11 can swallow a cancellation
                await self._event.wait()
        except TimeoutError:
            return False
        await asyncio.sleep(max(self.settle_s, self._not_before - self.clock()))
        self._event.clear()
        return True

    def looked(self, took_s: float) -> None:
        self._not_before = self.clock() + min(took_s * self.rest, self.longest_s)
