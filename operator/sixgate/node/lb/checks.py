"""What follows from the answers of backends. Pure: rise, fall, and when whom to ask again."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sixgate.api.nodeconfig_lb import BalancerCheck


@dataclass(slots=True)
class Backend:
    """What is known of one backend: whether it is out of use, and how many answers in a row said the opposite."""

    down: bool = False
    against: int = 0
    why: str = ""

    def heard(self, check: BalancerCheck, wrong: str | None) -> bool:
        """Takes one answer, None for a good one; whether the backend's state or the reason for it changed."""
        before = self.why
        if wrong is not None:
            self.why = wrong
        if (wrong is not None) == self.down:
            self.against = 0
            return self.down and before != wrong
        self.against += 1
        if self.against < (check.rise if self.down else check.fall):
            return False
        self.down, self.against = not self.down, 0
        return True


def first_pause_s(check: BalancerCheck, dice: random.Random) -> float:
    """Anywhere in an interval, so that what begins together is not asked together. The first check of a backend that
    is to be found dead should not wait for long, whatever the interval: a second at most."""
    return dice.uniform(0, min(check.interval_ms / 1000, 1.0))


def next_pause_s(check: BalancerCheck, dice: random.Random) -> float:
    """An interval, moved by as much as the declared share of it."""
    share = check.jitter_percent / 100
    return check.interval_ms / 1000 * (1 + dice.uniform(-share / 2, share / 2))


@dataclass(slots=True)
class Allowance:
    """A bound on how many checks begin per second, for the whole node: a token bucket. `clock` times are seconds."""

    per_second: float
    burst: float
    _tokens: float = -1.0
    _at: float = 0.0

    def wait_s(self, now: float) -> float:
        """Takes one token; seconds until it may be used."""
        if self._tokens < 0 and self._at == 0:
            self._tokens = self.burst
        else:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.per_second)
        self._at = now
        self._tokens -= 1
        return max(0.0, -self._tokens / self.per_second)
