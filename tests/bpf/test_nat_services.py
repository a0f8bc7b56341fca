"""Virtual addresses of one family in front of backends of either: one packet after another."""

from __future__ import annotations

from collections import Counter

import pytest

from sixgate.node.bpf.layouts import SgStState
from tests.bpf.frames import (
    ACK,
    FIN,
    RST,
    SYN,
    TCP,
    UDP,
    tcp,
    udp,
)
from tests.bpf.nat_lab import Domain, NatLab, Pool, Service
from tests.bpf.nat_steps import CLIENT

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
