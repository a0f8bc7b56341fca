"""CHECKLIST 2.5: RFC 7915 4.5, 5.5, and the MSS option."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.rfc.cases.base import (
    FRAG,
    GW,
    H4,
    H6,
    NODE,
    S4,
    S6,
    TCP,
    UDP,
    Case,
    data,
    dropped,
    error4,
    frag6,
    ip4,
    ip6,
    node,
    out4,
    out6,
    sent4,
    sent6,
    tcp,
    udp,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

CALC = node(replace(GW, udp_zero_calc=True))
SYN, SYNACK, ACK = 0x02, 0x12, 0x10


def updated() -> Iterator[Case]:
    for size in (0, 1, 2, 7, 513, 1200):
        body = data(size)
        yield Case(
            f"4.5-udp-{size}",
            "7915-4.5-CSUM",
            "MUST",
            NODE,
            ip4(udp(S4, H4, body)),
            sent6(out6(udp(S6, H6, body), UDP)),
        )
        yield Case(
            f"5.5-udp-{size}",
            "7915-4.5-CSUM",
            "MUST",
            NODE,
            ip6(udp(H6, S6, body)),
            sent4(out4(udp(H4, S4, body), UDP)),
        )
        packet = ip4(tcp(S4, H4, body), TCP)
        yield Case(f"4.5-tcp-{size}", "7915-4.5-CSUM", "MUST", NODE, packet, sent6(out6(tcp(S6, H6, body), TCP)))
        packet = ip6(tcp(H6, S6, body), TCP)
        yield Case(f"5.5-tcp-{size}", "7915-4.5-CSUM", "MUST", NODE, packet, sent4(out4(tcp(H4, S4, body), TCP)))
    options = b"\x01\x01\x08\x0a" + data(8)
    packet = ip4(tcp(S4, H4, data(5), options=options, flags=0x18), TCP)
    expect = sent6(out6(tcp(S6, H6, data(5), options=options, flags=0x18), TCP))
    yield Case("4.5-tcp-options", "7915-4.5-CSUM", "MUST", NODE, packet, expect)


def edges() -> Iterator[Case]:
    """A UDP sum of 0 leaves as 0xffff (RFC 768, RFC 8200 8.1); the neighbours of that value are right too."""
    for family, src, dst in ((6, S6, H6), (4, H4, S4)):
        zero = _datagram_with(src, dst, 0xFFFF)
        for delta in (0, 1, 2, 0xFFFE):
            body = struct.pack("!H", (int.from_bytes(zero, "big") + delta - 1) % 0xFFFF + 1)
            if family == 6:
                packet, expect = ip4(udp(S4, H4, body)), sent6(out6(udp(S6, H6, body), UDP))
            else:
                packet, expect = ip6(udp(H6, S6, body)), sent4(out4(udp(H4, S4, body), UDP))
            yield Case(f"4.5-udp-edge-to-{family}-{delta}", "7915-4.5-CSUM", "MUST", NODE, packet, expect)


def _datagram_with(src: str, dst: str, value: int) -> bytes:
    """Two bytes of payload that give the UDP checksum `value`."""
    have = int.from_bytes(udp(src, dst, b"\0\0")[6:8], "big")
    word = (have - value) % 0xFFFF or 0xFFFF
    body = struct.pack("!H", word)
    assert int.from_bytes(udp(src, dst, body)[6:8], "big") == value
    return body


def zero() -> Iterator[Case]:
    packet = ip4(udp(S4, H4, data(40), csum=0))
    yield Case("4.5-udp-zero-drop", "7915-4.5-ZERO", "SHOULD", NODE, packet, dropped("UDP_ZERO", error4(packet, 3, 13)))
    quiet = node(replace(GW, icmp_quiet=True))
    yield Case("4.5-udp-zero-quiet", "7915-4.5-ZERO", "SHOULD", quiet, packet, dropped("UDP_ZERO"))
    for size in (0, 1, 2, 40, 1200):
        body = data(size)
        case = ip4(udp(S4, H4, body, csum=0))
        yield Case(
            f"4.5-udp-zero-calc-{size}", "7915-4.5-ZERO", "SHOULD", CALC, case, sent6(out6(udp(S6, H6, body), UDP))
        )
    body = _datagram_with(S6, H6, 0xFFFF)
    yield Case(
        "4.5-udp-zero-calc-ffff",
        "7915-4.5-ZERO",
        "SHOULD",
        CALC,
        ip4(udp(S4, H4, body, csum=0)),
        sent6(out6(udp(S6, H6, body), UDP)),
    )
    for name, here in (("drop", NODE), ("calc", CALC)):
        packet = ip4(udp(S4, H4, data(40), csum=0), flags="MF")
        yield Case(
            f"4.5-udp-zero-first-{name}",
            "7915-4.5-ZEROFRAG",
            "SHOULD",
            here,
            packet,
            dropped("UDP_ZERO", error4(packet, 3, 13)),
        )
        tail = ip4(bytes(40), flags=0, frag=6)
        yield Case(
            f"4.5-udp-zero-later-{name}",
            "7915-4.1-FRAG",
            "MUST",
            here,
            tail,
            sent6(out6(frag6(UDP, bytes(40), 48, False, 0x1234), FRAG)),
        )
    big = udp(S6, H6, data(1400))
    parts = (
        out6(frag6(UDP, big[:1232], 0, True, 0x1234), FRAG),
        out6(frag6(UDP, big[1232:], 1232, False, 0x1234), FRAG),
    )
    packet = ip4(udp(S4, H4, data(1400), csum=0), flags=0)
    yield Case("4.5-udp-zero-calc-then-fragments", "7915-4.5-ZERO", "SHOULD", CALC, packet, sent6(*parts))
    packet = ip6(udp(H6, S6, data(40), csum=0))
    yield Case(
        "5.5-udp-zero-stays", "7915-4.5-CSUM", "MUST", NODE, packet, sent4(out4(udp(H4, S4, data(40), csum=0), UDP))
    )


def wrong() -> Iterator[Case]:
    """A wrong checksum is never made right (RFC 7915 5, RFC 1624)."""
    for name, proto, at, make in (("udp", UDP, 6, udp), ("tcp", TCP, 16, tcp)):
        good4, good6 = make(S4, H4, data(40)), make(S6, H6, data(40))
        bad4 = _raise(good4, at)
        packet = ip4(bad4, proto)
        yield Case(
            f"4.5-{name}-wrong", "7915-5-CSUMFAIL", "MUST NOT", NODE, packet, sent6(out6(_raise(good6, at), proto))
        )
        good6, good4 = make(H6, S6, data(40)), make(H4, S4, data(40))
        packet = ip6(_raise(good6, at), proto)
        yield Case(
            f"5.5-{name}-wrong", "7915-5-CSUMFAIL", "MUST NOT", NODE, packet, sent4(out4(_raise(good4, at), proto))
        )


def _raise(segment: bytes, at: int) -> bytes:
    """The segment with its checksum raised by 0x100 in ones' complement."""
    value = (int.from_bytes(segment[at : at + 2], "big") + 0x100) % 0xFFFF
    return segment[:at] + struct.pack("!H", value) + segment[at + 2 :]


def mss(value: int, before: bytes = b"", after: bytes = b"") -> bytes:
    raw = before + struct.pack("!BBH", 2, 4, value) + after
    return raw + bytes(-len(raw) % 4)


def clamping() -> Iterator[Case]:
    """min(MSS, MTU of the IPv6 next hop - 60, MTU of the IPv4 next hop - 40), on SYN and SYN-ACK only."""
    gw = replace(GW, mss_clamp=True)
    rows = (
        (1500, 1500, 1460, 1440),
        (1500, 1500, 1440, 1440),
        (1500, 1500, 536, 536),
        (1300, 1500, 1460, 1260),
        (9000, 1280, 8960, 1220),
        (9000, 9000, 8960, 8940),
    )
    for mtu4, mtu6, have, want in rows:
        here = node(gw, mtu4=mtu4, mtu6=mtu6)
        name = f"{have}-at-{mtu4}-{mtu6}"
        packet = ip4(tcp(S4, H4, flags=SYN, options=mss(have)), TCP)
        yield Case(
            f"mss-46-{name}", "MSS", "-", here, packet, sent6(out6(tcp(S6, H6, flags=SYN, options=mss(want)), TCP))
        )
        packet = ip6(tcp(H6, S6, flags=SYNACK, options=mss(have)), TCP)
        yield Case(
            f"mss-64-{name}", "MSS", "-", here, packet, sent4(out4(tcp(H4, S4, flags=SYNACK, options=mss(want)), TCP))
        )
    here = node(gw)
    layouts = {
        "behind-nop": (b"\1", b"\1\1\1"),
        "behind-two-nops": (b"\1\1", b"\4\2"),
        "behind-timestamps": (b"\x08\x0a" + data(8), b""),
        "last": (b"\3\3\7\1\4\2\1\1", b""),
    }
    for name, (before, after) in layouts.items():
        packet = ip4(tcp(S4, H4, flags=SYN, options=mss(1460, before, after)), TCP)
        expect = sent6(out6(tcp(S6, H6, flags=SYN, options=mss(1440, before, after)), TCP))
        yield Case(f"mss-{name}", "MSS", "-", here, packet, expect)
    untouched = {
        "not-syn": tcp, "no-option": tcp, "behind-end": tcp, "off": tcp,
    }  # fmt: skip
    raw = {"not-syn": mss(1460), "no-option": b"\1\1\4\2", "behind-end": b"\0\0\0\0" + mss(1460), "off": mss(1460)}
    for name in untouched:
        flags = ACK if name == "not-syn" else SYN
        where = NODE if name == "off" else here
        packet = ip4(tcp(S4, H4, flags=flags, options=raw[name]), TCP)
        expect = sent6(out6(tcp(S6, H6, flags=flags, options=raw[name]), TCP))
        yield Case(f"mss-{name}", "MSS", "-", where, packet, expect)


def cases() -> Iterator[Case]:
    yield from updated()
    yield from edges()
    yield from zero()
    yield from wrong()
    yield from clamping()
