"""Entries of a state map carried over to the map that replaces it, field by field. Pure but for `carry_entries`.

A map is made anew where its size or the layout of its key or value changes. Sessions must survive that: what is in the
old map goes to the new one before the programs are switched, and once more afterwards for what came in between. An
entry that the new map has already is the newer one and stays.
"""

from __future__ import annotations

import errno
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sixgate.errors import BpfError
from sixgate.node.bpf.ctype import Array, CType, MapSpec, Record
from sixgate.node.bpf.mapspec import MapFlag, MapType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sixgate.node.bpf.map import Map

Fields = tuple[tuple[str, int, int], ...]  # name, offset, size; bytes
Snapshot = dict[int, bytes]  # values of an array, batch by batch, as a first pass found them
_KEY = 4  # bytes of an array's key
ARRAYS = (MapType.ARRAY, MapType.PERCPU_ARRAY)


@dataclass(frozen=True, slots=True)
class MapFields:
    """The layout of a map's key and value, as it is recorded while the map lives."""

    key_size: int
    value_size: int
    key: Fields
    value: Fields

    def as_json(self) -> dict[str, object]:
        return {
            "keySize": self.key_size,
            "valueSize": self.value_size,
            "key": [list(item) for item in self.key],
            "value": [list(item) for item in self.value],
        }

    @classmethod
    def from_json(cls, raw: object) -> MapFields | None:
        """None for what is no record of a layout."""
        try:
            assert isinstance(raw, dict)
            key, value = (tuple((str(n), int(o), int(s)) for n, o, s in raw[side]) for side in ("key", "value"))
            return cls(int(raw["keySize"]), int(raw["valueSize"]), key, value)
        except (AssertionError, KeyError, TypeError, ValueError):
            return None


def map_fields(definition: MapSpec) -> MapFields:
    """The layout that an object file gives a map."""
    key, value = definition.key, definition.value
    return MapFields(key.size, value.size, tuple(_leaves(key)), tuple(_leaves(value)))


def _leaves(ctype: CType, name: str = "", offset: int = 0) -> Iterator[tuple[str, int, int]]:
    """Every member that holds a value; an array of numbers is one."""
    match ctype:
        case Record(fields=fields):
            for field in fields:
                yield from _leaves(field.type, f"{name}.{field.name}", offset + field.offset)
        case Array(element=Record() as element, count=count):
            for index in range(count):
                yield from _leaves(element, f"{name}[{index}]", offset + index * element.size)
        case _:
            yield name, offset, ctype.size


def converter(old: Fields, new: Fields, old_size: int, new_size: int) -> Callable[[bytes], bytes]:
    """Bytes of the old layout to bytes of the new one: members of one name are copied, new ones are zero."""
    pieces = _pieces(old, new)
    if pieces == [(0, 0, old_size)] and new_size >= old_size:  # nothing has moved: the usual way to grow
        tail = bytes(new_size - old_size)
        return lambda data: data + tail
    blank = bytes(new_size)

    def convert(data: bytes) -> bytes:
        made = bytearray(blank)
        for to, start, size in pieces:
            made[to : to + size] = data[start : start + size]
        return bytes(made)

    return convert


def _pieces(old: Fields, new: Fields) -> list[tuple[int, int, int]]:
    """(new offset, old offset, size) of what is copied, neighbours joined."""
    known = {name: (offset, size) for name, offset, size in old}
    pieces: list[tuple[int, int, int]] = []
    for name, offset, size in sorted(new, key=lambda field: field[1]):
        if name not in known:
            continue
        start, had = known[name]
        length = min(size, had)
        if pieces:
            to, begin, run = pieces[-1]
            if to + run == offset and begin + run == start:
                pieces[-1] = (to, begin, run + length)
                continue
        pieces.append((offset, start, length))
    return pieces


def carry_entries(
    source: Map, target: Map, old: MapFields, new: MapFields, first_pass: Snapshot, *, fresh: bool = False
) -> tuple[int, int]:
    """Puts every entry of `source` that `target` lacks into it: (how many were put, how many found no room).

    Every entry of an array is always there, so a second pass goes by `first_pass`, which the first one fills: what has
    changed in `source` since is put where nobody has written to `target` since. Per-CPU values cannot be carried; a
    map of them is left as it is. `fresh` says that nobody has written to `target` yet.
    """
    if source.per_cpu or target.per_cpu:
        return 0, 0
    key_of = converter(old.key, new.key, old.key_size, new.key_size)
    value_of = converter(old.value, new.value, old.value_size, new.value_size)
    if source.type in ARRAYS:
        rows = _Rows(_pieces(old.value, new.value), old.value_size, new.value_size)
        return _carry_array(source, target, rows, first_pass, fresh=fresh)
    known = set() if fresh else {key for batch in target.batches() for key, _ in batch}
    put = refused = 0
    for batch in source.batches():
        missing = [(key_of(key), value) for key, value in batch]
        todo = [(key, value_of(value)) for key, value in missing if key not in known]
        written, full = _put(target, todo)
        put, refused = put + written, refused + full
    return put, refused


@dataclass(frozen=True, slots=True)
class _Rows:
    """Values of an array, one behind the other, and their conversion."""

    pieces: list[tuple[int, int, int]]
    old_size: int
    new_size: int

    def split(self, data: bytes) -> list[bytes]:
        """Values of the old layout, one by one."""
        size = self.old_size
        return [data[at : at + size] for at in range(0, len(data), size)]

    def convert(self, data: bytes) -> bytes:
        if self.pieces == [(0, 0, self.old_size)] and self.new_size >= self.old_size:  # nothing has moved
            tail = bytes(self.new_size - self.old_size)
            return tail.join(self.split(data)) + tail
        made = bytearray(len(data) // self.old_size * self.new_size)
        for to, start, size in self.pieces:  # byte by byte across all values, which is done in C
            for at in range(size):
                made[to + at :: self.new_size] = data[start + at :: self.old_size]
        return bytes(made)


def _carry_array(source: Map, target: Map, rows: _Rows, first_pass: Snapshot, *, fresh: bool) -> tuple[int, int]:
    """`fresh`: nobody has written to `target` yet, so it need not be looked at."""
    again = bool(first_pass)
    put = refused = 0
    room = target.info.max_entries
    there = iter(()) if fresh else target.raw_batches()
    for number, (keys, values) in enumerate(source.raw_batches()):
        before = first_pass.get(number, b"").ljust(len(values), b"\0")
        _, have = next(there, (b"", b""))
        if not again:
            first_pass[number] = values
        if values == before:
            continue
        first = int.from_bytes(keys[:_KEY], sys.byteorder)
        fits = max(0, min(len(values) // rows.old_size, room - first))
        filled = _filled(rows, values)
        refused += sum(filled[fits:])
        places, old_end, new_end = keys[: fits * _KEY], fits * rows.old_size, fits * rows.new_size
        now, was = rows.convert(values[:old_end]), b"" if fresh else rows.convert(before[:old_end])
        seen = have[:new_end]
        if fresh or seen == was or not seen.strip(b"\0"):
            target.update_raw(places, now)
            put += sum(filled[:fits])
        else:
            put += _put_rows(target, places, (now, was, seen), rows.new_size)
    return put, refused


def _filled(rows: _Rows, data: bytes) -> list[bool]:
    """Which values are not all zero."""
    blank = bytes(rows.old_size)
    return [value != blank for value in rows.split(data)]


def _put_rows(target: Map, keys: bytes, values: tuple[bytes, bytes, bytes], size: int) -> int:
    """Puts rows that have changed, `was` to `now`, where nobody has written: what `target` has is still the same."""
    now, was, have = values
    blank = bytes(size)
    todo = []
    for row, at in enumerate(range(0, len(now), size)):
        end = at + size
        new, old, seen = now[at:end], was[at:end], have[at:end]
        if new != old and (seen in (old, blank)):
            todo.append((keys[row * _KEY : row * _KEY + _KEY], new))
    return target.update_batch(todo)


def _put(target: Map, pairs: list[tuple[bytes, bytes]]) -> tuple[int, int]:
    """How many were written, and how many found no room; those that appeared meanwhile are in neither."""
    try:
        return target.update_batch(pairs, MapFlag.NOEXIST), 0
    except BpfError as error:
        if error.errno not in (errno.EEXIST, errno.E2BIG):
            raise
    written = full = 0
    for key, value in pairs:
        try:
            target.set_raw(key, value, MapFlag.NOEXIST)
            written += 1
        except BpfError as error:
            if error.errno not in (errno.EEXIST, errno.E2BIG):
                raise
            full += error.errno == errno.E2BIG
    return written, full
