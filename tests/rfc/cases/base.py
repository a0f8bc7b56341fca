"""What the cases are written in: hosts, packets in a few words, and what is expected of a gateway.

Checksums here come from scapy, not from the model's own arithmetic. The usual lab is RFC 6052's /40 prefix:

    2001:db8:100::/40 represents IPv4; H6 is an IPv6 host (192.0.2.33), S4 an IPv4 host (2001:db8:1c6:3364:2::)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from scapy.layers.inet import IP, in4_chksum
from scapy.layers.inet6 import IPv6, in6_chksum
from scapy.packet import Raw
from scapy.utils import checksum

from tests.rfc.config import Eam, Gateway, Node
from tests.rfc.verdict import Drop, Out, Pass, Sent, Verdict

H6, H4 = "2001:db8:1c0:2:21::", "192.0.2.33"  # RFC 6052 2.4
S6, S4 = "2001:db8:1c6:3364:2::", "198.51.100.2"
ALIEN6 = "2001:db8:ffff::7"  # an IPv6 address that nothing maps
OWN4, OWN6 = "198.51.100.1", "2001:db8:f::1"
ICMP, TCP, UDP, FRAG, ICMPV6 = 1, 6, 17, 44, 58

GW = Gateway(prefix=IPv6Network("2001:db8:100::/40"), ranges=(IPv4Network("192.0.2.0/24"),))


def node(*gateways: Gateway, mtu4: int = 1500, mtu6: int = 1500) -> Node:
    return Node(gateways or (GW,), own4=IPv4Address(OWN4), own6=IPv6Address(OWN6), mtu4=mtu4, mtu6=mtu6)


NODE = node()


def eam(v4: str, v6: str) -> Eam:
    return Eam(IPv4Network(v4), IPv6Network(v6))


@dataclass(frozen=True, slots=True)
class Case:
    """One clause: `clause` is a requirement of the checklist, `level` the RFC's word; `expect` lists every right
    verdict.
    """

    id: str
    clause: str
    level: str
    node: Node
    packet: bytes
    expect: tuple[Verdict, ...]

    def __str__(self) -> str:
        return self.id


def data(size: int) -> bytes:
    """Bytes that differ from their neighbours, so that a shift shows."""
    return bytes((7 * i + i // 256) & 255 for i in range(size))


def ip4(payload: bytes, proto: int = UDP, src: str = S4, dst: str = H4, **kw: object) -> bytes:
    """An IPv4 packet; keywords are scapy's (ttl, tos, id, flags, frag in 8-byte units, options)."""
    fields: dict[str, Any] = {"ttl": 64, "id": 0x1234, "flags": "DF"} | kw
    return bytes(IP(src=src, dst=dst, proto=proto, **fields) / Raw(payload))


def ip6(payload: bytes, nh: int = UDP, src: str = H6, dst: str = S6, **kw: object) -> bytes:
    """An IPv6 packet; keywords are scapy's (hlim, tc, fl)."""
    fields: dict[str, Any] = {"hlim": 64, "tc": 0, "fl": 0} | kw
    return bytes(IPv6(src=src, dst=dst, nh=nh, **fields) / Raw(payload))


def out6(payload: bytes, nh: int = UDP, **kw: object) -> bytes:
    """What S4 sent to H4, behind the gateway."""
    return ip6(payload, nh, S6, H6, **({"hlim": 63} | kw))


def out4(payload: bytes, proto: int = UDP, **kw: object) -> bytes:
    """What H6 sent to S6, behind the gateway."""
    return ip4(payload, proto, H4, S4, **({"ttl": 63, "flags": 0} | kw))


def _sum(proto: int, src: str, dst: str, body: bytes) -> int:
    if proto == ICMP:
        return int(checksum(body))
    if ":" in src:
        return int(in6_chksum(proto, IPv6(src=src, dst=dst), body))  # type: ignore[no-untyped-call]
    return int(in4_chksum(proto, IP(src=src, dst=dst), body))


def udp(
    src: str, dst: str, body: bytes = b"sixgate!", *, ports: tuple[int, int] = (2000, 4000), csum: int | None = None
) -> bytes:
    head = struct.pack("!HHHH", *ports, 8 + len(body), 0)
    value = (_sum(UDP, src, dst, head + body) or 0xFFFF) if csum is None else csum
    return head[:6] + struct.pack("!H", value) + body


def tcp(
    src: str,
    dst: str,
    body: bytes = b"",
    *,
    flags: int = 0x10,
    options: bytes = b"",
    ports: tuple[int, int] = (2000, 4000),
) -> bytes:
    size = 20 + len(options)
    head = struct.pack("!HHIIBBHHH", *ports, 1, 2, size // 4 << 4, flags, 512, 0, 0) + options
    value = _sum(TCP, src, dst, head + body)
    return head[:16] + struct.pack("!H", value) + head[18:] + body


def icmp4(kind: int, code: int, rest: bytes = bytes(4), body: bytes = b"") -> bytes:
    head = struct.pack("!BBH", kind, code, 0) + rest + body
    return head[:2] + struct.pack("!H", _sum(ICMP, "", "", head)) + head[4:]


def icmp6(  # noqa: PLR0917
    kind: int, code: int, rest: bytes = bytes(4), body: bytes = b"", src: str = H6, dst: str = S6
) -> bytes:
    head = struct.pack("!BBH", kind, code, 0) + rest + body
    return head[:2] + struct.pack("!H", _sum(ICMPV6, src, dst, head)) + head[4:]


def frag6(proto: int, payload: bytes, offset: int = 0, more: bool = False, ident: int = 0x00010203) -> bytes:
    """A Fragment Header and what follows; `offset` in bytes."""
    return struct.pack("!BBHI", proto, 0, offset | more, ident) + payload


def word(value: int) -> bytes:
    return struct.pack("!I", value)


def sent6(*packets: bytes) -> tuple[Verdict, ...]:
    return (Sent(tuple(Out.exact(p) for p in packets), 6),)


def sent4(*packets: bytes, free_id: bool = True, inner_id: bool = False) -> tuple[Verdict, ...]:
    """IPv4 packets; `free_id`: identification and header checksum are the gateway's, `inner_id`: the embedded ones
    too.
    """
    free: list[tuple[int, int]] = [(4, 6), (10, 12)] if free_id else []
    if inner_id:
        free += [(32, 34), (38, 40)]
    return (Sent(tuple(Out.free(p, *free) for p in packets), 4),)


def dropped(reason: str, answer: Out | None = None, *, optional: bool = False) -> tuple[Verdict, ...]:
    return (Drop(f"DROP_{reason}", answer, required=not optional),)


def error4(packet: bytes, kind: int, code: int, rest: int = 0, dst: str = S4) -> Out:
    """An ICMPv4 error of the gateway's own about `packet`: TTL 64, 576 bytes at most."""
    own = ip4(icmp4(kind, code, word(rest), packet[:548]), ICMP, OWN4, dst, id=0, flags=0)
    return Out.free(own, (1, 2), (4, 6), (10, 12))


def error6(packet: bytes, kind: int, code: int, rest: int = 0, dst: str = H6) -> Out:
    """An ICMPv6 error of the gateway's own about `packet`: hop limit 64, 1280 bytes at most."""
    return Out.exact(ip6(icmp6(kind, code, word(rest), packet[:1232], OWN6, dst), ICMPV6, OWN6, dst))


UNTOUCHED: tuple[Verdict, ...] = (Pass(),)
