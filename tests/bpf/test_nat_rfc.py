"""Requirements of stateful NAT that one packet after another can prove; cases are named by rows of the checklist."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest

from sixgate.node.bpf.layouts import SgStFlag, SgStState
from tests.bpf.nat_lab import (
    ACK,
    BLOCKS,
    FIN,
    ICMP,
    ICMP6,
    RST,
    SYN,
    TCP,
    UDP,
    Domain,
    NatLab,
    Pool,
    Seen,
    Service,
    clients,
    echo,
    embed,
    frame,
    icmp_error,
    tcp,
    udp,
    udp_body,
)

CLIENT, OTHER = "2001:db8:1::1", "2001:db8:1::2"
REMOTE, SECOND = "203.0.113.5", "203.0.113.6"
REMOTE6, SECOND6 = embed(REMOTE), embed(SECOND)
ONE = (Pool(n=1),)


@pytest.fixture
def lab() -> Iterator[NatLab]:
    with NatLab() as made:
        yield made


def out(lab: NatLab, sport: int = 5000, *, src: str = CLIENT, dst: str = REMOTE6, dport: int = 80) -> Seen:
    """A UDP packet of a client, which must get through."""
    seen = lab.send(udp(src, sport, dst, dport))
    assert seen.reason == "SG_OK_64"
    return seen


def opened(lab: NatLab, sport: int = 5000) -> tuple[str, int]:
    """An established TCP connection of CLIENT with REMOTE, port 80: the pool's address and port."""
    syn = lab.send(tcp(CLIENT, sport, REMOTE6, 80, SYN))
    assert syn.reason == "SG_OK_64"
    assert lab.send(tcp(REMOTE, 80, syn.out.src, syn.out.sport, SYN | ACK)).reason == "SG_OK_46"
    assert lab.send(tcp(CLIENT, sport, REMOTE6, 80, ACK)).reason == "SG_OK_64"
    return syn.out.src, syn.out.sport


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


# Lifetimes


def test_6146_4_udp_lifetime_and_outbound_refresh(lab: NatLab) -> None:
    seen = out(lab)
    assert lab.lives(300)
    lab.age(200)
    assert lab.send(udp(REMOTE, 80, seen.out.src, seen.out.sport)).reason == "SG_OK_46"
    assert lab.life_left() <= 102  # RFC 4787 REQ-6: not by what comes in
    out(lab)
    assert lab.lives(300)
    lab.age(302)
    assert lab.send(udp(REMOTE, 80, seen.out.src, seen.out.sport)).reason == "SG_DROP_ST_NO_STATE"
    assert (lab.sessions(), lab.mappings()) == ({}, {})


def test_6146_4_icmp_lifetime(lab: NatLab) -> None:
    seen = lab.send(echo(CLIENT, REMOTE6, 77))
    assert lab.lives(60)
    back = lab.send(echo(REMOTE, seen.out.src, seen.out.sport, reply=True))
    assert (back.reason, back.out.proto, back.out.sport, back.out.dst) == ("SG_OK_46", ICMP6, 77, CLIENT)


def test_lifetimes_are_those_of_the_object() -> None:
    with NatLab((Domain(lives=(120, 90, 7200, 300, 6, 5, 0)),)) as lab:
        out(lab)
        assert lab.lives(120)


# TCP: rows of the state table (checklist, section 3)

C, R = True, False  # from the client, from the remote
STATES = [
    ("CLOSED: V6 SYN", [(C, SYN)], "OUT_INIT", 240),
    ("V6 INIT: V6 SYN again", [(C, SYN), (C, SYN)], "OUT_INIT", 240),
    ("V6 INIT: V4 SYN ACK", [(C, SYN), (R, SYN | ACK)], "EST", 7440),
    ("V6 INIT: V4 SYN", [(C, SYN), (R, SYN)], "EST", 7440),
    ("V6 INIT: V4 RST", [(C, SYN), (R, RST | ACK)], "OUT_INIT", 240),
    ("EST: data", [(C, SYN), (R, SYN | ACK), (C, ACK), (R, ACK)], "EST", 7440),
    ("EST: V6 FIN", [(C, SYN), (R, SYN | ACK), (C, FIN | ACK)], "OUT_FIN", 7440),
    ("EST: V4 FIN", [(C, SYN), (R, SYN | ACK), (R, FIN | ACK)], "IN_FIN", 7440),
    ("V6 FIN RCV: data", [(C, SYN), (R, SYN | ACK), (C, FIN), (R, ACK)], "OUT_FIN", 7440),
    ("V6 FIN RCV: V6 FIN again", [(C, SYN), (R, SYN | ACK), (C, FIN), (C, FIN)], "OUT_FIN", 7440),
    ("V6 FIN RCV: V4 FIN", [(C, SYN), (R, SYN | ACK), (C, FIN), (R, FIN)], "BOTH_FIN", 240),
    ("V4 FIN RCV: V6 FIN", [(C, SYN), (R, SYN | ACK), (R, FIN), (C, FIN)], "BOTH_FIN", 240),
    ("V4+V6 FIN RCV: ACK", [(C, SYN), (R, SYN | ACK), (C, FIN), (R, FIN), (C, ACK)], "BOTH_FIN", 240),
    ("V4+V6 FIN RCV: RST", [(C, SYN), (R, SYN | ACK), (C, FIN), (R, FIN), (R, RST)], "BOTH_FIN", 240),
    ("EST: V6 RST", [(C, SYN), (R, SYN | ACK), (C, RST)], "TRANS", 240),
    ("EST: V4 RST", [(C, SYN), (R, SYN | ACK), (R, RST)], "TRANS", 240),
    ("TRANS: RST again", [(C, SYN), (R, SYN | ACK), (R, RST), (R, RST)], "TRANS", 240),
    ("TRANS: data", [(C, SYN), (R, SYN | ACK), (R, RST), (C, ACK)], "EST", 7440),
    (
        "a new connection on the ports of a finished one",
        [(C, SYN), (R, SYN), (C, FIN), (R, FIN), (C, SYN)],
        "TRANS",
        240,
    ),
]


@pytest.mark.parametrize(("packets", "state", "life"), [row[1:] for row in STATES], ids=[row[0] for row in STATES])
def test_6146_tcpsm(lab: NatLab, packets: list[tuple[bool, int]], state: str, life: int) -> None:
    pool, port = "", 0
    for outbound, flags in packets:
        if outbound:
            seen = lab.send(tcp(CLIENT, 5000, REMOTE6, 80, flags))
            pool, port = seen.out.src, seen.out.sport
            assert seen.reason == "SG_OK_64"
        else:
            assert lab.send(tcp(REMOTE, 80, pool, port, flags)).reason == "SG_OK_46"
    assert SgStState(lab.session()["state"]) == SgStState[f"SG_ST_{state}"]
    assert lab.lives(life, since_first=True)


def test_6146_tcpsm_v4_init_by_a_mapping(lab: NatLab) -> None:
    pool, port = opened(lab)
    assert lab.send(tcp(SECOND, 999, pool, port, SYN)).reason == "SG_OK_46"
    states = {session["rport"]: SgStState(session["state"]) for session in lab.sessions().values()}
    assert states == {80: SgStState.SG_ST_EST, 999: SgStState.SG_ST_IN_INIT}
    assert lab.send(tcp(CLIENT, 5000, SECOND6, 999, SYN | ACK)).reason == "SG_OK_64"
    assert {session["state"] for session in lab.sessions().values()} == {SgStState.SG_ST_EST}


def test_6146_tcpsm_closed_needs_a_syn_or_a_mapping(lab: NatLab) -> None:
    assert lab.send(tcp(CLIENT, 5000, REMOTE6, 80, ACK)).reason == "SG_DROP_ST_NO_STATE"
    pool, port = opened(lab)
    seen = lab.send(tcp(CLIENT, 5000, SECOND6, 80, ACK))
    assert (seen.reason, seen.out.src, seen.out.sport) == ("SG_OK_64", pool, port)
    assert lab.send(tcp(SECOND, 80, pool, port, ACK)).reason == "SG_OK_46"
    assert len(lab.sessions()) == 1


def test_6146_4_tcp_established_ends_in_trans(lab: NatLab) -> None:
    opened(lab)
    lab.age(7442)
    assert lab.send(tcp(CLIENT, 5000, REMOTE6, 80, RST)).reason == "SG_OK_64"
    assert lab.session()["state"] == SgStState.SG_ST_TRANS
    assert lab.life_left() <= 240


def test_6146_so_the_syn_names_the_port(lab: NatLab) -> None:
    seen = lab.send(tcp(REMOTE, 80, "192.0.2.2", 40000, SYN))
    assert seen.reason == "SG_DROP_ST_SYN"
    assert lab.sessions() == {}
    syn = lab.send(tcp(CLIENT, 5000, REMOTE6, 80, SYN))
    assert (syn.out.src, syn.out.sport) == ("192.0.2.2", 40000)
    assert lab.send(tcp(REMOTE, 80, "192.0.2.2", 40000, SYN)).reason == "SG_OK_46"
    assert lab.session()["state"] == SgStState.SG_ST_EST


def test_5382_4_unexpected_syn_with_address_dependent_filtering() -> None:
    with NatLab((Domain(flags=Domain().flags | SgStFlag.SG_ST_ADF),)) as lab:
        pool, port = opened(lab)
        assert lab.send(tcp(SECOND, 80, pool, port, SYN)).reason == "SG_DROP_ST_SYN"
        seen = lab.send(tcp(CLIENT, 5000, SECOND6, 80, SYN))
        assert (seen.out.src, seen.out.sport) == (pool, port)
        assert lab.send(tcp(SECOND, 80, pool, port, SYN)).reason == "SG_OK_46"


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


# Limits


def test_6146_full_refuses_and_never_evicts() -> None:
    with NatLab((Domain(max_sessions=100),)) as lab:
        for port in range(2000, 2100):
            out(lab, port)
        assert lab.send(udp(CLIENT, 3000, REMOTE6, 80)).reason == "SG_SLOW_ICMP"
        assert lab.send(tcp(CLIENT, 3000, REMOTE6, 80, SYN)).reason == "SG_SLOW_ICMP"
        assert lab.stat()["full"] == 2
        assert len(lab.sessions()) == 100
        for port in range(2000, 2100):
            out(lab, port)
        assert lab.use() == {"sessions": 100, "half": 0, "maps": 100, "next": 0}


def test_6888_4_limits_per_client() -> None:
    fields = {"client_ports": 5, "client_sessions": 8, "client_len": 64}
    flags = Domain().flags | SgStFlag.SG_ST_CLIENTS
    with NatLab((Domain(flags=flags, fields=fields),)) as lab:
        for i in range(5):
            out(lab, 2000 + i, src=f"2001:db8:1::{i + 1}")
        assert lab.send(udp("2001:db8:1::9", 2000, REMOTE6, 80)).reason == "SG_SLOW_ICMP"
        out(lab, 2000, src="2001:db8:2::1")  # another prefix is another client
        for i in range(3):
            out(lab, 2000, dport=1000 + i)
        assert lab.send(udp(CLIENT, 2000, REMOTE6, 2000)).reason == "SG_SLOW_ICMP"
        assert (lab.stat()["client_ports"], lab.stat()["client_sessions"]) == (1, 1)
        lab.age(302)
        lab.wait(lambda: not lab.sessions())
        out(lab, 4000)  # what has ended no longer counts


def test_6888_4_new_sessions_per_second() -> None:
    flags = Domain().flags | SgStFlag.SG_ST_CLIENTS
    with NatLab((Domain(flags=flags, fields={"client_rate": 1}),)) as lab:
        out(lab, 2000)
        assert lab.send(udp(CLIENT, 2001, REMOTE6, 80)).reason == "SG_SLOW_ICMP"
        out(lab, 2000, src=OTHER)
        assert lab.stat()["client_rate"] == 1


def test_6888_8_released_port_rests() -> None:
    with NatLab((Domain(pools=(Pool(n=1, ports=(2000, 2003)),)),)) as lab:
        ports = {out(lab, 5000 + i).out.sport for i in range(4)}
        assert ports == {2000, 2001, 2002, 2003}
        assert lab.send(udp(CLIENT, 6000, REMOTE6, 80)).reason == "SG_SLOW_ICMP"
        lab.age(302)
        for i in range(4):  # looked up, found to be over, but their ports rest
            assert lab.send(udp(CLIENT, 5000 + i, REMOTE6, 80)).reason == "SG_SLOW_ICMP"
        assert lab.sessions() == {}
        lab.rest(121)
        assert {out(lab, 6000 + i).out.sport for i in range(4)} == ports


def test_6146_dos_half_open_sessions_push_out_only_their_own() -> None:
    with NatLab((Domain(half_size=64),)) as lab:
        pool, port = opened(lab)
        for i in range(500):
            assert lab.send(tcp(f"2001:db8:2::{i + 1:x}", 1024 + i, REMOTE6, 80, SYN)).reason == "SG_OK_64"
        assert (lab.use()["half"], lab.use()["sessions"], lab.use()["maps"]) == (64, 65, 65)
        assert lab.stat()["half_out"] == 436
        assert lab.send(tcp(REMOTE, 80, pool, port, ACK)).reason == "SG_OK_46"
        # One that is answered in time stays.
        syn = lab.send(tcp(OTHER, 9000, REMOTE6, 80, SYN)).out
        for i in range(60):
            lab.send(tcp(f"2001:db8:3::{i + 1:x}", 1024 + i, REMOTE6, 80, SYN))
        assert lab.send(tcp(REMOTE, 80, syn.src, syn.sport, SYN | ACK)).reason == "SG_OK_46"
        for i in range(200):
            lab.send(tcp(f"2001:db8:4::{i + 1:x}", 1024 + i, REMOTE6, 80, SYN))
        assert lab.send(tcp(REMOTE, 80, syn.src, syn.sport, ACK)).reason == "SG_OK_46"


def test_6146_dos_stored_syns_are_bounded(lab: NatLab) -> None:
    for i in range(3000):
        assert lab.send(tcp(REMOTE, 1024 + i, "192.0.2.1", 40000, SYN)).reason == "SG_DROP_ST_SYN"
    assert sum(1 for _ in lab.records("sg_st_syn")) <= 1024
    assert (lab.sessions(), lab.mappings()) == ({}, {})


# Static bindings, reserved ports


def test_6146_static_binding_from_both_sides() -> None:
    flags = Domain().flags | SgStFlag.SG_ST_STATIC
    with NatLab((Domain(flags=flags),)) as lab:
        lab.bind(UDP, "192.0.2.1", 8080, CLIENT, 80)
        lab.bind(TCP, "192.0.2.1", 8080, CLIENT, 80)
        there = lab.send(udp(REMOTE, 999, "192.0.2.1", 8080))
        assert (there.reason, there.out.dst, there.out.dport) == ("SG_OK_46", CLIENT, 80)
        back = lab.send(udp(CLIENT, 80, REMOTE6, 999))
        assert (back.out.src, back.out.sport) == ("192.0.2.1", 8080)
        there = lab.send(tcp(REMOTE, 999, "192.0.2.1", 8080, SYN))
        assert (there.reason, there.out.dport) == ("SG_OK_46", 80)
        # The port is nobody else's, and comes back at once.
        lab.age(303)
        assert out(lab, 80).out.sport == 8080
        assert out(lab, 81).out.sport != 8080


def test_reserved_ports_are_not_given_out() -> None:
    with NatLab((Domain(pools=(Pool(n=1, ports=(2048, 2111)),)),)) as lab:
        for proto in range(3):
            lab.loaded.fill("sg_st_resv", {proto * BLOCKS + 16: 0xFFFF_FFFF_0000_FFFF})
        ports = {out(lab, 5000 + i).out.sport for i in range(16)}
        assert ports == set(range(2064, 2080))
        assert lab.send(udp(CLIENT, 6000, REMOTE6, 80)).reason == "SG_SLOW_ICMP"


# Port blocks


def test_7422_a_clients_ports_come_from_its_block() -> None:
    fields = {"block_size": 64, "client_len": 64}
    with NatLab((Domain(pools=(Pool(n=1),), fields=fields),)) as lab:
        ports = [out(lab, 2000 + 2 * i).out.sport for i in range(32)]
        assert len({(port - 1024) // 64 for port in ports}) == 1
        other = out(lab, 2000, src="2001:db8:2::1").out.sport
        assert (other - 1024) // 64 != (ports[0] - 1024) // 64
        again = [out(lab, 3000 + i, src="2001:db8:1::77").out.sport for i in range(64)]
        assert len({(port - 1024) // 64 for port in ports + again}) >= 2
        assert lab.stat()["overflow"] >= 1


def test_7422_the_block_follows_from_the_client_alone() -> None:
    fields = {"block_size": 128, "client_len": 64}

    def blocks() -> list[int]:
        with NatLab((Domain(pools=(Pool(n=2),), fields=fields),)) as lab:
            return [(out(lab, 2000, src=f"2001:db8:{i:x}::1").out.sport - 1024) // 128 for i in range(1, 20)]

    assert blocks() == blocks()


# Services


VIP, VIP6 = "198.51.100.80", "2001:db8:80::80"
BACKENDS6 = (("2001:db8:b::1", 8080), ("2001:db8:b::2", 8081))
SERVICES = (Service(VIP, 80, TCP, 0, BACKENDS6), Service(VIP, 53, UDP, 0, BACKENDS6))
SOURCE6 = Domain(pools=(Pool("2001:db8:a::1", n=2),), prefix=None)


def test_service_ipv4_to_ipv6_backends_and_back() -> None:
    with NatLab((SOURCE6,), SERVICES) as lab:
        used = Counter()
        for i in range(64):
            client = f"203.0.113.{i + 1}"
            syn = lab.send(tcp(client, 3000, VIP, 80, SYN))
            assert (syn.reason, syn.out.flags) == ("SG_OK_46", SYN)
            assert (syn.out.dst, syn.out.dport) in BACKENDS6
            assert syn.out.src in ("2001:db8:a::1", "2001:db8:a::2")
            used[syn.out.dst] += 1
            back = lab.send(tcp(syn.out.dst, syn.out.dport, syn.out.src, syn.out.sport, SYN | ACK))
            assert back.reason == "SG_OK_64"
            assert (back.out.src, back.out.sport, back.out.dst, back.out.dport) == (VIP, 80, client, 3000)
            ack = lab.send(tcp(client, 3000, VIP, 80, ACK))
            assert ack.out.dst == syn.out.dst  # pinned
        assert min(used.values()) > 10


def test_service_ipv6_to_ipv4_backends_and_back() -> None:
    service = Service(VIP6, 80, TCP, 0, (("203.0.113.9", 8080),))
    with NatLab((Domain(prefix=None),), (service,)) as lab:
        syn = lab.send(tcp(CLIENT, 3000, VIP6, 80, SYN))
        assert (syn.reason, syn.out.dst, syn.out.dport) == ("SG_OK_64", "203.0.113.9", 8080)
        back = lab.send(tcp("203.0.113.9", 8080, syn.out.src, syn.out.sport, SYN | ACK))
        assert (back.reason, back.out.src, back.out.sport, back.out.dst) == ("SG_OK_46", VIP6, 80, CLIENT)


@pytest.mark.parametrize(
    ("vip", "backend", "pool", "client", "reason"),
    [
        (VIP, "203.0.113.9", Pool(), "203.0.113.77", "SG_OK_44"),
        (VIP6, "2001:db8:b::1", Pool("2001:db8:a::1"), CLIENT, "SG_OK_66"),
    ],
    ids=["IPv4", "IPv6"],
)
def test_service_within_one_family(vip: str, backend: str, pool: Pool, client: str, reason: str) -> None:
    with NatLab((Domain(pools=(pool,), prefix=None),), (Service(vip, 53, UDP, 0, ((backend, 5353),)),)) as lab:
        there = lab.send(udp(client, 3000, vip, 53))
        assert (there.reason, there.out.dst, there.out.dport, there.out.ttl) == (reason, backend, 5353, 63)
        back = lab.send(udp(backend, 5353, there.out.src, there.out.sport))
        assert (back.reason, back.out.src, back.out.sport) == (reason, vip, 53)
        assert (back.out.dst, back.out.dport) == (client, 3000)


def test_service_only_the_backend_may_answer() -> None:
    with NatLab((SOURCE6,), SERVICES) as lab:
        there = lab.send(udp("203.0.113.1", 3000, VIP, 53)).out
        assert lab.send(udp("2001:db8:e::e", 1, there.src, there.sport)).reason == "SG_DROP_ST_FILTERED"


def test_service_sessions_stay_when_backends_change() -> None:
    with NatLab((SOURCE6,), SERVICES) as lab:
        there = lab.send(udp("203.0.113.1", 3000, VIP, 53)).out
        spare = [{"addr": "2001:db8:b::9", "port": 99, "weight": 1}]
        lab.loaded.swap("sg_st_table", 1, {0: {"n": 1, "backend": spare, "ring": [0] * 16381}})
        assert lab.send(udp("203.0.113.1", 3000, VIP, 53)).out.dst == there.dst
        assert lab.send(udp("203.0.113.2", 3000, VIP, 53)).out.dst == "2001:db8:b::9"


@pytest.mark.parametrize(
    ("ending", "state"),
    [
        ([(True, RST)], "TRANS"),
        ([(True, FIN | ACK)], "OUT_FIN"),
        ([(False, FIN | ACK)], "IN_FIN"),
        ([(False, FIN | ACK), (True, FIN | ACK)], "BOTH_FIN"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_service_chooses_anew_when_a_closing_client_begins_anew(ending: list[tuple[bool, int]], state: str) -> None:
    """Not while the connection stands, nor for what is no plain SYN; the new one's second SYN changes nothing."""
    with NatLab((SOURCE6,), SERVICES) as lab:
        client = "203.0.113.1"
        old = lab.send(tcp(client, 3000, VIP, 80, SYN)).out
        lab.send(tcp(old.dst, old.dport, old.src, old.sport, SYN | ACK))
        spare = [{"addr": "2001:db8:b::9", "port": 99, "weight": 1}]
        lab.loaded.swap("sg_st_table", 0, {0: {"n": 1, "backend": spare, "ring": [0] * 16381}})
        assert lab.send(tcp(client, 3000, VIP, 80, SYN)).out.dst == old.dst
        for outbound, flags in ending:
            there = (client, 3000, VIP, 80) if outbound else (old.dst, old.dport, old.src, old.sport)
            lab.send(tcp(*there, flags))
        assert lab.session()["state"] == SgStState[f"SG_ST_{state}"]
        assert lab.send(tcp(client, 3000, VIP, 80, RST)).out.dst == old.dst
        first, again = (lab.send(tcp(client, 3000, VIP, 80, SYN)).out for _ in range(2))
        assert (first.dst, first.dport) == ("2001:db8:b::9", 99)
        assert (again.dst, again.src, again.sport) == (first.dst, first.src, first.sport)
        assert lab.session()["state"] == SgStState.SG_ST_OUT_INIT
        assert len(lab.mappings()) == 1
        assert lab.send(tcp(old.dst, old.dport, old.src, old.sport, ACK)).reason == "SG_DROP_ST_NO_STATE"


def test_service_keeps_the_port_of_a_closing_client_that_begins_anew() -> None:
    """Same client, same backend: the ports stay, so that nothing rests and nobody outside sees a gateway."""
    with NatLab((SOURCE6,), SERVICES) as lab:
        client = "203.0.113.1"
        for turn in range(1, 6):
            first = lab.send(tcp(client, 3000, VIP, 80, SYN)).out
            assert lab.session()["state"] == SgStState.SG_ST_OUT_INIT
            assert (lab.use()["half"], lab.use()["sessions"], lab.use()["maps"]) == (1, 1, 1)
            assert (lab.stat()["sessions"], lab.stat()["maps"]) == (turn, 1)
            assert lab.session()["out"]["packets"] == 1
            assert lab.lives(240)
            answer = lab.send(tcp(first.dst, first.dport, first.src, first.sport, SYN | ACK))
            assert (answer.out.dst, answer.out.dport) == (client, 3000)
            assert lab.session()["state"] == SgStState.SG_ST_EST
            assert lab.send(tcp(client, 3000, VIP, 80, RST)).out.sport == first.sport


def test_service_one_client_port_two_services() -> None:
    services = (Service(VIP, 53, UDP, 0, BACKENDS6[:1]), Service(VIP, 54, UDP, 0, BACKENDS6[:1]))
    with NatLab((SOURCE6,), services) as lab:
        first, second = (lab.send(udp("203.0.113.1", 3000, VIP, port)).out for port in (53, 54))
        assert (first.src, first.sport) != (second.src, second.sport)
        for there, port in ((first, 53), (second, 54)):
            assert lab.send(udp(there.dst, there.dport, there.src, there.sport)).out.sport == port


def test_service_without_backends_refuses() -> None:
    with NatLab((SOURCE6,), (Service(VIP, 80, TCP, 0, ()),)) as lab:
        assert lab.send(tcp("203.0.113.1", 3000, VIP, 80, SYN)).reason == "SG_SLOW_ICMP"


# Time and flush


def test_sweeper_ends_sessions_whose_time_is_over(lab: NatLab) -> None:
    for i in range(50):
        out(lab, 2000 + i)
    lab.age(302)
    lab.wait(lambda: not lab.sessions())
    assert (lab.use()["sessions"], lab.use()["maps"], lab.stat()["expired"]) == (0, 0, 50)
    assert list(lab.records("sg_st_fwd")) == []
    assert list(lab.records("sg_st_find")) == []


def test_flush_ends_what_it_names(lab: NatLab) -> None:
    for i in range(20):
        out(lab, 2000 + i, src=CLIENT if i % 2 else OTHER)
    order = {"seq": 7, "fields": 2, "client": CLIENT, "client_mask": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}
    lab.map("sg_st_flush").set(0, order)
    lab.wait(lambda: lab.record("sg_st_sweep", 0)["flushed"] == 7)
    assert {mapping["in"] for mapping in lab.mappings().values()} == {OTHER}
    assert lab.record("sg_st_sweep", 0)["flush_removed"] == 10


def test_an_object_that_goes_takes_its_sessions_along(lab: NatLab) -> None:
    out(lab)
    lab.loaded.fill("sg_st_obj", {0: {}})
    lab.wait(lambda: not lab.sessions())
    assert lab.mappings() == {}


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


def test_counters_of_session_and_object(lab: NatLab) -> None:
    seen = out(lab)
    out(lab)
    lab.send(udp(REMOTE, 80, seen.out.src, seen.out.sport))
    session = lab.session()
    assert (session["out"], session["in"]) == ({"packets": 2, "bytes": 112}, {"packets": 1, "bytes": 36})
    assert (lab.stat()["out"], lab.stat()["in"]) == (2, 1)
