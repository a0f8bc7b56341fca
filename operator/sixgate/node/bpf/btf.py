"""BTF bytes to C types and map definitions. Pure; the format is Documentation/bpf/btf.rst of the kernel.

libbpf's own accessors hand out C structs one by one; reading the section whole is shorter and needs no library,
so that a generator or a status command can use it anywhere.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sixgate.errors import BpfError
from sixgate.node.bpf.ctype import Address, Array, CType, Enum, Field, Ifindex, Int, MapSpec, Raw, Record

MAGIC = 0xEB9F
INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(12, 20)
DATA = ".data."
_ARRAY, _MMAPABLE = 2, 1 << 10  # BPF_MAP_TYPE_ARRAY, BPF_F_MMAPABLE
MODIFIERS = (VOLATILE, CONST, RESTRICT, TYPE_TAG)
INT_SIGNED, INT_BOOL = 1 << 0, 1 << 2
BIG_ENDIAN_NAMES = ("__be16", "__be32", "__be64")


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a struct, an enum value or a variable of a section; `offset` in bits (bytes in a section)."""

    name: str
    type_id: int
    offset: int
    bits: int = 0


@dataclass(frozen=True, slots=True)
class BtfType:
    """One type as BTF has it: `size_or_type` is a size or the id of another type, as the kind says."""

    kind: int
    name: str
    size_or_type: int
    members: tuple[Member, ...] = ()
    signed: bool = False
    encoding: int = 0
    count: int = 0


class Btf:
    """The types of one object; ids start at 1, 0 is void."""

    def __init__(self, data: bytes) -> None:
        """Parses the bytes of a `.BTF` section in this machine's byte order; BpfError where they are none."""
        try:
            self.types = [BtfType(0, "void", 0), *_parse(data)]
        except (struct.error, IndexError) as error:
            raise BpfError(f"BTF of {len(data)} bytes is cut short: {error}.") from error
        self._known: dict[int, CType] = {}

    def resolve(self, type_id: int) -> BtfType:
        """The type behind const, volatile and the like; typedefs stay."""
        found = self.types[type_id]
        while found.kind in MODIFIERS:
            found = self.types[found.size_or_type]
        return found

    def bare(self, type_id: int) -> BtfType:
        """The type behind modifiers and typedefs."""
        found = self.resolve(type_id)
        while found.kind == TYPEDEF:
            found = self.resolve(found.size_or_type)
        return found

    def find(self, kind: int, name: str) -> BtfType | None:
        return next((found for found in self.types if found.kind == kind and found.name == name), None)

    def named(self, *kinds: int) -> Iterator[tuple[int, BtfType]]:
        """Ids and types of the given kinds that have a name."""
        return ((number, found) for number, found in enumerate(self.types) if found.kind in kinds and found.name)

    def ctype(self, type_id: int) -> CType:
        """The C type for the codec.

        Structs with bit-fields (kernel headers in scratch maps) and pointers are bytes without a type. BpfError for
        what has no size: functions and forward declarations.
        """
        known = self._known.get(type_id)
        if known is None:
            known = self._known[type_id] = self._ctype(type_id)
        return known

    def _ctype(self, type_id: int) -> CType:
        found = self.resolve(type_id)
        if found.kind == TYPEDEF:
            return self._typedef(found)
        if found.kind == INT:
            boolean = bool(found.encoding & INT_BOOL)
            return Int(found.name, found.size_or_type, signed=found.signed, boolean=boolean)
        if found.kind in (ENUM, ENUM64):
            members = tuple((member.name, member.offset) for member in found.members)
            return Enum(found.name, found.size_or_type, found.signed, members)
        if found.kind == ARRAY:
            return Array(self.ctype(found.size_or_type), found.count)
        if found.kind in (STRUCT, UNION):
            if found.name == "sg_addr" and found.size_or_type == 16:
                return Address()
            if self._has_bits(found):
                return Raw(found.size_or_type)
            return Record(found.name, found.size_or_type, tuple(self._fields(found)))
        if found.kind == PTR:
            return Raw(8)
        raise BpfError(f"BTF type {found.name or type_id} (kind {found.kind}) cannot be a key, value or constant.")

    def section(self, name: str) -> Record | None:
        """Variables of a section (`.rodata`) as one record, None where there is no such section."""
        found = self.find(DATASEC, name)
        if found is None:
            return None
        fields = tuple(
            Field(self.types[member.type_id].name, member.offset, self.ctype(self.types[member.type_id].size_or_type))
            for member in found.members
        )
        return Record(name, found.size_or_type, fields)

    def maps(self) -> dict[str, MapSpec]:
        """Definitions of section `.maps` by name, and of sections `.data.NAME`: of each, libbpf makes an array of one
        entry."""
        found = self.find(DATASEC, ".maps")
        variables = [self.types[member.type_id] for member in found.members] if found else []
        made = {variable.name: self._map(variable.name, variable.size_or_type) for variable in variables}
        for _, section in self.named(DATASEC):
            if section.name.startswith(DATA) and len(section.members) == 1:
                variable = self.types[section.members[0].type_id]
                name, value = section.name.removeprefix(DATA), self.ctype(variable.size_or_type)
                made[name] = MapSpec(name, _ARRAY, Int("__u32", 4), value, max_entries=1, flags=_MMAPABLE)
        return made

    def _typedef(self, found: BtfType) -> CType:
        if found.name == "sg_ifindex_t":
            return Ifindex()
        below = self.ctype(found.size_or_type)
        if isinstance(below, Int):
            return replace(below, name=found.name, big=found.name in BIG_ENDIAN_NAMES)
        return replace(below, name=found.name) if isinstance(below, Record) and not below.name else below

    def _fields(self, record: BtfType, base: int = 0) -> Iterator[Field]:
        for member in record.members:
            offset = base + member.offset // 8
            inside = self.bare(member.type_id)
            if not member.name and inside.kind in (STRUCT, UNION):
                yield from self._fields(inside, offset)
            else:
                yield Field(member.name, offset, self.ctype(member.type_id))

    def _has_bits(self, record: BtfType) -> bool:
        """Whether a struct, or an anonymous one inside that shares its names, has bit-fields."""
        for member in record.members:
            inside = self.bare(member.type_id)
            if member.bits or member.offset % 8:
                return True
            if not member.name and inside.kind in (STRUCT, UNION) and self._has_bits(inside):
                return True
        return False

    def _map(self, name: str, type_id: int) -> MapSpec:
        members = {member.name: self.bare(member.type_id) for member in self.bare(type_id).members}
        numbers = {key: self.bare(found.size_or_type).count for key, found in members.items() if found.kind == PTR}
        inner = None
        if "values" in members:
            target = self.bare(self.bare(members["values"].size_or_type).size_or_type)
            if target.kind == STRUCT:
                pointer = self.resolve(members["values"].size_or_type)
                inner = self._map(f"{name}.inner", pointer.size_or_type)
        return MapSpec(
            name=name,
            type=numbers.get("type", 0),
            key=self._side(members, numbers, "key"),
            value=Int("map", 4) if "values" in members else self._side(members, numbers, "value"),
            max_entries=numbers.get("max_entries", 0),
            flags=numbers.get("map_flags", 0),
            inner=inner,
        )

    def _side(self, members: dict[str, BtfType], numbers: dict[str, int], side: str) -> CType:
        """Key or value: from `__type(key, T)`, else from `__uint(key_size, N)`; 4 bytes without a type are a number."""
        if side in members:
            return self.ctype(members[side].size_or_type)
        size = numbers.get(f"{side}_size", 0)
        return Int("__u32", 4) if size == 4 else Raw(size)


def _parse(data: bytes) -> Iterator[BtfType]:
    magic, _version, _flags, header, type_off, type_len, str_off, str_len = struct.unpack_from("=HBBIIIII", data)
    if magic != MAGIC:
        raise BpfError(f"BTF begins with {magic:#x} where {MAGIC:#x} is expected.")
    strings = data[header + str_off : header + str_off + str_len]
    at, end = header + type_off, header + type_off + type_len
    while at < end:
        name_off, info, size = struct.unpack_from("=III", data, at)
        name = _string(strings, name_off)
        kind, vlen, kflag = info >> 24 & 0x1F, info & 0xFFFF, bool(info >> 31)
        at += 12
        if kind == INT:
            (word,) = struct.unpack_from("=I", data, at)
            signed = bool(word >> 24 & INT_SIGNED)
            yield BtfType(kind, name, size, signed=signed, encoding=word >> 24 & 0xF)
        elif kind == ARRAY:
            element, _index, count = struct.unpack_from("=III", data, at)
            yield BtfType(kind, name, element, signed=kflag, count=count)
        elif kind in (STRUCT, UNION, ENUM, ENUM64, DATASEC):
            members = tuple(_members(data, at, strings, kind=kind, vlen=vlen, kflag=kflag))
            yield BtfType(kind, name, size, members, signed=kflag)
        else:
            yield BtfType(kind, name, size, signed=kflag)
        at += _trailer(kind, vlen)


def _members(data: bytes, at: int, strings: bytes, *, kind: int, vlen: int, kflag: bool) -> Iterator[Member]:
    for index in range(vlen):
        if kind in (STRUCT, UNION):
            name, type_id, offset = struct.unpack_from("=III", data, at + 12 * index)
            bits = offset >> 24 if kflag else 0
            yield Member(_string(strings, name), type_id, offset & 0xFFFFFF if kflag else offset, bits)
        elif kind == ENUM:
            name, value = struct.unpack_from("=Ii" if kflag else "=II", data, at + 8 * index)
            yield Member(_string(strings, name), 0, value)
        elif kind == ENUM64:
            name, low, high = struct.unpack_from("=III", data, at + 12 * index)
            value = high << 32 | low
            yield Member(_string(strings, name), 0, value - (1 << 64) if kflag and high >> 31 else value)
        else:
            type_id, offset, _size = struct.unpack_from("=III", data, at + 12 * index)
            yield Member("", type_id, offset)


def _trailer(kind: int, vlen: int) -> int:
    """Bytes behind the common 12 of a type."""
    fixed = {INT: 4, ARRAY: 12, VAR: 4, DECL_TAG: 4}
    each = {STRUCT: 12, UNION: 12, ENUM: 8, FUNC_PROTO: 8, DATASEC: 12, ENUM64: 12}
    return fixed.get(kind, 0) + each.get(kind, 0) * vlen


def _string(strings: bytes, offset: int) -> str:
    return strings[offset : strings.index(b"\0", offset)].decode()
