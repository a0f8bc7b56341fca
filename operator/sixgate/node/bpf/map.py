"""Maps by descriptor: typed through their codec, with batches where the kernel has them."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable, Iterator
from ctypes import c_char, c_uint32
from typing import Self

from sixgate.errors import BpfError
from sixgate.node.bpf import info
from sixgate.node.bpf.codec import Codec, Resolve, Value
from sixgate.node.bpf.ctype import MapSpec
from sixgate.node.bpf.descriptor import Descriptor
from sixgate.node.bpf.lib import BatchOpts, MapCreateOpts, check, libbpf, possible_cpus
from sixgate.node.bpf.mapspec import NO_BATCH, OF_MAPS, PER_CPU, MapFlag, add_up, codec_of, find_codec, kernel_name

BATCH = 4096


class Map(Descriptor):
    """One map, owned through a descriptor; `close` it or use it in `with`.

    Keys and values are given and returned as `codec` says (see codec.py); the `_raw` methods take and give bytes.
    A per-CPU map gives and takes one value for each possible CPU, as a list. A map of maps takes a Map (or its
    descriptor) and gives the id of the inner map.
    """

    def __init__(self, fd: int, codec: Codec, name: str) -> None:
        """Takes ownership of `fd`. BpfError where the codec's sizes are not those of the map."""
        self._fd = fd
        self.name = name
        self.codec = codec
        self.info = info.map_info(fd)
        self.type = self.info.type
        self.per_cpu = self.type in PER_CPU
        for side, ctype, size in (("key", codec.key, self.info.key_size), ("value", codec.value, self.info.value_size)):
            if ctype.size != size:
                self.close()
                raise BpfError(
                    f"Map {name} has a {side} of {size} bytes, where {ctype.size} are expected.", errno.EINVAL
                )
        self._slot = (codec.value.size + 7) // 8 * 8
        self._value_bytes = self._slot * possible_cpus() if self.per_cpu else codec.value.size

    @classmethod
    def from_pin(
        cls,
        path: str | os.PathLike[str],
        *,
        spec: MapSpec | None = None,
        codec: Codec | None = None,
        resolve: Resolve | None = None,
    ) -> Self:
        """The map pinned at `path`; BpfError with ENOENT where there is none.

        Types come from `codec`, else from `spec` (of a BpfObject or of layouts.MAPS), else from the kernel where this
        process may read BTF by id (SYS_ADMIN), else from layouts.MAPS by the pin's file name, else they are bytes.
        """
        fd = info.open_pin(path, "map")
        name = os.path.basename(os.fspath(path))
        try:
            found = codec or (spec and codec_of(spec, resolve)) or find_codec(fd, name, resolve)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, found, name)

    @classmethod
    def create(
        cls, spec: MapSpec, *, inner: Map | None = None, resolve: Resolve | None = None, max_entries: int | None = None
    ) -> Self:
        """A new map as `spec` says, owned by the caller alone until it is pinned or put into another.

        For the inner maps of a table: `Map.create(outer_spec.inner)`. A map of maps makes its prototype from
        `spec.inner` unless `inner` is given. BpfError: EPERM without the capabilities, E2BIG, ENOMEM, EINVAL.
        """
        if spec.type in OF_MAPS and inner is None:
            if spec.inner is None:
                raise BpfError(
                    f"Map {spec.name} is a map of maps without a definition of its inner maps.", errno.EINVAL
                )
            with cls.create(spec.inner) as prototype:
                return cls.create(spec, inner=prototype, resolve=resolve, max_entries=max_entries)
        opts = MapCreateOpts(
            sz=ctypes.sizeof(MapCreateOpts), map_flags=spec.flags, inner_map_fd=inner.fd if inner else 0
        )
        entries = spec.max_entries if max_entries is None else max_entries
        short = kernel_name(spec.name).encode()
        fd = check(
            libbpf().bpf_map_create(spec.type, short, spec.key.size, spec.value.size, entries, ctypes.byref(opts)),
            f"creating map {spec.name} of {entries} entries",
        )
        return cls(fd, codec_of(spec, resolve), spec.name)

    @property
    def fd(self) -> int:
        """The descriptor, owned by this object."""
        return self._fd

    @property
    def value_bytes(self) -> int:
        """Bytes of one entry's value, all CPUs together where each has its own."""
        return self._value_bytes

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Pins it; BpfError with EEXIST where the path is taken."""
        info.pin(self._fd, path, f"map {self.name}")

    # Single entries

    def get(self, key: object) -> Value | None:
        """The value at `key`, None where there is none; a list of one per CPU for per-CPU maps."""
        raw = self.get_raw(self.codec.encode_key(key))
        return None if raw is None else self.decode_value(raw)

    def set(self, key: object, value: object, flags: MapFlag = MapFlag.ANY) -> None:
        """Puts an entry. BpfError: EEXIST (NOEXIST), ENOENT (EXIST), E2BIG: full, or index too large."""
        self.set_raw(self.codec.encode_key(key), self.encode_value(value), flags)

    def delete(self, key: object) -> bool:
        """Removes an entry; False where there was none. Arrays refuse with EINVAL."""
        return self.delete_raw(self.codec.encode_key(key))

    def get_raw(self, key: bytes) -> bytes | None:
        out = (c_char * self._value_bytes)()
        result = libbpf().bpf_map_lookup_elem(self._fd, _buffer(key, self.codec.key.size, self.name), out)
        if result == -errno.ENOENT:
            return None
        check(result, f"reading an entry of map {self.name}")
        return bytes(out)

    def set_raw(self, key: bytes, value: bytes, flags: MapFlag = MapFlag.ANY) -> None:
        source = _buffer(value, self._value_bytes, self.name)
        result = libbpf().bpf_map_update_elem(self._fd, _buffer(key, self.codec.key.size, self.name), source, flags)
        if result < 0:
            check(result, f"writing entry {self._show(key)} of map {self.name}{self._full(-result)}")

    def delete_raw(self, key: bytes) -> bool:
        result = libbpf().bpf_map_delete_elem(self._fd, _buffer(key, self.codec.key.size, self.name))
        if result == -errno.ENOENT:
            return False
        check(result, f"deleting entry {self._show(key)} of map {self.name}")
        return True

    # Whole maps

    def items(self) -> list[tuple[Value, Value]]:
        """All entries; what changes meanwhile may or may not be there, nothing is there twice."""
        return [(self.codec.decode_key(key), self.decode_value(value)) for key, value in self.lookup_batch()]

    def keys(self) -> list[Value]:
        return [self.codec.decode_key(key) for key in self.keys_raw()]

    def keys_raw(self) -> list[bytes]:
        """All keys, each once. Walking starts over where an entry is deleted meanwhile, hence the limit on steps."""
        size = self.codec.key.size
        found: dict[bytes, None] = {}
        key, following = None, (c_char * size)()
        for _ in range(2 * self.info.max_entries + 2):
            result = libbpf().bpf_map_get_next_key(self._fd, key, following)
            if result == -errno.ENOENT:
                break
            check(result, f"walking the keys of map {self.name}")
            found[bytes(following)] = None
            key = (c_char * size).from_buffer_copy(following)
        return list(found)

    def lookup_batch(self) -> list[tuple[bytes, bytes]]:
        """All entries as bytes, by BPF_MAP_LOOKUP_BATCH, one by one where the map type has none."""
        pairs: dict[bytes, bytes] = {}
        try:
            for batch in self.batches():
                pairs.update(batch)
        except BpfError as error:
            if error.errno not in NO_BATCH:
                raise
            found = ((key, self.get_raw(key)) for key in self.keys_raw())
            return [(key, value) for key, value in found if value is not None]
        return list(pairs.items())

    def first_values(self, count: int) -> bytes:
        """Values of the first `count` entries of an array, one behind the other, in one call. BpfError with an
        errno of NO_BATCH where the kernel (before 5.13 for per-CPU arrays) has no batches of it."""
        if not count:
            return b""
        keys, values = (c_char * (4 * count))(), (c_char * (self._value_bytes * count))()
        got, following = c_uint32(count), (c_char * 8)()
        opts = BatchOpts(sz=ctypes.sizeof(BatchOpts))
        result = libbpf().bpf_map_lookup_batch(
            self._fd, None, following, keys, values, ctypes.byref(got), ctypes.byref(opts)
        )
        if result not in (0, -errno.ENOENT):
            check(result, f"reading map {self.name}")
        return ctypes.string_at(values, self._value_bytes * got.value)

    def update_batch(self, pairs: Iterable[tuple[bytes, bytes]], flags: MapFlag = MapFlag.ANY) -> int:
        """Puts entries of bytes in as few calls as the kernel allows; how many there were. See `set_many` for values.

        Not atomic: BpfError (as `set`) may leave part of them written.
        """
        todo = list(pairs)
        size = self.codec.key.size
        for key, value in todo:
            _check_size(key, size, self.name)
            _check_size(value, self._value_bytes, self.name)
        opts = BatchOpts(sz=ctypes.sizeof(BatchOpts), elem_flags=int(flags))
        for start in range(0, len(todo), BATCH):
            part = todo[start : start + BATCH]
            keys, values = b"".join(key for key, _ in part), b"".join(value for _, value in part)
            count = c_uint32(len(part))
            result = libbpf().bpf_map_update_batch(self._fd, keys, values, ctypes.byref(count), ctypes.byref(opts))
            if result < 0 and -result in NO_BATCH:
                for key, value in part:
                    self.set_raw(key, value, flags)
            elif result < 0:
                check(result, f"writing {len(part)} entries of map {self.name}{self._full(-result)}")
        return len(todo)

    def set_many(self, entries: Iterable[tuple[object, object]], flags: MapFlag = MapFlag.ANY) -> int:
        """`update_batch` of values that the codec encodes first, all of them before the first is written."""
        pairs = [(self.codec.encode_key(key), self.encode_value(value)) for key, value in entries]
        return self.update_batch(pairs, flags)

    def delete_batch(self, keys: Iterable[bytes]) -> int:
        """Removes entries by their keys' bytes; keys that are not there are passed over. How many were there."""
        return (
            sum(self.delete_raw(key) for key in keys) if self._small(keys := list(keys)) else self._delete_batch(keys)
        )

    def clear(self) -> int:
        """Removes all entries; how many there were. Arrays refuse with EINVAL."""
        return self.delete_batch(self.keys_raw())

    # Values

    def encode_value(self, value: object) -> bytes:
        """Bytes as the kernel wants them for one entry: a Map's descriptor, one slot per CPU, or just the value."""
        if isinstance(value, Map):
            value = value.fd
        if not self.per_cpu:
            return self.codec.encode_value(value)
        values = value if isinstance(value, list) else [value] * possible_cpus()
        if len(values) != possible_cpus():
            raise BpfError(f"Map {self.name} takes one value per CPU, {possible_cpus()} of them, not {len(values)}.")
        return b"".join(self.codec.encode_value(item).ljust(self._slot, b"\0") for item in values)

    def decode_value(self, raw: bytes) -> Value:
        """The inverse of `encode_value`, but for inner maps, which are given as ids."""
        if not self.per_cpu:
            return self.codec.decode_value(raw)
        return [self.codec.decode_value(raw[at : at + self._slot]) for at in range(0, len(raw), self._slot)]

    def sum(self, key: object) -> Value | None:
        """The values of all CPUs added up, field by field; None where there is no entry."""
        value = self.get(key)
        return value if value is None or not self.per_cpu else add_up(value)

    def sums(self) -> list[tuple[Value, Value]]:
        """`items` with the values of all CPUs added up."""
        return [(key, add_up(value) if self.per_cpu else value) for key, value in self.items()]

    def batches(self) -> Iterator[list[tuple[bytes, bytes]]]:
        """Entries in batches, so that a large map is never in memory as a whole. BpfError with an errno of NO_BATCH
        where the type of map has none."""
        size, width = self.codec.key.size, self._value_bytes
        for keys, values in self.raw_batches():
            starts = range(len(keys) // size)
            yield [(keys[at * size : (at + 1) * size], values[at * width : (at + 1) * width]) for at in starts]

    def update_raw(self, keys: bytes, values: bytes) -> None:
        """Puts entries that stand one behind the other, as `raw_batches` gives them."""
        opts = BatchOpts(sz=ctypes.sizeof(BatchOpts))
        count = c_uint32(len(keys) // self.codec.key.size)
        _check_size(values, count.value * self._value_bytes, self.name)
        result = libbpf().bpf_map_update_batch(self._fd, keys, values, ctypes.byref(count), ctypes.byref(opts))
        if result < 0:
            check(result, f"writing entries of map {self.name}{self._full(-result)}")

    def raw_batches(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of all entries in batches, one behind the other; a hash bucket larger than the room (ENOSPC)
        makes the room grow."""
        size, room = self.codec.key.size, min(BATCH, max(self.info.max_entries, 1))
        cursor, following = (c_char * max(size, 8))(), (c_char * max(size, 8))()
        opts = BatchOpts(sz=ctypes.sizeof(BatchOpts))
        first = True
        while True:
            keys, values = (c_char * (size * room))(), (c_char * (self._value_bytes * room))()
            count = c_uint32(room)
            result = libbpf().bpf_map_lookup_batch(
                self._fd, None if first else cursor, following, keys, values, ctypes.byref(count), ctypes.byref(opts)
            )
            if result == -errno.ENOSPC and count.value == 0:
                room *= 2
                continue
            if result not in (0, -errno.ENOENT):
                check(result, f"reading map {self.name}")
            if count.value:
                yield bytes(keys)[: count.value * size], bytes(values)[: count.value * self._value_bytes]
            if result == -errno.ENOENT:
                return
            first, cursor, following = False, following, cursor

    def _small(self, keys: list[bytes]) -> bool:
        for key in keys:
            _check_size(key, self.codec.key.size, self.name)
        return len(keys) < 16

    def _delete_batch(self, keys: list[bytes]) -> int:
        """The kernel stops at the first key that is not there; that one is passed over and the rest goes on."""
        opts = BatchOpts(sz=ctypes.sizeof(BatchOpts))
        done = at = 0
        while at < len(keys):
            part = keys[at : at + BATCH]
            count = c_uint32(len(part))
            result = libbpf().bpf_map_delete_batch(self._fd, b"".join(part), ctypes.byref(count), ctypes.byref(opts))
            if result < 0 and -result in NO_BATCH:
                return done + sum(self.delete_raw(key) for key in keys[at:])
            if result < 0 and result != -errno.ENOENT:
                check(result, f"deleting entries of map {self.name}")
            done += count.value
            at += len(part) if result == 0 else count.value + 1
        return done

    def _show(self, key: bytes) -> str:
        return str(self.codec.decode_key(key))

    def _full(self, number: int) -> str:
        return f" (it holds {self.info.max_entries} at most)" if number == errno.E2BIG else ""


def _check_size(data: bytes, size: int, name: str) -> None:
    if len(data) != size:
        raise BpfError(f"Map {name} takes {size} bytes here, not {len(data)}.", errno.EINVAL)


def _buffer(data: bytes, size: int, name: str) -> bytes:
    """`data` itself after its length was checked: the kernel reads as many bytes as the map says."""
    _check_size(data, size, name)
    return data
