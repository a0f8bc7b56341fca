"""The balancer's maps on one node: bytes in, bytes out. The only part that talks to the kernel."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sixgate.errors import BpfError
from sixgate.node import names
from sixgate.node.bpf import info
from sixgate.node.bpf.codec import Codec
from sixgate.node.bpf.ctype import U32, MapSpec, Raw
from sixgate.node.bpf.map import Map
from sixgate.node.bpf.mapspec import MapType
from sixgate.node.lb import layout

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from sixgate.node.lb.slots import Table

INNER_MAP = 1 << 12  # BPF_F_INNER_MAP
SWAPPED_AT_ONCE = 500  # inner maps whose descriptors are open together
PLAIN = ("sg_lb_vip", "sg_lb_range", "sg_lb_backend", "sg_lb_source", "sg_lb_quic")
ALL = (*PLAIN, "sg_lb_table", "sg_lb_cpu", "sg_lb_stats", "sg_lb_drops", "sg_lb_flow", "sg_lb_affinity", "sg_lb_gen")
_NEXT = "next"
_DROP_STAT = slice(0, 4)
_FLOW_BACKEND, _FLOW_TABLE = slice(8, 12), slice(12, 16)
_AFFINITY_BACKEND = slice(8, 12)


def identify(root: Path) -> tuple[int, ...]:
    """Ids of the maps as they are pinned, empty where one of them is missing: other ids mean other maps."""
    found = []
    for name in ALL:
        path = map_file(root, name)
        if path is None:
            return ()
        found.append(info.ask_pin(path, "map", info.map_info).id)
    return tuple(found)


def map_file(root: Path, name: str) -> Path | None:
    """The pin of a map: the one of a new layout while there are two."""
    return next(
        (path for path in (root / names.new_map_path(name), root / names.map_path(name)) if path.exists()), None
    )


def table_pins(root: Path) -> list[Path]:
    directory = root / names.TABLES
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _raw(fd: int) -> Codec:
    found = info.map_info(fd)
    return Codec(Raw(found.key_size), Raw(found.value_size), map_name="")


@dataclass(slots=True)
class Store:
    """All maps of the balancer, open; close it or use it in `with`. BpfError for what the kernel refuses."""

    root: Path
    maps: Mapping[str, Map]

    @classmethod
    def open(cls, root: Path) -> Self:
        maps: dict[str, Map] = {}
        try:
            for name in ALL:
                path = map_file(root, name)
                if path is None:
                    raise BpfError(f"Map {name} should be pinned under {root}, but is not.", errno.ENOENT)
                fd = info.open_pin(path, "map")
                maps[name] = Map(fd, _raw(fd), name)
        except BaseException:
            for opened in maps.values():
                opened.close()
            raise
        return cls(root, maps)

    def read(self, name: str) -> dict[bytes, bytes]:
        return dict(self.maps[name].lookup_batch())

    def write(self, name: str, rows: Iterable[tuple[bytes, bytes]]) -> None:
        with self._changing(name):
            self.maps[name].update_batch(rows)

    def delete(self, name: str, keys: Iterable[bytes]) -> None:
        with self._changing(name):
            self.maps[name].delete_batch(keys)

    @contextlib.contextmanager
    def _changing(self, name: str) -> Iterator[None]:
        """XDP's copies of VIPs count while `sg_lb_gen` is the even number of when they were made. It is odd while VIPs
        change, and stays odd, so that no copy is used, where that fails or this process dies."""
        if name != "sg_lb_vip":
            yield
            return
        generation, first = self.maps["sg_lb_gen"], layout.U32.pack(0)
        odd = _number(generation.get_raw(first) or bytes(4)) | 1
        generation.set_raw(first, layout.U32.pack(odd))
        yield
        generation.set_raw(first, layout.U32.pack((odd + 1) % (1 << 32)))

    # Tables

    def table_ids(self) -> dict[int, int]:
        """Key of each table to the id of its inner map."""
        found = self.maps["sg_lb_table"].lookup_batch()
        return {_number(key): _number(value) for key, value in found if any(value)}

    def read_table(self, key: int, inner_id: int) -> list[tuple[bytes, bytes]] | None:
        """Chunks of the table that packets meet; None where no pin leads to it. Pins that lead elsewhere go."""
        found: list[tuple[bytes, bytes]] | None = None
        for path in (Path(self._pin(key)), Path(self._pin(key, _NEXT))):
            if not path.exists():
                continue
            fd = info.open_pin(path, "map")
            with contextlib.closing(Map(fd, _raw(fd), "sg_lb_inner")) as inner:
                if inner.info.id != inner_id or inner.info.value_size != layout.CHUNK_BYTES:
                    path.unlink()
                    continue
                found = inner.lookup_batch()
            if str(path) != self._pin(key):
                path.replace(self._pin(key))
        return found

    def swap(self, tables: Sequence[tuple[int, Table]]) -> None:
        """Put whole tables in place: each packet meets the old one or the new one. One call swaps hundreds, because the
        kernel waits once for all of them until no program looks at an old one."""
        for start in range(0, len(tables), SWAPPED_AT_ONCE):
            self._swap(tables[start : start + SWAPPED_AT_ONCE])

    def _swap(self, tables: Sequence[tuple[int, Table]]) -> None:
        made: list[tuple[int, Map, bool]] = []
        try:
            for key, table in tables:
                inner = self._build(table.slots, layout.chunks(table.slots, table.head))
                fresh = not os.path.exists(self._pin(key))
                made.append((key, inner, fresh))
                path = self._pin(key) if fresh else self._pin(key, _NEXT)
                if not fresh:
                    Path(path).unlink(missing_ok=True)
                inner.pin(path)
            rows = [(layout.U32.pack(key), inner.fd.to_bytes(4, sys.byteorder)) for key, inner, _ in made]
            self.maps["sg_lb_table"].update_batch(rows)
            for key, _, fresh in made:
                if not fresh:
                    os.replace(self._pin(key, _NEXT), self._pin(key))
        finally:
            for _, inner, _ in made:
                inner.close()

    @staticmethod
    def _build(slots: array[int], chunks: list[tuple[bytes, bytes]]) -> Map:
        spec = MapSpec(
            name="sg_lb_inner",
            type=MapType.ARRAY,
            key=U32,
            value=Raw(layout.CHUNK_BYTES),
            max_entries=layout.chunk_count(len(slots)),
            flags=INNER_MAP,
        )
        inner = Map.create(spec)
        try:
            inner.update_batch(chunks)
        except BaseException:
            inner.close()
            raise
        return inner

    def drop_tables(self, keys: Iterable[int]) -> None:
        gone = list(keys)
        self.maps["sg_lb_table"].delete_batch([layout.U32.pack(key) for key in gone])
        for key in gone:
            for pin in (self._pin(key), self._pin(key, _NEXT)):
                Path(pin).unlink(missing_ok=True)

    def drop_stray_pins(self, kept: set[int]) -> None:
        """Pins of tables that are not in the map: what a process that died between two steps left behind."""
        for path in table_pins(self.root):
            if names.split(path.name)[0] not in {str(key) for key in kept}:
                path.unlink(missing_ok=True)

    def _pin(self, key: int, *more: str) -> str:
        return f"{self.root}/{names.TABLES}/{names.join(str(key), *more)}"

    # What the data plane counts and remembers

    def forget_backends(self, ids: set[int]) -> None:
        """Numbers that are free again: what was counted and remembered under them goes."""
        blank = layout.FREE.pack()
        self.write("sg_lb_backend", [(layout.U32.pack(number), blank) for number in sorted(ids)])
        self._zero("sg_lb_cpu", ids)
        raw = {number.to_bytes(4, sys.byteorder) for number in ids}
        stale = [k for k, v in self.maps["sg_lb_affinity"].lookup_batch() if v[_AFFINITY_BACKEND] in raw]
        self.delete("sg_lb_affinity", stale)

    def forget_flows(self, tables: set[int]) -> int:
        """Tracked flows of tables whose drain is over; how many there were."""
        raw = {number.to_bytes(4, sys.byteorder) for number in tables}
        stale = [k for k, v in self.maps["sg_lb_flow"].lookup_batch() if v[_FLOW_TABLE] in raw]
        self.delete("sg_lb_flow", stale)
        return len(stale)

    def forget_stats(self, stats: set[int]) -> None:
        self._zero("sg_lb_stats", stats)
        raw = {number.to_bytes(4, sys.byteorder) for number in stats}
        self.delete("sg_lb_drops", [key for key in self.maps["sg_lb_drops"].keys_raw() if key[_DROP_STAT] in raw])

    def _zero(self, name: str, numbers: set[int]) -> None:
        table = self.maps[name]
        blank = bytes(table.value_bytes)
        table.update_batch([(layout.U32.pack(number), blank) for number in sorted(numbers)])

    def close(self) -> None:
        for opened in self.maps.values():
            opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _number(raw: bytes) -> int:
    return int.from_bytes(raw[:4], sys.byteorder)
