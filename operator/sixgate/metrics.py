"""The shapes in which every part of the program describes itself to Prometheus.

A part knows nothing of Prometheus: it gives `Family`, `Columns` and `Timing` values when it is asked, at every scrape
anew, so that there is no second copy of a count that could differ from the first. Names are `sixgate_<what>_<unit>`,
counters end in `_total` and units are bytes and seconds (https://prometheus.io/docs/practices/naming/). Labels take
their values from a closed list, from objects of users, or from devices: never from packets.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with all its samples: values of `labels` in their order, and a number. `name` of a counter is written
    without `_total`."""

    kind: Literal["counter", "gauge"]
    name: str
    text: str
    labels: tuple[str, ...] = ()
    samples: tuple[tuple[tuple[str, ...], float], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """A Family of thousands of samples. `keys` are the values of `labels` of each, and the same object at every scrape
    for as long as they are the same, so that what was written of them can be kept; `values` are in their order."""

    kind: Literal["counter", "gauge"]
    name: str
    text: str
    labels: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...]
    values: Sequence[float]


@dataclass(slots=True)
class Timing:
    """How long something took, each time: a histogram. One writer; a scrape in another thread sees a recent state."""

    name: str
    text: str
    bounds: tuple[float, ...] = SECONDS
    _counts: list[int] = field(init=False)
    _sum: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._counts = [0] * (len(self.bounds) + 1)

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self.bounds, seconds)] += 1
        self._sum += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus wants them."""
        total, found = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), tuple(self._counts), strict=True):
            total += count
            found.append((bound, float(total)))
        return found

    @property
    def sum_s(self) -> float:
        return self._sum


Metric: TypeAlias = Family | Columns | Timing
Source: TypeAlias = Callable[[], Iterable[Metric]]
