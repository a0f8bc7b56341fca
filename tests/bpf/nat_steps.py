"""Addresses and first steps that most tests of stateful NAT begin with."""

from __future__ import annotations

from tests.bpf.frames import ACK, SYN, embed, tcp, udp
from tests.bpf.nat_lab import NatLab, Seen

CLIENT, OTHER = "2001:db8:1::1", "2001:db8:1::2"
REMOTE, SECOND = "203.0.113.5", "203.0.113.6"
REMOTE6, SECOND6 = embed(REMOTE), embed(SECOND)


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
