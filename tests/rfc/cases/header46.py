"""CHECKLIST 2.2: RFC 7915 4.1, and 4.4 for what it discards."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING

from scapy.layers.inet import IPOption

from tests.rfc.cases.base import (
    FRAG,
    GW,
    H4,
    H6,
    ICMP,
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
    icmp4,
    icmp6,
    ip4,
    ip6,
    node,
    out6,
    sent6,
    tcp,
    udp,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ID = 0x1234
U4, U6 = udp(S4, H4), udp(S6, H6)


def simple() -> Iterator[Case]:
    yield Case("4.1-tos-b9", "7915-4.1-TC", "MUST", NODE, ip4(U4, tos=0xB9), sent6(out6(U6, tc=0xB9)))
    zero = node(replace(GW, zero_tc=True))
    yield Case("4.1-tos-zeroed", "7915-4.1-TC", "SHOULD", zero, ip4(U4, tos=0xB9), sent6(out6(U6, tc=0)))
    yield Case("4.1-flow-label-0", "7915-4.1-FLOW", "MUST", NODE, ip4(U4), sent6(out6(U6, fl=0)))
    for ttl in (2, 3, 255):
        yield Case(f"4.1-ttl-{ttl}", "7915-4.1-HL", "MUST", NODE, ip4(U4, ttl=ttl), sent6(out6(U6, hlim=ttl - 1)))
    for ttl in (1, 0):
        packet = ip4(U4, ttl=ttl)
        yield Case(f"4.1-ttl-{ttl}", "7915-4.1-HL", "MUST", NODE, packet, dropped("TTL", error4(packet, 11, 0)))
    quiet = node(replace(GW, icmp_quiet=True))
    packet = ip4(U4, ttl=1)
    yield Case("4.1-ttl-1-quiet", "7915-4.1-HL", "MUST", quiet, packet, dropped("TTL", error4(packet, 11, 0)))
    big = ip4(udp(S4, H4, data(1000)), ttl=1)
    yield Case("4.4-answer-576", "ICMP-SIZE", "MUST", NODE, big, dropped("TTL", error4(big, 11, 0)))
    error = ip4(icmp4(11, 0, bytes(4), ip4(udp(H4, S4), src=H4, dst=S4)), ICMP, ttl=1)
    yield Case("4.4-no-error-about-error", "7915-4.4/5.4", "MUST NOT", NODE, error, dropped("TTL"))
    echo = ip4(icmp4(8, 0, b"\0\1\0\1", b"ping"), ICMP, ttl=1)
    yield Case("4.4-error-about-echo", "7915-4.1-HL", "MUST", NODE, echo, dropped("TTL", error4(echo, 11, 0)))
    late = ip4(data(40), UDP, ttl=1, flags=0, frag=10)
    yield Case("4.4-no-error-about-later-fragment", "7915-4.4/5.4", "MUST NOT", NODE, late, dropped("TTL"))
    padded = ip4(U4) + bytes(18)
    yield Case("4.1-ethernet-padding", "7915-4.1-LEN", "MUST", NODE, padded, sent6(out6(U6)))
    for proto in (33, 47, 50, 51, 59, 89, 132, 136, 253):
        body = data(37)
        case = ip4(body, proto)
        yield Case(f"4.1-proto-{proto}", "7915-4.1-PROTO", "MUST", NODE, case, sent6(out6(body, proto)))
    yield Case("4.1-empty-payload", "7915-4.1-LEN", "MUST", NODE, ip4(b"", 253), sent6(out6(b"", 253)))


def fragmentation() -> Iterator[Case]:
    for size in (0, 1, 1232, 1240):  # 40 + 1240 is 1280: no Fragment Header (RFC 8021)
        body4 = udp(S4, H4, data(size - 8)) if size >= 8 else data(size)
        proto = UDP if size >= 8 else 253
        body6 = udp(S6, H6, data(size - 8)) if size >= 8 else data(size)
        expect = sent6(out6(body6, proto))
        yield Case(f"4.1-df0-{size}", "7915-4.1-DF0-NOFH", "MUST NOT", NODE, ip4(body4, proto, flags=0), expect)
    for low, size in ((1280, 1241), (1280, 1400), (1280, 1480), (1280, 2464), (1280, 2465), (1402, 1400), (1500, 1480)):
        yield _low_mtu(low, size)
    # The next hop is narrower than the configured lowest MTU: its MTU counts.
    body = udp(S6, H6, data(1300))
    parts = (out6(frag6(UDP, body[:1232], 0, True, ID), FRAG), out6(frag6(UDP, body[1232:], 1232, False, ID), FRAG))
    packet = ip4(udp(S4, H4, data(1300)), flags=0)
    yield Case(
        "4.1-low-above-next-hop",
        "7915-4.1-LOWMTU",
        "MUST",
        node(replace(GW, low_mtu=1500), mtu6=1280),
        packet,
        sent6(*parts),
    )
    # An echo request that has to be fragmented keeps one checksum over all of it.
    body = icmp6(128, 0, b"\0\1\0\1", data(1400), S6, H6)
    parts = (out6(frag6(58, body[:1232], 0, True, ID), FRAG), out6(frag6(58, body[1232:], 1232, False, ID), FRAG))
    packet = ip4(icmp4(8, 0, b"\0\1\0\1", data(1400)), ICMP, flags=0)
    yield Case("4.1-df0-big-echo", "7915-4.1-LOWMTU", "SHOULD", NODE, packet, sent6(*parts))
    body = tcp(S6, H6, data(1380))
    parts = (out6(frag6(TCP, body[:1232], 0, True, ID), FRAG), out6(frag6(TCP, body[1232:], 1232, False, ID), FRAG))
    packet = ip4(tcp(S4, H4, data(1380)), TCP, flags=0)
    yield Case("4.1-df0-big-tcp", "7915-4.1-LOWMTU", "SHOULD", NODE, packet, sent6(*parts))
    packet = ip4(udp(S4, H4, data(1440)))
    yield Case("4.1-df1-fits", "7915-4.1-DF1-BIG", "MUST", NODE, packet, sent6(out6(udp(S6, H6, data(1440)))))
    for mtu, size in ((1500, 1481), (1400, 1400), (1280, 1261)):
        packet = ip4(data(size - 20), 253) if mtu < 1500 else ip4(udp(S4, H4, data(size - 28)))
        answer = error4(packet, 3, 4, mtu - 20)
        yield Case(
            f"4.1-df1-{size}-mtu-{mtu}", "7915-4.1-DF1-BIG", "MUST", node(mtu6=mtu), packet, dropped("TOO_BIG", answer)
        )
    quiet = node(replace(GW, icmp_quiet=True))
    packet = ip4(udp(S4, H4, data(1460)))
    yield Case(
        "4.1-df1-big-quiet", "7915-4.1-DF1-BIG", "MUST", quiet, packet, dropped("TOO_BIG", error4(packet, 3, 4, 1480))
    )


def _low_mtu(low: int, size: int) -> Case:
    """An unfragmented packet without DF whose IPv4 payload is `size` bytes."""
    body4, body6 = udp(S4, H4, data(size - 8)), udp(S6, H6, data(size - 8))
    gw = node(replace(GW, low_mtu=low), mtu4=9000, mtu6=9000)
    step = (low - 48) // 8 * 8
    if 40 + size <= low:
        parts = [out6(body6)]
    else:
        parts = [out6(frag6(UDP, body6[at : at + step], at, at + step < size, ID), FRAG) for at in range(0, size, step)]
    return Case(f"4.1-low-{low}-payload-{size}", "7915-4.1-LOWMTU", "SHOULD", gw, ip4(body4, flags=0), sent6(*parts))


def fragments() -> Iterator[Case]:
    whole4, whole6 = udp(S4, H4, data(92)), udp(S6, H6, data(92))
    for name, lo, hi in (("first", 0, 40), ("middle", 40, 80), ("last", 80, 100)):
        more = hi < 100
        packet = ip4(whole4[lo:hi], flags="MF" if more else 0, frag=lo // 8, id=0xFEDC)
        expect = out6(frag6(UDP, whole6[lo:hi], lo, more, 0xFEDC), FRAG)
        yield Case(f"4.1-fragment-{name}", "7915-4.1-FRAG", "MUST", NODE, packet, sent6(expect))
    packet = ip4(whole4[:40], flags="MF+DF", id=0xFEDC)
    yield Case(
        "4.1-fragment-df",
        "7915-4.1-FRAG",
        "MUST",
        NODE,
        packet,
        sent6(out6(frag6(UDP, whole6[:40], 0, True, 0xFEDC), FRAG)),
    )
    packet = ip4(data(16), TCP, flags=0, frag=8190 - 4, id=1)
    yield Case(
        "4.1-fragment-far",
        "7915-4.1-FRAG",
        "MUST",
        NODE,
        packet,
        sent6(out6(frag6(TCP, data(16), 65488, False, 1), FRAG)),
    )
    packet = ip4(data(24), 132, flags="MF", id=0)
    yield Case(
        "4.1-fragment-id-0", "7915-4.1-FRAG", "MUST", NODE, packet, sent6(out6(frag6(132, data(24), 0, True, 0), FRAG))
    )
    body = data(1400)
    for name, flags, offset in (("middle", "MF", 1480), ("last", 0, 1480)):
        packet = ip4(body, UDP, flags=flags, frag=offset // 8, id=0xFEDC)
        parts = (
            out6(frag6(UDP, body[:1232], offset, True, 0xFEDC), FRAG),
            out6(frag6(UDP, body[1232:], offset + 1232, flags == "MF", 0xFEDC), FRAG),
        )
        yield Case(f"4.1-fragment-of-{name}-fragment", "7915-4.1-LOWMTU", "SHOULD", NODE, packet, sent6(*parts))
    packet = ip4(data(1232), UDP, flags="MF", frag=185, id=7)
    yield Case(
        "4.1-fragment-1280",
        "7915-4.1-FRAG",
        "MUST",
        NODE,
        packet,
        sent6(out6(frag6(UDP, data(1232), 1480, True, 7), FRAG)),
    )
    yield Case(
        "1.2-fragmented-echo", "7915-1.2-FRAGICMP", "will not", NODE,
        ip4(icmp4(8, 0, bytes(4), data(56)), ICMP, flags="MF"), dropped("ICMP_FRAGMENT"),
    )  # fmt: skip
    yield Case(
        "1.2-fragmented-echo-last", "7915-1.2-FRAGICMP", "will not", NODE,
        ip4(data(56), ICMP, flags=0, frag=8), dropped("ICMP_FRAGMENT"),
    )  # fmt: skip


def option(kind: int, pointer: int, slots: int = 1) -> bytes:
    return struct.pack("!BBB", kind, 3 + 4 * slots, pointer) + bytes(4 * slots)


def options() -> Iterator[Case]:
    """The options follow the header raw, so that every byte is as written."""
    plain = {
        "router-alert": b"\x94\x04\0\0",
        "record-route": option(7, 4, 2) + b"\0",
        "timestamp": b"\x44\x08\x05\0\0\0\0\0",
        "nops": b"\1\1\1\0",
        "forty-bytes": option(7, 4, 9) + b"\0",
        "behind-the-end": b"\0" + option(131, 4),  # RFC 791: nothing counts behind end-of-options
        "expired-lsrr": option(131, 8) + b"\0",
        "expired-ssrr": option(137, 8) + b"\0",
        "unknown": b"\x5e\x04\1\2",
    }
    for name, raw in plain.items():
        packet = ip4(U4, options=IPOption(raw))
        yield Case(f"4.1-option-{name}", "7915-4.1-OPT", "MUST", NODE, packet, sent6(out6(U6)))
    packet = ip4(tcp(S4, H4, data(20)), TCP, options=IPOption(plain["forty-bytes"]))
    yield Case("4.1-option-tcp", "7915-4.1-LEN", "MUST", NODE, packet, sent6(out6(tcp(S6, H6, data(20)), TCP)))
    # The total length of 1280 has 40 bytes of options; without them the packet fits 1280 as IPv6.
    packet = ip4(udp(S4, H4, data(1212)), flags=0, options=IPOption(plain["forty-bytes"]))
    yield Case("4.1-option-df0-fits", "7915-4.1-LEN", "MUST", NODE, packet, sent6(out6(udp(S6, H6, data(1212)))))
    for name, raw in (
        ("lsrr", option(131, 4) + b"\0"),
        ("ssrr", option(137, 4) + b"\0"),
        ("lsrr-second", option(131, 8, 2) + b"\0"),
        ("ssrr-behind-nop", b"\1" + option(137, 4)),
    ):
        packet = ip4(U4, options=IPOption(raw))
        yield Case(f"4.1-{name}", "7915-4.1-SRR", "MUST", NODE, packet, dropped("SOURCE_ROUTE", error4(packet, 3, 5)))


def sources() -> Iterator[Case]:
    for src in ("0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.5", "239.1.1.1", "255.255.255.255"):
        packet = ip4(udp(src, H4), src=src)
        yield Case(f"4.1-source-{src}", "7915-4.1-SRC", "SHOULD", NODE, packet, dropped("SRC_ILLEGAL"))
        inner4, inner6 = ip4(udp(H4, S4), src=H4, dst=S4, ttl=9), ip6(udp(H6, S6), hlim=9)
        src6 = {"0.0.0.0": "2001:db8:100::", "0.1.2.3": "2001:db8:100:102:3::", "127.0.0.1": "2001:db8:17f:0:1::"}.get(
            src
        )
        if src6 is None:
            continue
        error = ip4(icmp4(11, 0, bytes(4), inner4), ICMP, src=src)
        expect = sent6(ip6(icmp6(3, 0, bytes(4), inner6, src6, H6), 58, src6, H6, hlim=63))
        yield Case(f"4.1-error-source-{src}", "7915-4.1-SRC", "MUST", NODE, error, expect)
    for src in ("10.1.1.1", "169.254.1.1", "192.168.0.1", "128.0.0.1", "1.0.0.0", "126.255.255.255", "223.255.255.255"):
        prefix = "2001:db8:1%02x:%02x%02x:%02x::"
        octets = [int(o) for o in src.split(".")]
        src6 = prefix % tuple(octets)
        packet = ip4(udp(src, H4), src=src)
        yield Case(
            f"4.1-source-{src}",
            "7915-4.1-SRC",
            "SHOULD",
            NODE,
            packet,
            sent6(ip6(udp(src6, H6), src=src6, dst=H6, hlim=63)),
        )


def cases() -> Iterator[Case]:
    yield from simple()
    yield from fragmentation()
    yield from fragments()
    yield from options()
    yield from sources()
