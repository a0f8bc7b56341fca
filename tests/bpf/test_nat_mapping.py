"""Which packets of stateful NAT become which: mappings, filtering, hairpinning, fragments;
cases are named by rows of the checklist."""

from __future__ import annotations

import struct
from collections import Counter
from itertools import pairwise

import pytest

from sixgate.node.bpf.layouts import SgStFlag
from tests.bpf.frames import (
    ACK,
    ICMP,
    SYN,
    TCP,
    UDP,
    echo,
    embed,
    frame,
    icmp_error,
    tcp,
    udp,
    udp_body,
)
from tests.bpf.nat_lab import Domain, NatLab, Pool, clients
from tests.bpf.nat_steps import CLIENT, OTHER, REMOTE, REMOTE6, SECOND, SECOND6, out

# Mapping


def test_6146_5_2_eim_one_port_for_all_destinations(lab: NatLab) -> None:
    first, second, third = out(lab), out(lab, dst=SECOND6), out(lab, dport=81)
    assert (first.out.src, first.out.sport) == (second.out.src, second.out.sport) == (third.out.src, third.out.sport)
    assert (len(lab.mappings()), len(lab.sessions())) == (1, 3)


def test_4787_1_protocols_have_mappings_of_their_own(lab: NatLab) -> None:
    out(lab)
    lab.send(tcp(CLIENT, 5000, REMOTE6, 80, SYN))
    lab.send(echo(CLIENT, REMOTE6, 5000))
    assert sorted(mapping["proto"] for mapping in lab.mappings().values()) == [ICMP, TCP, UDP]


def test_6146_3_5_1_poolpair_one_address_per_client() -> None:
    with NatLab((Domain(pools=(Pool(n=4),)),)) as lab:
        by_client = {
            client: {out(lab, 2000 + i, src=client).out.src for i in range(8)}
            for client in (f"2001:db8:1::{i:x}" for i in range(1, 33))
        }
        assert {len(addresses) for addresses in by_client.values()} == {1}
        assert len(set.union(*by_client.values())) == 4


def test_6146_range_and_parity_are_preserved() -> None:
    with NatLab((Domain(pools=(Pool(n=1, ports=(1024, 65535)),)),)) as lab:
        for sport in range(3000, 3100):
            assert (out(lab, sport).out.sport - sport) % 2 == 0
        # The pool has no port below 1024: "if free".
        assert out(lab, 1000).out.sport >= 1024


def test_6056_random_ports_are_spread(lab: NatLab) -> None:
    ports = [out(lab, 2 * i + 2000).out.sport for i in range(300)]
    assert len({port // 8192 for port in ports}) == 8
    steps = Counter(abs(a - b) for a, b in pairwise(ports))
    assert steps.most_common(1)[0][1] < 20


def test_6146_overload_no_port_twice(lab: NatLab) -> None:
    taken = Counter()
    for (src, sport), _ in zip(clients(7), range(2000), strict=False):
        seen = out(lab, sport, src=src)
        taken[seen.out.src, seen.out.sport] += 1
    assert max(taken.values()) == 1


# Filtering


def test_6146_3_5_1_filt_endpoint_independent(lab: NatLab) -> None:
    seen = out(lab)
    answer = lab.send(udp(SECOND, 999, seen.out.src, seen.out.sport))
    assert (answer.reason, answer.out.src, answer.out.sport) == ("SG_OK_46", SECOND6, 999)
    assert (answer.out.dst, answer.out.dport) == (CLIENT, 5000)
    assert len(lab.sessions()) == 1  # the outside fills no table


def test_6146_3_5_1_filt_address_dependent() -> None:
    with NatLab((Domain(flags=Domain().flags | SgStFlag.SG_ST_ADF),)) as lab:
        seen = out(lab)
        assert lab.send(udp(SECOND, 80, seen.out.src, seen.out.sport)).reason == "SG_DROP_ST_FILTERED"
        # An address that was sent to may answer from any port.
        assert lab.send(udp(REMOTE, 4444, seen.out.src, seen.out.sport)).reason == "SG_OK_46"
        out(lab, dst=SECOND6)
        assert lab.send(udp(SECOND, 80, seen.out.src, seen.out.sport)).reason == "SG_OK_46"
        assert lab.send(udp(REMOTE, 4445, seen.out.src, seen.out.sport)).reason == "SG_OK_46"


@pytest.mark.parametrize("first", [REMOTE, SECOND], ids=["the first remote", "another remote"])
def test_6146_3_5_1_filt_address_dependent_ends_with_the_session(first: str) -> None:
    """The mapping's first session stands in its place, others have entries: an address is known by either."""
    with NatLab((Domain(flags=Domain().flags | SgStFlag.SG_ST_ADF),)) as lab:
        seen = out(lab)
        out(lab, dst=SECOND6)

        def known() -> set[str]:
            passed = (udp(remote, 4444, seen.out.src, seen.out.sport) for remote in (REMOTE, SECOND))
            reasons = (lab.send(packet).reason for packet in passed)
            return {each for each, reason in zip((REMOTE, SECOND), reasons, strict=True) if reason == "SG_OK_46"}

        assert known() == {REMOTE, SECOND}
        lab.flush(remote=first)
        assert known() == {REMOTE, SECOND} - {first}
        out(lab, dst=embed(first))  # on the mapping that is still there
        assert known() == {REMOTE, SECOND}
        for remote in (REMOTE, SECOND):
            lab.flush(remote=remote)
        assert (lab.sessions(), list(lab.records("sg_st_seen")), list(lab.records("sg_st_find"))) == ({}, [], [])


def test_sessions_of_one_mapping_are_found_from_both_sides(lab: NatLab) -> None:
    """In their mapping's place or by an entry, and whatever was found last."""
    remotes = [f"198.51.100.{number}" for number in range(20, 30)]
    pool = {out(lab, dst=embed(remote)).out.src for remote in remotes}
    assert (len(pool), len(lab.mappings()), len(lab.sessions())) == (1, 1, 10)
    for remote in (*remotes, *remotes[::-1]):
        seen = out(lab, dst=embed(remote))
        assert lab.send(udp(remote, 80, seen.out.src, seen.out.sport)).reason == "SG_OK_46"
    counts = {(each["out"]["packets"], each["in"]["packets"]) for each in lab.sessions().values()}
    assert counts == {(3, 2)}
    lab.flush(remote=remotes[0])  # the one in place
    assert len(lab.sessions()) == 9
    out(lab, dst=embed(remotes[0]))
    assert {each["remote"] for each in lab.sessions().values()} == set(remotes)


def test_6146_3_5_1_nobib_dropped(lab: NatLab) -> None:
    assert lab.send(udp(REMOTE, 80, "192.0.2.1", 4000)).reason == "SG_DROP_ST_NO_STATE"
    assert lab.send(tcp(REMOTE, 80, "192.0.2.1", 4000, ACK)).reason == "SG_DROP_ST_NO_STATE"
    assert lab.send(echo(REMOTE, "192.0.2.1", 4000)).reason == "SG_DROP_ST_NO_STATE"
    assert lab.stat()["no_state"] == 3


def test_6146_3_5_pref_src_inside_the_prefix_is_dropped(lab: NatLab) -> None:
    assert lab.send(udp(embed("192.0.2.77"), 5000, REMOTE6, 80)).reason == "SG_DROP_SRC_ILLEGAL"
    assert lab.sessions() == {}


def test_6146_3_5_dst_only_prefix_and_pool_are_processed(lab: NatLab) -> None:
    assert lab.send(udp(CLIENT, 5000, "2001:db8:9::1", 80)).reason == "SG_PASS_NO_MATCH"
    assert lab.send(udp(REMOTE, 80, "192.0.2.3", 4000)).reason == "SG_PASS_NO_MATCH"


def test_6146_3_4_other_protocols_are_refused(lab: NatLab) -> None:
    assert lab.send(frame(CLIENT, REMOTE6, 132, bytes(16))).reason == "SG_SLOW_ICMP"
    assert lab.sessions() == {}


# Hairpinning


@pytest.mark.parametrize("proto", [UDP, TCP])
def test_6146_3_8_hairpin(lab: NatLab, proto: int) -> None:
    def made(src: str, sport: int, dst: str, dport: int, flags: int) -> bytes:
        return udp(src, sport, dst, dport) if proto == UDP else tcp(src, sport, dst, dport, flags)

    there = lab.send(made(OTHER, 7000, REMOTE6, 80, SYN)).out
    seen = lab.send(made(CLIENT, 5000, embed(there.src), there.sport, SYN))
    assert (seen.reason, seen.out.dst, seen.out.dport) == ("SG_OK_66", OTHER, 7000)
    mine = next(mapping for mapping in lab.mappings().values() if mapping["in"] == CLIENT)
    assert (seen.out.src, seen.out.sport) == (embed(mine["out"]), mine["out_port"])
    back = lab.send(made(OTHER, 7000, seen.out.src, seen.out.sport, SYN | ACK))
    assert (back.reason, back.out.dst, back.out.dport) == ("SG_OK_66", CLIENT, 5000)
    assert (back.out.src, back.out.sport) == (embed(there.src), there.sport)


def test_hairpinning_can_be_forbidden() -> None:
    with NatLab((Domain(flags=SgStFlag.SG_ST_LIVE | SgStFlag.SG_ST_PAIRED),)) as lab:
        there = out(lab, 7000, src=OTHER).out
        assert lab.send(udp(CLIENT, 5000, embed(there.src), there.sport)).reason == "SG_SLOW_ICMP"


# Fragments and errors, as far as the fast path goes


def test_6146_3_4_frag_later_fragments_follow_the_first(lab: NatLab) -> None:
    body = udp_body(CLIENT, 5000, REMOTE6, 80, bytes(range(200)))
    first = frame(CLIENT, REMOTE6, UDP, body[:104], extra=struct.pack("!BBHI", UDP, 0, 1, 99))
    later = frame(CLIENT, REMOTE6, UDP, body[104:], extra=struct.pack("!BBHI", UDP, 0, 104, 99))
    one = lab.loaded.run(first, lab.context(first))
    two = lab.loaded.run(later, lab.context(later))
    assert (one.reasons, two.reasons) == ({"SG_OK_64": 1}, {"SG_OK_64": 1})
    assert one.data[14 + 12 : 14 + 20] == two.data[14 + 12 : 14 + 20]  # both addresses
    assert two.data[34:] == body[104:]
    assert len(lab.sessions()) == 1


def test_6146_3_6_icmperr_goes_to_the_slow_path_and_touches_nothing(lab: NatLab) -> None:
    seen = out(lab)
    lab.age(100)
    before = lab.session()["expires"]
    error = icmp_error(SECOND, seen.out.src, 3, 3, udp(seen.out.src, seen.out.sport, REMOTE, 80))
    assert lab.send(error).reason == "SG_SLOW_REWRITE"
    assert lab.session()["expires"] == before
