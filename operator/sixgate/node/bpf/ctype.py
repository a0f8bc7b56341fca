"""C types as values: what the codec needs to know of keys, values and constants. Pure; no ctypes, no kernel.

Built from BTF by `btf.py`, or read from the generated `layouts.py`. Sizes and offsets are in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Int:
    """An integer. `big` for the kernel's __be16/__be32/__be64: host-order number outside, network order in memory."""

    name: str
    size: int
    signed: bool = False
    big: bool = False
    boolean: bool = False


@dataclass(frozen=True, slots=True)
class Ifindex:
    """`sg_ifindex_t`: a device index, or the name of a device that the caller's resolver knows."""

    size: int = 4


@dataclass(frozen=True, slots=True)
class Address:
    """`struct sg_addr`: an IPv6 address, or IPv4 stored as ::ffff:a.b.c.d."""

    size: int = 16


@dataclass(frozen=True, slots=True)
class Enum:
    name: str
    size: int
    signed: bool
    members: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Array:
    element: CType
    count: int

    @property
    def size(self) -> int:
        return self.element.size * self.count


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    offset: int
    type: CType


@dataclass(frozen=True, slots=True)
class Record:
    """A struct or a union; members of anonymous structs and unions inside appear as its own, so fields may overlap."""

    name: str
    size: int
    fields: tuple[Field, ...]
    # What the codec asks at every value: fields by name, and whether some share memory.
    by_name: dict[str, Field] = field(init=False, repr=False, compare=False)
    overlaps: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ordered = sorted(self.fields, key=lambda each: each.offset)
        shared = any(after.offset < before.offset + before.type.size for before, after in pairwise(ordered))
        object.__setattr__(self, "by_name", {each.name: each for each in self.fields})
        object.__setattr__(self, "overlaps", shared)


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes without a type: a key or value declared by its size only."""

    size: int


CType = Int | Ifindex | Address | Enum | Array | Record | Raw

U32 = Int("__u32", 4)


@dataclass(frozen=True, slots=True)
class MapSpec:
    """Definition of a map. `type` is the kernel's number (enum bpf_map_type); `inner` the prototype of inner maps."""

    name: str
    type: int
    key: CType
    value: CType
    max_entries: int
    flags: int = 0
    inner: MapSpec | None = None


def render(ctype: CType) -> str:
    """How messages call a type: `__u32`, `struct sg_dev`, `__u8[16]`."""
    match ctype:
        case Int(name=name):
            return name
        case Ifindex():
            return "sg_ifindex_t"
        case Address():
            return "struct sg_addr"
        case Enum(name=name):
            return f"enum {name}"
        case Array(element=element, count=count):
            return f"{render(element)}[{count}]"
        case Record(name=name):
            return f"struct {name}" if name else "an unnamed struct"
        case Raw(size=size):
            return f"{size} bytes"
