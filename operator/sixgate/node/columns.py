"""Per-CPU arrays of counters, read in one call and added up column by column."""

from __future__ import annotations

from array import array
from operator import add
from typing import TYPE_CHECKING

from sixgate.node.bpf.layouts import MAPS
from sixgate.node.bpf.lib import possible_cpus
from sixgate.node.bpf.map import Map

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def read_columns(path: Path | None, count: int, *columns: int) -> list[Sequence[int]]:
    """Of the first `count` entries of the per-CPU array pinned at `path`, the numbers that stand at `columns` of each
    value, all CPUs added up; zeros where there is no path. Values are made of 64-bit numbers."""
    if path is None:
        return [[0] * count for _ in columns]
    with Map.from_pin(path, spec=MAPS[path.name]) as table:
        return columns_of(table, count, *columns)


def columns_of(table: Map, count: int, *columns: int) -> list[Sequence[int]]:
    """The same of a map that is open."""
    words = array("Q", table.first_values(count))
    width = table.value_bytes // 8
    cpus = possible_cpus()
    return [_added(words, column, width, width // cpus, cpus) for column in columns]


def _added(words: array[int], column: int, width: int, per_cpu: int, cpus: int) -> Sequence[int]:
    found: Sequence[int] = words[column::width]
    for cpu in range(1, cpus):
        found = list(map(add, found, words[cpu * per_cpu + column :: width]))
    return found
