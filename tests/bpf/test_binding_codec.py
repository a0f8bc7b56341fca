"""Values to bytes by the BTF of a real object, and back; every refusal names the field."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address

import pytest

from sixgate.errors import BpfError
from sixgate.node.bpf import BpfObject, CType, decode, encode
from sixgate.node.bpf.btf import Btf
from sixgate.node.bpf.ctype import Address, Array, Enum, Field, Int, Raw, Record

Open = Callable[[str], BpfObject]

EVERYTHING: dict[str, object] = {
    "big": 2**64 - 1,
    "minus": -5,
    "addr": "192.0.2.1",
    "port": 443,
    "half": 9,
    "v4": 0xC0000201,
    "cookie": 1,
    "dev": "eth7",
    "shade": "SHADE_LIGHT",
    "points": [{"x": 1, "y": -2}, {"y": 3}],
    "parts": [1, 2],
    "named": {"a": 77},
    "label": "abc",
    "mac": b"\x02\0\0\0\0\x01",
    "yes": True,
}
BYTES = b"".join(
    (
        b"\xff" * 8,
        struct.pack("=q", -5),
        IPv6Address("::ffff:192.0.2.1").packed,
        struct.pack(">H", 443),
        struct.pack("=H", 9),
        struct.pack(">I", 0xC0000201),
        struct.pack(">Q", 1),
        struct.pack("=I", 42),
        struct.pack("=i", 5),
        struct.pack("=HhHhHh", 1, -2, 0, 3, 0, 0),
        struct.pack("=HH", 1, 2),
        struct.pack("=Q", 77),
        b"abc".ljust(8, b"\0"),
        b"\x02\0\0\0\0\x01",
        b"\x01",
        b"\0",
    )
)


def resolve(name: str) -> int:
    return {"eth7": 42}[name]


@pytest.fixture
def everything(opened: Open) -> CType:
    return opened("shapes").maps["t_hash"].value


def test_every_kind_of_field_becomes_the_bytes_that_c_wants(everything: CType) -> None:
    assert encode(everything, EVERYTHING, resolve=resolve) == BYTES


def test_decoding_gives_back_what_was_encoded(everything: CType) -> None:
    found = decode(everything, BYTES)

    assert isinstance(found, dict)
    # A union shows every reading of its bytes; padding is left out.
    assert found == EVERYTHING | {
        "dev": 42,
        "points": [{"x": 1, "y": -2}, {"x": 0, "y": 3}, {"x": 0, "y": 0}],
        "whole": 0x00020001,
        "named": {"a": 77, "b": [{"x": 77, "y": 0}, {"x": 0, "y": 0}]},
        "mac": [2, 0, 0, 0, 0, 1],
    }


def test_fields_left_out_are_zero(everything: CType) -> None:
    assert encode(everything, {}) == bytes(everything.size)


@pytest.mark.parametrize(
    ("given", "data", "text"),
    [
        ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1"),
        (IPv4Address("0.0.0.0"), "::ffff:0.0.0.0", "0.0.0.0"),
        ("64:ff9b::", "64:ff9b::", "64:ff9b::"),
        (IPv6Address("2001:db8::1"), "2001:db8::1", "2001:db8::1"),
        ("::", "::", "::"),
        ("::ffff:198.51.100.7", "::ffff:198.51.100.7", "198.51.100.7"),
    ],
)
def test_one_address_type_serves_both_families(given: object, data: str, text: str) -> None:
    assert encode(Address(), given) == IPv6Address(data).packed
    assert decode(Address(), IPv6Address(data).packed) == text


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"big": 2**64}, r"value\.big: 18446744073709551616 is outside __u64, which holds 0 to 18446744073709551615"),
        ({"half": -1}, r"value\.half: -1 is outside __u16"),
        ({"port": 65536}, r"value\.port: 65536 is outside __be16"),
        ({"points": [{"y": 32768}]}, r"value\.points\[0\]\.y: 32768 is outside __s16, which holds -32768 to 32767"),
        ({"half": "9"}, r"value\.half: a number \(__u16\) is expected, not '9'"),
        ({"half": 1.5}, r"value\.half: a number"),
        ({"half": True}, r"value\.half: a number"),
        ({"half": None}, r"value\.half: a number"),
        ({"yes": 2}, r"value\.yes: 2 is outside"),
        ({"prot": 1}, r"struct everything has no field 'prot'; it has big, minus, addr, port"),
        ({"points": [{"z": 1}]}, r"value\.points\[0\]: struct point has no field 'z'; it has x, y"),
        ({"points": [{}, {}, {}, {}]}, r"value\.points: 4 elements are more than struct point\[3\] holds"),
        ({"points": {"x": 1}}, r"value\.points: a list for struct point\[3\] is expected"),
        ({"points": [5]}, r"value\.points\[0\]: an object with the fields of struct point is expected, not 5"),
        ({"whole": 1, "parts": [1]}, r"value: (whole and parts|parts and whole) share memory"),
        ({"named": {"a": 1, "b": []}}, r"value\.named: (a and b|b and a) share memory"),
        ({"shade": "SHADE_PINK"}, r"value\.shade: 'SHADE_PINK' is no enum shade; it has SHADE_DARK, SHADE_LIGHT"),
        ({"shade": 2**32}, r"value\.shade: 4294967296 is outside enum shade"),
        ({"label": "12345678"}, r"value\.label: 8 bytes of text do not fit char\[8\]"),
        ({"mac": b"1234567"}, r"value\.mac: 7 bytes are more than __u8\[6\] holds"),
        ({"mac": "02:00"}, r"value\.mac: a list for __u8\[6\] is expected"),
        ({"addr": "300.1.1.1"}, r"value\.addr: an IP address is expected, not '300\.1\.1\.1'"),
        ({"addr": "192.0.2.01"}, r"value\.addr: an IP address is expected"),
        ({"addr": "1\0.2.3.4"}, r"value\.addr: an IP address is expected"),
        ({"addr": ""}, r"value\.addr: an IP address is expected"),
        ({"addr": 5}, r"value\.addr: an IP address is expected, not 5"),
        ({"addr": "fe80::1%eth0"}, r"value\.addr: an IP address is expected"),
        ({"dev": "eth9"}, r"value\.dev: device 'eth9' is not on this node"),
        ({"dev": -1}, r"value\.dev: -1 is outside sg_ifindex_t"),
        ([1], r"value: an object with the fields of struct everything is expected"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_by_the_path_of_its_field(everything: CType, value: object, told: str) -> None:
    with pytest.raises(BpfError, match=told):
        encode(everything, value, resolve=resolve)


def test_a_device_name_needs_someone_who_resolves_it(everything: CType) -> None:
    with pytest.raises(BpfError, match=r"value\.dev: device 'eth7' is named where only an index is known"):
        encode(everything, {"dev": "eth7"})


@pytest.mark.parametrize(
    ("value", "data", "back"), [("SHADE_NONE", 200, "SHADE_NONE"), (5, 5, "SHADE_LIGHT"), (6, 6, 6)], ids=str
)
def test_enums_go_by_name_or_number(everything: CType, value: object, data: int, back: object) -> None:
    assert isinstance(everything, Record)
    shade = next(field.type for field in everything.fields if field.name == "shade")

    assert encode(shade, value) == struct.pack("=I", data)
    assert decode(shade, struct.pack("=I", data)) == back


def test_bytes_without_a_type_must_have_the_exact_length() -> None:
    assert encode(Raw(3), b"abc") == b"abc"
    with pytest.raises(BpfError, match="exactly 3 bytes are expected"):
        encode(Raw(3), b"ab")
    with pytest.raises(BpfError, match="exactly 3 bytes are expected"):
        encode(Raw(3), "abc")


def test_too_few_bytes_are_not_decoded() -> None:
    with pytest.raises(BpfError, match="__u32 takes 4 bytes, but 3 were given"):
        decode(Int("__u32", 4), b"abc")


def test_definitions_come_from_btf(opened: Open) -> None:
    shapes = opened("shapes")
    spec = shapes.maps["t_by_addr"]

    assert spec.key == Address()
    assert spec.inner is not None
    assert (spec.inner.max_entries, spec.inner.type) == (4, 2)
    assert spec.inner.value == Record(
        "value", 8, (Field("number", 0, Int("__u32", 4)), Field("pad", 4, Int("__u32", 4)))
    )
    assert shapes.maps["t_lpm"].flags == 1
    everything = shapes.maps["t_hash"].value
    assert isinstance(everything, Record)
    fields: Mapping[str, Field] = {field.name: field for field in everything.fields}
    assert fields["v4"].type == Int("__be32", 4, big=True)
    assert fields["shade"].type == Enum("shade", 4, False, (("SHADE_DARK", 1), ("SHADE_LIGHT", 5), ("SHADE_NONE", 200)))
    assert fields["label"].type == Array(Int("char", 1, signed=True), 8)
    assert fields["whole"].offset == fields["parts"].offset


def test_structs_with_bit_fields_are_bytes(opened: Open) -> None:
    spec = opened("shapes").maps["t_scratch"]
    data = bytes(range(20))

    assert spec.value == Record("scratch", 24, (Field("header", 0, Raw(20)), Field("length", 20, Int("__u32", 4))))
    assert encode(spec.value, {"header": data, "length": 1}) == data + struct.pack("=I", 1)
    assert decode(spec.value, data + bytes(4)) == {"header": data, "length": 0}


@pytest.mark.parametrize("data", [b"", b"\0" * 24, b"\x9f\xeb\x01\0\x18\0\0\0" + b"\xff" * 16], ids=len)
def test_what_is_no_btf_is_refused(data: bytes) -> None:
    with pytest.raises(BpfError, match="BTF"):
        Btf(data)
