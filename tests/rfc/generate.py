"""Random packets for a node, of every kind that a gateway meets; the same seed gives the same packets.

Most are valid: TCP, UDP, ICMP queries and errors, other protocols, options, extension headers, fragments, sizes around
every limit. Some are what hosts must not send (wrong checksums, illegal sources), some are bent at random (`mutate`).
"""

from __future__ import annotations

import random
import struct
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from tests.rfc.addresses import embed
from tests.rfc.nodes import NODES
from tests.rfc.wire import (
    DEST_OPTS,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP4,
    ICMP6,
    ROUTING,
    TCP,
    UDP,
    checksum,
    pseudo4,
    pseudo6,
)

if TYPE_CHECKING:
    from tests.rfc.config import Eam, Gateway, Node

SIZES = (0, 1, 2, 3, 7, 8, 9, 20, 64, 100, 512, 548, 1180, 1192, 1220, 1231, 1232, 1233, 1240, 1241, 1252, 1300, 1400)
OTHER_PROTOS = (33, 47, 50, 51, 59, 89, 108, 132, 136, 253)
SPECIAL4 = (
    "0.0.0.1",
    "127.0.0.1",
    "224.0.0.9",
    "255.255.255.255",
    "10.1.2.3",
    "192.168.7.7",
    "100.64.3.3",
    "169.254.1.9",
)
SPECIAL6 = ("::", "::1", "fe80::9", "ff02::9", "2001:db8:ffff::9", "3fff::1")


class Generator:
    """Packets for nodes of `NODES`. Layer-3 bytes; never longer than what the ingress side's MTU lets in."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def node(self) -> Node:
        return self.rng.choice(NODES)

    def packet(self, node: Node) -> bytes:
        """Any packet, one in eight bent."""
        packet = self.valid(node)
        if not self.chance(8):
            return packet
        packet = self.mutate(packet)
        return packet[: node.mtu6 if packet[0] >> 4 == 6 else node.mtu4]

    def valid(self, node: Node) -> bytes:
        gw = self.rng.choice(node.gateways)
        # Linux takes IPv6 off a device whose MTU is below 1280, and then forwards no IPv6 from it: one way only.
        return self.from6(node, gw) if node.mtu4 < 1280 or self.chance(2) else self.from4(node, gw)

    def mutate(self, packet: bytes) -> bytes:
        """Bits flipped, bytes cut off or added; an IPv4 header checksum is mostly mended so that more is looked at."""
        data = bytearray(packet)
        for _ in range(self.rng.choice((1, 1, 1, 2, 3))):
            kind = self.rng.randrange(8)
            if kind == 0 and len(data) > 1:
                del data[self.rng.randrange(1, len(data)) :]
            elif kind == 1:
                data += self.rng.randbytes(self.rng.choice((1, 2, 6, 40)))
            elif kind == 2:
                at = self.rng.randrange(min(len(data), 60))
                data[at] = self.rng.choice((0, 1, 127, 128, 255))
            else:
                at = self.rng.randrange(min(len(data), 80 if kind < 6 else len(data)))
                data[at] ^= 1 << self.rng.randrange(8)
        size = (data[0] & 15) * 4
        if data[0] >> 4 == 4 and 20 <= size <= len(data) and not self.chance(6):
            data[10:12] = b"\0\0"
            data[10:12] = struct.pack("!H", checksum(bytes(data[:size])))
        return bytes(data)

    # Addresses

    def chance(self, one_in: int) -> bool:
        return self.rng.randrange(one_in) == 0

    def within4(self, net: IPv4Network) -> bytes:
        return (int(net.network_address) + self.rng.randrange(net.num_addresses)).to_bytes(4, "big")

    def within6(self, net: IPv6Network) -> bytes:
        return (int(net.network_address) | self.rng.getrandbits(128 - net.prefixlen)).to_bytes(16, "big")

    def remote4(self, gw: Gateway, *, routable: bool = False) -> bytes:
        """An IPv4 host out there, sometimes one that must not be unless it has to be `routable`."""
        if not routable and self.chance(24):
            return packed4(self.rng.choice(SPECIAL4))
        if gw.eams and self.chance(12):
            return self.within4(self.rng.choice(gw.eams).v4)
        if gw.prefix is None:
            return self.within4(self.rng.choice(gw.eams).v4)
        return bytes((self.rng.choice((1, 8, 23, 93, 151, 198, 203, 222)), *self.rng.randbytes(3)))

    def eam6(self, eam: Eam) -> bytes:
        return self.within6(eam.v6)

    def host6(self, gw: Gateway) -> bytes:
        """An IPv6 host that the gateway can translate."""
        if gw.eams and (not gw.ranges or self.chance(3)):
            return self.eam6(self.rng.choice(gw.eams))
        if gw.prefix is not None and gw.ranges:
            return embed(gw.prefix, self.within4(self.rng.choice(gw.ranges)))
        return self.within6(IPv6Network("2001:db8:ffff::/64"))

    def host4(self, gw: Gateway) -> bytes:
        """The IPv4 side of one."""
        if gw.eams and (not gw.ranges or self.chance(3)):
            return self.within4(self.rng.choice(gw.eams).v4)
        if gw.ranges:
            return self.within4(self.rng.choice(gw.ranges))
        return packed4("192.0.2.1")

    def represented(self, gw: Gateway) -> bytes:
        """An IPv4 host as IPv6 hosts know it."""
        if gw.prefix is None:
            return self.eam6(self.rng.choice(gw.eams))
        addr = embed(gw.prefix, self.remote4(gw))
        if gw.prefix.prefixlen < 96 and self.chance(12):
            addr = addr[:13] + self.rng.randbytes(3)
        return addr

    # IPv4

    def from4(self, node: Node, gw: Gateway) -> bytes:
        src, dst = self.remote4(gw), self.host4(gw)
        if self.chance(40):
            dst = packed4("203.0.114.9")
        options = self.options()
        room = node.mtu4 - 20 - len(options)
        proto = self.proto()
        if proto == ICMP4 and self.chance(2):
            if gw.prefix is None and self.chance(2):
                src = bytes((23, *self.rng.randbytes(3)))
            body = self.error4(gw, dst, room)
        else:
            body = self.upper(proto, src, dst, self.size(room), family=4)
        ttl = self.rng.choice((0, 1, 2, 255)) if self.chance(8) else 64
        df = not self.chance(3)
        if self.chance(6) and len(body) > 8:
            return self.piece4(body, src, dst, proto, ttl, options)
        return self.ip4(body, src, dst, proto, ttl, options, flags=0x4000 if df else 0)

    def ip4(  # noqa: PLR0917
        self, body: bytes, src: bytes, dst: bytes, proto: int, ttl: int, options: bytes = b"", *, flags: int = 0
    ) -> bytes:
        size = 20 + len(options)
        head = struct.pack(
            "!BBHHHBBH",
            0x40 | size // 4,
            self.rng.choice((0, 0, 0xB8, self.rng.randrange(256))),
            size + len(body),
            self.rng.randrange(65536),
            flags,
            ttl,
            proto,
            0,
        )
        head += src + dst + options
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body

    def piece4(  # noqa: PLR0917
        self, body: bytes, src: bytes, dst: bytes, proto: int, ttl: int, options: bytes
    ) -> bytes:
        """A fragment: first, middle or last."""
        where = self.rng.randrange(3)
        cut = self.rng.randrange(8, len(body) + 1) // 8 * 8
        offset = 0 if where == 0 else self.rng.choice((8, 64, 1232, 1480, 30000, 60000)) // 8
        more = where < 2
        part = body[:cut] if more else body
        flags = (0x2000 if more else 0) | (0x4000 if self.chance(8) else 0) | offset
        return self.ip4(part, src, dst, proto, ttl, options, flags=flags)

    def options(self) -> bytes:
        if not self.chance(8):
            return b""
        kinds = (
            b"\x94\x04\0\0",
            b"\x01\x01\x01\0",
            b"\x07\x07\x04" + bytes(5),
            b"\x83\x07\x08" + bytes(5),
            b"\x83\x07\x04" + bytes(5),
            b"\x01\x89\x07\x04" + bytes(4),
            b"\x44\x08\x05" + bytes(5),
            b"\x07\x27\x04" + bytes(37),
        )
        return self.rng.choice(kinds)

    # IPv6

    def from6(self, node: Node, gw: Gateway) -> bytes:
        src, dst = self.host6(gw), self.represented(gw)
        if self.chance(24):
            src = packed6(self.rng.choice(SPECIAL6))
        if self.chance(40):
            dst = packed6("2001:db8:ffff::77")
        proto = {ICMP4: ICMP6}.get(found := self.proto(), found)
        nh, chain = self.chain(proto)
        room = node.mtu6 - 40 - len(chain)
        if proto == ICMP6 and self.chance(2):
            if self.chance(4):
                src = self.within6(IPv6Network("2001:db8:ffff::/64"))
            body = self.error6(gw, src, dst, room)
        else:
            body = self.upper(proto, src, dst, self.size(room), family=6)
        hops = self.rng.choice((0, 1, 2, 255)) if self.chance(8) else 64
        if self.chance(6):
            nh, chain, body = self.piece6(nh, chain, proto, body)
            body = body[: node.mtu6 - 40 - len(chain)]
        return self.ip6(chain + body, src, dst, nh, hops)

    def ip6(self, body: bytes, src: bytes, dst: bytes, nh: int, hops: int) -> bytes:
        first = 6 << 28 | self.rng.choice((0, 0, 0xB8, self.rng.randrange(256))) << 20 | self.rng.choice((0, 0xABCDE))
        return struct.pack("!IHBB", first, len(body), nh, hops) + src + dst + body

    def chain(self, proto: int) -> tuple[int, bytes]:
        """(first next header, extension headers) in an order of RFC 8200 4.1."""
        if not self.chance(5):
            return proto, b""
        kinds = [kind for kind in (HOP_BY_HOP, DEST_OPTS, ROUTING, DEST_OPTS) if self.chance(2)]
        chain, nh = b"", proto
        for kind in reversed(kinds):
            if kind == ROUTING:
                left = 1 if self.chance(4) else 0
                header = bytes((nh, 2, self.rng.choice((0, 4)), left)) + bytes(20)
            else:
                units = self.rng.choice((0, 0, 1, 3))
                header = bytes((nh, units, 1, 4 + 8 * units)) + bytes(4 + 8 * units)
            chain, nh = header + chain, kind
        return nh, chain

    def piece6(self, nh: int, chain: bytes, proto: int, body: bytes) -> tuple[int, bytes, bytes]:
        """A fragment of `body`, now and then atomic, or with an extension header behind the Fragment Header."""
        inner = self.rng.choice((DEST_OPTS, 51)) if self.chance(10) else proto
        where = self.rng.randrange(4)
        more = where in (0, 1)
        offset = 0 if where in (0, 3) else self.rng.choice((8, 64, 1232, 1448, 30000, 60000))
        if more:
            body = body[: max(8, len(body) // 8 * 8)]
        header = struct.pack("!BBHI", inner, 0, offset | more, self.rng.getrandbits(32))
        if not chain:
            return FRAGMENT, header, body
        return nh, _relink(chain, FRAGMENT) + header, body

    # Upper layers

    def proto(self) -> int:
        return self.rng.choice((TCP, TCP, TCP, UDP, UDP, UDP, ICMP4, ICMP4, self.rng.choice(OTHER_PROTOS)))

    def size(self, room: int) -> int:
        return min(self.rng.choice((*SIZES, self.rng.randrange(1500))), max(room - 60, 0))

    def upper(self, proto: int, src: bytes, dst: bytes, size: int, *, family: int) -> bytes:
        body = self.rng.randbytes(size)
        if proto == UDP:
            segment = struct.pack("!HHHH", self.port(), self.port(), 8 + size, 0) + body
            return self.summed(segment, 6, proto, src, dst, family)
        if proto == TCP:
            return self.summed(self.tcp(body), 16, proto, src, dst, family)
        if proto in (ICMP4, ICMP6):
            kind = self.rng.choice((8, 0) if family == 4 else (128, 129))
            if self.chance(12):
                kind = self.rng.choice((9, 10, 13, 14, 15, 17, 30, 255) if family == 4 else (130, 131, 141, 160, 255))
            return self.summed(struct.pack("!BBHHH", kind, 0, 0, 7, 9) + body, 2, proto, src, dst, family)
        return body

    def tcp(self, body: bytes) -> bytes:
        options = b""
        flags = self.rng.choice((0x10, 0x18, 0x02, 0x12, 0x11, 0x04))
        if flags & 2 and not self.chance(6):
            mss = struct.pack("!BBH", 2, 4, self.rng.choice((536, 1220, 1440, 1460, 8960)))
            options = self.rng.choice(
                (mss, b"\1" + mss + b"\1\1\1", b"\4\2\x08\x0a" + bytes(8) + mss, b"\3\3\7" + mss + b"\0")
            )
        size = 20 + len(options)
        head = struct.pack("!HHIIBBHHH", self.port(), self.port(), 1, 2, size // 4 << 4, flags, 512, 0, 0)
        return head + options + body

    def port(self) -> int:
        return self.rng.randrange(1, 65536)

    def summed(self, segment: bytes, at: int, proto: int, src: bytes, dst: bytes, family: int) -> bytes:  # noqa: PLR0917
        """The segment with its checksum, now and then a wrong one or, for UDP, none."""
        pseudo = pseudo4 if family == 4 else pseudo6
        head = b"" if proto == ICMP4 else pseudo(src, dst, len(segment), proto)
        value = checksum(head + segment)
        if proto == UDP:
            value = 0 if self.chance(10) else value or 0xFFFF
        if self.chance(30):
            value = self.rng.randrange(1, 0xFFFF)
        return segment[:at] + struct.pack("!H", value) + segment[at + 2 :]

    # ICMP errors

    def error4(self, gw: Gateway, dst: bytes, room: int) -> bytes:
        """An ICMPv4 error about a packet that `dst` sent."""
        proto = self.proto()
        src, to = dst, self.remote4(gw, routable=True)  # the MTU of the way there counts
        if proto == ICMP4 and self.chance(6):
            body = self.summed(struct.pack("!BBHI", 3, 3, 0, 0) + self.rng.randbytes(28), 2, ICMP4, src, to, 4)
        else:
            body = self.upper(proto, src, to, self.rng.choice(SIZES), family=4)
        if self.chance(6) and len(body) > 8:
            inner = self.piece4(body, src, to, proto, 9, b"")
        else:
            flags = 0x4000 if self.chance(2) else 0
            inner = self.ip4(body, src, to, proto, self.rng.randrange(256), self.options(), flags=flags)
        kind, code = self.rng.choice(
            ((3, self.rng.randrange(17)), (3, 4), (3, 3), (11, self.rng.randrange(3)), (12, 0), (12, 2), (4, 0), (5, 1))
        )
        rest = bytearray(4)
        if (kind, code) == (3, 4):
            rest[2:4] = struct.pack("!H", self.rng.choice((0, 68, 576, 1259, 1260, 1261, 1400, 1500, 9000, 65535)))
        if kind == 12:
            rest[0] = self.rng.choice((*range(24), 255))
        payload = inner[: self.cut(len(inner))]
        if self.chance(5) and kind in (3, 11, 12):
            payload, rest[1] = self.extended(inner, 4)
        return self.finished(kind, code, rest, payload[: room - 8], b"")

    def error6(self, gw: Gateway, src: bytes, dst: bytes, room: int) -> bytes:
        """An ICMPv6 error about a packet of an IPv4 host."""
        proto = {ICMP4: ICMP6}.get(found := self.proto(), found)
        to = self.host6(gw)
        if proto == ICMP6 and self.chance(6):
            body = self.summed(struct.pack("!BBHI", 1, 4, 0, 0) + self.rng.randbytes(48), 2, ICMP6, dst, to, 6)
        else:
            body = self.upper(proto, dst, to, self.rng.choice(SIZES), family=6)
        nh, chain = self.chain(proto) if self.chance(3) else (proto, b"")
        if self.chance(6):
            nh, chain, body = self.piece6(nh, chain, proto, body)
        inner = self.ip6(chain + body, dst, to, nh, self.rng.randrange(256))
        some = self.rng.randrange(8)
        kind, code = self.rng.choice(
            ((1, some), (2, 0), (3, some % 3), (4, some % 4), (4, 0), (1, 4), (100, 0)),
        )
        rest = bytearray(4)
        if kind == 2:
            rest = bytearray(struct.pack("!I", self.rng.choice((0, 68, 1279, 1280, 1281, 1400, 1500, 9000, 65536))))
        if kind == 4:
            rest = bytearray(struct.pack("!I", self.rng.choice((*range(44), 255, 65536))))
        payload = inner[: self.cut(len(inner))]
        if self.chance(5) and kind in (1, 3):
            payload, rest[0] = self.extended(inner, 8)
        payload = payload[: min(room, 1240) - 8]
        return self.finished(kind, code, rest, payload, pseudo6(src, dst, 8 + len(payload), ICMP6))

    def cut(self, size: int) -> int:
        return self.rng.choice((28, 48, 60, 68, 128, 256, 548, 1232, size, size, size))

    def extended(self, inner: bytes, unit: int) -> tuple[bytes, int]:
        """RFC 4884: (original datagram in its unit, and an extension; the length attribute)."""
        size = max(128, min(len(inner), self.rng.choice((128, 200, 400))) // unit * unit)
        extension = b"\x20\0\0\0" + struct.pack("!HBB", 8, 1, 1) + self.rng.randbytes(4 * self.rng.randrange(1, 9))
        return inner[:size].ljust(size, b"\0") + extension, size // unit

    def finished(self, kind: int, code: int, rest: bytearray, payload: bytes, pseudo: bytes) -> bytes:
        message = struct.pack("!BBH", kind, code, 0) + bytes(rest) + payload
        value = checksum(pseudo + message)
        if self.chance(30):
            value ^= 0x0100
        return message[:2] + struct.pack("!H", value) + message[4:]


def _relink(chain: bytes, last: int) -> bytes:
    """The chain of extension headers with the next header of its last one replaced."""
    data, at = bytearray(chain), 0
    while at + (size := (data[at + 1] + 1) * 8) < len(data):
        at += size
    data[at] = last
    return bytes(data)


def packed4(text: str) -> bytes:
    return IPv4Network(text).network_address.packed


def packed6(text: str) -> bytes:
    return IPv6Network(text).network_address.packed
