"""File names under the bpffs directory. The kernel refuses names with a dot there, so parts are joined with a colon
and escaped; a device called `eth0.100` is written `eth0%2e100`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sixgate.node.model import Contents, Hook, MapShape, ProgName

MAPS, NEW_MAPS, INNER, PROGS, LINKS, TABLES = "maps", "maps-new", "inner", "progs", "links", "tables"
DIRECTORIES = (MAPS, NEW_MAPS, INNER, PROGS, LINKS, TABLES)

_ESCAPES = (("%", "%25"), (".", "%2e"), (":", "%3a"))
_MAX_KEY_HEX = 64


def join(*parts: str) -> str:
    """`("sg_tc", "eth0.100")` becomes `sg_tc:eth0%2e100`."""
    return ":".join(_escape(part) for part in parts)


def split(name: str) -> tuple[str, ...]:
    """The parts that `join` was given."""
    return tuple(_unescape(part) for part in name.split(":"))


def prog_path(name: ProgName) -> str:
    return f"{PROGS}/{join(name.object, name.program, name.key)}"


def link_path(hook: Hook) -> str:
    return f"{LINKS}/{join(hook.device, hook.hook)}"


def map_path(name: str) -> str:
    return f"{MAPS}/{name}"


def new_map_path(name: str) -> str:
    """Where a map of a new layout is pinned while the one of the old layout still is at `map_path`."""
    return f"{NEW_MAPS}/{name}"


def map_name(path: str) -> str:
    """The map's name, of either path."""
    return path.rpartition("/")[2]


def outer_key_name(key: bytes) -> str:
    """Hex digits of a key; long keys are hashed, for a file name has 255 bytes."""
    text = key.hex()
    return text if len(text) <= _MAX_KEY_HEX else "h" + hashlib.sha256(key).hexdigest()[:32]


def inner_path(map_name: str, outer_key: str, digest: str) -> str:
    """`outer_key` as `outer_key_name` writes it."""
    return f"{INNER}/{join(map_name, outer_key, digest)}"


def contents_digest(contents: Contents, shape: MapShape) -> str:
    """What an inner map is recognised by: 32 hex digits over its shape and entries."""
    digest = hashlib.sha256(repr(shape).encode())
    for key, value in contents:
        digest.update(key)
        digest.update(value)
    return digest.hexdigest()[:32]


def _escape(part: str) -> str:
    for char, escape in _ESCAPES:
        part = part.replace(char, escape)
    return part


def _unescape(part: str) -> str:
    for char, escape in reversed(_ESCAPES):
        part = part.replace(escape, char)
    return part
