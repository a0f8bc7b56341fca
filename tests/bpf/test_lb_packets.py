"""The balancer, packet by packet: whole packets in and out, verdicts and reasons, in XDP and in tc."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import ICMP, IP, TCP, UDP, ICMPerror, IPerror, IPOption_NOP, TCPerror, UDPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6PacketTooBig,
    IPerror6,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from sixgate.node.bpf.layouts import SgLbFlag, SgLbKind
from tests.bpf.balancer import Balancer, Slots
from tests.bpf.conftest import Pair
from tests.bpf.harness import TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC, XDP_DROP, XDP_PASS, XDP_TX

CLIENT4, CLIENT6 = "198.51.100.7", "2001:db8:c::7"
VIP4, VIP6, WHOLE4, HOST4 = "203.0.113.1", "2001:db8:a::1", "203.0.113.2", "203.0.113.3"
BACKEND4, BACKEND6, SOURCE4, SOURCE6 = "192.0.2.10", "2001:db8::10", "192.0.2.100", "2001:db8:ff::"
ROUTER, OURS, NEIGHBOUR = "02:00:00:00:00:02", "02:00:00:00:00:01", "02:00:00:00:00:10"
TCP_, UDP_ = 6, 17
PAYLOAD = bytes(range(40))


@dataclass(frozen=True)
class Case:
    """`out` is what leaves, from layer 3; `to` says where: backend, sender, or `drop` and `pass`."""

    name: str
    packet: Packet | bytes
    reason: str
    to: str = "backend"
    out: Packet | bytes | None = None
    before: tuple[Packet, ...] = field(default=())

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Hooked:
    """A balancer in one hook."""

    balancer: Balancer
    mac: str

    @property
    def xdp(self) -> bool:
        return self.balancer.name == "sg_xdp"

    def verdict(self, to: str) -> int:
        if self.xdp:
            return {"backend": XDP_TX, "sender": XDP_TX, "drop": XDP_DROP, "pass": XDP_PASS}[to]
        return {
            "backend": TC_ACT_REDIRECT, "sender": TC_ACT_REDIRECT, "drop": TC_ACT_SHOT, "pass": TC_ACT_UNSPEC
        }[to]  # fmt: skip

    def link(self, to: str, v6: bool) -> bytes:
        """Link header of what leaves; tc leaves it to the kernel, which fills it in later."""
        kind = 0x86DD if v6 else 0x0800
        if to == "sender":
            return bytes(Ether(dst=ROUTER, src=OURS, type=kind))
        if to == "backend" and self.xdp:
            return bytes(Ether(dst=NEIGHBOUR, src=self.mac, type=kind))
        return bytes(Ether(dst=OURS, src=ROUTER, type=kind))


def frame(packet: Packet | bytes) -> bytes:
    raw = bytes(packet)
    return bytes(Ether(dst=OURS, src=ROUTER, type=0x86DD if raw[0] >> 4 == 6 else 0x0800)) + raw


def v4(payload: Packet | bytes, **fields: object) -> Packet:
    return IP(**{"src": CLIENT4, "dst": VIP4, "id": 77} | fields) / payload


def v6(payload: Packet | bytes, **fields: object) -> Packet:
    return IPv6(**{"src": CLIENT6, "dst": VIP6} | fields) / payload


def tcp(port: int = 80, **fields: object) -> Packet:
    return TCP(**{"sport": 4000, "dport": port, "flags": "A", "seq": 5, "ack": 6} | fields) / PAYLOAD


def udp(port: int = 53, **fields: object) -> Packet:
    return UDP(**{"sport": 4000, "dport": port} | fields) / PAYLOAD


def in4(inner: Packet, tos: int = 0, port: int = 0) -> bytes:
    proto = 41 if inner.version == 6 else 4
    raw = bytes(inner)
    return bytes(IP(src=SOURCE4, dst=BACKEND4, id=port, flags="DF", ttl=64, tos=tos, proto=proto) / Raw(raw))


def in6(inner: Packet, tc: int = 0, port: int = 0) -> bytes:
    proto = 41 if inner.version == 6 else 4
    return bytes(IPv6(src=SOURCE6, dst=BACKEND6, fl=port, hlim=64, tc=tc, nh=proto) / Raw(bytes(inner)))


def error4(port: int) -> Packet:
    """ "Fragmentation needed" about a packet of a VIP's port to the client."""
    about = IPerror(src=VIP4, dst=CLIENT4) / TCPerror(sport=port, dport=4000, seq=1)
    return IP(src="198.51.100.1", dst=VIP4) / ICMP(type=3, code=4, nexthopmtu=1400) / about


def error6(port: int) -> Packet:
    about = IPerror6(src=VIP6, dst=CLIENT6) / TCPerror(sport=port, dport=4000, seq=1)
    return IPv6(src="2001:db8:c::1", dst=VIP6) / ICMPv6PacketTooBig(mtu=1300) / about


def options() -> Packet:
    return v4(tcp(), options=[IPOption_NOP()] * 4)


def extended() -> Packet:
    return v6(IPv6ExtHdrDestOpt() / tcp())


def fragment4(offset: int, more: bool, payload: bytes) -> Packet:
    return IP(src=CLIENT4, dst=VIP4, id=99, proto=17, frag=offset // 8, flags="MF" if more else 0) / Raw(payload)


def fragment6(offset: int, more: bool, payload: bytes) -> Packet:
    header = IPv6ExtHdrFragment(nh=17, offset=offset // 8, m=int(more), id=98)
    return IPv6(src=CLIENT6, dst=VIP6) / header / Raw(payload)


WHOLE_UDP = bytes(UDP(sport=4000, dport=53, len=40, chksum=0x1234) / bytes(32))
MAPPED4, MAPPED6 = v4(tcp(8080)), v6(tcp(8080))
SENT = (
    Case("TCP to a v4 VIP goes in IPv4", v4(tcp()), "SG_OK_LB", out=in4(v4(tcp()))),
    Case("a SYN does, too", v4(tcp(flags="S")), "SG_OK_LB", out=in4(v4(tcp(flags="S")))),
    Case("UDP does, too", v4(udp()), "SG_OK_LB", out=in4(v4(udp()))),
    Case("a short datagram does, too", v4(UDP(sport=1, dport=53)), "SG_OK_LB", out=in4(v4(UDP(sport=1, dport=53)))),
    Case("TCP to a v6 VIP goes in IPv6", v6(tcp()), "SG_OK_LB", out=in6(v6(tcp()))),
    Case("a short v6 datagram does, too", v6(UDP(sport=1, dport=53)), "SG_OK_LB", out=in6(v6(UDP(sport=1, dport=53)))),
    Case("v6 goes in IPv4 where the backend has such an address", v6(tcp(82)), "SG_OK_LB", out=in4(v6(tcp(82)))),
    Case("v4 goes in IPv6 where the backend has such an address", v4(tcp(82)), "SG_OK_LB", out=in6(v4(tcp(82)))),
    Case("DS field and ECN are copied outwards", v4(tcp(), tos=0xB9), "SG_OK_LB", out=in4(v4(tcp(), tos=0xB9), 0xB9)),
    Case("the traffic class is, too", v6(tcp(), tc=0xB9), "SG_OK_LB", out=in6(v6(tcp(), tc=0xB9), 0xB9)),
    Case("IPv4 options stay", options(), "SG_OK_LB", out=in4(options())),
    Case("extension headers stay", extended(), "SG_OK_LB", out=in6(extended())),
    Case("a mapped port travels in the identification", v4(tcp(81)), "SG_OK_LB", out=in4(MAPPED4, port=81)),
    Case("a mapped port travels in the flow label", v6(tcp(81)), "SG_OK_LB", out=in6(MAPPED6, port=81)),
    Case("a mapped UDP port", v4(udp(83)), "SG_OK_LB", out=in4(v4(udp(8082)), port=83)),
    Case(
        "a mapped UDP port without checksum",
        v4(udp(83, chksum=0)),
        "SG_OK_LB",
        out=in4(v4(udp(8082, chksum=0)), port=83),
    ),
    Case("L2 leaves the packet as it is", v4(tcp(90)), "SG_OK_LB", out=bytes(v4(tcp(90)))),
    Case("a port inside a range", v4(tcp(1234)), "SG_OK_LB", out=in4(v4(tcp(1234)))),
    Case("every port of a whole address", v4(udp(9), dst=WHOLE4), "SG_OK_LB", out=in4(v4(udp(9), dst=WHOLE4))),
    Case("ping to a v4 VIP is answered", v4(ICMP(id=3, seq=9) / PAYLOAD, ttl=9), "SG_OK_LB_ECHO", "sender",
         IP(src=VIP4, dst=CLIENT4, id=77) / ICMP(type=0, id=3, seq=9) / PAYLOAD),
    Case("ping to a v6 VIP is answered", v6(ICMPv6EchoRequest(id=3, seq=9, data=PAYLOAD), hlim=9), "SG_OK_LB_ECHO",
         "sender", IPv6(src=VIP6, dst=CLIENT6) / ICMPv6EchoReply(id=3, seq=9, data=PAYLOAD)),
    Case("an ICMP error goes to the backend of its flow", error4(80), "SG_OK_LB_ICMP", out=in4(error4(80))),
    Case("an ICMPv6 error does, too", error6(80), "SG_OK_LB_ICMP", out=in6(error6(80))),
    Case("an ICMP error about a mapped port speaks of the backend's", error4(81), "SG_OK_LB_ICMP",
         out=in4(error4(8080))),
    Case("an ICMPv6 error about a mapped port speaks of the backend's", error6(81), "SG_OK_LB_ICMP",
         out=in6(error6(8080))),
    Case("a first fragment", fragment4(0, True, WHOLE_UDP[:24]), "SG_OK_LB",
         out=in4(fragment4(0, True, WHOLE_UDP[:24]))),
    Case("a later fragment follows the first", fragment4(24, False, WHOLE_UDP[24:]), "SG_OK_LB",
         out=in4(fragment4(24, False, WHOLE_UDP[24:])), before=(fragment4(0, True, WHOLE_UDP[:24]),)),
    Case("a later v6 fragment follows the first", fragment6(24, False, WHOLE_UDP[24:]), "SG_OK_LB",
         out=in6(fragment6(24, False, WHOLE_UDP[24:])), before=(fragment6(0, True, WHOLE_UDP[:24]),)),
)  # fmt: skip
KEPT = (
    Case("a port that nobody balances", v4(tcp(7)), "SG_DROP_LB_PORT", "drop"),
    Case("another protocol", v4(Raw(b"x" * 30), proto=47), "SG_DROP_LB_PORT", "drop"),
    Case("just below and above a range", v4(tcp(2000)), "SG_DROP_LB_PORT", "drop"),
    Case("a port of an address that the host has, too", v4(tcp(22), dst=HOST4), "SG_PASS_NO_MATCH", "pass"),
    Case("a VIP without backends", v4(tcp(99)), "SG_DROP_LB_NO_BACKEND", "drop"),
    Case("a later fragment alone", fragment4(24, False, b"alone" * 5), "SG_DROP_LB_FRAGMENT", "drop"),
    Case("ping to an address that answers none", v4(ICMP(), dst=WHOLE4), "SG_DROP_LB_ICMP", "drop"),
    Case("an ICMP reply", v4(ICMP(type=0)), "SG_DROP_LB_ICMP", "drop"),
    Case("an error about somebody else's flow",
         v4(ICMP(type=3) / IPerror(src="9.9.9.9", dst=CLIENT4) / UDPerror(sport=53, dport=9)), "SG_DROP_LB_ICMP",
         "drop"),
    Case("an error about no flow", v4(ICMP(type=3) / IPerror(src=VIP4, dst=CLIENT4) / ICMPerror()),
         "SG_DROP_LB_ICMP", "drop"),
    Case("an error about a port that nobody balances", error4(7), "SG_DROP_LB_ICMP", "drop"),
    Case("a v6 error about no flow", v6(ICMPv6DestUnreach() / IPerror6(src=VIP6, dst=CLIENT6)), "SG_DROP_LB_ICMP",
         "drop"),
    Case("neighbour discovery is the kernel's", v6(ICMPv6ND_NS(tgt=VIP6), hlim=255), "SG_PASS_UNICAST_ONLY", "pass"),
    Case("a source of loopback", v4(tcp(), src="127.0.0.1"), "SG_DROP_SRC_ILLEGAL", "drop"),
    Case("a multicast source", v6(tcp(), src="ff02::1"), "SG_DROP_SRC_ILLEGAL", "drop"),
    Case("longer than its frame", v4(tcp(), len=500), "SG_DROP_TRUNCATED", "drop"),
    Case("no room for TCP", v4(bytes(tcp())[:12], proto=6), "SG_DROP_TRUNCATED", "drop"),
    Case("no room for UDP", v6(b"1234567", nh=17), "SG_DROP_TRUNCATED", "drop"),
    Case("a header of four words", v4(tcp(), ihl=4), "SG_DROP_BAD_HEADER", "drop"),
    Case("a TCP header of four words", v4(tcp(dataofs=4)), "SG_DROP_BAD_HEADER", "drop"),
    Case("extension headers without end", v6(Raw(bytes([60, 0]) + bytes(6)) / Raw((bytes([60, 0]) + bytes(6)) * 9),
         nh=60), "SG_DROP_BAD_EXTHDR", "drop"),
)  # fmt: skip


@pytest.fixture(params=["sg_xdp", "sg_tc"])
def hooked(request: pytest.FixtureRequest, veth: Pair, one_cpu: None) -> Iterator[Hooked]:
    name = veth.names[0]
    commands = (f"addr add 192.0.2.1/24 dev {name}", f"addr add 2001:db8::1/64 dev {name} nodad",
                f"neigh add {BACKEND4} lladdr {NEIGHBOUR} dev {name}",
                f"neigh add {BACKEND6} lladdr {NEIGHBOUR} dev {name}")  # fmt: skip
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)
    for family in ("ipv4", "ipv6"):
        Path(f"/proc/sys/net/{family}/conf/all/forwarding").write_text("1")
    with IPRoute() as route:
        mac = dict(route.link("get", index=veth.indices[0])[0]["attrs"])["IFLA_ADDRESS"]
    balancer = Balancer(request.param, device=name)
    configure(balancer)
    yield Hooked(balancer, mac)
    balancer.close()


def configure(b: Balancer) -> None:
    b.backend(1, BACKEND4)
    b.backend(2, BACKEND6)
    b.backend(3, BACKEND4, SgLbKind.SG_LB_L2)
    for number in (1, 2, 3, 0):
        b.table(number, Slots([(number, 0)] * 3))
    b.vip(VIP4, flags=int(SgLbFlag.SG_LB_ECHO | SgLbFlag.SG_LB_RANGES))
    b.vip(VIP6)
    b.vip(WHOLE4, table=1, flags=int(SgLbFlag.SG_LB_SERVICE))
    b.vip(HOST4, flags=int(SgLbFlag.SG_LB_PASS_OTHER))
    for port, table, delta in ((80, 1, 0), (81, 1, 7999), (82, 2, 0), (90, 3, 0), (99, 0, 0)):
        b.vip(VIP4, port, TCP_, table, port_delta=delta)
    for port, table, delta in ((80, 2, 0), (81, 2, 7999), (82, 1, 0)):
        b.vip(VIP6, port, TCP_, table, port_delta=delta)
    b.vip(VIP4, 53, UDP_, 1)
    b.vip(VIP4, 83, UDP_, 1, port_delta=7999)
    b.vip(VIP6, 53, UDP_, 2)
    # 1000 to 1999 in prefixes.
    value = {"seed": 7, "table": 1, "size": 3, "stat": 1, "flags": int(SgLbFlag.SG_LB_SERVICE)}
    for port, bits in ((1000, 13), (1008, 12), (1024, 7), (1536, 8), (1792, 9), (1920, 10), (1984, 12)):
        key = {"prefixlen": 160 + bits, "proto": TCP_, "addr": VIP4, "port": port}
        b.maps["sg_lb_range"].set(key, value)


def run(hooked: Hooked, case: Case) -> tuple[int, bytes, dict[str, int]]:
    """The packet after those before it, and again where XDP had to ask for the next hop first, or for one that is a
    quarter of a second old."""
    for packet in (*case.before, *case.before):
        hooked.balancer.run(frame(packet))
    outcome = hooked.balancer.run(frame(case.packet))
    for _ in range(5):
        if outcome.reasons == {"SG_SLOW_NEIGH": 1}:
            outcome = hooked.balancer.run(frame(case.packet))
    return outcome.verdict, outcome.data, outcome.reasons


@pytest.mark.parametrize("case", SENT, ids=str)
def test_what_is_sent(hooked: Hooked, case: Case) -> None:
    verdict, data, reasons = run(hooked, case)
    assert reasons == {case.reason: 1}
    assert case.out is not None
    out = bytes(case.out)
    assert data.hex() == (hooked.link(case.to, out[0] >> 4 == 6) + out).hex()
    assert verdict == hooked.verdict(case.to)
    assert hooked.balancer.stats()["drops"] == 0


@pytest.mark.parametrize("case", KEPT, ids=str)
def test_what_is_not_sent(hooked: Hooked, case: Case) -> None:
    verdict, data, reasons = run(hooked, case)
    assert reasons == {case.reason: 1}
    assert data == frame(case.packet)
    assert verdict == hooked.verdict(case.to)
    assert hooked.balancer.drops() == ({case.reason: 1} if case.to == "drop" else {})


@pytest.mark.parametrize(
    "packet",
    [v4(tcp(), dst="203.0.113.9"), v6(tcp(), dst="2001:db8:a::9"), Raw(b"\x61" + bytes(39)), Raw(b"\x33" + bytes(30))],
    ids=["v4", "v6", "empty", "neither"],
)
def test_what_is_for_nobody_here_passes_uncounted(hooked: Hooked, packet: Packet) -> None:
    outcome = hooked.balancer.run(frame(packet))
    assert (outcome.verdict, outcome.reasons, outcome.data) == (hooked.verdict("pass"), {}, frame(packet))


def test_the_outer_source_is_spread_over_its_prefix(hooked: Hooked) -> None:
    hooked.balancer.backend(1, BACKEND4, src_mask=0xFF, src="192.0.2.0", version=2)
    sources = set()
    for port in range(2000, 2100):
        case = Case("", v4(tcp(sport=port)), "")
        sources.add(run(hooked, case)[1][26:30])
    assert len(sources) > 50
    assert {source[:3] for source in sources} == {bytes([192, 0, 2])}


def test_packets_bytes_and_new_flows_are_counted(hooked: Hooked) -> None:
    for flags in ("S", "A", "A", "S", "SA"):
        run(hooked, Case("", v4(tcp(flags=flags)), ""))
    length = len(bytes(v4(tcp())))
    expected = {"packets": 5, "bytes": 5 * length, "flows": 2}
    assert {name: hooked.balancer.stats()[name] for name in expected} == expected
    assert {name: hooked.balancer.backend_stats(1)[name] for name in expected} == expected


@pytest.mark.parametrize(("source", "denied"), [("198.51.100.7", False), ("198.51.100.99", True), ("1.2.3.4", True)])
def test_source_ranges_by_longest_match(hooked: Hooked, source: str, denied: bool) -> None:
    sources = hooked.balancer.maps["sg_lb_source"]
    sources.set({"prefixlen": 32 + 96 + 24, "gen": 5, "addr": "198.51.100.0"}, 1)
    sources.set({"prefixlen": 32 + 96 + 28, "gen": 5, "addr": "198.51.100.96"}, 0)
    sources.set({"prefixlen": 32 + 96, "gen": 4, "addr": "0.0.0.0"}, 1)  # of another generation
    flags = SgLbFlag.SG_LB_SERVICE | SgLbFlag.SG_LB_SOURCES | SgLbFlag.SG_LB_SOURCE_DENY
    hooked.balancer.vip(VIP4, 80, TCP_, 1, flags=int(flags), source_gen=5)
    reasons = run(hooked, Case("", v4(tcp(), src=source), ""))[2]
    assert reasons == {"SG_DROP_LB_SOURCE" if denied else "SG_OK_LB": 1}


def test_new_flows_above_the_limit_are_refused_and_old_ones_are_not(hooked: Hooked) -> None:
    """SYNs are counted. UDP is not: its first packet looks like any other."""
    flags = SgLbFlag.SG_LB_SERVICE | SgLbFlag.SG_LB_LIMIT
    second, hour = 1_000_000_000, 3600 * 1_000_000_000
    limit = {"limit": 3, "limit_gap_ns": second, "limit_burst_ns": 2 * second}  # one a second, three at once
    for port, protocol in ((80, TCP_), (53, UDP_)):
        hooked.balancer.vip(VIP4, port, protocol, 1, flags=int(flags), **limit)
    due = hooked.balancer.maps["sg_lb_limit"]

    def said(packet: Packet) -> dict[str, int]:
        return run(hooked, Case("", packet, ""))[2]

    begin = time.monotonic_ns()
    due.set(3, 0)
    assert said(v4(tcp(flags="S", sport=9))) == {"SG_OK_LB": 1}
    due_next = due.get(3)
    assert isinstance(due_next, int)
    assert due_next >= begin + second
    ahead = time.monotonic_ns() + hour
    due.set(3, ahead)
    assert said(v4(tcp(flags="S", sport=11))) == {"SG_DROP_LB_RATE": 1}
    assert said(v4(tcp(sport=11))) == {"SG_OK_LB": 1}
    assert said(v4(UDP(sport=11, dport=53) / Raw(b"new or old"))) == {"SG_OK_LB": 1}
    assert due.get(3) == ahead


def quic(first: int, connection: bytes, long: bool) -> bytes:
    if not long:
        return bytes([first]) + connection + bytes(30)
    return bytes([first, 0, 0, 0, 1, len(connection)]) + connection + bytes(30)


@pytest.mark.parametrize(
    ("payload", "v6_backend"),
    [
        (quic(0x40, b"\x01\xaa\xbb\xcc\xdd\x05\x06\x07", False), True),
        (quic(0xE0, b"\x01\xaa\xbb\xcc\xdd\x05\x06\x07", True), True),
        (quic(0xC0, b"\x01\xaa\xbb\xcc\xdd\x05\x06\x07", True), False),
        (quic(0x40, b"\x01\xaa\xbb\xcc\xde\x05\x06\x07", False), False),
        (quic(0xE0, b"\x01\xaa\xbb\xcc", True), False),
        (b"\x40\x01\xaa", False),
    ],
    ids=["short header", "handshake", "initial", "unknown id", "short id", "truncated"],
)
def test_quic_goes_by_the_server_id(hooked: Hooked, payload: bytes, v6_backend: bool) -> None:
    flags = SgLbFlag.SG_LB_SERVICE | SgLbFlag.SG_LB_QUIC
    hooked.balancer.vip(VIP4, 443, UDP_, 1, flags=int(flags), quic=9, quic_off=1, quic_len=4)
    key = {"group": 9, "len": 4, "id": [0xAA, 0xBB, 0xCC, 0xDD, *[0] * 12]}
    hooked.balancer.maps["sg_lb_quic"].set(key, 2)
    packet = v4(UDP(sport=5, dport=443) / payload)
    _, data, reasons = run(hooked, Case("", packet, ""))
    assert reasons == {"SG_OK_LB": 1}
    assert data[14] >> 4 == (6 if v6_backend else 4)


def test_what_does_not_fit_goes_to_the_slow_path(hooked: Hooked) -> None:
    packet = v4(UDP(sport=1, dport=53) / bytes(1460))
    verdict, data, reasons = run(hooked, Case("", packet, ""))
    assert data == frame(packet)
    assert reasons == {"SG_SLOW_XDP" if hooked.xdp else "SG_SLOW_ICMP": 1}
    assert verdict == (XDP_PASS if hooked.xdp else TC_ACT_REDIRECT)
