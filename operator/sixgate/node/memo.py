"""Encoded tables of the NodeConfig that is applied again and again: most looks change nothing, and large tables take
most of a look's time to encode."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.node.bpf.codec import encode
from sixgate.node.fill import Filler, fill_tables
from sixgate.node.host_ports import keep_apart
from sixgate.node.model import SCOPE_LINK
from sixgate.node.shapes import layout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sixgate.api.nodeconfig import Table
    from sixgate.errors import Problem
    from sixgate.node.bpf.ctype import MapSpec
    from sixgate.node.findings import Findings
    from sixgate.node.host_ports import HostPorts
    from sixgate.node.model import Observed
    from sixgate.node.numbers import Numbers
    from sixgate.node.resolve import ObjectFile


@dataclass(frozen=True, slots=True)
class _Known:
    table: Table  # held, so that its id is not used again
    definition: MapSpec
    devices: Mapping[str, int]  # that were looked up, and their indexes
    encoded: Mapping[bytes, bytes]

    def fits(self, definition: MapSpec, index_of: Callable[[str], int]) -> bool:
        try:
            same_devices = all(index_of(name) == index for name, index in self.devices.items())
        except KeyError:
            return False
        return same_devices and self.definition == definition


@dataclass(frozen=True, slots=True)
class _Filled:
    source: tuple[Table, ...]
    filler: Filler
    local: frozenset[str]
    host: HostPorts | None
    made: tuple[Table, ...]
    notes: tuple[Problem, ...]


@dataclass(slots=True)
class TableMemo:
    """Answers as if it encoded each time: a table counts as known while it is the same object, its map has the same
    types, and every device that it names has the same index."""

    _known: dict[int, _Known] = field(default_factory=dict)
    _filled: _Filled | None = None
    _layouts: dict[str, tuple[Mapping[str, MapSpec], Mapping[str, str]]] = field(default_factory=dict)  # by object

    def layouts(self, file: ObjectFile) -> Mapping[str, str]:
        """Hash of each map's types; sizes are no part of it."""
        known = self._layouts.get(file.name)
        if known is None or known[0] != file.maps:
            known = self._layouts[file.name] = (file.maps, {name: layout(spec) for name, spec in file.maps.items()})
        return known[1]

    def filled(self, tables: tuple[Table, ...], have: Observed, numbers: Numbers, found: Findings) -> tuple[Table, ...]:
        """`tables` with what the node itself puts into them; the same ones as before while nothing has changed."""
        filler = Filler.of(have, numbers)
        local = frozenset(
            a.address for device in have.devices.values() for a in device.addresses if a.scope != SCOPE_LINK
        )
        known, inputs = self._filled, (filler, local, have.host_ports)
        if known and known.source is tables and (known.filler, known.local, known.host) == inputs:
            found.notes.extend(known.notes)
            return known.made
        problems, notes = len(found.problems), len(found.notes)
        made = keep_apart(fill_tables(tables, filler, found), have, found)
        fresh = tuple(found.notes[notes:])
        good = len(found.problems) == problems
        self._filled = _Filled(tables, *inputs, made, fresh) if good else None
        return made

    def keep(self, tables: Sequence[Table]) -> None:
        """Forget all others."""
        wanted = {id(table) for table in tables}
        self._known = {key: known for key, known in self._known.items() if key in wanted}

    def entries(self, table: Table, definition: MapSpec, index_of: Callable[[str], int]) -> Mapping[bytes, bytes]:
        """Encoded entries; `index_of` raises KeyError for a device that is not there. BpfError, naming the field, for
        one that does not fit."""
        known = self._known.get(id(table))
        if known is not None and known.fits(definition, index_of):
            return known.encoded
        used: dict[str, int] = {}

        def lookup(name: str) -> int:
            used[name] = index_of(name)
            return used[name]

        encoded = {}
        for entry in table.entries:
            key = encode(definition.key, entry.key, resolve=lookup, where=f"key of {definition.name}")
            encoded[key] = encode(definition.value, entry.value, resolve=lookup, where=f"value of {definition.name}")
        self._known[id(table)] = _Known(table, definition, used, encoded)
        return encoded
