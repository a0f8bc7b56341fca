"""Ports that are not just any: rested, static, reserved, of a client's block."""

from __future__ import annotations

from sixgate.node.bpf.layouts import SgStFlag
from tests.bpf.frames import (
    SYN,
    TCP,
    UDP,
    tcp,
    udp,
)
from tests.bpf.nat_lab import BLOCKS, Domain, NatLab, Pool
from tests.bpf.nat_steps import CLIENT, REMOTE, REMOTE6, out


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
