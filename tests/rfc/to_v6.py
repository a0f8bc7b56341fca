"""IPv4 to IPv6: RFC 7915 section 4.

Choices where the text leaves one:
* 4.4: 3/13 for a discarded packet unless the text names another error; `icmp_quiet` silences 3/13 only; none is
  required about ICMP messages ("unless the discarded packet is itself an ICMPv4 message").
* "Too big with DF" compares the total length plus 20 (4.1). Where options make the real IPv6 packet smaller and it
  would fit, sending it is as right. For a fragment with DF the Fragment Header's 8 bytes count too.
* Fragments never exceed min(lowest IPv6 MTU, next hop's MTU), so that no router behind has to send Packet Too Big for
  them.
* An ICMPv4 error with an illegal source is translated (4.1), but not under the Well-Known Prefix, where RFC 6052 3.1
  is a MUST.
* An ICMPv4 error from a source without mapping (a gateway without prefix) leaves with an address of the IPv6 pool, or
  the node's own, as RFC 6791 has it the other way round.
* A malformed option list is ignored as options are, or drops the packet.
* A fragment that ends beyond 65535 bytes is as impossible before as after; it may be passed on or dropped.
* MSS clamping, which no RFC asks for, leaves fragments alone.
* IGMP is dropped like an untranslatable ICMP type (4.2).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.rfc.addresses import ILLEGAL4, map46, within, wkp_violation
from tests.rfc.icmp import ERROR4, MAX6, assemble, error46, put_checksum, split_extension
from tests.rfc.inner import ECHO46, clamp_mss, echo46, inner46, udp_checksum6, update_l4
from tests.rfc.own_errors import FRAG_NEEDED, PROHIBITED4, SOURCE_ROUTE_FAILED, TTL4, own4
from tests.rfc.to_v4 import l4_faults
from tests.rfc.verdict import Drop, Out, Outcome, Sent, Verdict
from tests.rfc.wire import (
    ICMP4,
    ICMP6,
    IGMP,
    TCP,
    UDP,
    Fragment,
    Ip4,
    Malformed,
    build6,
    checksum,
    ones_sum,
    parse4,
    pseudo6,
)

if TYPE_CHECKING:
    from tests.rfc.config import Gateway, Node

LSRR, SSRR = 131, 137
L4_MIN = {TCP: 20, UDP: 8, ICMP4: 8}


@dataclass(frozen=True, slots=True)
class Draft6:
    """An IPv6 packet before its size is looked at."""

    src: bytes
    dst: bytes
    hop_limit: int
    tc: int
    proto: int
    payload: bytes
    pool_bits: int = 0  # low bits of src that are any address of the IPv6 pool

    def out(self, fragment: Fragment | None, payload: bytes) -> Out:
        """The packet; where its source is one of a pool, that and the ICMPv6 checksum over it are free."""
        data = self.build(fragment, payload)
        if not self.pool_bits:
            return Out.exact(data)
        mask = bytearray(b"\xff" * len(data))
        mask[8:24] = ((1 << 128) - (1 << self.pool_bits)).to_bytes(16, "big")
        mask[42:44] = b"\0\0"
        return Out(data, bytes(mask))

    def build(self, fragment: Fragment | None, payload: bytes) -> bytes:
        return build6(
            payload=payload,
            src=self.src,
            dst=self.dst,
            proto=self.proto,
            hop_limit=self.hop_limit,
            tc=self.tc,
            fragment=fragment,
        )


def is_error4(ip: Ip4) -> bool:
    return ip.proto == ICMP4 and not ip.is_fragment and len(ip.payload) > 0 and ip.payload[0] in ERROR4


def unexpired_source_route(options: bytes) -> bool:
    """RFC 791 3.1: LSRR or SSRR whose pointer is not greater than its length. Raises Malformed on a broken list."""
    at = 0
    while at < len(options):
        kind = options[at]
        if kind == 0:
            return False
        if kind == 1:
            at += 1
            continue
        if at + 2 > len(options) or options[at + 1] < 2 or at + options[at + 1] > len(options):
            raise Malformed("DROP_BAD_HEADER")
        length = options[at + 1]
        if kind in (LSRR, SSRR) and length >= 3 and options[at + 2] <= length:
            return True
        at += length
    return False


def header_faults(node: Node, ip: Ip4, data: bytes) -> list[Drop]:
    """RFC 7915 4.1: what the header alone forbids."""
    faults: list[Drop] = []
    if not ip.header_ok:
        faults.append(Drop("DROP_BAD_HEADER"))
    try:
        if unexpired_source_route(ip.options):
            faults.append(Drop("DROP_SOURCE_ROUTE", own4(node, ip, data, SOURCE_ROUTE_FAILED)))
    except Malformed:
        pass  # see may_drop
    if ip.ttl <= 1:
        faults.append(Drop("DROP_TTL", own4(node, ip, data, TTL4)))
    return faults


def may_drop(ip: Ip4) -> Outcome:
    """What no text asks to drop, nor forbids to."""
    if ip.offset + len(ip.payload) > 65535:
        return (Drop("DROP_FRAGMENT_SIZE"),)
    try:
        unexpired_source_route(ip.options)
    except Malformed as e:
        return (Drop(e.reason),)
    return ()


def source46(node: Node, gw: Gateway, ip: Ip4, data: bytes, *, hairpin: bool) -> tuple[bytes, list[Drop]]:
    """RFC 7915 4.1 and 6, RFC 6052 3.1; RFC 7757 4.2: no explicit mapping for a hairpinned source."""
    nothing = bytes(16)
    if within(ip.src, ILLEGAL4) and not is_error4(ip):
        return nothing, [Drop("DROP_SRC_ILLEGAL")]
    mapped = map46(gw, ip.src, use_eam=not hairpin)
    prohibited = None if gw.icmp_quiet else own4(node, ip, data, PROHIBITED4)
    if mapped is None and is_error4(ip):
        if gw.pool6791_6 is not None:
            return gw.pool6791_6.network_address.packed, []
        return (nothing, [Drop("DROP_NO_SOURCE")]) if node.own6 is None else (node.own6.packed, [])
    if mapped is None:
        return nothing, [Drop("DROP_SRC_UNMAPPED", prohibited, required=ip.proto != ICMP4)]
    if wkp_violation(gw, mapped.via_prefix, ip.src):
        return nothing, [Drop("DROP_WKP_NONGLOBAL", prohibited, required=False)]
    return mapped.addr, []


def icmp46(node: Node, gw: Gateway, ip: Ip4, src6: bytes, dst6: bytes, *, hairpin: bool) -> bytes:
    """The ICMPv6 message. Raises Malformed (RFC 7915 4.2, 4.3)."""
    payload = ip.payload
    kind = payload[0]
    if kind in ECHO46:
        return echo46(payload, src6, dst6, len(payload))
    if kind not in ERROR4:
        raise Malformed("DROP_ICMP_TYPE")
    if ones_sum(payload) != 0xFFFF:
        raise Malformed("DROP_ICMP_CSUM")
    original, extension = split_extension(payload, payload[5], 4, kind in (3, 11, 12))
    try:
        inner = parse4(original, embedded=True)
    except Malformed as e:
        error46(payload, 0, node.mtu4, node.mtu6)  # an untranslatable type comes first
        raise Malformed("DROP_ICMP_INNER") from e
    next4 = 65535 if hairpin else node.mtu_to4(inner.dst)
    message = error46(payload, inner.total, next4, node.mtu_to6(dst6))
    body = inner46(inner, gw, hairpin=hairpin)
    out = assemble(message, body, extension, unit=8, length_at=4, limit=MAX6)
    return put_checksum(out, lambda m: checksum(pseudo6(src6, dst6, len(m), ICMP6) + m))


def udp46(gw: Gateway, ip: Ip4, src6: bytes, dst6: bytes) -> bytes:
    """RFC 7915 4.5 for a UDP checksum of 0. Raises Malformed where the packet goes."""
    length = struct.unpack_from("!H", ip.payload, 4)[0]
    if ip.is_fragment or not gw.udp_zero_calc or not 8 <= length <= len(ip.payload):
        raise Malformed("DROP_UDP_ZERO")
    value = udp_checksum6(src6, dst6, ip.payload[:length])
    return ip.payload[:6] + struct.pack("!H", value) + ip.payload[8:]


def l4_46(node: Node, gw: Gateway, ip: Ip4, src6: bytes, dst6: bytes, *, hairpin: bool) -> bytes:
    if ip.proto == IGMP:
        raise Malformed("DROP_ICMP_TYPE")
    if ip.proto == ICMP4 and ip.is_fragment:
        raise Malformed("DROP_ICMP_FRAGMENT")  # RFC 7915 1.2
    if ip.offset > 0:
        return ip.payload
    if len(ip.payload) < L4_MIN.get(ip.proto, 0):
        raise Malformed("DROP_TRUNCATED")
    if ip.proto == ICMP4:
        return icmp46(node, gw, ip, src6, dst6, hairpin=hairpin)
    # Hairpinned, a zero checksum came from an IPv6 host (RFC 6935) and goes to one: it stays.
    if ip.proto == UDP and ip.payload[6:8] == b"\0\0" and not hairpin:
        return udp46(gw, ip, src6, dst6)
    payload = update_l4(ip.payload, ip.proto, ip.src + ip.dst, src6 + dst6)
    if gw.mss_clamp and ip.proto == TCP and not ip.is_fragment:
        limit6 = node.mtu_to6(dst6) - 60
        payload = clamp_mss(payload, limit6 if hairpin else min(limit6, node.mtu_to4(ip.src) - 40))
    return payload


def draft46(node: Node, gw: Gateway, ip: Ip4, data: bytes, *, hairpin: bool) -> tuple[list[Drop], Draft6 | None]:
    """Every reason to drop the packet, or its IPv6 form before sizes are looked at."""
    faults = [] if hairpin else header_faults(node, ip, data)
    src6, more = source46(node, gw, ip, data, hairpin=hairpin)
    faults += more
    dst = map46(gw, ip.dst)
    assert dst is not None, "the caller matched the destination"
    if wkp_violation(gw, dst.via_prefix, ip.dst):
        answer = None if gw.icmp_quiet else own4(node, ip, data, PROHIBITED4)
        faults.append(Drop("DROP_WKP_NONGLOBAL", answer, required=False))
    payload = b""
    try:
        payload = l4_46(node, gw, ip, src6, dst.addr, hairpin=hairpin)
    except Malformed as e:
        if e.reason == "DROP_UDP_ZERO" and not gw.icmp_quiet:
            faults.append(Drop(e.reason, own4(node, ip, data, PROHIBITED4)))
        else:
            faults += l4_faults(e.reason)
    if faults:
        return faults, None
    pooled = gw.pool6791_6 is not None and is_error4(ip) and map46(gw, ip.src, use_eam=not hairpin) is None
    pool_bits = 128 - gw.pool6791_6.prefixlen if gw.pool6791_6 is not None and pooled else 0
    return [], Draft6(
        src=src6,
        dst=dst.addr,
        hop_limit=ip.ttl if hairpin else ip.ttl - 1,
        tc=0 if gw.zero_tc else ip.tos,
        proto=ICMP6 if ip.proto == ICMP4 else ip.proto,
        payload=payload,
        pool_bits=pool_bits,
    )


def pieces(draft: Draft6, ip: Ip4, limit: int) -> tuple[Out, ...]:
    """RFC 7915 4.1: one packet, with a Fragment Header only where it is a fragment; or fragments of at most `limit`
    bytes.
    """
    single = Fragment(ip.offset, ip.mf, ip.ident) if ip.is_fragment else None
    if 40 + (8 if single else 0) + len(draft.payload) <= limit:
        return (draft.out(single, draft.payload),)
    step = (limit - 48) // 8 * 8
    out = []
    for at in range(0, len(draft.payload), step):
        last = at + step >= len(draft.payload)
        fragment = Fragment(ip.offset + at, ip.mf or not last, ip.ident)
        out.append(draft.out(fragment, draft.payload[at : at + step]))
    return tuple(out)


def finish46(node: Node, gw: Gateway, ip: Ip4, data: bytes, draft: Draft6) -> Outcome:
    """RFC 7915 4.1: DF, the lowest IPv6 MTU, the next hop's MTU."""
    mtu = node.mtu_to6(draft.dst)
    if not ip.df:
        return (Sent(pieces(draft, ip, min(gw.low_mtu, mtu)), 6),)
    extra = 28 if ip.is_fragment else 20
    fits = 20 + extra + len(draft.payload) <= mtu
    sent = Sent(pieces(draft, ip, 65575), 6)
    if fits and is_error4(ip):
        return (sent,)  # cut to 1280 bytes: its size on arrival says nothing
    verdicts: list[Verdict] = []
    if fits:
        verdicts.append(sent)
    if not fits or ip.total + 20 > mtu:
        verdicts += [Drop("DROP_TOO_BIG", own4(node, ip, data, FRAG_NEEDED, mtu - less)) for less in {extra, 20}]
    if ip.total + 20 > mtu:
        verdicts.reverse()
    return tuple(verdicts)
