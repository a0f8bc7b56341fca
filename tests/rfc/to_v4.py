"""IPv6 to IPv4: RFC 7915 section 5.

Choices where the text leaves one:
* An IPv6 UDP checksum of 0 (RFC 6935, 6936) stays 0, which IPv4 allows; an incremental update would invent one.
* An IPv4 source that RFC 7915 4.1 calls illegal is not made out of an IPv6 one either: SRC_ILLEGAL, silently.
* A destination that maps to no usable IPv4 unicast address is dropped as MAPPING (or NO_ROUTE, which the kernel would
  say).
* 5.4: 1/5 for an untranslatable source, 1/1 for other discards, none required about ICMP messages. `icmp_quiet`
  silences these two; time exceeded, too big and parameter problem are always sent.
* An ICMPv6 error from an untranslatable source gets an address of the RFC 6791 pool, or else the node's own.
* A packet too big for the IPv4 next hop: Packet Too Big with max(1280, MTU + 20) where the IPv6 packet exceeds 1280
  bytes, also for fragments; IPv4 fragments where it does not (5.1).
* Neighbour discovery (RFC 4861, hop limit 255) may be left to the kernel instead of being dropped.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.rfc.addresses import ILLEGAL4, illegal6, map64, within, wkp_violation
from tests.rfc.icmp import MAX4, assemble, error64, put_checksum, split_extension
from tests.rfc.inner import ECHO64, clamp_mss, echo64, inner64, update_l4
from tests.rfc.own_errors import BAD_SOURCE6, HEADER_FIELD, PROHIBITED6, TOO_BIG, TTL6, own6
from tests.rfc.verdict import Drop, Out, Outcome, Pass, Sent, free_ident4, free_inner_ident4
from tests.rfc.wire import (
    ICMP4,
    ICMP6,
    TCP,
    UDP,
    Ip6,
    Malformed,
    build4,
    checksum,
    ones_sum,
    parse6,
    pseudo6,
)

if TYPE_CHECKING:
    from tests.rfc.config import Gateway, Node

L4_MIN = {TCP: 20, UDP: 8, ICMP6: 8}
ND_TYPES = range(133, 138)


@dataclass(frozen=True, slots=True)
class Draft4:
    """An IPv4 packet before its size is looked at."""

    src: bytes
    dst: bytes
    ttl: int
    tos: int
    proto: int
    payload: bytes
    ident: int
    mf: bool
    offset: int
    was_fragment: bool
    pool_bits: int  # low bits of src that are any address of the RFC 6791 pool
    inner_free: bool  # identification of the embedded header is ours

    def build(self, payload: bytes, offset: int, more: bool) -> bytes:
        df = not self.was_fragment and 20 + len(self.payload) > 1260
        return build4(
            payload=payload,
            src=self.src,
            dst=self.dst,
            proto=self.proto,
            ttl=self.ttl,
            tos=self.tos,
            ident=self.ident,
            df=df,
            mf=more,
            offset=offset,
        )

    def out(self, data: bytes) -> Out:
        out = Out.exact(data) if self.was_fragment else free_ident4(data)
        if self.pool_bits:
            mask = bytearray(out.mask)
            keep = (0xFFFFFFFF << self.pool_bits) & 0xFFFFFFFF
            mask[12:16] = struct.pack("!I", keep)
            mask[10:12] = b"\0\0"
            out = Out(out.data, bytes(mask))
        return free_inner_ident4(out) if self.inner_free else out


def is_error6(ip: Ip6) -> bool:
    """RFC 4443 2.1: types 0 to 127 are errors; only a message that is whole can be told."""
    whole = ip.fragment is None or ip.fragment.atomic
    return ip.proto == ICMP6 and whole and len(ip.payload) > 0 and ip.payload[0] < 128


def header_faults(node: Node, gw: Gateway, ip: Ip6, data: bytes) -> list[Drop]:
    """RFC 7915 5.1, 5.1.1: what the headers alone forbid."""
    faults: list[Drop] = []
    if ip.segments_left_at is not None:
        faults.append(Drop("DROP_ROUTING_HEADER", own6(node, ip, data, HEADER_FIELD, ip.segments_left_at)))
    if ip.fragment_ext:
        answer = None if gw.icmp_quiet else own6(node, ip, data, PROHIBITED6)
        faults.append(Drop("DROP_FRAGMENT_EXTHDR", answer))
    if ip.hop_limit <= 1:
        faults.append(Drop("DROP_TTL", own6(node, ip, data, TTL6)))
    if ip.fragment and ip.fragment.offset + len(ip.payload) > 65515:
        faults.append(Drop("DROP_FRAGMENT_SIZE", None if gw.icmp_quiet else own6(node, ip, data, PROHIBITED6), False))
    return faults


def source64(node: Node, gw: Gateway, ip: Ip6, data: bytes) -> tuple[bytes, int, list[Drop]]:
    """(IPv4 source, bits of it that are free, faults): RFC 7915 5.1 and 6, RFC 6791 3.1, RFC 6052 3.1."""
    nothing = bytes(4)
    if illegal6(ip.src):
        return nothing, 0, [Drop("DROP_SRC_ILLEGAL")]
    mapped = map64(gw, ip.src)
    if mapped is None and is_error6(ip):
        if gw.pool6791 is not None:
            return gw.pool6791.network_address.packed, 32 - gw.pool6791.prefixlen, []
        if node.own4 is None:
            return nothing, 0, [Drop("DROP_NO_SOURCE")]
        return node.own4.packed, 0, []
    if mapped is None:
        answer = None if gw.icmp_quiet else own6(node, ip, data, BAD_SOURCE6)
        return nothing, 0, [Drop("DROP_SRC_UNMAPPED", answer, required=ip.proto != ICMP6)]
    faults: list[Drop] = []
    if wkp_violation(gw, mapped.via_prefix, mapped.addr):
        faults.append(Drop("DROP_WKP_NONGLOBAL", own6(node, ip, data, PROHIBITED6), required=False))
    if within(mapped.addr, ILLEGAL4):
        faults += [Drop("DROP_SRC_ILLEGAL"), Drop("DROP_MAPPING")]
    return mapped.addr, 0, faults


def destination64(node: Node, gw: Gateway, ip: Ip6, data: bytes) -> tuple[bytes, list[Drop]]:
    mapped = map64(gw, ip.dst)
    assert mapped is not None, "the caller matched the destination"
    answer = None if gw.icmp_quiet else own6(node, ip, data, PROHIBITED6)
    faults: list[Drop] = []
    if wkp_violation(gw, mapped.via_prefix, mapped.addr):
        faults.append(Drop("DROP_WKP_NONGLOBAL", answer, required=ip.proto != ICMP6))
    if within(mapped.addr, ILLEGAL4):
        faults += [Drop("DROP_MAPPING", answer, False), Drop("DROP_NO_ROUTE", answer, False)]
    return mapped.addr, faults


def icmp64(node: Node, gw: Gateway, ip: Ip6, dst4: bytes, *, hairpin: bool) -> tuple[bytes, bool]:
    """(ICMPv4 message, whether the embedded identification is free). Raises Malformed (RFC 7915 5.2, 5.3)."""
    payload = ip.payload
    kind = payload[0]
    if kind in ECHO64:
        return echo64(payload, ip.src, ip.dst, ip.declared), False
    if kind >= 128:
        raise Malformed("DROP_ICMP_TYPE")
    if ones_sum(pseudo6(ip.src, ip.dst, len(payload), ICMP6) + payload) != 0xFFFF:
        raise Malformed("DROP_ICMP_CSUM")
    original, extension = split_extension(payload, payload[4], 8, kind in (1, 3))
    try:
        inner = parse6(original, embedded=True)
    except Malformed as e:
        error64(payload, False, node.mtu4, node.mtu6)  # an untranslatable type comes first
        raise Malformed("DROP_ICMP_INNER") from e
    next4 = 65535 if hairpin else node.mtu_to4(dst4)
    message = error64(payload, inner.fragment is not None, next4, node.mtu_to6(inner.dst))
    body, inner_free = inner64(inner, gw)
    limit = 65515 if hairpin else MAX4
    return put_checksum(assemble(message, body, extension, unit=4, length_at=5, limit=limit), checksum), inner_free


def l4_64(node: Node, gw: Gateway, ip: Ip6, src4: bytes, dst4: bytes, *, hairpin: bool) -> tuple[bytes, bool]:
    """(translated upper layer, whether an embedded identification is free). Raises Malformed."""
    fragment = ip.fragment
    whole = fragment is None or fragment.atomic
    if ip.proto == ICMP6 and not whole:
        raise Malformed("DROP_ICMP_FRAGMENT")  # RFC 7915 1.2
    if (fragment is None or fragment.offset == 0) and len(ip.payload) < L4_MIN.get(ip.proto, 0):
        raise Malformed("DROP_TRUNCATED")
    if ip.proto == ICMP6:
        return icmp64(node, gw, ip, dst4, hairpin=hairpin)
    if fragment is not None and fragment.offset > 0:
        return ip.payload, False
    payload = update_l4(ip.payload, ip.proto, ip.src + ip.dst, src4 + dst4)
    if gw.mss_clamp and ip.proto == TCP and fragment is None:
        payload = clamp_mss(payload, min(node.mtu_to6(ip.src) - 60, node.mtu_to4(dst4) - 40))
    return payload, False


def draft64(node: Node, gw: Gateway, ip: Ip6, data: bytes, *, hairpin: bool) -> tuple[list[Drop], Draft4 | None]:
    """Every reason to drop the packet, or its IPv4 form before sizes are looked at."""
    faults = header_faults(node, gw, ip, data)
    src4, pool_bits, more = source64(node, gw, ip, data)
    faults += more
    dst4, more = destination64(node, gw, ip, data)
    faults += more
    payload, inner_free = b"", False
    try:
        if not ip.fragment_ext:
            payload, inner_free = l4_64(node, gw, ip, src4, dst4, hairpin=hairpin)
    except Malformed as e:
        faults += l4_faults(e.reason)
    if faults:
        return faults, None
    fragment = ip.fragment
    return [], Draft4(
        src=src4,
        dst=dst4,
        ttl=ip.hop_limit - 1,
        tos=ip.tc if gw.fixed_tos is None else gw.fixed_tos,
        proto=ICMP4 if ip.proto == ICMP6 else ip.proto,
        payload=payload,
        ident=fragment.ident & 0xFFFF if fragment else 0,
        mf=fragment.more if fragment else False,
        offset=fragment.offset if fragment else 0,
        was_fragment=fragment is not None,
        pool_bits=pool_bits,
        inner_free=inner_free,
    )


def l4_faults(reason: str) -> list[Drop]:
    """Discards inside ICMP are silent; a malformed one may be put down to the header instead of the length."""
    if reason == "DROP_TRUNCATED":
        return [Drop("DROP_TRUNCATED"), Drop("DROP_BAD_HEADER")]
    if reason == "DROP_WKP_NONGLOBAL":
        return [Drop("DROP_WKP_NONGLOBAL"), Drop("DROP_ICMP_INNER")]
    if reason == "DROP_ICMP_CSUM":
        others = ("DROP_ICMP_TYPE", "DROP_ICMP_POINTER", "DROP_ICMP_INNER")  # what else may be wrong with it, as silent
        return [Drop(reason), *(Drop(other) for other in others)]
    return [Drop(reason)]


def finish64(node: Node, ip: Ip6, data: bytes, draft: Draft4) -> Outcome:
    """RFC 7915 5.1: sizes, DF, and fragmentation or Packet Too Big."""
    mtu = node.mtu_to4(draft.dst)
    if 20 + len(draft.payload) <= mtu:
        return (Sent((draft.out(draft.build(draft.payload, draft.offset, draft.mf)),), 4),)
    if ip.total > 1280:
        return (Drop("DROP_TOO_BIG", own6(node, ip, data, TOO_BIG, max(1280, mtu + 20))),)
    step = (mtu - 20) // 8 * 8
    packets = []
    for at in range(0, len(draft.payload), step):
        last = at + step >= len(draft.payload)
        piece = draft.build(draft.payload[at : at + step], draft.offset + at, draft.mf or not last)
        packets.append(draft.out(piece))
    return (Sent(tuple(packets), 4),)


def maybe_neighbour_discovery(ip: Ip6) -> Outcome:
    if ip.proto == ICMP6 and ip.hop_limit == 255 and ip.payload[:1] and ip.payload[0] in ND_TYPES:
        return (Pass(),)
    return ()
