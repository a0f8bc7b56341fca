"""What a full gateway refuses, and what a flood does not push out."""

from __future__ import annotations

from sixgate.node.bpf.layouts import SgStFlag
from tests.bpf.frames import (
    ACK,
    SYN,
    tcp,
    udp,
)
from tests.bpf.nat_lab import Domain, NatLab
from tests.bpf.nat_steps import CLIENT, OTHER, REMOTE, REMOTE6, opened, out


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
        use = lab.use()
        assert (use["sessions"], use["half"], use["maps"]) == (100, 0, 100)


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
        # One of many comes within a second of the one before, however busy the machine is.
        reasons = [lab.send(udp(CLIENT, 2001 + i, REMOTE6, 80)).reason for i in range(50)]
        assert set(reasons) <= {"SG_SLOW_ICMP", "SG_OK_64"}
        refused = reasons.count("SG_SLOW_ICMP")
        assert refused > 0
        out(lab, 2000, src=OTHER)
        assert lab.stat()["client_rate"] == refused


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
