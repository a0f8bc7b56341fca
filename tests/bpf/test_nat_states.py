"""Sessions of stateful NAT in time: states, lifetimes, the sweeper, flushes, counters."""

from __future__ import annotations

import pytest

from sixgate.node.bpf.layouts import SgStFlag, SgStState
from tests.bpf.frames import (
    ACK,
    FIN,
    ICMP6,
    RST,
    SYN,
    echo,
    tcp,
    udp,
)
from tests.bpf.nat_lab import Domain, NatLab
from tests.bpf.nat_steps import CLIENT, OTHER, REMOTE, REMOTE6, SECOND, SECOND6, opened, out

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


def test_counters_of_session_and_object(lab: NatLab) -> None:
    seen = out(lab)
    out(lab)
    lab.send(udp(REMOTE, 80, seen.out.src, seen.out.sport))
    session = lab.session()
    assert (session["out"], session["in"]) == ({"packets": 2, "bytes": 112}, {"packets": 1, "bytes": 36})
    assert (lab.stat()["out"], lab.stat()["in"]) == (2, 1)
