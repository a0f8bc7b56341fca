"""The balancer's maps as the node writes them: when copies of VIPs in the data plane count."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from sixgate.errors import BpfError
from sixgate.node.lb.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sixgate.node.bpf.map import Map

FIRST = bytes(4)


class Generation:
    """`sg_lb_gen`: what was written, in order."""

    def __init__(self, begin: int) -> None:
        self.numbers = [begin]

    def get_raw(self, key: bytes) -> bytes:
        assert key == FIRST
        return self.numbers[-1].to_bytes(4, sys.byteorder)

    def set_raw(self, key: bytes, value: bytes) -> None:
        assert key == FIRST
        self.numbers.append(int.from_bytes(value, sys.byteorder))


class Table:
    """A map that looks at the generation when it is written."""

    def __init__(self, generation: Generation, broken: bool = False) -> None:
        self.generation, self.broken = generation, broken
        self.seen: list[int] = []

    def update_batch(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        self.seen.append(self.generation.numbers[-1])
        if self.broken:
            raise BpfError("Map sg_lb_vip is full.", 7)

    def delete_batch(self, keys: Iterable[bytes]) -> None:
        self.seen.append(self.generation.numbers[-1])


def store_of(begin: int, name: str = "sg_lb_vip", broken: bool = False) -> tuple[Store, Generation, Table]:
    generation = Generation(begin)
    table = Table(generation, broken)
    return Store(Path("/nowhere"), cast("dict[str, Map]", {name: table, "sg_lb_gen": generation})), generation, table


@pytest.mark.parametrize(("begin", "during", "after"), [(0, 1, 2), (2, 3, 4), (5, 5, 6), (2**32 - 2, 2**32 - 1, 0)])
def test_copies_do_not_count_while_vips_change_and_are_old_afterwards(begin: int, during: int, after: int) -> None:
    for change in (lambda store: store.write("sg_lb_vip", []), lambda store: store.delete("sg_lb_vip", [])):
        store, generation, table = store_of(begin)
        change(store)
        assert table.seen == [during]
        assert generation.numbers[-1] == after


def test_copies_do_not_count_after_a_change_that_failed() -> None:
    store, generation, _ = store_of(4, broken=True)
    with pytest.raises(BpfError, match="full"):
        store.write("sg_lb_vip", [])
    assert generation.numbers == [4, 5]


def test_changes_of_other_maps_leave_copies_of_vips_alone() -> None:
    store, generation, table = store_of(4, name="sg_lb_range")
    store.write("sg_lb_range", [])
    store.delete("sg_lb_range", [])
    assert generation.numbers == [4] == table.seen[:1] == table.seen[1:]
