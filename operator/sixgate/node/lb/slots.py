"""How a table changes. Pure; docs/design/loadbalancer.md has the rules and why connections survive them.

A slot is a number of 32 bits: the backend's id, and in the upper half the id of its former backend, 0 in the steady
state. (In memory that is `struct sg_lb_slot` on machines that keep the low byte first, which all we build for do.)
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sixgate.node.lb.layout import Head

if TYPE_CHECKING:
    from collections.abc import Sequence

LEARN_S = 30
_NS = 1_000_000_000
STEADY = Head()


@dataclass(frozen=True, slots=True)
class Table:
    """One table as it is in the kernel. `slots` is never changed in place; `named` are its different values."""

    slots: array[int]
    head: Head = STEADY
    named: frozenset[int] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "named", frozenset(self.slots))

    def draining(self, now_ns: int) -> bool:
        """Whether former backends still count."""
        return self.head.drain_until_ns > now_ns

    def steady(self) -> bool:
        """Whether no slot has a former backend."""
        return max(self.named, default=0) <= 0xFFFF

    def used(self) -> set[int]:
        """Ids that some slot names."""
        return {half for slot in self.named for half in (slot & 0xFFFF, slot >> 16)} - {0}

    def formers(self) -> set[int]:
        """Ids that some slot names as its former backend."""
        return {slot >> 16 for slot in self.named} - {0}


def fresh(backends: Sequence[int]) -> Table:
    """A table that nobody has used before."""
    return Table(array("I", backends))


def settle(table: Table) -> Table:
    """The same after its drain: no slot has a former backend."""
    return Table(array("I", [slot & 0xFFFF for slot in table.slots]), table.head)


def change(table: Table, backends: Sequence[int], drain_s: int, now_ns: int) -> Table:
    """`table` with new backends, slot by slot; `table` itself where nothing changes.

    A table of another size takes over each slot's share of the flows as far as it lies inside one old slot.
    """
    if len(backends) != len(table.slots):
        size, old = len(backends), table.slots
        table = replace(table, slots=array("I", [old[(2 * n + 1) * len(old) // (2 * size)] for n in range(size)]))
    elif all(slot & 0xFFFF == new for slot, new in zip(table.slots, backends, strict=True)):
        return table
    if not table.draining(now_ns):
        table = settle(table)
    if drain_s == 0:
        return Table(array("I", backends), table.head)
    slots = array(
        "I",
        [
            slot if slot & 0xFFFF == new else ((slot & 0xFFFF0000) or (slot << 16)) | new
            for slot, new in zip(table.slots, backends, strict=True)
        ],
    )
    head = table.head
    learning = now_ns + min(drain_s, LEARN_S) * _NS
    return Table(
        slots,
        Head(
            drain_until_ns=max(head.drain_until_ns, now_ns + drain_s * _NS),
            learn_until_ns=learning,
            epoch=head.epoch if table.draining(now_ns) else _epoch(head.epoch, now_ns),
        ),
    )


def _epoch(before: int, now_ns: int) -> int:
    """A number that no drain of this table, and none of a table that had its number before, has had lately: the time in
    units of a millisecond, which comes again after seven weeks."""
    made = (now_ns >> 20) & 0xFFFFFFFF or 1
    return made if made != before else (made + 1) & 0xFFFFFFFF
