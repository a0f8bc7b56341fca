"""CHECKLIST 2.4, the tables: RFC 7915 4.2 with figure 3, 5.2 with figure 6, MTUs and RFC 1191 plateaus."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tests.rfc.cases.base import (
    GW,
    H4,
    H6,
    ICMP,
    ICMPV6,
    NODE,
    S4,
    S6,
    UNTOUCHED,
    Case,
    data,
    dropped,
    eam,
    frag6,
    icmp4,
    icmp6,
    ip4,
    ip6,
    node,
    sent4,
    sent6,
    udp,
    word,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rfc.config import Node
    from tests.rfc.verdict import Verdict

# RFC 7915 4.2: ICMPv4 type/code to ICMPv6 type/code and the word behind the checksum; None is "silently drop".
ROWS46: dict[tuple[int, int], tuple[int, int, int] | None] = {
    (3, 0): (1, 0, 0), (3, 1): (1, 0, 0), (3, 2): (4, 1, 6), (3, 3): (1, 4, 0), (3, 5): (1, 0, 0), (3, 6): (1, 0, 0),
    (3, 7): (1, 0, 0), (3, 8): (1, 0, 0), (3, 9): (1, 1, 0), (3, 10): (1, 1, 0), (3, 11): (1, 0, 0), (3, 12): (1, 0, 0),
    (3, 13): (1, 1, 0), (3, 14): None, (3, 15): (1, 1, 0), (3, 16): None, (3, 255): None,
    (4, 0): None, (5, 0): None, (5, 1): None, (5, 2): None, (5, 3): None,
    (11, 0): (3, 0, 0), (11, 1): (3, 1, 0), (12, 1): None, (12, 3): None, (12, 255): None,
}  # fmt: skip
# Messages that are no errors and have no equivalent, and types that are not known.
SILENT46 = (6, 9, 10, 13, 14, 15, 16, 17, 18, 1, 2, 7, 19, 30, 37, 40, 41, 42, 43, 253, 255)
# RFC 7915 5.2, the same way.
ROWS64: dict[tuple[int, int], tuple[int, int, int] | None] = {
    (1, 0): (3, 1, 0), (1, 1): (3, 10, 0), (1, 2): (3, 1, 0), (1, 3): (3, 1, 0), (1, 4): (3, 3, 0),
    (1, 5): None, (1, 6): None, (1, 7): None, (1, 255): None,
    (3, 0): (11, 0, 0), (3, 1): (11, 1, 0), (4, 1): (3, 2, 0), (4, 2): None, (4, 3): None, (4, 255): None,
}  # fmt: skip
SILENT64 = (130, 131, 132, 138, 139, 141, 143, 144, 151, 160, 200, 255)
UNKNOWN_ERRORS64 = (0, 5, 99, 100, 101, 127)
# Figures 3 and 6.
POINTERS46 = {0: 0, 1: 1, 2: 4, 3: 4, 8: 7, 9: 6, 12: 8, 13: 8, 14: 8, 15: 8, 16: 24, 17: 24, 18: 24, 19: 24}
POINTERS64 = {0: 0, 1: 1, 4: 2, 5: 2, 6: 9, 7: 8} | dict.fromkeys(range(8, 24), 12) | dict.fromkeys(range(24, 40), 16)

INNER4 = ip4(udp(H4, S4, data(60)), src=H4, dst=S4, ttl=9)
INNER6 = ip6(udp(H6, S6, data(60)), src=H6, dst=S6, hlim=9)
BACK6 = ip6(udp(S6, H6, data(60)), src=S6, dst=H6, hlim=9)
BACK4 = ip4(udp(S4, H4, data(60)), src=S4, dst=H4, ttl=9, flags=0)


def to6(kind: int, code: int, rest: int, inner: bytes = INNER6) -> tuple[Verdict, ...]:
    return sent6(ip6(icmp6(kind, code, word(rest), inner, S6, H6), ICMPV6, S6, H6, hlim=63))


def to4(kind: int, code: int, rest: int, inner: bytes = BACK4, *, inner_id: bool = True) -> tuple[Verdict, ...]:
    return sent4(ip4(icmp4(kind, code, word(rest), inner), ICMP, H4, S4, ttl=63, flags=0), inner_id=inner_id)


def error46(kind: int, code: int, rest: int = 0, inner: bytes = INNER4) -> bytes:
    return ip4(icmp4(kind, code, word(rest), inner), ICMP)


def error64(kind: int, code: int, rest: int = 0, inner: bytes = BACK6) -> bytes:
    return ip6(icmp6(kind, code, word(rest), inner), ICMPV6)


def tables() -> Iterator[Case]:
    for (kind, code), row46 in ROWS46.items():
        expect = dropped("ICMP_TYPE") if row46 is None else to6(*row46)
        yield Case(f"4.2-{kind}/{code}", "7915-4.2-TAB", "MUST", NODE, error46(kind, code), expect)
    for kind in SILENT46:
        packet = ip4(icmp4(kind, 0, b"\0\1\0\1", data(12)), ICMP)
        yield Case(f"4.2-{kind}/0", "7915-4.2-TAB", "MUST", NODE, packet, dropped("ICMP_TYPE"))
    for kind, new in ((8, 128), (0, 129)):
        packet = ip4(icmp4(kind, 0, b"\1\2\3\4", data(33)), ICMP)
        expect = sent6(ip6(icmp6(new, 0, b"\1\2\3\4", data(33), S6, H6), ICMPV6, S6, H6, hlim=63))
        yield Case(f"4.2-{kind}/0", "7915-4.2-TAB", "MUST", NODE, packet, expect)
    yield Case("4.2-igmp", "7915-4.2-TAB", "SHOULD", NODE, ip4(b"\x16\0\0\0\xe0\0\0\x16", 2), dropped("ICMP_TYPE"))
    for (kind, code), row64 in ROWS64.items():
        expect = dropped("ICMP_TYPE") if row64 is None else to4(*row64)
        yield Case(f"5.2-{kind}/{code}", "7915-5.2-TAB", "MUST", NODE, error64(kind, code), expect)
    for kind in UNKNOWN_ERRORS64:
        yield Case(f"5.2-{kind}/0", "7915-5.2-TAB", "MUST", NODE, error64(kind, 0), dropped("ICMP_TYPE"))
    for kind in SILENT64:
        packet = ip6(icmp6(kind, 0, bytes(4), data(16)), ICMPV6)
        yield Case(f"5.2-{kind}/0", "7915-5.2-TAB", "MUST", NODE, packet, dropped("ICMP_TYPE"))
    for kind in range(133, 138):
        packet = ip6(icmp6(kind, 0, bytes(4), data(20)), ICMPV6)
        yield Case(f"5.2-{kind}/0", "7915-5.2-TAB", "MUST", NODE, packet, dropped("ICMP_TYPE"))
        packet = ip6(icmp6(kind, 0, bytes(4), data(20)), ICMPV6, hlim=255)
        expect = (*dropped("ICMP_TYPE"), *UNTOUCHED)
        yield Case(f"5.2-{kind}/0-on-link", "7915-5.2-TAB", "MUST", NODE, packet, expect)
    for kind, new in ((128, 8), (129, 0)):
        packet = ip6(icmp6(kind, 0, b"\1\2\3\4", data(33)), ICMPV6)
        expect = sent4(ip4(icmp4(new, 0, b"\1\2\3\4", data(33)), ICMP, H4, S4, ttl=63, flags=0))
        yield Case(f"5.2-{kind}/0", "7915-5.2-TAB", "MUST", NODE, packet, expect)
    for kind in (11, 3):
        code = 7  # "the Code is unchanged"
        if kind == 11:
            yield Case("4.2-code-unchanged", "7915-4.2-CODE", "MUST", NODE, error46(11, code), to6(3, code, 0))
        else:
            yield Case("5.2-code-unchanged", "7915-4.2-CODE", "MUST", NODE, error64(3, code), to4(11, code, 0))


def pointers() -> Iterator[Case]:
    for code in (0, 2):
        for pointer in (*range(21), 40, 255):
            new = POINTERS46.get(pointer)
            expect = dropped("ICMP_POINTER") if new is None else to6(4, 0, new)
            packet = error46(12, code, pointer << 24)
            yield Case(f"4.2-12/{code}-pointer-{pointer}", "7915-PTR", "MUST", NODE, packet, expect)
    for pointer in (*range(41), 48, 255, 256, 0x01000000, 0xFFFFFFFF):
        new = POINTERS64.get(pointer)
        expect = dropped("ICMP_POINTER") if new is None else to4(12, 0, new << 24)
        yield Case(f"5.2-4/0-pointer-{pointer}", "7915-PTR", "MUST", NODE, error64(4, 0, pointer), expect)


def mtus46() -> Iterator[Case]:
    """max(1280, min(m + 20, MTU of the IPv6 next hop, MTU of the IPv4 next hop + 20))."""
    rows = (
        (1500, 1500, 1500, 1500), (1480, 1500, 1500, 1500), (1400, 1500, 1500, 1420), (1261, 1500, 1500, 1281),
        (1260, 1500, 1500, 1280), (1259, 1500, 1500, 1280), (576, 1500, 1500, 1280), (1, 1500, 1500, 1280),
        (65535, 1500, 1500, 1500), (9000, 1400, 9000, 1420), (9000, 9000, 1400, 1400), (1500, 1300, 9000, 1320),
        (8980, 9000, 9000, 9000), (65535, 1280, 1280, 1280),
    )  # fmt: skip
    for mtu, mtu4, mtu6, expect in rows:
        here = node(mtu4=mtu4, mtu6=mtu6)
        name = f"4.2-mtu-{mtu}-of-{mtu4}-{mtu6}"
        yield Case(name, "7915-4.2-MTU46", "MUST", here, error46(3, 4, mtu), to6(2, 0, expect))
    # RFC 1191 7.1: the largest plateau below the total length of the packet in error, not below 1280.
    wide = node(mtu4=65535, mtu6=65535)
    for total, plateau in (
        (65535, 32000), (32001, 32000), (32000, 17914), (17915, 17914), (17914, 8166), (8167, 8166), (8166, 4352),
        (4353, 4352), (4352, 2002), (2003, 2002), (2002, 1492), (1500, 1492), (1493, 1492), (1492, 1280), (1300, 1280),
        (1007, 1280), (68, 1280),
    ):  # fmt: skip
        yield plateau_case(wide, total, plateau, f"4.2-plateau-{total}")
    yield plateau_case(NODE, 9000, 1500, "4.2-plateau-9000-next-hop-1500")


def plateau_case(here: Node, total: int, mtu: int, name: str) -> Case:
    """A Fragmentation Needed of a router that does not know RFC 1191, about a packet of `total` bytes cut to 40."""
    body = data(20)
    inner4 = _cut4(total, body)
    inner6 = _cut6(total - 20, body)
    return Case(name, "7915-4.2-PLAT", "MUST", here, error46(3, 4, 0, inner4), to6(2, 0, mtu, inner6))


def _cut4(total: int, body: bytes) -> bytes:
    """The head of an IPv4 packet of protocol 253 whose header says `total` bytes."""
    return ip4(body, 253, H4, S4, ttl=9, len=total)


def _cut6(length: int, body: bytes) -> bytes:
    return ip6(body, 253, H6, S6, hlim=9, plen=length)


def mtus64() -> Iterator[Case]:
    """min(m - 20, MTU of the IPv4 next hop, MTU of the IPv6 next hop - 20); 8 less for a Fragment Header."""
    rows = (
        (1500, 1500, 1500, 1480), (1420, 1500, 1500, 1400), (1280, 1500, 1500, 1260), (1281, 1500, 1500, 1261),
        (9000, 1500, 9000, 1500), (9000, 9000, 1400, 1380), (9000, 1400, 1500, 1400), (65535, 1500, 1500, 1480),
        (0x00010000, 1500, 1500, 1480), (0xFFFFFFFF, 9000, 9000, 8980),
    )  # fmt: skip
    for mtu, mtu4, mtu6, want in rows:
        here = node(mtu4=mtu4, mtu6=mtu6)
        name = f"5.2-mtu-{mtu}-of-{mtu4}-{mtu6}"
        yield Case(name, "7915-5.2-MTU64", "MUST", here, error64(2, 0, mtu), to4(3, 4, want))
    for mtu in (0, 20, 68, 576, 1279):  # RFC 8201 4: below the IPv6 minimum, so never lower than 1280 says
        yield Case(f"5.2-mtu-{mtu}", "7915-5.2-MTU64", "MUST", NODE, error64(2, 0, mtu), to4(3, 4, 1260))
    whole6, whole4 = udp(S6, H6, data(60)), udp(S4, H4, data(60))
    inner6 = ip6(frag6(17, whole6, 0, True, 0xABCD), 44, S6, H6, hlim=9)
    inner4 = ip4(whole4, 17, S4, H4, ttl=9, flags="MF", id=0xABCD)
    expect = to4(3, 4, 1392, inner4, inner_id=False)
    yield Case("5.2-mtu-1420-fragment", "7915-5.2-MTU64", "MUST", NODE, error64(2, 0, 1420, inner6), expect)
    coded = ip6(icmp6(2, 1, word(1400), BACK6), ICMPV6)  # RFC 4443 3.2: the code is ignored
    yield Case("5.2-2/1", "7915-5.2-TAB", "MUST", NODE, coded, to4(3, 4, 1380))


def other_gateways() -> Iterator[Case]:
    """The tables hold whatever maps the addresses."""
    gw = replace(GW, eams=(eam("192.0.2.33/32", "2001:db8:6::33/128"),))
    dst6 = "2001:db8:6::33"
    inner6 = ip6(udp(dst6, S6, data(60)), src=dst6, dst=S6, hlim=9)
    packet = error46(3, 3)
    expect = sent6(ip6(icmp6(1, 4, bytes(4), inner6, S6, dst6), ICMPV6, S6, dst6, hlim=63))
    yield Case("4.2-3/3-eam", "7915-4.3-INNER", "MUST", node(gw), packet, expect)


def cases() -> Iterator[Case]:
    yield from tables()
    yield from pointers()
    yield from mtus46()
    yield from mtus64()
    yield from other_gateways()
