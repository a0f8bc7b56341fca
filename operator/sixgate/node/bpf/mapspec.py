"""Facts about kinds of maps, and what follows from a map's definition alone."""

from __future__ import annotations

import errno
from enum import IntEnum

from sixgate.node.bpf import info
from sixgate.node.bpf.codec import Codec, Resolve, Value
from sixgate.node.bpf.ctype import U32, CType, MapSpec, Raw
from sixgate.node.bpf.kernel_btf import codec_by_id
from sixgate.node.bpf.layouts import MAPS
from sixgate.node.bpf.lib import ENOTSUPP


class MapType(IntEnum):
    """enum bpf_map_type, as far as sixgate uses it."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11
    ARRAY_OF_MAPS = 12
    HASH_OF_MAPS = 13
    DEVMAP = 14
    DEVMAP_HASH = 25
    RINGBUF = 27


class MapFlag(IntEnum):
    """Flags of an update."""

    ANY = 0
    NOEXIST = 1
    EXIST = 2


PER_CPU = (MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH)
OF_MAPS = (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS)
NO_BATCH = (errno.EINVAL, errno.EOPNOTSUPP, ENOTSUPP)
RDONLY_PROG = 1 << 7  # the kernel sets BPF_F_RDONLY_PROG on device maps by itself


def add_up(values: Value) -> Value:
    """A list of equal shapes as one: numbers are added, texts taken from the first; a lone value is itself."""
    if not isinstance(values, list) or not values:
        return values
    first = values[0]
    if isinstance(first, dict):
        rows = [row for row in values if isinstance(row, dict)]
        return {name: add_up([row[name] for row in rows]) for name in first}
    if isinstance(first, list):
        columns = [row for row in values if isinstance(row, list)]
        return [add_up(list(column)) for column in zip(*columns, strict=True)]
    if isinstance(first, int):
        return sum(number for number in values if isinstance(number, int))
    return first


def codec_of(spec: MapSpec, resolve: Resolve | None = None) -> Codec:
    """The codec for a definition."""
    return Codec(spec.key, spec.value, resolve, spec.name)


def kernel_name(name: str) -> str:
    """A map's name as the kernel takes it: 15 characters of letters, digits, `_` and `.`."""
    return "".join(char if char.isascii() and (char.isalnum() or char in "_.") else "_" for char in name)[:15]


def incompatibility(spec: MapSpec, have: info.MapInfo) -> str:
    """How an existing map differs from a definition, "" where it fits; names old and new."""
    same_flags = have.flags & ~RDONLY_PROG == spec.flags & ~RDONLY_PROG
    rows = (
        ("type", have.type, spec.type),
        ("key size", have.key_size, spec.key.size),
        ("value size", have.value_size, spec.value.size),
        ("max_entries", have.max_entries, spec.max_entries),
        ("flags", have.flags, have.flags if same_flags else spec.flags),
    )
    return ", ".join(f"{what} is {old} where {new} is wanted" for what, old, new in rows if old != new)


def find_codec(fd: int, name: str, resolve: Resolve | None) -> Codec:
    """The codec of an existing map: by the kernel's BTF ids, by the generated layouts, else numbers and bytes."""
    facts = info.map_info(fd)
    known = MAPS.get(name)
    if (found := codec_by_id(facts, resolve, name)) is not None:
        return found
    if known is not None and (known.key.size, known.value.size) == (facts.key_size, facts.value_size):
        return codec_of(known, resolve)
    return Codec(_untyped(facts.key_size), _untyped(facts.value_size), resolve, name)


def _untyped(size: int) -> CType:
    return U32 if size == 4 else Raw(size)
