"""Numbers that a node gives to backends, tables and counters. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K")


class OutOfNumbersError(Exception):
    """All are taken."""


@dataclass(slots=True)
class Numbers(Generic[K]):
    """Gives each key a number from `first` to `last` and takes it back. A number that was given back is given again as
    late as possible: somebody may still look at what was counted under it."""

    first: int
    last: int
    given: dict[K, int] = field(default_factory=dict)
    _taken: set[int] = field(default_factory=set)
    _next: int = 0

    def adopt(self, key: K, number: int) -> bool:
        """Take `number` for `key`; False where one of them is taken."""
        if key in self.given or number in self._taken or not self.first <= number <= self.last:
            return False
        self.given[key] = number
        self._taken.add(number)
        self._next = max(self._next, number + 1)
        return True

    def give(self, key: K) -> tuple[int, bool]:
        """The number of `key`, and whether it is a new one."""
        if key in self.given:
            return self.given[key], False
        if len(self._taken) > self.last - self.first:
            raise OutOfNumbersError
        number = max(self._next, self.first)
        for _ in range(self.first, self.last + 2):
            if number > self.last:
                number = self.first
            if number not in self._taken:
                break
            number += 1
        self.given[key] = number
        self._taken.add(number)
        self._next = number + 1
        return number, True

    def drop(self, key: K) -> int | None:
        """Take the number of `key` back; None where it has none."""
        number = self.given.pop(key, None)
        if number is not None:
            self._taken.discard(number)
        return number
