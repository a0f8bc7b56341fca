"""Values to bytes and back by C type. Pure.

| C type | outside | in memory |
|---|---|---|
| integers | number, range checked | host order |
| `__be16`, `__be32`, `__be64` | number in host order | network order |
| `_Bool` | true/false, 0/1 | one byte |
| `struct sg_addr` | "192.0.2.1", "2001:db8::1" or an ipaddress object | 16 bytes, IPv4 as ::ffff:a.b.c.d |
| `sg_ifindex_t` | device name, resolved by the caller's function, or index | 32 bits |
| enums | name or number; decodes to the name where it has one | as C says |
| arrays | list, zero-filled where shorter; `bytes` for arrays of bytes; text for `char[]` | |
| structs, unions | mapping of field names, zero where left out; two fields of a union are refused | |

Decoding leaves out fields named pad, pad2 ...: they are zero by the project's rule and say nothing.
Every refusal is a BpfError that names the field by its path (`gw[2].prefix_len`) and what is expected.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise
from socket import AF_INET, AF_INET6, inet_pton
from typing import TypeAlias

from sixgate.errors import BpfError
from sixgate.node.bpf.ctype import Address, Array, CType, Enum, Field, Ifindex, Int, Raw, Record, render

Value: TypeAlias = "int | bool | str | bytes | list[Value] | dict[str, Value]"
Resolve: TypeAlias = Callable[[str], int]

PADDING = re.compile(r"pad\d*")
MAPPED = bytes(10) + b"\xff\xff"


def encode(ctype: CType, value: object, *, resolve: Resolve | None = None, where: str = "value") -> bytes:
    """`value` as the bytes of `ctype`; `where` begins the path that errors name. Raises BpfError."""
    out = bytearray(ctype.size)
    _Encoder(out, resolve).put(0, ctype, value, where)
    return bytes(out)


def decode(ctype: CType, data: bytes) -> Value:
    """The inverse of `encode`; `data` may be longer than the type, as per-CPU slots are. BpfError where shorter."""
    if len(data) < ctype.size:
        raise BpfError(f"{render(ctype)} takes {ctype.size} bytes, but {len(data)} were given.")
    match ctype:
        case Int():
            number = int.from_bytes(data[: ctype.size], "big" if ctype.big else sys.byteorder, signed=ctype.signed)
            return bool(number) if ctype.boolean else number
        case Ifindex():
            return int.from_bytes(data[:4], sys.byteorder)
        case Address():
            return decode_address(data[:16])
        case Enum():
            number = int.from_bytes(data[: ctype.size], sys.byteorder, signed=ctype.signed)
            return next((name for name, known in ctype.members if known == number), number)
        case Raw():
            return data[: ctype.size]
        case Array():
            return _decode_array(ctype, data)
        case Record():
            return {
                field.name: decode(field.type, data[field.offset : field.offset + field.type.size])
                for field in ctype.fields
                if not PADDING.fullmatch(field.name)
            }


def decode_address(data: bytes) -> str:
    """IPv4 text of a mapped address, IPv6 text of any other. `data` is 16 bytes."""
    return str(IPv4Address(data[12:])) if data[:12] == MAPPED else str(IPv6Address(data))


def encode_address(value: object, where: str = "value") -> bytes:
    """16 bytes of a text or ipaddress object; BpfError naming `where` for anything else."""
    if isinstance(value, str):
        try:  # inet_pton takes what ip_address takes but for zones, in a tenth of the time
            return inet_pton(AF_INET6, value) if ":" in value else MAPPED + inet_pton(AF_INET, value)
        except (OSError, ValueError):
            raise BpfError(f"{where}: an IP address is expected, not {value!r}.") from None
    match value:
        case IPv4Address():
            return MAPPED + value.packed
        case IPv6Address() if value.scope_id is None:
            return value.packed
        case _:
            raise BpfError(f"{where}: an IP address is expected, not {value!r}.")


@dataclass(frozen=True, slots=True)
class Codec:
    """Codec of one map: its key and value types, and who resolves device names."""

    key: CType
    value: CType
    resolve: Resolve | None = None
    map_name: str = "map"

    def encode_key(self, key: object) -> bytes:
        return encode(self.key, key, resolve=self.resolve, where=f"key of {self.map_name}")

    def encode_value(self, value: object) -> bytes:
        return encode(self.value, value, resolve=self.resolve, where=f"value of {self.map_name}")

    def decode_key(self, data: bytes) -> Value:
        return decode(self.key, data)

    def decode_value(self, data: bytes) -> Value:
        return decode(self.value, data)


@dataclass(frozen=True, slots=True)
class _Encoder:
    """Writes values into `out`, which has the size of the whole type."""

    out: bytearray
    resolve: Resolve | None

    def put(self, at: int, ctype: CType, value: object, where: str) -> None:
        end = at + ctype.size
        match ctype:
            case Int():
                self.out[at:end] = _encode_int(ctype, value, where)
            case Ifindex():
                self.out[at:end] = _encode_ifindex(value, self.resolve, where)
            case Address():
                self.out[at:end] = encode_address(value, where)
            case Enum():
                self.out[at:end] = _encode_enum(ctype, value, where)
            case Raw():
                if not isinstance(value, bytes) or len(value) != ctype.size:
                    raise BpfError(f"{where}: exactly {ctype.size} bytes are expected, not {value!r}.")
                self.out[at:end] = value
            case Array():
                self._array(at, ctype, value, where)
            case Record():
                self._record(at, ctype, value, where)

    def _array(self, at: int, ctype: Array, value: object, where: str) -> None:
        element = ctype.element
        if isinstance(value, str) and isinstance(element, Int) and element.name == "char":
            value = value.encode()
            if len(value) >= ctype.count:
                raise BpfError(
                    f"{where}: {len(value)} bytes of text do not fit char[{ctype.count}] with its final zero."
                )
        if isinstance(value, (bytes, bytearray)) and element.size == 1:
            if len(value) > ctype.count:
                raise BpfError(f"{where}: {len(value)} bytes are more than {render(ctype)} holds.")
            self.out[at : at + len(value)] = value
            return
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray)):
            raise BpfError(f"{where}: a list for {render(ctype)} is expected, not {value!r}.")
        if len(value) > ctype.count:
            raise BpfError(f"{where}: {len(value)} elements are more than {render(ctype)} holds.")
        for index, item in enumerate(value):
            self.put(at + index * element.size, element, item, f"{where}[{index}]")

    def _record(self, at: int, ctype: Record, value: object, where: str) -> None:
        if not isinstance(value, Mapping):
            raise BpfError(f"{where}: an object with the fields of {render(ctype)} is expected, not {value!r}.")
        fields = ctype.by_name
        if unknown := [name for name in value if name not in fields]:
            raise BpfError(f"{where}: {render(ctype)} has no field {unknown[0]!r}; it has {', '.join(fields)}.")
        given = [fields[name] for name in value]
        if ctype.overlaps:
            _refuse_overlaps(given, where)
        for field in given:
            self.put(at + field.offset, field.type, value[field.name], f"{where}.{field.name}")


def _refuse_overlaps(given: list[Field], where: str) -> None:
    for before, after in pairwise(sorted(given, key=lambda field: field.offset)):
        if after.offset < before.offset + before.type.size:
            raise BpfError(f"{where}: {before.name} and {after.name} share memory (a union); give one of them.")


def _encode_int(ctype: Int, value: object, where: str) -> bytes:
    if not isinstance(value, int) or (isinstance(value, bool) and not ctype.boolean):
        raise BpfError(f"{where}: a number ({ctype.name}) is expected, not {value!r}.")
    low, high = _bounds(ctype.size, ctype.signed)
    if ctype.boolean:
        low, high = 0, 1
    if not low <= value <= high:
        raise BpfError(f"{where}: {value} is outside {ctype.name}, which holds {low} to {high}.")
    return value.to_bytes(ctype.size, "big" if ctype.big else sys.byteorder, signed=ctype.signed)


def _bounds(size: int, signed: bool) -> tuple[int, int]:
    return (-(1 << (8 * size - 1)), (1 << (8 * size - 1)) - 1) if signed else (0, (1 << (8 * size)) - 1)


def _encode_ifindex(value: object, resolve: Resolve | None, where: str) -> bytes:
    if isinstance(value, str):
        if resolve is None:
            raise BpfError(f"{where}: device {value!r} is named where only an index is known.")
        try:
            value = resolve(value)
        except (OSError, LookupError) as error:
            raise BpfError(f"{where}: device {value!r} is not on this node.") from error
    return _encode_int(Int("sg_ifindex_t", 4), value, where)


def _encode_enum(ctype: Enum, value: object, where: str) -> bytes:
    members = dict(ctype.members)
    if isinstance(value, str):
        if value not in members:
            raise BpfError(f"{where}: {value!r} is no enum {ctype.name}; it has {', '.join(members)}.")
        value = members[value]
    return _encode_int(Int(f"enum {ctype.name}", ctype.size, ctype.signed), value, where)


def _decode_array(ctype: Array, data: bytes) -> Value:
    element = ctype.element
    if isinstance(element, Int) and element.name == "char":
        return data[: ctype.count].split(b"\0", 1)[0].decode(errors="replace")
    return [decode(element, data[i * element.size : (i + 1) * element.size]) for i in range(ctype.count)]
