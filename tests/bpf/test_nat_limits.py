"""Ports and tables of stateful NAT at their limits, and floods; at full size: `python -m bench.nat_engine`."""

from __future__ import annotations

import pytest

from tests.bpf.frames import ACK, SYN, embed, tcp, udp
from tests.bpf.nat_flood import Flood
from tests.bpf.nat_lab import LIVES, Domain, NatLab, Pool

REMOTE = "203.0.113.5"
REMOTE6 = embed(REMOTE)
BASE = "2001:db8:1::"
PORTS = 64512


@pytest.mark.parametrize("proto", ["TCP", "UDP"])
def test_every_port_of_an_address_is_given_out_once(proto: str) -> None:
    domain = Domain(pools=(Pool(n=1),), max_sessions=65536, half_size=PORTS)
    packet = udp(BASE, 1024, REMOTE6, 80) if proto == "UDP" else tcp(BASE, 1024, REMOTE6, 80, SYN)
    with NatLab((domain,), ids=66048) as lab, Flood(lab, packet) as flood:
        for share in (0.95, 0.99, 1.0):
            done = lab.use()["maps"]
            flood.each(done, int(PORTS * share) - done, ports=4032)
            assert lab.use()["maps"] == int(PORTS * share)
        assert "no_port" not in lab.stat()
        before = lab.loaded.metrics()
        flood.each(PORTS, 1000, ports=4032)
        after = lab.loaded.metrics()
        moved = {name: count.packets - before[name].packets for name, count in after.items() if name in before}
        moved |= {name: count.packets for name, count in after.items() if name not in before}
        # Nothing leaves untranslated, and every refusal is counted and answered.
        assert {name: number for name, number in moved.items() if number} == {"SG_SLOW_ICMP": 1000}
        assert lab.stat()["no_port"] == 1000
        taken = {(mapping["out"], mapping["out_port"]) for mapping in lab.mappings().values()}
        assert len(taken) == PORTS


def test_a_flood_of_spoofed_syns_harms_nobody() -> None:
    domain = Domain(pools=(Pool(n=1),), max_sessions=4096, half_size=1024)
    with NatLab((domain,), ids=8192) as lab:
        established = []
        for i in range(500):
            client = f"2001:db8:2::{i + 1:x}"
            syn = lab.send(tcp(client, 3000, REMOTE6, 80, SYN)).out
            lab.send(tcp(REMOTE, 80, syn.src, syn.sport, SYN | ACK))
            established.append((syn.src, syn.sport, client))
        good = 0
        with Flood(lab, tcp(BASE, 1024, REMOTE6, 80, SYN)) as flood:
            for i in range(100):
                flood.random(5000)
                syn = lab.send(tcp(f"2001:db8:3::{i + 1:x}", 3000, REMOTE6, 80, SYN)).out
                flood.random(200)  # before the answer comes
                good += lab.send(tcp(REMOTE, 80, syn.src, syn.sport, SYN | ACK)).reason == "SG_OK_46"
        assert good == 100
        for address, port, client in established:
            seen = lab.send(tcp(REMOTE, 80, address, port, ACK))
            assert (seen.reason, seen.out.dst) == ("SG_OK_46", client)
        assert lab.use()["half"] <= 1024
        assert lab.use()["sessions"] == 600 + lab.use()["half"]


def test_sessions_of_a_full_table_go_on() -> None:
    domain = Domain(pools=(Pool(n=1),), max_sessions=2000)
    with NatLab((domain,), ids=4096) as lab, Flood(lab, udp(BASE, 1024, REMOTE6, 80)) as flood:
        flood.each(0, 10000, ports=1000)
        assert (lab.use()["sessions"], lab.stat()["full"]) == (2000, 8000)
        before = lab.stat()["out"]
        flood.each(0, 2000, ports=1000, packets=20000)
        assert (lab.stat()["out"] - before, lab.stat()["full"]) == (20000, 8000)


@pytest.mark.parametrize("rest", [0, 120])
def test_a_port_that_is_given_back_is_found_at_once(rest: int) -> None:
    """A search that found nothing is remembered, until a port is given back or has rested."""
    domain = Domain(pools=(Pool(n=1, ports=(1024, 1087)),), lives=(*LIVES[:-1], rest))
    late = udp(f"{BASE}ffff", 3000, REMOTE6, 80)
    with NatLab((domain,)) as lab:
        for i in range(64):
            assert lab.send(udp(f"{BASE}{i + 1:x}", 3000, REMOTE6, 80)).reason == "SG_OK_64"
        for tries in range(3):
            assert lab.send(late).reason == "SG_SLOW_ICMP"
            assert lab.stat()["no_port"] == tries + 1
        lab.flush(client=f"{BASE}1")
        assert lab.use()["given"] == 1
        assert lab.send(late).reason == ("SG_SLOW_ICMP" if rest else "SG_OK_64")
        lab.rest(rest + 1)
        assert lab.send(late).reason == "SG_OK_64"


def test_pools_of_one_address_are_remembered_apart() -> None:
    """A full one says nothing of the other one's ports."""
    pools = (Pool(n=1, ports=(1024, 1087)), Pool(n=1, ports=(2048, 2111)))
    with NatLab((Domain(pools=pools),)) as lab:
        shared = lab.record("sg_st_pool", 1)["base"]
        lab.put("sg_st_pool", {0: lab.record("sg_st_pool", 0) | {"base": shared}})
        sent = [lab.send(udp(f"{BASE}{i + 1:x}", 3000, REMOTE6, 80)).reason for i in range(400)]
        assert lab.use()["maps"] == 128
        assert sent.count("SG_OK_64") == 128
