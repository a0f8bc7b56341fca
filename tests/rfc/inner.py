"""Packets inside ICMP errors (RFC 7915 4.3, 5.3): translated like any other, but for TTL, and however short they are
cut.

Choices where the text leaves one:
* A bad checksum of an embedded IPv4 header drops the error (RFC 5508 3 (a), SHOULD).
* A transport checksum is updated where the embedded bytes reach it, and not judged (RFC 5508 3 (c)).
* An embedded UDP checksum of 0 stays 0: nothing more can be said of a packet that is not whole.
* An embedded packet is never fragmented, and gets a Fragment Header only where it is a fragment.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from tests.rfc.addresses import map46, map64, wkp_violation
from tests.rfc.wire import (
    ICMP4,
    ICMP6,
    TCP,
    UDP,
    Fragment,
    Ip4,
    Ip6,
    Malformed,
    adjust,
    build4,
    build6,
    checksum,
    pseudo6,
)

if TYPE_CHECKING:
    from tests.rfc.config import Gateway

ECHO46 = {8: 128, 0: 129}
ECHO64 = {128: 8, 129: 0}
CHECKSUM_AT = {TCP: 16, UDP: 6}


def update_l4(payload: bytes, proto: int, old: bytes, new: bytes) -> bytes:
    """RFC 7915 4.5, 5.5: TCP and UDP checksums for changed addresses. `old` and `new` are both addresses, concatenated.

    UDP's 0 means "none" and stays; a computed 0 is sent as 0xffff (RFC 768). A wrong checksum stays wrong by as much.
    """
    at = CHECKSUM_AT.get(proto)
    if at is None or len(payload) < at + 2:
        return payload
    have = struct.unpack_from("!H", payload, at)[0]
    if proto == UDP and have == 0:
        return payload
    value = adjust(have, old, new)
    if proto == UDP and value == 0:
        value = 0xFFFF
    return payload[:at] + struct.pack("!H", value) + payload[at + 2 :]


def echo46(payload: bytes, src: bytes, dst: bytes, length: int) -> bytes:
    """RFC 7915 4.2, Echo and Echo Reply: new type, and a checksum that now covers the ICMPv6 pseudo-header."""
    head = bytes((ECHO46[payload[0]], payload[1]))
    value = adjust(struct.unpack_from("!H", payload, 2)[0], payload[:2], head + pseudo6(src, dst, length, ICMP6))
    return head + struct.pack("!H", value) + payload[4:]


def echo64(payload: bytes, src: bytes, dst: bytes, length: int) -> bytes:
    """RFC 7915 5.2, the inverse; `src` and `dst` are the IPv6 addresses that the old checksum covers."""
    head = bytes((ECHO64[payload[0]], payload[1]))
    value = adjust(struct.unpack_from("!H", payload, 2)[0], payload[:2] + pseudo6(src, dst, length, ICMP6), head)
    return head + struct.pack("!H", value) + payload[4:]


def clamp_mss(payload: bytes, limit: int) -> bytes:
    """Lower the MSS option of a SYN to `limit` (RFC 9293 3.7.1); a segment without the option is left alone."""
    header = (payload[12] >> 4) * 4 if len(payload) >= 20 else 0
    if not payload[13:14] or not payload[13] & 0x02 or not 20 < header <= len(payload):
        return payload
    at = 20
    while at < header:
        kind = payload[at]
        if kind == 0:
            break
        if kind == 1:
            at += 1
            continue
        size = payload[at + 1] if at + 1 < header else 0
        if size < 2 or at + size > header:
            break
        if kind == 2 and size == 4:
            return _lower(payload, at + 2, limit)
        at += size
    return payload


def _lower(payload: bytes, at: int, limit: int) -> bytes:
    if struct.unpack_from("!H", payload, at)[0] <= limit:
        return payload
    out = bytearray(payload)
    struct.pack_into("!H", out, at, limit)
    # The option may sit on an odd offset: the two words around it are what the checksum sees change.
    lo, hi = at & ~1, (at + 3) & ~1
    value = adjust(struct.unpack_from("!H", payload, 16)[0], payload[lo:hi], bytes(out[lo:hi]))
    struct.pack_into("!H", out, 16, value)
    return bytes(out)


def inner46(inner: Ip4, gw: Gateway, *, hairpin: bool) -> bytes:
    """The IPv6 form of an embedded IPv4 packet. Raises Malformed with the reason to drop the error.

    RFC 7757 4.2: in a hairpinned error the embedded *destination* is what must not use the explicit mappings.
    """
    if not inner.header_ok:
        raise Malformed("DROP_ICMP_INNER")
    src = map46(gw, inner.src)
    dst = map46(gw, inner.dst, use_eam=not hairpin)
    if src is None or dst is None:
        raise Malformed("DROP_ICMP_INNER")
    if wkp_violation(gw, src.via_prefix, inner.src) or wkp_violation(gw, dst.via_prefix, inner.dst):
        raise Malformed("DROP_WKP_NONGLOBAL")
    payload, proto = inner.payload, inner.proto
    if inner.offset == 0:
        if proto == ICMP4:
            if inner.is_fragment or len(payload) < 4 or payload[0] not in ECHO46:
                raise Malformed("DROP_ICMP_INNER")  # 4.3: stops at the first embedded header
            payload = echo46(payload, src.addr, dst.addr, inner.declared)
        else:
            payload = update_l4(payload, proto, inner.src + inner.dst, src.addr + dst.addr)
    elif proto == ICMP4:
        raise Malformed("DROP_ICMP_INNER")
    return build6(
        payload=payload,
        src=src.addr,
        dst=dst.addr,
        proto=ICMP6 if proto == ICMP4 else proto,
        hop_limit=inner.ttl,
        tc=0 if gw.zero_tc else inner.tos,
        fragment=Fragment(inner.offset, inner.mf, inner.ident) if inner.is_fragment else None,
        declared=inner.declared,
    )


def inner64(inner: Ip6, gw: Gateway) -> tuple[bytes, bool]:
    """(IPv4 form of an embedded IPv6 packet, whether its identification is ours to choose). Raises Malformed."""
    src, dst = map64(gw, inner.src), map64(gw, inner.dst)
    if src is None or dst is None or inner.fragment_ext or inner.segments_left_at is not None:
        raise Malformed("DROP_ICMP_INNER")
    if wkp_violation(gw, src.via_prefix, src.addr) or wkp_violation(gw, dst.via_prefix, dst.addr):
        raise Malformed("DROP_WKP_NONGLOBAL")
    payload, proto, fragment = inner.payload, inner.proto, inner.fragment
    if proto == ICMP6:
        whole = fragment is None or fragment.atomic
        if not whole or len(payload) < 4 or payload[0] not in ECHO64:
            raise Malformed("DROP_ICMP_INNER")
        payload = echo64(payload, inner.src, inner.dst, inner.declared)
    elif fragment is None or fragment.offset == 0:
        payload = update_l4(payload, proto, inner.src + inner.dst, src.addr + dst.addr)
    out = build4(
        payload=payload,
        src=src.addr,
        dst=dst.addr,
        proto=ICMP4 if proto == ICMP6 else proto,
        ttl=inner.hop_limit,
        tos=inner.tc if gw.fixed_tos is None else gw.fixed_tos,
        ident=fragment.ident & 0xFFFF if fragment else 0,
        df=fragment is None and 20 + inner.declared > 1260,
        mf=fragment.more if fragment else False,
        offset=fragment.offset if fragment else 0,
        declared=inner.declared,
    )
    return out, fragment is None


def udp_checksum6(src: bytes, dst: bytes, datagram: bytes) -> int:
    """RFC 7915 4.5 (2): the checksum over IPv6 of a UDP datagram that had none over IPv4; never 0 (RFC 8200 8.1)."""
    value = checksum(pseudo6(src, dst, len(datagram), UDP) + datagram[:6] + b"\0\0" + datagram[8:])
    return value or 0xFFFF
