"""Internet headers as plain values: parsing, building and checksums with `struct` alone.

Written from RFC 791, 8200, 1071 and 1624; shares nothing with the BPF sources or with scapy.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

ICMP4 = 1
IGMP = 2
TCP = 6
UDP = 17
HOP_BY_HOP = 0
ROUTING = 43
FRAGMENT = 44
ESP = 50
AH = 51
ICMP6 = 58
DEST_OPTS = 60
MOBILITY = 135
HIP = 139
SHIM6 = 140
# RFC 7915 5.1: skipped on the way to IPv4. (44 and 58 have rules of their own.)
SKIPPED = frozenset({HOP_BY_HOP, ROUTING, DEST_OPTS})
# IANA "IPv6 Extension Header Types" less ESP: what RFC 7915 5.1.1 refuses behind a Fragment Header.
EXTENSION = SKIPPED | {FRAGMENT, AH, MOBILITY, HIP, SHIM6}


class Malformed(Exception):
    """The bytes are not a packet of this family; `reason` is the enum sg_reason that fits."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def ones_sum(data: bytes) -> int:
    """RFC 1071 sum of 16-bit words, folded; an odd byte counts as the high half of a word."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data: bytes) -> int:
    return ~ones_sum(data) & 0xFFFF


def adjust(old: int, removed: bytes, added: bytes) -> int:
    """RFC 1624 equation 3: HC' = ~(~HC + ~m + m'). Both byte strings have even length."""
    inverse = bytes(b ^ 0xFF for b in removed)
    return checksum(struct.pack("!H", ~old & 0xFFFF) + inverse + added)


def pseudo6(src: bytes, dst: bytes, length: int, proto: int) -> bytes:
    """RFC 8200 8.1: pseudo-header of the upper-layer checksum over IPv6."""
    return src + dst + struct.pack("!II", length, proto)


def pseudo4(src: bytes, dst: bytes, length: int, proto: int) -> bytes:
    """RFC 793 3.1, RFC 768: pseudo-header of the upper-layer checksum over IPv4."""
    return src + dst + struct.pack("!HH", proto, length)


@dataclass(frozen=True, slots=True)
class Ip4:
    """One IPv4 header; `payload` is what is there, `declared` what the header says (they differ inside ICMP errors)."""

    tos: int
    total: int
    ident: int
    df: bool
    mf: bool
    offset: int  # bytes
    ttl: int
    proto: int
    src: bytes
    dst: bytes
    options: bytes
    payload: bytes
    header_ok: bool

    @property
    def declared(self) -> int:
        return self.total - 20 - len(self.options)

    @property
    def is_fragment(self) -> bool:
        return self.mf or self.offset > 0


def parse4(data: bytes, *, embedded: bool = False) -> Ip4:
    """Parse an IPv4 packet; only an embedded one may be shorter than its total length. Raises Malformed."""
    if len(data) < 20:
        raise Malformed("DROP_TRUNCATED")
    ver_ihl, tos, total, ident, flags, ttl, proto = struct.unpack_from("!BBHHHBB", data)
    ihl = (ver_ihl & 15) * 4
    if ver_ihl >> 4 != 4 or ihl < 20 or total < ihl:
        raise Malformed("DROP_BAD_HEADER")
    if len(data) < (ihl if embedded else total):
        raise Malformed("DROP_TRUNCATED")
    return Ip4(
        tos=tos,
        total=total,
        ident=ident,
        df=bool(flags & 0x4000),
        mf=bool(flags & 0x2000),
        offset=(flags & 0x1FFF) * 8,
        ttl=ttl,
        proto=proto,
        src=data[12:16],
        dst=data[16:20],
        options=data[20:ihl],
        payload=data[ihl:] if embedded else data[ihl:total],
        header_ok=ones_sum(data[:ihl]) == 0xFFFF,
    )


def build4(
    *,
    payload: bytes,
    src: bytes,
    dst: bytes,
    proto: int,
    ttl: int,
    tos: int = 0,
    ident: int = 0,
    df: bool = False,
    mf: bool = False,
    offset: int = 0,
    declared: int | None = None,
) -> bytes:
    """An IPv4 packet without options and with a right header checksum; `declared` overrides the payload's length."""
    total = 20 + (len(payload) if declared is None else declared)
    flags = (0x4000 if df else 0) | (0x2000 if mf else 0) | offset // 8
    head = struct.pack("!BBHHHBBH", 0x45, tos, total & 0xFFFF, ident, flags, ttl, proto, 0) + src + dst
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


@dataclass(frozen=True, slots=True)
class Fragment:
    offset: int  # bytes
    more: bool
    ident: int

    @property
    def atomic(self) -> bool:
        """RFC 6946: a whole packet that carries a Fragment Header all the same."""
        return self.offset == 0 and not self.more


@dataclass(frozen=True, slots=True)
class Ip6:
    """An IPv6 packet with its chain walked: `proto` is the first header that RFC 7915 5.1 does not skip."""

    tc: int
    hop_limit: int
    src: bytes
    dst: bytes
    proto: int
    payload: bytes
    declared: int
    total: int
    fragment: Fragment | None
    # Offset, from the IPv6 header, of Segments Left of the first routing header with segments left.
    segments_left_at: int | None
    # The Fragment Header is followed by an extension header other than ESP (RFC 7915 5.1.1).
    fragment_ext: bool


def base6(data: bytes) -> tuple[int, bytes, bytes]:
    """(payload length, source, destination) of the fixed header. Raises Malformed."""
    if len(data) < 40:
        raise Malformed("DROP_TRUNCATED")
    if data[0] >> 4 != 6:
        raise Malformed("DROP_BAD_HEADER")
    return int.from_bytes(data[4:6], "big"), data[8:24], data[24:40]


def parse6(data: bytes, *, embedded: bool = False) -> Ip6:
    """Parse an IPv6 packet and walk its extension headers; only an embedded one may be cut short. Raises Malformed."""
    length, src, dst = base6(data)
    if not embedded and len(data) < 40 + length:
        raise Malformed("DROP_TRUNCATED")
    body = data if embedded else data[: 40 + length]
    proto, at = data[6], 40
    fragment: Fragment | None = None
    segments_left_at: int | None = None
    fragment_ext = False
    while proto in SKIPPED or (proto == FRAGMENT and fragment is None):
        if at + 8 > len(body) or at + 8 > 40 + length:
            raise Malformed("DROP_BAD_EXTHDR")
        following = body[at]
        if proto == FRAGMENT:
            word, ident = struct.unpack_from("!HI", body, at + 2)
            fragment = Fragment(offset=word & 0xFFF8, more=bool(word & 1), ident=ident)
            proto, at = following, at + 8
            fragment_ext = proto in EXTENSION
            break
        if proto == ROUTING and body[at + 3] and segments_left_at is None:
            segments_left_at = at + 3
        size = (body[at + 1] + 1) * 8
        if at + size > 40 + length or at + size > len(body):
            raise Malformed("DROP_BAD_EXTHDR")
        proto, at = following, at + size
    return Ip6(
        tc=(data[0] & 15) << 4 | data[1] >> 4,
        hop_limit=data[7],
        src=src,
        dst=dst,
        proto=proto,
        payload=body[at:],
        declared=40 + length - at,
        total=40 + length,
        fragment=fragment,
        segments_left_at=segments_left_at,
        fragment_ext=fragment_ext,
    )


def build6(
    *,
    payload: bytes,
    src: bytes,
    dst: bytes,
    proto: int,
    hop_limit: int,
    tc: int = 0,
    fragment: Fragment | None = None,
    declared: int | None = None,
) -> bytes:
    """An IPv6 packet with flow label 0, and a Fragment Header where one is given; `declared` is the upper layer's
    length.
    """
    length = len(payload) if declared is None else declared
    middle = b""
    next_header = proto
    if fragment is not None:
        middle = struct.pack("!BBHI", proto, 0, fragment.offset | int(fragment.more), fragment.ident)
        next_header = FRAGMENT
        length += 8
    return (
        struct.pack("!IHBB", 6 << 28 | tc << 20, length & 0xFFFF, next_header, hop_limit) + src + dst + middle + payload
    )
