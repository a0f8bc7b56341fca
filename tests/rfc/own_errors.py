"""ICMP errors that the translator itself sends (RFC 7915 4.4, 5.4; RFC 792, 1122, 1812, 4443).

Choices: TTL and hop limit 64; as much of the packet as received fits in 576 bytes (RFC 1812 4.3.2.3) or 1280 (RFC
4443 2.4 (c)); type of service and identification of ours free, don't-fragment off. Nothing is sent about an ICMP
error, a non-first IPv4 fragment (RFC 1122 3.2.2; RFC 4443 2.4 has no such rule for IPv6), or to or about a
multicast or broadcast address.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from tests.rfc.addresses import ILLEGAL4, illegal6, within
from tests.rfc.icmp import ERROR4, MAX4, MAX6
from tests.rfc.verdict import Out
from tests.rfc.wire import ICMP4, ICMP6, Ip4, Ip6, build4, build6, checksum, pseudo6

if TYPE_CHECKING:
    from tests.rfc.config import Node

TOO_BIG = (2, 0)
TTL4, FRAG_NEEDED, SOURCE_ROUTE_FAILED, PROHIBITED4 = (11, 0), (3, 4), (3, 5), (3, 13)
TTL6, HEADER_FIELD, PROHIBITED6, BAD_SOURCE6 = (3, 0), (4, 0), (1, 1), (1, 5)


def may_answer4(ip: Ip4) -> bool:
    if ip.offset > 0 or IPv4Address(ip.dst).is_multicast or ip.dst == b"\xff" * 4 or within(ip.src, ILLEGAL4):
        return False
    return ip.proto != ICMP4 or (len(ip.payload) > 0 and ip.payload[0] not in ERROR4)


def may_answer6(ip: Ip6) -> bool:
    if illegal6(ip.src) or IPv6Address(ip.dst).is_multicast:
        return False
    first = ip.fragment is None or ip.fragment.offset == 0
    return ip.proto != ICMP6 or not first or (len(ip.payload) > 0 and ip.payload[0] >= 128)


def own4(node: Node, ip: Ip4, data: bytes, kind: tuple[int, int], rest: int = 0) -> Out | None:
    """The ICMPv4 error about `data`; `rest` is the 32-bit word behind the checksum."""
    if node.own4 is None or not may_answer4(ip):
        return None
    message = struct.pack("!BBHI", *kind, 0, rest) + data[: ip.total]
    message = message[:MAX4]
    message = message[:2] + struct.pack("!H", checksum(message)) + message[4:]
    packet = build4(payload=message, src=node.own4.packed, dst=ip.src, proto=ICMP4, ttl=64)
    return Out.free(packet, (1, 2), (4, 6), (10, 12))


def own6(node: Node, ip: Ip6, data: bytes, kind: tuple[int, int], rest: int = 0) -> Out | None:
    """The ICMPv6 error about `data`."""
    if node.own6 is None or not may_answer6(ip):
        return None
    src = node.own6.packed
    message = struct.pack("!BBHI", *kind, 0, rest) + data[: ip.total]
    message = message[:MAX6]
    value = checksum(pseudo6(src, ip.src, len(message), ICMP6) + message)
    message = message[:2] + struct.pack("!H", value) + message[4:]
    return Out.exact(build6(payload=message, src=src, dst=ip.src, proto=ICMP6, hop_limit=64))
