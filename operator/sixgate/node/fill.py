"""Objects inside tables that stand for what the node works out: numbers, its own addresses, Maglev rings. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sixgate.node.devices import device_table
from sixgate.node.ring import maglev_ring

if TYPE_CHECKING:
    from sixgate.api.nodeconfig import Entry, Table
    from sixgate.node.findings import Findings
    from sixgate.node.model import Observed
    from sixgate.node.numbers import Numbers

_NUMBER, _ADDRESS, _MAGLEV = "$number", "$address", "$maglev"
FAMILIES = {4: "IPv4", 6: "IPv6"}


class Unfilled(Exception):
    """What a table refers to is not there; the text says what."""


@dataclass(frozen=True, slots=True)
class Filler:
    """Replaces such objects; `own` are the node's addresses by family."""

    numbers: Numbers
    own: dict[int, str]

    @classmethod
    def of(cls, have: Observed, numbers: Numbers) -> Filler:
        default = device_table(have).get(0, {})
        found = {family: default.get(f"addr{family}") for family in FAMILIES}
        return cls(numbers, {family: str(address) for family, address in found.items() if address})

    def fill(self, value: Any) -> Any:
        """`value` with every such object replaced; the very same one where there is none. Raises Unfilled."""
        if isinstance(value, dict):
            if len(value) <= 2:
                for word, make in self._makers().items():
                    if word in value:
                        return make(value)
            made = {name: self.fill(item) for name, item in value.items()}
            return made if any(made[name] is not value[name] for name in value) else value
        if isinstance(value, list | tuple):
            listed = [self.fill(item) for item in value]
            return listed if any(a is not b for a, b in zip(listed, value, strict=True)) else value
        return value

    def _makers(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        return {_NUMBER: self._number, _ADDRESS: self._address, _MAGLEV: self._maglev}

    def _number(self, value: dict[str, Any]) -> int:
        space, _, name = str(value[_NUMBER]).partition("/")
        row = self.numbers[space].given.get(name) if space in self.numbers else None
        if row is None:
            raise Unfilled(f"{name} has no number in {space}")
        return row[0] + int(value.get("plus", 0))

    def _address(self, value: dict[str, Any]) -> str:
        family = int(value[_ADDRESS])
        if family not in self.own:
            raise Unfilled(f"this node has no global {FAMILIES.get(family, '')} address that could be a source")
        return self.own[family]

    @staticmethod
    def _maglev(value: dict[str, Any]) -> tuple[int, ...]:
        return maglev_ring(tuple((str(key), int(weight)) for key, weight in value[_MAGLEV]), int(value["size"]))


def _filled(entry: Entry, filler: Filler) -> Entry:
    key, value = filler.fill(entry.key), filler.fill(entry.value)
    if key is entry.key and value is entry.value:
        return entry
    return entry.model_copy(update={"key": key, "value": value})


def fill_tables(tables: tuple[Table, ...], filler: Filler, found: Findings) -> tuple[Table, ...]:
    """`tables` as they are meant on this node; one that cannot be filled is a problem of its owners and is left out."""
    made = []
    for table in tables:
        try:
            entries = tuple(_filled(entry, filler) for entry in table.entries)
            outer = filler.fill(table.outer_key)
        except Unfilled as error:
            found.problem(table.owners, "NotFilled", f"Table {table.map} cannot be filled: {error}.")
            found.frozen_maps.add(table.map)
            continue
        same = outer is table.outer_key and all(a is b for a, b in zip(entries, table.entries, strict=True))
        made.append(table if same else table.model_copy(update={"entries": entries, "outer_key": outer}))
    return tuple(made)
