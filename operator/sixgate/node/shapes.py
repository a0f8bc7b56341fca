"""Shapes of maps as they are compared: what the kernel adds by itself is left out. Pure."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from sixgate.node.model import MapShape

if TYPE_CHECKING:
    from sixgate.node.bpf.ctype import MapSpec

_DEVMAP_TYPES = frozenset({14, 25})  # BPF_MAP_TYPE_DEVMAP, BPF_MAP_TYPE_DEVMAP_HASH
_BPF_F_RDONLY_PROG = 1 << 7


def map_shape(definition: MapSpec) -> MapShape:
    """The shape that an object file asks for."""
    return normal_shape(
        definition.type, definition.key.size, definition.value.size, definition.max_entries, definition.flags
    )


def layout(definition: MapSpec) -> str:
    """Hash of a map's types: two layouts may have the same sizes. 16 hex digits."""
    return hashlib.sha256(repr((definition.key, definition.value, definition.inner)).encode()).hexdigest()[:16]


def normal_shape(map_type: int, key_size: int, value_size: int, max_entries: int, flags: int) -> MapShape:
    """A shape without what the kernel adds by itself: device maps are always read-only for programs."""
    if map_type in _DEVMAP_TYPES:
        flags &= ~_BPF_F_RDONLY_PROG
    return MapShape(map_type, key_size, value_size, max_entries, flags)
