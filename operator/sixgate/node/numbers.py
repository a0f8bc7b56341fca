"""Numbers that are handed out by name and kept: where items of a NodeConfig stand in arrays of the data plane. Pure.

What has a number keeps it until it is wanted no more. Numbers that came free are given out again last, because the
data plane may still be clearing up after their former owner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sixgate.api.nodeconfig import NumberSpace


@dataclass(frozen=True, slots=True)
class SpaceNumbers:
    """`given` is name to (first number, how many); `after` is where the search for free ones goes on."""

    given: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    after: int = 0


Numbers = Mapping[str, SpaceNumbers]


@dataclass(frozen=True, slots=True)
class Misfit:
    """An item for which no row of numbers is free."""

    space: str
    name: str
    owners: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} finds no room in {self.space}, whose numbers are given out or too scattered."


def hand_out(spaces: tuple[NumberSpace, ...], before: Numbers) -> tuple[dict[str, SpaceNumbers], tuple[Misfit, ...]]:
    """Numbers of every item of `spaces`, those of `before` kept, and the items that found none."""
    made: dict[str, SpaceNumbers] = {}
    misfits: list[Misfit] = []
    for space in spaces:
        old = before.get(space.space, SpaceNumbers())
        given: dict[str, tuple[int, int]] = {}
        for item in space.items:
            first, count = old.given.get(item.name, (0, 0))
            if count == item.count and first + count <= space.size:
                given[item.name] = (first, count)
        after = old.after
        for item in space.items:
            if item.name in given:
                continue
            start = _search(given, item.count, after, space.size)
            if start is None:
                misfits.append(Misfit(space.space, item.name, item.owners))
                continue
            given[item.name] = (start, item.count)
            after = start + item.count
        made[space.space] = SpaceNumbers(dict(sorted(given.items())), after)
    return made, tuple(misfits)


def _search(given: Mapping[str, tuple[int, int]], count: int, after: int, size: int) -> int | None:
    """The first number of a free row at or behind `after`, else the first one from the beginning."""
    taken = sorted(given.values())
    starts = [0, *(first + many for first, many in taken)]
    fitting = [
        start
        for start in sorted({*starts, after})
        if start + count <= size and not any(f < start + count and start < f + many for f, many in taken)
    ]
    return next((start for start in fitting if start >= after), fitting[0] if fitting else None)


def as_json(numbers: Numbers) -> dict[str, object]:
    return {
        name: {"after": space.after, "given": {item: list(row) for item, row in space.given.items()}}
        for name, space in numbers.items()
    }


def from_json(raw: object) -> dict[str, SpaceNumbers]:
    """The inverse of `as_json`; nothing for what is no such record."""
    if not isinstance(raw, dict):
        return {}
    try:
        return {
            str(name): SpaceNumbers(
                {str(item): (int(row[0]), int(row[1])) for item, row in space["given"].items()}, int(space["after"])
            )
            for name, space in raw.items()
        }
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return {}
