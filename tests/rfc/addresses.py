"""Address translation: RFC 6052 2.2 and 2.3, RFC 7757 3.3, and which addresses may be translated at all."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from tests.rfc.config import WELL_KNOWN, Eam, Gateway, Node

# RFC 6890 and its IANA registry: the blocks that are not globally reachable (and multicast, RFC 5735 3).
NON_GLOBAL = (
    IPv4Network("0.0.0.0/8"),
    IPv4Network("10.0.0.0/8"),
    IPv4Network("100.64.0.0/10"),
    IPv4Network("127.0.0.0/8"),
    IPv4Network("169.254.0.0/16"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.0.2.0/24"),
    IPv4Network("192.168.0.0/16"),
    IPv4Network("198.18.0.0/15"),
    IPv4Network("198.51.100.0/24"),
    IPv4Network("203.0.113.0/24"),
    IPv4Network("224.0.0.0/4"),
    IPv4Network("240.0.0.0/4"),
)
# RFC 7915 4.1 with RFC 1812 5.3.7: "illegal" sources.
ILLEGAL4 = tuple(IPv4Network(n) for n in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32"))
# RFC 7915 5.1 ("::1, etc."): RFC 4291 2.5.2, 2.5.3, 2.5.6, 2.7.
ILLEGAL6 = tuple(IPv6Network(n) for n in ("::/128", "::1/128", "fe80::/10", "ff00::/8"))


def embed(prefix: IPv6Network, v4: bytes) -> bytes:
    """RFC 6052 2.2: prefix, then the IPv4 address with bits 64 to 71 (the u octet) left out and zero, then a zero
    suffix.
    """
    at = prefix.prefixlen // 8
    out = bytearray(prefix.network_address.packed)
    for octet in v4:
        if at == 8:
            at += 1
        out[at] = octet
        at += 1
    return bytes(out)


def extract(prefix: IPv6Network, v6: bytes) -> bytes:
    """RFC 6052 2.3: the inverse; u octet and suffix bits are ignored, whatever they hold (2.2 SHOULD)."""
    at = prefix.prefixlen // 8
    out = bytearray()
    while len(out) < 4:
        if at != 8:
            out.append(v6[at])
        at += 1
    return bytes(out)


def eam_to4(eam: Eam, v6: bytes) -> bytes:
    """RFC 7757 3.3.2: IPv4 prefix, then the leading bits of the IPv6 suffix; trailing ones are cut."""
    width6, width4 = 128 - eam.v6.prefixlen, 32 - eam.v4.prefixlen
    suffix = int.from_bytes(v6, "big") & ((1 << width6) - 1)
    return (int(eam.v4.network_address) | suffix >> (width6 - width4)).to_bytes(4, "big")


def eam_to6(eam: Eam, v4: bytes) -> bytes:
    """RFC 7757 3.3.1: IPv6 prefix, then the IPv4 suffix, then zero bits up to 128."""
    width6, width4 = 128 - eam.v6.prefixlen, 32 - eam.v4.prefixlen
    suffix = int.from_bytes(v4, "big") & ((1 << width4) - 1)
    return (int(eam.v6.network_address) | suffix << (width6 - width4)).to_bytes(16, "big")


def within(addr: bytes, nets: tuple[IPv4Network, ...]) -> bool:
    return any(IPv4Address(addr) in net for net in nets)


def illegal6(addr: bytes) -> bool:
    return any(IPv6Address(addr) in net for net in ILLEGAL6)


def wkp_violation(gw: Gateway, via_prefix: bool, v4: bytes) -> bool:
    """RFC 6052 3.1: no packet with an address made of the Well-Known Prefix and a non-global IPv4 address.

    RFC 8215's 64:ff9b:1::/48 is another prefix and not subject to it.
    """
    return gw.wkp_strict and via_prefix and gw.prefix == WELL_KNOWN and within(v4, NON_GLOBAL)


@dataclass(frozen=True, slots=True)
class Mapped:
    addr: bytes
    via_prefix: bool


def best_eam6(gw: Gateway, v6: bytes) -> Eam | None:
    hits = [e for e in gw.eams if IPv6Address(v6) in e.v6]
    return max(hits, key=lambda e: e.v6.prefixlen, default=None)


def best_eam4(gw: Gateway, v4: bytes) -> Eam | None:
    hits = [e for e in gw.eams if IPv4Address(v4) in e.v4]
    return max(hits, key=lambda e: e.v4.prefixlen, default=None)


def map64(gw: Gateway, v6: bytes) -> Mapped | None:
    """IPv6 to IPv4: explicit mapping first (RFC 7757 3.3.2), then the prefix (RFC 6052)."""
    eam = best_eam6(gw, v6)
    if eam is not None:
        return Mapped(eam_to4(eam, v6), via_prefix=False)
    if gw.prefix is not None and IPv6Address(v6) in gw.prefix:
        return Mapped(extract(gw.prefix, v6), via_prefix=True)
    return None


def map46(gw: Gateway, v4: bytes, *, use_eam: bool = True) -> Mapped | None:
    """IPv4 to IPv6, in the same order; hairpinning forbids the explicit mappings for some addresses (RFC 7757 4.2)."""
    eam = best_eam4(gw, v4) if use_eam else None
    if eam is not None:
        return Mapped(eam_to6(eam, v4), via_prefix=False)
    if gw.prefix is not None:
        return Mapped(embed(gw.prefix, v4), via_prefix=True)
    return None


def claim64(node: Node, dst: bytes) -> Gateway | None:
    """The gateway that translates packets to this IPv6 destination, if any.

    Explicit mappings win over prefixes, longer ones over shorter. An address of the prefix whose IPv4 part lies in the
    gateway's own ranges is an IPv6 host's (an IPv4-translatable address, RFC 6052 1.3) and is left to routing.
    """
    eams = [(e.v6.prefixlen, i) for i, gw in enumerate(node.gateways) for e in gw.eams if IPv6Address(dst) in e.v6]
    if eams:
        return node.gateways[max(eams)[1]]
    prefixes = [
        (gw.prefix.prefixlen, i) for i, gw in enumerate(node.gateways) if gw.prefix and IPv6Address(dst) in gw.prefix
    ]
    if not prefixes:
        return None
    gw = node.gateways[max(prefixes)[1]]
    if gw.prefix is not None and within(extract(gw.prefix, dst), gw.ranges):
        return None
    return gw


def claim46(node: Node, dst: bytes) -> Gateway | None:
    """The gateway that translates packets to this IPv4 destination: explicit mappings, then ranges, longest match."""
    eams = [(e.v4.prefixlen, i) for i, gw in enumerate(node.gateways) for e in gw.eams if IPv4Address(dst) in e.v4]
    if eams:
        return node.gateways[max(eams)[1]]
    ranges = [(r.prefixlen, i) for i, gw in enumerate(node.gateways) for r in gw.ranges if IPv4Address(dst) in r]
    return node.gateways[max(ranges)[1]] if ranges else None
