"""CHECKLIST 2.3: RFC 7915 5.1, 5.1.1, and 5.4 for what it discards."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.rfc.cases.base import (
    FRAG,
    GW,
    H4,
    H6,
    ICMPV6,
    NODE,
    S4,
    S6,
    TCP,
    UDP,
    Case,
    data,
    dropped,
    error6,
    frag6,
    icmp4,
    icmp6,
    ip6,
    node,
    out4,
    sent4,
    tcp,
    udp,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

HBH, ROUTING, AH, ESP, DEST = 0, 43, 51, 50, 60
ID = 0x0001FEDC
U4, U6 = udp(H4, S4), udp(H6, S6)


def ext(nh: int, units: int = 0) -> bytes:
    """An options header of 8 + 8 * units bytes: PadN."""
    size = 6 + 8 * units
    return bytes((nh, units, 1, size - 2)) + bytes(size - 2)


def routing(nh: int, left: int, kind: int = 0, slots: int = 1) -> bytes:
    return bytes((nh, 2 * slots, kind, left)) + bytes(4 + 16 * slots)


def simple() -> Iterator[Case]:
    yield Case("5.1-tc-b9", "7915-5.1-TOS", "MUST", NODE, ip6(U6, tc=0xB9), sent4(out4(U4, tos=0xB9)))
    fixed = node(replace(GW, fixed_tos=0x28))
    yield Case("5.1-tos-fixed", "7915-5.1-TOS", "SHOULD", fixed, ip6(U6, tc=0xB9), sent4(out4(U4, tos=0x28)))
    yield Case(
        "5.1-tos-fixed-0",
        "7915-5.1-TOS",
        "SHOULD",
        node(replace(GW, fixed_tos=0)),
        ip6(U6, tc=0xB9),
        sent4(out4(U4, tos=0)),
    )
    yield Case("5.1-flow-label", "7915-5.1-TOS", "MUST", NODE, ip6(U6, fl=0xABCDE, tc=0x03), sent4(out4(U4, tos=0x03)))
    for hops in (2, 255):
        yield Case(
            f"5.1-hop-limit-{hops}", "7915-5.1-TTL", "MUST", NODE, ip6(U6, hlim=hops), sent4(out4(U4, ttl=hops - 1))
        )
    for hops in (1, 0):
        packet = ip6(U6, hlim=hops)
        yield Case(f"5.1-hop-limit-{hops}", "7915-5.1-TTL", "MUST", NODE, packet, dropped("TTL", error6(packet, 3, 0)))
    big = ip6(udp(H6, S6, data(1440)), hlim=1)
    yield Case("5.4-answer-1280", "ICMP-SIZE", "MUST", NODE, big, dropped("TTL", error6(big, 3, 0)))
    error = ip6(icmp6(1, 0, bytes(4), ip6(udp(S6, H6), src=S6, dst=H6)), ICMPV6, hlim=1)
    yield Case("5.4-no-error-about-error", "7915-4.4/5.4", "MUST NOT", NODE, error, dropped("TTL"))
    echo = ip6(icmp6(128, 0, b"\0\1\0\1", b"ping"), ICMPV6, hlim=1)
    yield Case("5.4-error-about-echo", "7915-5.1-TTL", "MUST", NODE, echo, dropped("TTL", error6(echo, 3, 0)))
    yield Case("5.1-ethernet-padding", "7915-5.1-EXT", "MUST", NODE, ip6(U6) + bytes(6), sent4(out4(U4)))
    for proto in (33, 47, ESP, AH, 59, 89, 132, 136, 253):
        yield Case(
            f"5.1-proto-{proto}", "7915-4.1-PROTO", "MUST", NODE, ip6(data(37), proto), sent4(out4(data(37), proto))
        )
    yield Case("5.1-empty-payload", "7915-4.1-PROTO", "MUST", NODE, ip6(b"", 59), sent4(out4(b"", 59)))


def df() -> Iterator[Case]:
    """DF by the size of the IPv4 packet: 1260 is the last without it (5.1)."""
    for total in (1259, 1260, 1261, 1500):
        body6, body4 = udp(H6, S6, data(total - 28)), udp(H4, S4, data(total - 28))
        flags = "DF" if total > 1260 else 0
        wide = node(mtu6=9000)
        yield Case(f"5.1-df-{total}", "7915-5.1-DF", "MUST", wide, ip6(body6), sent4(out4(body4, flags=flags)))
    # With extension headers it is still the IPv4 size that counts.
    body6, body4 = udp(H6, S6, data(1232)), udp(H4, S4, data(1232))
    yield Case(
        "5.1-df-exthdr", "7915-5.1-DF", "MUST", NODE, ip6(ext(UDP, 3) + body6, DEST), sent4(out4(body4, flags=0))
    )


def too_big() -> Iterator[Case]:
    """More than the IPv4 link carries, at its edge, with every kind of MTU."""
    for mtu in (1400, 1261, 1300):
        packet = ip6(udp(H6, S6, data(mtu - 20 - 8 + 1)))
        answer = error6(packet, 2, 0, max(1280, mtu + 20))
        yield Case(f"1.4-too-big-{mtu}", "7915-1.4-PTB", "MUST", node(mtu4=mtu), packet, dropped("TOO_BIG", answer))
        packet = ip6(udp(H6, S6, data(mtu - 28)))
        flags = "DF" if mtu > 1260 else 0
        yield Case(
            f"1.4-fits-{mtu}",
            "7915-1.4-PTB",
            "MUST",
            node(mtu4=mtu),
            packet,
            sent4(out4(udp(H4, S4, data(mtu - 28)), flags=flags)),
        )
    packet = ip6(udp(H6, S6, data(1440)))
    yield Case(
        "1.4-too-big-small-mtu",
        "7915-1.4-PTB",
        "MUST",
        node(mtu4=1000),
        packet,
        dropped("TOO_BIG", error6(packet, 2, 0, 1280)),
    )
    packet = ip6(frag6(UDP, data(1384), 0, True, ID), FRAG)
    yield Case(
        "1.4-too-big-fragment",
        "7915-1.4-PTB",
        "MUST",
        node(mtu4=1400),
        packet,
        dropped("TOO_BIG", error6(packet, 2, 0, 1420)),
    )
    quiet = node(replace(GW, icmp_quiet=True), mtu4=1400)
    packet = ip6(udp(H6, S6, data(1400)))
    yield Case(
        "1.4-too-big-quiet", "7915-1.4-PTB", "MUST", quiet, packet, dropped("TOO_BIG", error6(packet, 2, 0, 1420))
    )


def small_mtu() -> Iterator[Case]:
    """5.1: at most 1280 bytes of IPv6, too big for the IPv4 link: fragmented in IPv4."""
    body6, body4 = udp(H6, S6, data(1192)), udp(H4, S4, data(1192))
    parts = (out4(body4[:976], flags="MF"), out4(body4[976:], frag=122))
    yield Case("5.1.1-small-mtu", "7915-5.1.1-SMALL", "MUST", node(mtu4=1000), ip6(body6), sent4(*parts))
    tail = data(1200)
    parts = (
        out4(tail[:976], flags="MF", frag=181, id=0xFEDC),
        out4(tail[976:], flags="MF", frag=181 + 122, id=0xFEDC),
    )
    packet = ip6(frag6(UDP, tail, 1448, True, ID), FRAG)
    yield Case(
        "5.1.1-small-mtu-fragment", "7915-5.1.1-SMALL", "MUST", node(mtu4=1000), packet, sent4(*parts, free_id=False)
    )


def extension_headers() -> Iterator[Case]:
    chains = {
        "hop-by-hop": (HBH, ext(UDP)),
        "dest-opts": (DEST, ext(UDP, 2)),
        "routing-done": (ROUTING, routing(UDP, 0)),
        "routing-type-4": (ROUTING, routing(UDP, 0, 4)),
        "all-four": (HBH, ext(DEST) + ext(ROUTING, 1) + routing(DEST, 0) + ext(UDP)),
        "long": (DEST, ext(UDP, 20)),
    }
    for name, (nh, chain) in chains.items():
        yield Case(f"5.1-ext-{name}", "7915-5.1-EXT", "MUST", NODE, ip6(chain + U6, nh), sent4(out4(U4)))
    packet = ip6(ext(TCP) + tcp(H6, S6, data(50)), HBH)
    yield Case("5.1-ext-tcp", "7915-5.1-EXT", "MUST", NODE, packet, sent4(out4(tcp(H4, S4, data(50)), TCP)))
    packet = ip6(ext(ICMPV6) + icmp6(128, 0, b"\0\1\0\1", b"ping"), DEST)
    yield Case("5.1-ext-echo", "7915-5.1-EXT", "MUST", NODE, packet, sent4(out4(icmp4(8, 0, b"\0\1\0\1", b"ping"), 1)))
    for name, chain, nh, pointer in (
        ("first", routing(UDP, 1), ROUTING, 43),
        ("behind-hop-by-hop", ext(ROUTING) + routing(UDP, 2, 4, 2), HBH, 51),
        ("second", routing(ROUTING, 0) + routing(UDP, 1), ROUTING, 67),
    ):
        packet = ip6(chain + U6, nh)
        answer = error6(packet, 4, 0, pointer)
        yield Case(
            f"5.1-segments-left-{name}", "7915-5.1-RH", "MUST NOT", NODE, packet, dropped("ROUTING_HEADER", answer)
        )
    past_end = ip6(struct.pack("!BB", UDP, 200) + data(22), DEST)
    yield Case("5.1-ext-past-end", "7915-5.1-EXT", "MUST", NODE, past_end, dropped("BAD_EXTHDR"))


def fragments() -> Iterator[Case]:
    whole6, whole4 = udp(H6, S6, data(92)), udp(H4, S4, data(92))
    for name, lo, hi in (("first", 0, 40), ("middle", 40, 80), ("last", 80, 100)):
        more = hi < 100
        packet = ip6(frag6(UDP, whole6[lo:hi], lo, more, ID), FRAG)
        expect = out4(whole4[lo:hi], flags="MF" if more else 0, frag=lo // 8, id=0xFEDC)
        yield Case(f"5.1.1-{name}", "7915-5.1.1-FRAG", "MUST", NODE, packet, sent4(expect, free_id=False))
    packet = ip6(frag6(UDP, whole6, 0, False, ID), FRAG)
    yield Case("5.1.1-atomic", "7915-5.1.1-FRAG", "MUST", NODE, packet, sent4(out4(whole4, id=0xFEDC), free_id=False))
    packet = ip6(frag6(ICMPV6, icmp6(129, 0, b"\0\1\0\1", b"ping"), 0, False, ID), FRAG)
    expect = out4(icmp4(0, 0, b"\0\1\0\1", b"ping"), 1, id=0xFEDC)
    yield Case("5.1.1-atomic-echo", "7915-5.1.1-FRAG", "MUST", NODE, packet, sent4(expect, free_id=False))
    packet = ip6(ext(FRAG) + frag6(TCP, tcp(H6, S6, data(44)), 0, True, ID), HBH)
    expect = out4(tcp(H4, S4, data(44)), TCP, flags="MF", id=0xFEDC)
    yield Case("5.1.1-behind-hop-by-hop", "7915-5.1.1-FRAG", "MUST", NODE, packet, sent4(expect, free_id=False))
    packet = ip6(frag6(UDP, data(1400), 1448, True, ID), FRAG)
    expect = out4(data(1400), flags="MF", frag=181, id=0xFEDC)
    yield Case("5.1.1-big-df-0", "7915-5.1-DF", "MUST", NODE, packet, sent4(expect, free_id=False))
    packet = ip6(frag6(ESP, data(64), 0, True, ID), FRAG)
    expect = out4(data(64), ESP, flags="MF", id=0xFEDC)
    yield Case("5.1.1-esp", "7915-5.1.1-FRAG", "MUST", NODE, packet, sent4(expect, free_id=False))
    packet = ip6(frag6(59, b"", 0, False, ID), FRAG)
    yield Case(
        "5.1.1-no-next-header", "7915-5.1.1-FRAG", "MUST", NODE, packet, sent4(out4(b"", 59, id=0xFEDC), free_id=False)
    )
    for nh, chain in (
        (HBH, ext(UDP) + U6),
        (DEST, ext(UDP) + U6),
        (ROUTING, routing(UDP, 0) + U6),
        (AH, bytes((UDP, 4)) + bytes(22) + U6),
    ):
        for name, offset, more in (("atomic", 0, False), ("first", 0, True), ("later", 256, False)):
            packet = ip6(frag6(nh, chain, offset, more, ID), FRAG)
            answer = error6(packet, 1, 1)
            yield Case(
                f"5.1.1-ext-{nh}-{name}",
                "7915-5.1.1-EXTFRAG",
                "SHOULD",
                NODE,
                packet,
                dropped("FRAGMENT_EXTHDR", answer),
            )
    packet = ip6(frag6(FRAG, frag6(UDP, whole6, 0, False, ID), 0, False, ID), FRAG)
    yield Case(
        "5.1.1-ext-44", "7915-5.1.1-EXTFRAG", "SHOULD", NODE, packet, dropped("FRAGMENT_EXTHDR", error6(packet, 1, 1))
    )
    packet = ip6(frag6(DEST, ext(UDP) + U6, 0, True, ID), FRAG)
    quiet = node(replace(GW, icmp_quiet=True))
    yield Case("5.1.1-ext-quiet", "7915-4.4/5.4", "SHOULD", quiet, packet, dropped("FRAGMENT_EXTHDR"))
    echo = icmp6(128, 0, bytes(4), data(100))
    packet = ip6(frag6(ICMPV6, echo[:56], 0, True, ID), FRAG)
    yield Case("1.2-fragmented-echo6", "7915-1.2-FRAGICMP", "will not", NODE, packet, dropped("ICMP_FRAGMENT"))
    packet = ip6(frag6(ICMPV6, echo[56:], 56, False, ID), FRAG)
    yield Case("1.2-fragmented-echo6-last", "7915-1.2-FRAGICMP", "will not", NODE, packet, dropped("ICMP_FRAGMENT"))


def sources() -> Iterator[Case]:
    for src in ("::", "::1", "fe80::1", "febf::1", "ff02::1", "ff0e::1"):
        packet = ip6(udp(src, S6), src=src)
        yield Case(f"5.1-source-{src}", "7915-5.1-SRC", "SHOULD", NODE, packet, dropped("SRC_ILLEGAL"))
    packet = ip6(udp("2001:db8:17f:0:1::", S6), src="2001:db8:17f:0:1::")
    yield Case(
        "5.1-source-maps-to-loopback",
        "7915-5.1-SRC",
        "SHOULD",
        NODE,
        packet,
        dropped("SRC_ILLEGAL") + dropped("MAPPING"),
    )


def cases() -> Iterator[Case]:
    yield from simple()
    yield from df()
    yield from too_big()
    yield from small_mtu()
    yield from extension_headers()
    yield from fragments()
    yield from sources()
