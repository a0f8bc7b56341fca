"""Comparing packets with masks, and what a recorded case asks of the gateway."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from e2e.conformance import Outcome, gateway_manifest, load, parse_case, summary
from e2e.lab.packets import internet_checksum, udp_packet
from e2e.lab.wire import Expected, compare
from sixgate.api.nat46gateway import NAT46Gateway

if TYPE_CHECKING:
    from pathlib import Path

IPV4 = udp_packet("192.0.2.33", "198.51.100.2", b"sixgate!")
IPV6 = udp_packet("2001:db8::1", "2001:db8::2", b"sixgate!")
CONFIG: dict[str, Any] = {
    "pool6": "2001:db8:100::/40",
    "eamt": [["2001:db8:3::/120", "1.0.0.0/24"]],
    "rfc6791v4_prefix": "203.0.113.8/32",
    "rfc6791v6_prefix": None,
    "eam_hairpin_mode": "intrinsic",
    "amend_udp_checksum_zero": True,
    "lowest_ipv6_mtu": 1402,
    "zeroize_traffic_class": False,
    "override_tos": False,
    "mtu": {"to_client_v6": 1280, "to_jool_v6": 1500, "to_client_v4": 1500, "to_jool_v4": 1400},
    "gw": {"to_client_v6": "2001:db8:1c0:2:1::/64", "to_client_v4": "198.51.100.1/24", "routes": []},
    "n6": {"to_jool_v6": "2001:db8:1c0:2:21::/64", "routes": []},
    "n4": {"to_jool_v4": "198.51.100.2/24", "routes": ["192.0.2.0/24 via 198.51.100.1"]},
}


def recorded(name: str, level: str = "MUST") -> dict[str, Any]:
    """A case as the vector file has it: one packet in at n6, one out at n4."""
    return {
        "name": name,
        "group": "udp64",
        "level": level,
        "what": None,
        "note": "a note",
        "config": CONFIG,
        "sends": [{"iface_in": "n6", "hex": IPV6.hex()}],
        "expects": [{"iface_out": "n4", "hex": IPV4.hex(), "mask": "ff" * len(IPV4)}],
    }


def changed(packet: bytes, offset: int, value: int) -> bytes:
    return packet[:offset] + bytes([value]) + packet[offset + 1 :]


def test_equal_packets_do_not_differ() -> None:
    assert compare(Expected("n4", IPV4, b"\xff" * len(IPV4)), IPV4) == []


def test_differing_bytes_are_named_in_runs() -> None:
    packet = changed(changed(changed(IPV6, 41, 0xEE), 42, 0xEF), 50, 0xFF)
    found = compare(Expected("n6", IPV6, b"\xff" * len(IPV6)), packet)
    assert found == [f"bytes 41-42 eeef instead of {IPV6[41:43].hex()}", f"bytes 50-50 ff instead of {IPV6[50]:02x}"]


def test_masked_bytes_do_not_count() -> None:
    mask = changed(b"\xff" * len(IPV6), 45, 0)
    assert compare(Expected("n6", IPV6, mask), changed(IPV6, 45, IPV6[45] ^ 1)) == []


def test_a_wrong_length_is_a_difference() -> None:
    assert compare(Expected("n6", IPV6, b"\xff" * len(IPV6)), IPV6 + b"\0") == [
        f"length {len(IPV6) + 1} instead of {len(IPV6)}"
    ]


def test_a_wrong_header_checksum_is_a_difference_even_where_masked() -> None:
    mask = changed(changed(b"\xff" * len(IPV4), 10, 0), 11, 0)
    assert compare(Expected("n4", IPV4, mask), changed(IPV4, 10, IPV4[10] ^ 1)) == ["IPv4 header checksum wrong"]


@pytest.mark.parametrize("packet", [IPV4, IPV6], ids=["IPv4", "IPv6"])
def test_packets_made_by_hand_have_right_checksums(packet: bytes) -> None:
    head = 20 if packet[0] >> 4 == 4 else 40
    addresses = packet[12:20] if head == 20 else packet[8:40]
    segment = packet[head:]
    assert internet_checksum(addresses + bytes([0, 17]) + len(segment).to_bytes(2, "big") + segment) == 0
    assert head == 40 or internet_checksum(packet[:20]) == 0


def test_a_configuration_becomes_a_valid_gateway() -> None:
    gateway = NAT46Gateway.model_validate(yaml.safe_load(gateway_manifest(CONFIG)))
    stateless = gateway.spec.stateless
    assert stateless is not None
    assert str(gateway.spec.prefix) == "2001:db8:100::/40"
    assert [str(cidr) for cidr in stateless.ipv4_cidrs] == ["192.0.2.0/24"]
    assert [(str(m.ipv4), str(m.ipv6)) for m in stateless.mappings] == [("1.0.0.0/24", "2001:db8:3::/120")]
    assert (stateless.lowest_ipv6_mtu, stateless.udp_zero_checksum) == (1402, "Compute")
    assert str(stateless.icmp_source_cidr) == "203.0.113.8/32"


def test_without_a_prefix_only_mappings_are_left() -> None:
    spec = yaml.safe_load(gateway_manifest({**CONFIG, "pool6": None}))["spec"]
    assert "prefix" not in spec
    assert "ipv4CIDRs" not in spec["stateless"]
    assert spec["stateless"]["mappings"]


def test_cases_of_one_configuration_come_together(tmp_path: Path) -> None:
    other = {**recorded("b"), "config": {**CONFIG, "lowest_ipv6_mtu": 1280}}
    (tmp_path / "v.json").write_text(json.dumps([recorded("a"), other, recorded("c")]))
    cases, plan = load(tmp_path / "v.json")
    assert [case.name for case in cases] == ["a", "c", "b"]
    assert cases[0].mtu == (("n6", 1280, 1500), ("n4", 1500, 1400))
    assert (plan.neighbours6, plan.neighbours4) == (("2001:db8:1c0:2:21::",), ("198.51.100.2",))


def test_the_summary_counts_levels_and_names_misses() -> None:
    outcomes = [
        Outcome(parse_case(recorded("a")), ()),
        Outcome(parse_case(recorded("b")), ("1 of 1 packets missing",)),
        Outcome(parse_case(recorded("c", "SHOULD")), ()),
    ]
    assert list(summary(outcomes)) == [
        "groups: udp64 2/3",
        "MUST: 1 of 2",
        "SHOULD: 1 of 1",
        "misses of level MUST: b",
        "misses of level SHOULD: none",
    ]
