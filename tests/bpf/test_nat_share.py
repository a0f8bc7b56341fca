"""Ports of services: shared between sessions whose other ends differ, and nobody else's."""

from __future__ import annotations

from collections import Counter

import pytest

from sixgate.node.bpf.layouts import SgStState
from tests.bpf.frames import ACK, FIN, RST, SYN, TCP, UDP, Out, embed, tcp, udp
from tests.bpf.nat_lab import Domain, NatLab, Pool, Service

VIP = "198.51.100.80"
BACKENDS = (("2001:db8:b::1", 8080), ("2001:db8:b::2", 8080), ("2001:db8:b::2", 8081))
CLIENTS = [f"203.0.113.{i}" for i in range(1, 200)]
SHARED = 0x80000000


def source(ports: int, first: int = 2048) -> Domain:
    """One address with so many ports."""
    return Domain(pools=(Pool("2001:db8:a::1", n=1, ports=(first, first + ports - 1)),), prefix=None)


def services(*backends: tuple[str, int], proto: int = TCP) -> tuple[Service, ...]:
    """A service with each of these backends; they differ in the virtual port, 80 and on."""
    return tuple(Service(VIP, 80 + i, proto, 0, (backend,)) for i, backend in enumerate(backends))


def connect(lab: NatLab, client: str, vport: int = 80, port: int = 3000) -> Out | None:
    """What the backend sees of a client's SYN, answered; None where it is refused."""
    syn = lab.send(tcp(client, port, VIP, vport, SYN))
    if syn.reason == "SG_SLOW_ICMP":
        return None
    assert syn.reason == "SG_OK_46"
    answer = lab.send(tcp(syn.out.dst, syn.out.dport, syn.out.src, syn.out.sport, SYN | ACK))
    assert (answer.reason, answer.out.src, answer.out.sport) == ("SG_OK_64", VIP, vport)
    assert (answer.out.dst, answer.out.dport) == (client, port)
    return syn.out


def ports_in_use(lab: NatLab) -> dict[int, int]:
    """Ports of the first block of the pool and how many sessions have each."""
    block = lab.record("sg_st_port", lab.bases["2001:db8:a::1"] + 2048 // 64 - 16)
    return {i: block["slot"][i] & ~SHARED for i in range(64) if block["used"] >> i & 1}


def test_every_backend_has_every_port() -> None:
    with NatLab((source(4),), services(*BACKENDS)) as lab:
        seen = Counter()
        for number, client in enumerate(CLIENTS[: 4 * len(BACKENDS)]):
            out = connect(lab, client, 80 + number % len(BACKENDS))
            assert out is not None
            seen[out.src, out.sport, out.dst, out.dport] += 1
        assert len(seen) == 12
        assert ports_in_use(lab) == dict.fromkeys(range(4), len(BACKENDS))
        for vport in (80, 81, 82):
            assert connect(lab, CLIENTS[100], vport) is None
        assert (lab.stat()["no_port"], lab.use()["sessions"], lab.use()["maps"]) == (3, 12, 12)
        lab.age(100_000)
        lab.wait(lambda: not lab.sessions())
        assert ports_in_use(lab) == {}
        assert list(lab.records("sg_st_find")) == []


def test_a_port_is_free_with_its_last_session_and_does_not_rest() -> None:
    with NatLab((source(1),), services(*BACKENDS[:2])) as lab:
        first, second = connect(lab, CLIENTS[0], 80), connect(lab, CLIENTS[1], 81)
        assert first is not None
        assert second is not None
        assert first.sport == second.sport == 2048
        assert ports_in_use(lab) == {0: 2}
        (index,) = (i for i, each in lab.sessions().items() if each["remote"] == first.dst)
        lab.map("sg_st_sess").set(
            index, lab.record("sg_st_sess", index) | {"expires": 1, "state": SgStState.SG_ST_TRANS}
        )
        lab.wait(lambda: len(lab.sessions()) == 1)
        assert ports_in_use(lab) == {0: 1}
        # The other backend's session goes on, and the free end is given out at once.
        assert lab.send(tcp(second.dst, second.dport, second.src, second.sport, ACK)).out.dst == CLIENTS[1]
        assert connect(lab, CLIENTS[2], 80) is not None


@pytest.mark.parametrize(
    ("ending", "state"),
    [
        ([(True, RST)], "TRANS"),
        ([(False, RST)], "TRANS"),
        ([(True, FIN | ACK), (False, FIN | ACK)], "BOTH_FIN"),
        ([(True, FIN | ACK), (False, RST)], "OUT_FIN"),
    ],
    ids=["client resets", "backend resets", "both finish", "reset instead of the second FIN"],
)
def test_an_ended_session_gives_way_when_there_is_no_other_port(ending: list[tuple[bool, int]], state: str) -> None:
    with NatLab((source(1),), services(BACKENDS[0])) as lab:
        old = connect(lab, CLIENTS[0])
        assert old is not None
        for outbound, flags in ending:
            there = (CLIENTS[0], 3000, VIP, 80) if outbound else (old.dst, old.dport, old.src, old.sport)
            lab.send(tcp(*there, flags))
        assert lab.session()["state"] == SgStState[f"SG_ST_{state}"]
        new = connect(lab, CLIENTS[1])
        assert new is not None
        assert new.sport == old.sport
        assert lab.use()["sessions"] == lab.use()["maps"] == 1
        assert lab.send(tcp(CLIENTS[0], 3000, VIP, 80, ACK)).reason == "SG_DROP_ST_NO_STATE"
        assert "no_port" not in lab.stat()


@pytest.mark.parametrize(
    "ending",
    [[], [(True, FIN | ACK)], [(False, FIN | ACK)], [(True, RST), (False, ACK)]],
    ids=["established", "client finishes", "backend finishes", "a forged reset"],
)
def test_a_session_that_goes_on_gives_way_to_nobody(ending: list[tuple[bool, int]]) -> None:
    with NatLab((source(1),), services(BACKENDS[0])) as lab:
        old = connect(lab, CLIENTS[0])
        assert old is not None
        for outbound, flags in ending:
            there = (CLIENTS[0], 3000, VIP, 80) if outbound else (old.dst, old.dport, old.src, old.sport)
            lab.send(tcp(*there, flags))
        assert connect(lab, CLIENTS[1]) is None
        assert lab.send(tcp(old.dst, old.dport, old.src, old.sport, ACK)).out.dst == CLIENTS[0]


def test_a_session_that_is_over_by_time_alone_is_not_a_reset_one() -> None:
    """TRANS at the end of TCP_EST: the peers may still be there."""
    with NatLab((source(1),), services(BACKENDS[0])) as lab:
        old = connect(lab, CLIENTS[0])
        assert old is not None
        lab.age(7442)
        lab.wait(lambda: lab.session()["state"] == SgStState.SG_ST_TRANS)
        assert connect(lab, CLIENTS[1]) is None


@pytest.mark.parametrize("ports", [1, 63, 200])
def test_one_backend_gets_all_ports_before_anybody_is_refused(ports: int) -> None:
    with NatLab((source(ports, 2050),), services(BACKENDS[0], proto=UDP)) as lab:
        taken = set()
        for number in range(ports):
            out = lab.send(udp(CLIENTS[number % 100], 3000 + number, VIP, 80)).out
            taken.add(out.sport)
        assert taken == set(range(2050, 2050 + ports))
        assert lab.send(udp(CLIENTS[0], 9999, VIP, 80)).reason == "SG_SLOW_ICMP"


def test_mappings_and_services_share_no_port() -> None:
    """An object with a prefix and services: a mapping's port may be talked to by anybody."""
    pool, vip = Pool(n=1, ports=(2048, 2051)), "2001:db8:80::80"
    services4 = [Service(vip, 80 + i, UDP, 0, ((f"203.0.113.{i + 1}", 53),)) for i in range(3)]
    with NatLab((Domain(pools=(pool,)),), tuple(services4)) as lab:
        own = {lab.send(udp("2001:db8:1::1", 4000 + i, embed("203.0.113.1"), 53)).out.sport for i in range(2)}
        lent = Counter()
        for client in range(2):
            for i in range(3):
                lent[lab.send(udp(f"2001:db8:1::{client + 2}", 4000, vip, 80 + i)).out.sport] += 1
        assert sum(lent.values()) == 6
        assert len(own) == 2
        assert set(lent) == set(range(2048, 2052)) - own
        assert lab.send(udp("2001:db8:1::9", 4000, embed("203.0.113.1"), 53)).reason == "SG_SLOW_ICMP"
        assert lab.send(udp("2001:db8:1::9", 4000, vip, 80)).reason == "SG_SLOW_ICMP"
        assert lab.send(udp("203.0.113.77", 99, "192.0.2.1", min(own))).reason == "SG_OK_46"
        assert lab.send(udp("203.0.113.77", 99, "192.0.2.1", min(lent))).reason == "SG_DROP_ST_FILTERED"


def test_ports_kept_apart_are_no_services_either() -> None:
    with NatLab((source(64),), services(BACKENDS[0], proto=UDP)) as lab:
        index = lab.bases["2001:db8:a::1"] + 1008 + 2048 // 64 - 16
        lab.put("sg_st_resv", {index: 0xFFFFFFFFFFFFFF00})
        seen = {lab.send(udp(client, 3000, VIP, 80)).out.sport for client in CLIENTS[:8]}
        assert seen == set(range(2048, 2056))
        assert lab.send(udp(CLIENTS[9], 3000, VIP, 80)).reason == "SG_SLOW_ICMP"
