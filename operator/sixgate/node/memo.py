"""Encoded tables of the NodeConfig that is applied again and again: most looks change nothing, and large tables take
most of a look's time to encode."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.node.bpf.codec import encode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sixgate.api.nodeconfig import Table
    from sixgate.node.bpf.ctype import MapSpec


@dataclass(frozen=True, slots=True)
class _Known:
    table: Table  # held, so that its id is not used again
    definition: MapSpec
    devices: Mapping[str, int]  # that were looked up, and their indexes
    encoded: Mapping[bytes, bytes]

    def fits(self, definition: MapSpec, devices: Mapping[str, int]) -> bool:
        same_devices = all(devices.get(name) == index for name, index in self.devices.items())
        return same_devices and self.definition == definition


@dataclass(slots=True)
class TableMemo:
    """Answers as if it encoded each time: a table counts as known while it is the same object, its map has the same
    types, and every device that it names has the same index."""

    _known: dict[int, _Known] = field(default_factory=dict)

    def keep(self, tables: Sequence[Table]) -> None:
        """Forget all others."""
        wanted = {id(table) for table in tables}
        self._known = {key: known for key, known in self._known.items() if key in wanted}

    def entries(self, table: Table, definition: MapSpec, devices: Mapping[str, int]) -> Mapping[bytes, bytes]:
        """Encoded entries. BpfError, naming the field, for one that does not fit."""
        known = self._known.get(id(table))
        if known is not None and known.fits(definition, devices):
            return known.encoded
        used: dict[str, int] = {}

        def lookup(name: str) -> int:
            used[name] = devices[name]
            return used[name]

        encoded = {}
        for entry in table.entries:
            key = encode(definition.key, entry.key, resolve=lookup, where=f"key of {definition.name}")
            encoded[key] = encode(definition.value, entry.value, resolve=lookup, where=f"value of {definition.name}")
        self._known[id(table)] = _Known(table, definition, used, encoded)
        return encoded
