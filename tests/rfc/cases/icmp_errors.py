"""CHECKLIST 2.4, the rest: packets in error (4.3, 5.3), RFC 4884, sizes, RFC 5508."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from scapy.layers.inet import IPOption

from tests.rfc.cases.base import (
    ALIEN6,
    H4,
    H6,
    ICMP,
    ICMPV6,
    NODE,
    S4,
    S6,
    TCP,
    Case,
    data,
    dropped,
    frag6,
    icmp4,
    icmp6,
    ip4,
    ip6,
    sent4,
    sent6,
    tcp,
    udp,
    word,
)
from tests.rfc.cases.icmp_tables import BACK4, BACK6, INNER4, INNER6, error46, error64, to4, to6

if TYPE_CHECKING:
    from collections.abc import Iterator

EXTENSION = b"\x20\0\0\0\0\x08\x01\x01" + b"\x12\x34\x51\x01"  # RFC 4950, one label; its own checksum is not looked at


def transports() -> Iterator[Case]:
    """Addresses, protocol, length and checksums are translated (4.3), as far as the packet in error is there."""
    for size in (0, 4, 8, 60):  # the least a router returns is 8 bytes behind the header (RFC 792)
        yield from _udp_cut(size)
    for size in (8, 17, 18, 20, 60):  # the TCP checksum is in bytes 16 and 17
        body4, body6 = tcp(H4, S4, data(80)), tcp(H6, S6, data(80))
        known = size >= 18
        inner4 = ip4(body4, TCP, H4, S4, ttl=9)[: 20 + size]
        inner6 = ip6(body6 if known else body4, TCP, H6, S6, hlim=9)[: 40 + size]
        yield Case(
            f"4.3-tcp-cut-{size}", "7915-4.3-INNER", "MUST", NODE, error46(11, 0, 0, inner4), to6(3, 0, 0, inner6)
        )
    echo4, echo6 = icmp4(8, 0, b"\1\2\3\4", data(20)), icmp6(128, 0, b"\1\2\3\4", data(20), H6, S6)
    inner4, inner6 = ip4(echo4, ICMP, H4, S4, ttl=9), ip6(echo6, ICMPV6, H6, S6, hlim=9)
    yield Case("4.3-echo", "7915-4.3-INNER", "MUST", NODE, error46(11, 0, 0, inner4), to6(3, 0, 0, inner6))
    cut4, cut6 = inner4[:28], inner6[:48]
    yield Case("4.3-echo-cut", "7915-4.3-INNER", "MUST", NODE, error46(11, 0, 0, cut4), to6(3, 0, 0, cut6))
    echo6, echo4 = icmp6(128, 0, b"\1\2\3\4", data(20), S6, H6), icmp4(8, 0, b"\1\2\3\4", data(20))
    inner6, inner4 = ip6(echo6, ICMPV6, S6, H6, hlim=9), ip4(echo4, ICMP, S4, H4, ttl=9, flags=0)
    yield Case("5.3-echo", "7915-4.3-INNER", "MUST", NODE, error64(3, 0, 0, inner6), to4(11, 0, 0, inner4))
    yield Case(
        "5.3-echo-cut", "7915-4.3-INNER", "MUST", NODE, error64(3, 0, 0, inner6[:48]), to4(11, 0, 0, inner4[:28])
    )


def headers4() -> Iterator[Case]:
    """What heads an IPv4 packet in error: its TTL is not decremented; options, fragments, protocols."""
    for ttl in (0, 1, 255):
        inner4, inner6 = ip4(udp(H4, S4), src=H4, dst=S4, ttl=ttl), ip6(udp(H6, S6), hlim=ttl)
        yield Case(f"4.3-ttl-{ttl}", "7915-4.3-INNER", "MUST", NODE, error46(11, 0, 0, inner4), to6(3, 0, 0, inner6))
    inner4 = ip4(udp(H4, S4), src=H4, dst=S4, tos=0x2E, options=IPOption(b"\x94\4\0\0"))
    yield Case(
        "4.3-options", "7915-4.3-INNER", "MUST", NODE, error46(3, 1, 0, inner4), to6(1, 0, 0, ip6(udp(H6, S6), tc=0x2E))
    )
    inner4 = ip4(data(40), 132, H4, S4)
    yield Case("4.3-sctp", "7915-4.3-INNER", "MUST", NODE, error46(3, 1, 0, inner4), to6(1, 0, 0, ip6(data(40), 132)))
    body4, body6 = udp(H4, S4, data(60)), udp(H6, S6, data(60))
    inner4 = ip4(body4, src=H4, dst=S4, flags="MF", id=0xBEEF)
    yield Case(
        "4.3-first-fragment",
        "7915-4.3-INNER",
        "MUST",
        NODE,
        error46(11, 1, 0, inner4),
        to6(3, 1, 0, ip6(frag6(17, body6, 0, True, 0xBEEF), 44)),
    )
    inner4 = ip4(data(40), src=H4, dst=S4, flags=0, frag=9, id=0xBEEF)
    yield Case(
        "4.3-later-fragment",
        "7915-4.3-INNER",
        "MUST",
        NODE,
        error46(11, 1, 0, inner4),
        to6(3, 1, 0, ip6(frag6(17, data(40), 72, False, 0xBEEF), 44)),
    )


def headers6() -> Iterator[Case]:
    """What heads an IPv6 packet in error, and a whole error in an atomic fragment."""
    chain = bytes((17, 0, 1, 4, 0, 0, 0, 0))
    inner6 = ip6(chain + udp(S6, H6), 60, S6, H6, hlim=9)
    yield Case(
        "5.3-extension-header",
        "7915-4.3-INNER",
        "MUST",
        NODE,
        error64(1, 0, 0, inner6),
        to4(3, 1, 0, ip4(udp(S4, H4), src=S4, dst=H4, ttl=9, flags=0)),
    )
    inner6 = ip6(frag6(17, data(40), 72, False, 0xABCD1234), 44, S6, H6, hlim=9)
    inner4 = ip4(data(40), src=S4, dst=H4, flags=0, frag=9, id=0x1234, ttl=9)
    yield Case(
        "5.3-later-fragment",
        "7915-4.3-INNER",
        "MUST",
        NODE,
        error64(3, 1, 0, inner6),
        to4(11, 1, 0, inner4, inner_id=False),
    )
    for total, flags in ((1260, 0), (1261, "DF")):  # DF of the packet in error by its own length, though it is cut
        inner6 = ip6(udp(S6, H6, data(total - 28)), src=S6, dst=H6, hlim=9)[:140]
        inner4 = ip4(udp(S4, H4, data(total - 28)), src=S4, dst=H4, ttl=9, flags=flags)[:120]
        yield Case(
            f"5.3-df-{total}", "7915-4.3-INNER", "MUST", NODE, error64(2, 0, 1400, inner6), to4(3, 4, 1380, inner4)
        )
    packet = ip6(frag6(ICMPV6, icmp6(1, 4, bytes(4), BACK6), 0, False, 0xABCD1234), 44)
    out = ip4(icmp4(3, 3, bytes(4), BACK4), ICMP, H4, S4, ttl=63, flags=0, id=0x1234)
    yield Case("5.3-atomic", "7915-4.3-INNER", "MUST", NODE, packet, sent4(out, free_id=False, inner_id=True))


def _udp_cut(size: int) -> Iterator[Case]:
    """An embedded UDP packet cut to `size` bytes behind its header; the length fields stay those of the whole."""
    body4, body6 = udp(H4, S4, data(60)), udp(H6, S6, data(60))
    inner4 = ip4(body4, src=H4, dst=S4, ttl=9)[: 20 + size]
    inner6 = ip6(body6 if size >= 8 else body4, hlim=9)[: 40 + size]
    yield Case(f"4.3-udp-cut-{size}", "7915-4.3-INNER", "MUST", NODE, error46(3, 3, 0, inner4), to6(1, 4, 0, inner6))
    body6, body4 = udp(S6, H6, data(60)), udp(S4, H4, data(60))
    inner6 = ip6(body6, src=S6, dst=H6, hlim=9)[: 40 + size]
    inner4 = ip4(body4 if size >= 8 else body6, src=S4, dst=H4, ttl=9, flags=0)[: 20 + size]
    yield Case(f"5.3-udp-cut-{size}", "7915-4.3-INNER", "MUST", NODE, error64(1, 4, 0, inner6), to4(3, 3, 0, inner4))


def refused() -> Iterator[Case]:
    nested4 = ip4(icmp4(3, 3, bytes(4), ip4(udp(S4, H4))), ICMP, H4, S4)
    yield Case("4.3-nested", "7915-4.3-NEST", "MUST", NODE, error46(11, 0, 0, nested4), dropped("ICMP_INNER"))
    nested6 = ip6(icmp6(1, 4, bytes(4), ip6(udp(H6, S6)), S6, H6), ICMPV6, S6, H6)
    yield Case("5.3-nested", "7915-4.3-NEST", "MUST", NODE, error64(3, 0, 0, nested6), dropped("ICMP_INNER"))
    for at in (2, 27):
        broken = bytearray(error46(3, 3))
        broken[20 + at] ^= 0x40
        yield Case(f"5508-checksum-46-{at}", "5508-3-CSUM", "SHOULD", NODE, bytes(broken), dropped("ICMP_CSUM"))
        broken = bytearray(error64(1, 4))
        broken[40 + at] ^= 0x40
        yield Case(f"5508-checksum-64-{at}", "5508-3-CSUM", "SHOULD", NODE, bytes(broken), dropped("ICMP_CSUM"))
    bad_header = INNER4[:8] + bytes((INNER4[8] ^ 4,)) + INNER4[9:]
    yield Case("5508-inner-header", "5508-3-CSUM", "SHOULD", NODE, error46(3, 3, 0, bad_header), dropped("ICMP_INNER"))
    for size in (0, 8, 19):
        yield Case(
            f"4.3-inner-{size}-bytes",
            "7915-4.3-INNER",
            "MUST",
            NODE,
            error46(3, 3, 0, INNER4[:size]),
            dropped("ICMP_INNER"),
        )
    for size in (0, 20, 39):
        yield Case(
            f"5.3-inner-{size}-bytes",
            "7915-4.3-INNER",
            "MUST",
            NODE,
            error64(1, 4, 0, BACK6[:size]),
            dropped("ICMP_INNER"),
        )
    wrong = error46(3, 3, 0, INNER6)
    yield Case("4.3-inner-of-the-other-family", "7915-4.3-INNER", "MUST", NODE, wrong, dropped("ICMP_INNER"))
    wrong = error64(1, 4, 0, BACK4 + bytes(40))
    yield Case("5.3-inner-of-the-other-family", "7915-4.3-INNER", "MUST", NODE, wrong, dropped("ICMP_INNER"))
    alien = ip6(udp(ALIEN6, H6), src=ALIEN6, dst=H6)
    yield Case("5.3-inner-unmapped", "7915-4.3-INNER", "MUST", NODE, error64(1, 4, 0, alien), dropped("ICMP_INNER"))
    first = ip4(udp(H4, S4), ICMP, H4, S4, flags="MF")
    yield Case(
        "4.3-inner-icmp-fragment",
        "7915-1.2-FRAGICMP",
        "will not",
        NODE,
        error46(11, 1, 0, first),
        dropped("ICMP_INNER"),
    )


def sizes() -> Iterator[Case]:
    """An ICMPv6 error ends at 1280 bytes (RFC 4443 2.4 (c)), an ICMPv4 error at 576 (RFC 1812 4.3.2.3)."""
    for size in (1183, 1184, 1185, 1400):  # 40 + 8 + 40 + 8 + 1184 is 1280
        inner4, inner6 = ip4(udp(H4, S4, data(size)), src=H4, dst=S4), ip6(udp(H6, S6, data(size)))
        packet = error46(3, 1, 0, inner4)
        yield Case(f"4443-size-{size}", "ICMP-SIZE", "MUST", NODE, packet, to6(1, 0, 0, inner6[:1232]))
    for size in (519, 520, 521, 1000):  # 20 + 8 + 20 + 8 + 520 is 576
        inner6 = ip6(udp(S6, H6, data(size)), src=S6, dst=H6)
        inner4 = ip4(udp(S4, H4, data(size)), src=S4, dst=H4, flags=0)
        yield Case(
            f"1812-size-{size}", "ICMP-SIZE", "SHOULD", NODE, error64(1, 0, 0, inner6), to4(3, 1, 0, inner4[:548])
        )
    inner6 = ip6(udp(S6, H6, data(1184)), src=S6, dst=H6, hlim=9)
    inner4 = ip4(udp(S4, H4, data(1184)), src=S4, dst=H4, ttl=9, flags=0)[:548]
    yield Case("1812-too-big", "ICMP-SIZE", "SHOULD", NODE, error64(2, 0, 1280, inner6), to4(3, 4, 1260, inner4))


def extensions() -> Iterator[Case]:
    """RFC 4884: the length attribute counts 32-bit words in ICMPv4 (byte 5), 64-bit words in ICMPv6 (byte 4)."""
    original4 = ip4(udp(H4, S4, data(104)), src=H4, dst=S4, ttl=9)  # 132 bytes: 33 words
    original6 = ip6(udp(H6, S6, data(104)), hlim=9)  # 152 bytes: 19 words
    for kind, code, new, newcode in ((3, 1, 1, 0), (11, 0, 3, 0)):
        packet = error46(kind, code, 33 << 16, original4 + EXTENSION)
        expect = to6(new, newcode, 19 << 24, original6 + EXTENSION)
        yield Case(f"4884-46-{kind}", "7915-4884", "MUST", NODE, packet, expect)
    padded4 = ip4(udp(H4, S4, data(60)), src=H4, dst=S4, ttl=9).ljust(128, b"\0")  # 88 bytes in 128
    padded6 = ip6(udp(H6, S6, data(60)), hlim=9).ljust(148, b"\0").ljust(152, b"\0")
    yield Case(
        "4884-46-padding",
        "7915-4884",
        "MUST",
        NODE,
        error46(3, 1, 32 << 16, padded4 + EXTENSION),
        to6(1, 0, 19 << 24, padded6 + EXTENSION),
    )
    back6 = ip6(udp(S6, H6, data(104)), src=S6, dst=H6, hlim=9)
    back4 = ip4(udp(S4, H4, data(104)), src=S4, dst=H4, ttl=9, flags=0)
    for kind, code, new, newcode in ((1, 0, 3, 1), (3, 1, 11, 1)):
        packet = error64(kind, code, 19 << 24, back6 + EXTENSION)
        yield Case(f"4884-64-{kind}", "7915-4884", "MUST", NODE, packet, to4(new, newcode, 33 << 16, back4 + EXTENSION))
    short6 = ip6(udp(S6, H6, data(60)), src=S6, dst=H6, hlim=9).ljust(
        128, b"\0"
    )  # 128 bytes; as IPv4 108, padded to 128
    short4 = ip4(udp(S4, H4, data(60)), src=S4, dst=H4, ttl=9, flags=0).ljust(128, b"\0")
    yield Case(
        "4884-64-at-least-128",
        "7915-4884",
        "MUST",
        NODE,
        error64(1, 0, 16 << 24, short6 + EXTENSION),
        to4(3, 1, 32 << 16, short4 + EXTENSION),
    )
    # Too long: the extension is cut at the end.
    long4, long6 = ip4(udp(H4, S4, data(1180)), src=H4, dst=S4, ttl=9), ip6(udp(H6, S6, data(1180)), hlim=9)
    packet = error46(3, 1, 0, long4[:1208])
    yield Case("4884-46-none", "7915-4884", "MUST", NODE, packet, to6(1, 0, 0, long6[:1228]))
    original4 = long4[:1000]
    original6 = ip6(udp(H6, S6, data(1180)), hlim=9)[:1020].ljust(1024, b"\0")
    block = EXTENSION + data(228)
    packet = error46(3, 1, 250 << 16, original4 + block)
    yield Case("4884-46-cut", "7915-4884", "SHOULD", NODE, packet, to6(1, 0, 128 << 24, (original6 + block)[:1232]))
    # ICMPv6 Packet Too Big carries no extension (RFC 4884 4): only the original datagram goes on.
    original4 = ip4(udp(H4, S4, data(104)), src=H4, dst=S4, ttl=9)
    original6 = ip6(udp(H6, S6, data(104)), hlim=9)
    packet = error46(3, 4, 33 << 16 | 1400, original4 + EXTENSION)
    yield Case("4884-46-too-big", "7915-4884", "MUST", NODE, packet, to6(2, 0, 1420, original6))


def checksums() -> Iterator[Case]:
    """The ICMPv6 pseudo-header comes and goes (4.2, 5.2), for every length and for sums at their edges."""
    for size in (0, 1, 2, 3, 1400):
        packet = ip4(icmp4(8, 0, b"\1\2\3\4", data(size)), ICMP)
        expect = sent6(ip6(icmp6(128, 0, b"\1\2\3\4", data(size), S6, H6), ICMPV6, S6, H6, hlim=63))
        yield Case(f"4.2-echo-{size}", "7915-ICMP-CSUM", "MUST", NODE, packet, expect)
        packet = ip6(icmp6(128, 0, b"\1\2\3\4", data(size)), ICMPV6)
        flags = "DF" if size == 1400 else 0
        expect = sent4(ip4(icmp4(8, 0, b"\1\2\3\4", data(size)), ICMP, H4, S4, ttl=63, flags=flags))
        yield Case(f"5.2-echo-{size}", "7915-ICMP-CSUM", "MUST", NODE, packet, expect)
    for number in range(4):
        fill = struct.pack("!H", (0xF7FF - number) & 0xFFFF)  # ICMPv4 checksums 0x0000, 0x0001, ...
        packet = ip4(icmp4(8, 0, fill + bytes(2)), ICMP)
        expect = sent6(ip6(icmp6(128, 0, fill + bytes(2), b"", S6, H6), ICMPV6, S6, H6, hlim=63))
        yield Case(f"4.2-echo-edge-{number}", "7915-ICMP-CSUM", "MUST", NODE, packet, expect)
    wrong = bytearray(ip4(icmp4(8, 0, b"\1\2\3\4", data(16)), ICMP))
    wrong[22] ^= 0x10
    right = bytearray(ip6(icmp6(128, 0, b"\1\2\3\4", data(16), S6, H6), ICMPV6, S6, H6, hlim=63))
    right[42] ^= 0x10
    difference = int.from_bytes(wrong[22:24], "big") - int.from_bytes(icmp4(8, 0, b"\1\2\3\4", data(16))[2:4], "big")
    value = int.from_bytes(icmp6(128, 0, b"\1\2\3\4", data(16), S6, H6)[2:4], "big") + difference
    right[42:44] = struct.pack("!H", value % 0xFFFF)
    yield Case("4.2-echo-wrong", "7915-5-CSUMFAIL", "MUST NOT", NODE, bytes(wrong), sent6(bytes(right)))


def cases() -> Iterator[Case]:
    yield from transports()
    yield from headers4()
    yield from headers6()
    yield from refused()
    yield from sizes()
    yield from extensions()
    yield from checksums()


__all__ = ["cases", "word"]
