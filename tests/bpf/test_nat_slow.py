"""Stateful NAT in the slow path: ICMP errors with the packets in them, and what has to be summed."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sixgate.node.bpf.layouts import SgStLife
from tests.bpf.frames import (
    ICMP,
    ICMP6,
    SYN,
    TCP,
    UDP,
    echo,
    embed,
    frame,
    icmp_error,
    packed,
    pseudo,
    read,
    tcp,
    udp,
    udp_body,
)
from tests.bpf.nat_lab import Domain, Frozen, NatLab, Pool, Service
from tests.rfc.wire import ones_sum

CLIENT, OTHER = "2001:db8:1::1", "2001:db8:1::2"
REMOTE, ROUTER = "203.0.113.5", "198.51.100.254"
REMOTE6 = embed(REMOTE)


@pytest.fixture
def lab() -> Iterator[NatLab]:
    with NatLab(program="sg_slow") as made:
        yield made


def inner(body: bytes) -> tuple[str, int, str, int]:
    """Addresses and ports (of ICMP: identifier) of the packet embedded in an ICMP error's layer 4."""
    seen = read(bytes(14) + body[8:])
    return seen.src, seen.sport, seen.dst, seen.dport


@pytest.mark.parametrize("proto", ["UDP", "TCP", "ICMP"])
def test_6146_3_6_icmperr_from_ipv4(lab: NatLab, proto: str) -> None:
    made = {
        "UDP": udp(CLIENT, 5000, REMOTE6, 80),
        "TCP": tcp(CLIENT, 5000, REMOTE6, 80, SYN),
        "ICMP": echo(CLIENT, REMOTE6, 5000),
    }
    out = lab.send(made[proto]).out
    lab.age(50)
    before = lab.session()["expires"]
    sent = {
        "UDP": udp(out.src, out.sport, REMOTE, 80),
        "TCP": tcp(out.src, out.sport, REMOTE, 80, SYN),
        "ICMP": echo(out.src, REMOTE, out.sport),
    }
    seen = lab.send(icmp_error(ROUTER, out.src, 3, 1, sent[proto]))
    assert (seen.reason, seen.out.src, seen.out.dst, seen.out.proto) == ("SG_OK_46", embed(ROUTER), CLIENT, ICMP6)
    assert (seen.out.body[0], seen.out.body[1]) == (1, 0)
    wanted = (CLIENT, 5000, REMOTE6, 5000 if proto == "ICMP" else 80)
    assert inner(seen.out.body) == wanted
    assert sound(seen.out.body)
    assert lab.session()["expires"] == before  # RFC 5508 REQ-4


def test_6146_3_6_icmperr_from_ipv6(lab: NatLab) -> None:
    out = lab.send(udp(CLIENT, 5000, REMOTE6, 80)).out
    seen = lab.send(icmp_error("2001:db8:77::1", REMOTE6, 1, 4, udp(REMOTE6, 80, CLIENT, 5000)))
    assert (seen.reason, seen.out.src, seen.out.dst, seen.out.proto) == ("SG_OK_64", out.src, REMOTE, ICMP)
    assert (seen.out.body[0], seen.out.body[1]) == (3, 3)
    assert inner(seen.out.body) == (REMOTE, 80, out.src, out.sport)
    assert sound(seen.out.body)


def test_6146_3_6_icmperr_without_state_is_dropped(lab: NatLab) -> None:
    out = lab.send(udp(CLIENT, 5000, REMOTE6, 80)).out
    for packet in (
        icmp_error(ROUTER, out.src, 3, 1, udp(out.src, out.sport, ROUTER, 80)),
        icmp_error(ROUTER, out.src, 3, 1, udp(out.src, out.sport ^ 1, REMOTE, 80)),
        icmp_error(CLIENT, REMOTE6, 1, 4, udp(REMOTE6, 80, CLIENT, 5001)),
    ):
        assert lab.send(packet).reason == "SG_DROP_ICMP_INNER"


def test_packet_too_big_passes_the_size_on(lab: NatLab) -> None:
    out = lab.send(udp(CLIENT, 5000, REMOTE6, 80)).out
    seen = lab.send(icmp_error(ROUTER, out.src, 3, 4, udp(out.src, out.sport, REMOTE, 80), info=1400))
    assert (seen.out.body[0], struct.unpack("!I", seen.out.body[4:8])[0]) == (2, 1420)


def test_5508_7_icmperr_between_clients(lab: NatLab) -> None:
    there = lab.send(udp(OTHER, 7000, REMOTE6, 80)).out
    mine = lab.send(udp(CLIENT, 5000, embed(there.src), there.sport)).out
    seen = lab.send(icmp_error(OTHER, mine.src, 1, 4, udp(mine.src, mine.sport, OTHER, 7000)))
    assert (seen.reason, seen.out.src, seen.out.dst) == ("SG_OK_66", embed(there.src), CLIENT)
    assert inner(seen.out.body) == (CLIENT, 5000, embed(there.src), there.sport)
    assert sound(seen.out.body)


def test_service_icmperr_reaches_client_and_backend() -> None:
    vip, backend = "198.51.100.80", "2001:db8:b::1"
    source = Domain(pools=(Pool("2001:db8:a::1", n=1),), prefix=None)
    with NatLab((source,), (Service(vip, 53, UDP, 0, ((backend, 5353),)),), program="sg_slow") as lab:
        there = lab.send(udp(REMOTE, 3000, vip, 53)).out
        seen = lab.send(icmp_error(backend, there.src, 1, 4, udp(there.src, there.sport, backend, 5353)))
        assert (seen.reason, seen.out.dst, seen.out.proto) == ("SG_OK_64", REMOTE, ICMP)
        assert inner(seen.out.body) == (REMOTE, 3000, vip, 53)
        seen = lab.send(icmp_error(ROUTER, vip, 3, 4, udp(vip, 53, REMOTE, 3000), info=1300))
        assert (seen.reason, seen.out.dst, seen.out.proto) == ("SG_OK_46", backend, ICMP6)
        assert inner(seen.out.body) == (backend, 5353, there.src, there.sport)


def test_6146_3_4_zero_checksum_is_computed(lab: NatLab) -> None:
    out = lab.send(udp(CLIENT, 5000, REMOTE6, 80)).out
    body = udp_body(REMOTE, 80, out.src, out.sport)
    seen = lab.send(frame(REMOTE, out.src, UDP, body[:6] + b"\0\0" + body[8:]))
    assert (seen.reason, seen.out.dst, seen.out.dport) == ("SG_OK_46", CLIENT, 5000)


def fragments(ident: int) -> list[bytes]:
    """One UDP packet of a client in ten fragments."""
    body = udp_body(CLIENT, 5000, REMOTE6, 80, bytes(range(249)) * 8)
    return [
        frame(CLIENT, REMOTE6, UDP, body[at : at + 200], extra=struct.pack("!BBHI", UDP, 0, at | (at < 1800), ident))
        for at in range(0, 2000, 200)
    ]


def waiting(lab: NatLab) -> dict[int, dict[str, Any]]:
    return {int(at): each for at, each in lab.records("sg_st_waiter") if each["state"]}


PATIENCE_S = 600


def wait_long(lab: NatLab) -> None:
    """Fragments wait longer than the test takes on the busiest machine."""
    (number, record), *_ = lab.records("sg_st_obj")
    lives = [*record["life"]]
    lives[SgStLife.SG_LIFE_FRAGMENT] = PATIENCE_S
    lab.put("sg_st_obj", {number: record | {"life": lives}})


def test_6146_3_4_frag_waiting_is_bounded_in_number(lab: NatLab) -> None:
    """Eight fragments wait as they came; the first one, when it comes, finds them, and goes as it came."""
    wait_long(lab)
    first, *later = fragments(99)
    reasons = [lab.send(each).reason for each in later]
    assert reasons == ["SG_OK_ST_HELD"] * 8 + ["SG_DROP_ST_FRAGMENT"]
    held = [bytes(each["b"][: each["len"]]) for each in waiting(lab).values()]
    assert held == [each[14:] for each in later[:8]]
    outcome = lab.loaded.run(first, lab.context(first))
    assert outcome.reasons == {"SG_OK_64": 1}
    assert outcome.data[42:] == first[70:]
    assert not waiting(lab)
    assert lab.stat()["fragments"] == 1
    assert lab.send(later[0]).reason == "SG_OK_64"


def test_6146_3_4_frag_waiting_is_bounded_in_time(lab: NatLab) -> None:
    """Whose first one has not come in time makes room, and does not go when it comes."""
    wait_long(lab)
    first, *later = fragments(99)
    began = int(time.clock_gettime(time.CLOCK_MONOTONIC))
    for each in later[:8]:
        lab.send(each)
    now = int(time.clock_gettime(time.CLOCK_MONOTONIC))
    for at, record in waiting(lab).items():
        assert began + PATIENCE_S <= record["until"] <= now + PATIENCE_S + 1
        lab.put("sg_st_waiter", {at: record | {"until": now}})
    assert lab.send(later[8]).reason == "SG_OK_ST_HELD"
    assert lab.stat()["fragments"] == 1
    assert lab.send(first).reason == "SG_OK_64"
    assert not waiting(lab)
    assert lab.stat()["fragments"] == 8


def test_6146_3_4_frag_too_long_to_wait(lab: NatLab) -> None:
    long = frame(CLIENT, REMOTE6, UDP, bytes(2008), extra=struct.pack("!BBHI", UDP, 0, 200 | 1, 99))
    assert lab.send(long).reason == "SG_DROP_ST_FRAGMENT"
    assert not waiting(lab)


def test_6146_3_4_frag_tc_sends_both_to_the_slow_path() -> None:
    """A later one that finds no ports; and its first one, where somebody waits, which tc alone would not know."""
    first, *later = fragments(99)
    with NatLab() as lab:
        assert lab.send(later[0]).reason == "SG_SLOW_REWRITE"
        assert lab.send(first).reason == "SG_OK_64"
        assert lab.send(later[0]).reason == "SG_OK_64"
        first, *later = fragments(100)
        key = {"saddr": CLIENT, "daddr": REMOTE6, "id": 100, "proto": UDP}
        until = int(time.clock_gettime(time.CLOCK_MONOTONIC)) + 10
        lab.put("sg_st_frag", {Frozen(key): {"ports": 0, "until": until}})
        assert lab.send(first).reason == "SG_SLOW_REWRITE"
        assert lab.send(later[0]).reason == "SG_OK_64"


def test_refusals_are_answered(lab: NatLab) -> None:
    before = lab.loaded.run(frame(CLIENT, REMOTE6, 132, bytes(16)), lab.context(frame(CLIENT, REMOTE6, 132, bytes(16))))
    assert set(before.reasons) >= {"SG_DROP_ST_PROTO"}


def test_mss_is_lowered_on_the_way() -> None:
    with NatLab(program="sg_slow") as lab:
        obj = lab.record("sg_st_obj", 0)
        lab.put("sg_st_obj", {0: obj | {"gw": obj["gw"] | {"flags": obj["gw"]["flags"] | 32}}})
        option = bytes([2, 4, 0x23, 0x00])
        body = struct.pack("!HHIIBBHHH", 5000, 80, 1, 0, 0x60, SYN, 8192, 0, 0) + option
        total = ~ones_sum(pseudo(packed(CLIENT), packed(REMOTE6), len(body), TCP) + body) & 0xFFFF
        seen = lab.send(frame(CLIENT, REMOTE6, TCP, body[:16] + struct.pack("!H", total) + body[18:]))
        assert seen.reason == "SG_OK_64"
        assert struct.unpack("!H", seen.out.body[22:24])[0] == 1440


def sound(body: bytes) -> bool:
    """Whether the embedded packet's checksum is right; it is whole in these tests."""
    return read(bytes(14) + body[8:]).sound
