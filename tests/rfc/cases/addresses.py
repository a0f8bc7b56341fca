"""CHECKLIST 2.1: RFC 6052, RFC 8215, RFC 7757."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from tests.rfc.cases.base import (
    ALIEN6,
    GW,
    H4,
    H6,
    ICMP,
    ICMPV6,
    NODE,
    OWN4,
    OWN6,
    S4,
    S6,
    UNTOUCHED,
    Case,
    dropped,
    eam,
    error4,
    error6,
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
from tests.rfc.config import Gateway
from tests.rfc.verdict import Drop

if TYPE_CHECKING:
    from collections.abc import Iterator

# RFC 6052 2.4, and the same lengths for addresses with every bit set, with each octet of its own, and of RFC 6598.
ROWS = (
    ("2001:db8::/32", "192.0.2.33", "2001:db8:c000:221::"),
    ("2001:db8:100::/40", "192.0.2.33", "2001:db8:1c0:2:21::"),
    ("2001:db8:122::/48", "192.0.2.33", "2001:db8:122:c000:2:2100::"),
    ("2001:db8:122:300::/56", "192.0.2.33", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344::/64", "192.0.2.33", "2001:db8:122:344:c0:2:2100::"),
    ("2001:db8:122:344::/96", "192.0.2.33", "2001:db8:122:344::192.0.2.33"),
    ("64:ff9b::/96", "192.0.2.33", "64:ff9b::192.0.2.33"),
    ("2001:db8::/32", "223.255.255.254", "2001:db8:dfff:fffe::"),
    ("2001:db8::/32", "1.2.3.4", "2001:db8:102:304::"),
    ("2001:db8::/32", "100.64.0.1", "2001:db8:6440:1::"),
    ("2001:db8:100::/40", "1.2.3.4", "2001:db8:101:203:4::"),
    ("2001:db8:100::/40", "100.64.0.1", "2001:db8:164:4000:1::"),
    ("2001:db8:122::/48", "1.2.3.4", "2001:db8:122:102:3:400::"),
    ("2001:db8:122::/48", "100.64.0.1", "2001:db8:122:6440:0:100::"),
    ("2001:db8:122:300::/56", "1.2.3.4", "2001:db8:122:301:2:304::"),
    ("2001:db8:122:300::/56", "100.64.0.1", "2001:db8:122:364:40:1::"),
    ("2001:db8:122:344::/64", "1.2.3.4", "2001:db8:122:344:1:203:400:0"),
    ("2001:db8:122:344::/64", "100.64.0.1", "2001:db8:122:344:64:4000:100:0"),
    ("64:ff9b:1:fffe::/96", "1.2.3.4", "64:ff9b:1:fffe::102:304"),
    ("64:ff9b:1:fffe::/96", "100.64.0.1", "64:ff9b:1:fffe::6440:1"),
)
# RFC 6890: one address of each block that is not global.
NON_GLOBAL = (
    "10.1.2.3",
    "100.64.1.2",
    "169.254.1.2",
    "172.16.1.2",
    "172.31.255.254",
    "192.0.0.170",
    "192.0.2.1",
    "192.168.1.2",
    "198.18.1.2",
    "198.19.255.254",
    "198.51.100.7",
    "203.0.113.7",
)
WKP = Gateway(prefix=IPv6Network("64:ff9b::/96"), ranges=(IPv4Network("8.8.8.0/24"),))
# RFC 7757 3.2's table, without its overlapping rows, over a prefix.
EAMS = Gateway(
    prefix=IPv6Network("2001:db8:100::/40"),
    eams=(
        eam("203.0.113.1/32", "2001:db8:aaaa::/128"),
        eam("203.0.113.2/32", "2001:db8:bbbb::b/128"),
        eam("203.0.113.16/28", "2001:db8:cccc::/124"),
        eam("203.0.113.128/26", "2001:db8:dddd::/64"),
        eam("203.0.113.192/29", "2001:db8:eeee:8::/62"),
        eam("203.0.113.224/31", "64:ff9b::/127"),
    ),
)
# RFC 7757 3.3.3: "EAM algorithm" results, and one of each suffix shape.
EAM_ROWS = (
    ("host", "203.0.113.1", "2001:db8:aaaa::"),
    ("host-b", "203.0.113.2", "2001:db8:bbbb::b"),
    ("equal-suffix", "203.0.113.21", "2001:db8:cccc::5"),
    ("longer-suffix", "203.0.113.181", "2001:db8:dddd:0:d400::"),  # suffix 110101 leads 64 bits
    ("odd-suffix", "203.0.113.199", "2001:db8:eeee:b:8000::"),  # suffix 111 leads 66 bits
    ("last-bit", "203.0.113.225", "64:ff9b::1"),
)


PEER6, PEER4 = "3fff:9::99", "192.0.2.99"


def both_ways(name: str, clause: str, gw: Gateway, v4: str, v6: str) -> Iterator[Case]:
    """The address as source and as destination, both directions; the other end is an explicit mapping."""
    mapped = any(IPv4Address(v4) in e.v4 for e in gw.eams)
    gw = replace(gw, eams=(*gw.eams, eam(PEER4, PEER6)))
    # As a destination it is represented by the prefix; an IPv6 host's own address is known by a range.
    host = node(gw if mapped else replace(gw, ranges=(IPv4Network(v4),)))
    level = "SHOULD" if mapped else "MUST"
    dst64 = ip6(udp(PEER6, v6), src=PEER6, dst=v6)
    out = sent4(ip4(udp(PEER4, v4), src=PEER4, dst=v4, ttl=63, flags=0))
    yield Case(f"{name}-dst64", clause, level, node(gw), dst64, out)
    src46 = ip4(udp(v4, PEER4), src=v4, dst=PEER4)
    yield Case(f"{name}-src46", clause, level, node(gw), src46, sent6(ip6(udp(v6, PEER6), src=v6, dst=PEER6, hlim=63)))
    src64 = ip6(udp(v6, PEER6), src=v6, dst=PEER6)
    out = sent4(ip4(udp(v4, PEER4), src=v4, dst=PEER4, ttl=63, flags=0))
    yield Case(f"{name}-src64", clause, level, host, src64, out)
    dst46 = ip4(udp(PEER4, v4), src=PEER4, dst=v4)
    yield Case(f"{name}-dst46", clause, level, host, dst46, sent6(ip6(udp(PEER6, v6), src=PEER6, dst=v6, hlim=63)))


def rfc6052() -> Iterator[Case]:
    for number, (prefix, v4, v6) in enumerate(ROWS):
        gw = Gateway(prefix=IPv6Network(prefix), wkp_strict=False)
        clause = "8215-LOCAL" if prefix.startswith("64:ff9b:1:") else "6052-2.4-VEC"
        yield from both_ways(f"6052-{prefix.split('/')[1]}-{number}", clause, gw, v4, v6)
    for name, dst in (
        ("suffix", "2001:db8:1c6:3364:2:1234:5678:9abc"),
        ("suffix-max", "2001:db8:1c6:3364:2:ffff:ffff:ffff"),
    ):
        yield Case(
            f"6052-{name}", "6052-2.2-SUFFIX", "SHOULD", NODE,
            ip6(udp(H6, dst), dst=dst), sent4(ip4(udp(H4, S4), src=H4, dst=S4, ttl=63, flags=0)),
        )  # fmt: skip
    yield Case("6052-not-ours", "6146-3.5-DST", "MUST", NODE, ip6(udp(H6, ALIEN6), dst=ALIEN6), UNTOUCHED)
    yield Case("6052-ipv6-host", "6146-3.5-DST", "MUST", NODE, ip6(udp(S6, H6), src=S6, dst=H6), UNTOUCHED)
    yield Case(
        "6052-not-our-range", "6146-3.5-DST", "MUST", NODE, ip4(udp(S4, "192.0.3.1"), dst="192.0.3.1"), UNTOUCHED
    )


def well_known() -> Iterator[Case]:
    """RFC 6052 3.1, as destination and as source, both directions; and that the switch and RFC 8215 undo it."""
    strict, loose = node(WKP), node(replace(WKP, wkp_strict=False))
    host6, host4, good6, good4 = "64:ff9b::808:808", "8.8.8.8", "64:ff9b::101:101", "1.1.1.1"
    for v4 in NON_GLOBAL:
        v6 = f"64:ff9b::{v4}"
        packet = ip6(udp(host6, v6), src=host6, dst=v6)
        yield Case(
            f"wkp-dst64-{v4}",
            "6052-3.1-WKP",
            "MUST NOT",
            strict,
            packet,
            dropped("WKP_NONGLOBAL", error6(packet, 1, 1, dst=host6)),
        )
        packet = ip6(udp(v6, good6), src=v6, dst=good6)
        yield Case(
            f"wkp-src64-{v4}", "6052-3.1-WKP", "MUST NOT", strict, packet,
            dropped("WKP_NONGLOBAL", error6(packet, 1, 1, dst=v6), optional=True),
        )  # fmt: skip
        packet = ip4(udp(v4, host4), src=v4, dst=host4)
        other = Drop("DROP_WKP_NONGLOBAL", error4(packet, 3, 13, dst=v4), required=False)
        yield Case(f"wkp-src46-{v4}", "6052-3.1-WKP", "MUST NOT", strict, packet, (other,))
        out = sent4(ip4(udp(host4, v4), src=host4, dst=v4, ttl=63, flags=0))
        yield Case(f"wkp-off-{v4}", "6052-3.1-WKP", "MUST NOT", loose, ip6(udp(host6, v6), src=host6, dst=v6), out)
    out = sent4(ip4(udp(host4, good4), src=host4, dst=good4, ttl=63, flags=0))
    yield Case("wkp-global", "6052-3.1-WKP", "MUST NOT", strict, ip6(udp(host6, good6), src=host6, dst=good6), out)
    for edge in (
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.169.0.0",
        "198.20.0.0",
    ):
        v6 = f"64:ff9b::{edge}"
        out = sent4(ip4(udp(host4, edge), src=host4, dst=edge, ttl=63, flags=0))
        yield Case(f"wkp-edge-{edge}", "6052-3.1-WKP", "MUST NOT", strict, ip6(udp(host6, v6), src=host6, dst=v6), out)
    local = node(Gateway(prefix=IPv6Network("64:ff9b:1::/96"), wkp_strict=True))
    src, dst = "64:ff9b:1::a01:203", "64:ff9b:1::c0a8:102"
    out = sent4(ip4(udp("10.1.2.3", "192.168.1.2"), src="10.1.2.3", dst="192.168.1.2", ttl=63, flags=0))
    yield Case("8215-private", "8215-LOCAL", "MUST", local, ip6(udp(src, dst), src=src, dst=dst), out)


def explicit() -> Iterator[Case]:
    """RFC 7757 3.3: every shape of suffix; longest match; trailing bits that have no place in IPv4."""
    for name, v4, v6 in EAM_ROWS:
        yield from both_ways(f"7757-{name}", "7915-6-EAM", EAMS, v4, v6)
    v6 = "2001:db8:dddd:0:d7ff:ffff:ffff:ffff"  # bits behind the six of the suffix are cut
    out = sent4(ip4(udp("203.0.113.181", S4), src="203.0.113.181", dst=S4, ttl=63, flags=0))
    yield Case("7757-cut-suffix", "7915-6-EAM", "SHOULD", node(EAMS), ip6(udp(v6, S6), src=v6), out)
    nested = node(
        replace(GW, eams=(eam("192.0.2.0/24", "2001:db8:4::/120"), eam("192.0.2.33/32", "2001:db8:6::33/128")))
    )
    for name, dst4, dst6 in (("longest", "192.0.2.33", "2001:db8:6::33"), ("shorter", "192.0.2.34", "2001:db8:4::22")):
        yield Case(
            f"7757-{name}-46", "7915-6-EAM", "SHOULD", nested,
            ip4(udp(S4, dst4), dst=dst4), sent6(ip6(udp(S6, dst6), src=S6, dst=dst6, hlim=63)),
        )  # fmt: skip
        yield Case(
            f"7757-{name}-64", "7915-6-EAM", "SHOULD", nested,
            ip6(udp(dst6, S6), src=dst6), sent4(ip4(udp(dst4, S4), src=dst4, dst=S4, ttl=63, flags=0)),
        )  # fmt: skip
    only = node(Gateway(eams=(eam("192.0.2.0/24", "2001:db8:4::/120"), eam("198.51.100.0/24", "2001:db8:5::/120"))))
    near6, far6 = "2001:db8:5::2", "2001:db8:4::21"
    yield Case(
        "7757-no-prefix", "7915-6-EAM", "SHOULD", only,
        ip4(udp(S4, H4)), sent6(ip6(udp(near6, far6), src=near6, dst=far6, hlim=63)),
    )  # fmt: skip


def hairpin() -> Iterator[Case]:
    """RFC 7757 4.2.2: two hosts with explicit mappings that know each other by IPv4-embedded addresses only."""
    gw = replace(GW, eams=(eam("1.0.0.0/24", "2001:db8:3::/120"), eam("10.0.0.0/24", "2001:db8:2::/120")))
    here = node(gw)
    a6, a_known = "2001:db8:3::8", "2001:db8:101:0:8::"  # 1.0.0.8
    b6, b_known = "2001:db8:2::a", "2001:db8:10a:0:a::"  # 10.0.0.10
    out = sent6(ip6(udp(a_known, b6), src=a_known, dst=b6, hlim=63))
    yield Case("7757-hairpin", "7915-6-EAM", "SHOULD", here, ip6(udp(a6, b_known), src=a6, dst=b_known), out)
    echo = icmp6(128, 0, word(0x10001), b"ping", a6, b_known)
    out = sent6(ip6(icmp6(128, 0, word(0x10001), b"ping", a_known, b6), ICMPV6, a_known, b6, hlim=63))
    yield Case("7757-hairpin-echo", "7915-6-EAM", "SHOULD", here, ip6(echo, ICMPV6, a6, b_known), out)
    # An error about that packet, from B: the embedded source is A itself again, the embedded destination what A knows.
    embedded = ip6(udp(a_known, b6), src=a_known, dst=b6, hlim=60)
    error = ip6(icmp6(1, 4, bytes(4), embedded, b6, a_known), ICMPV6, b6, a_known)
    restored = ip6(udp(a6, b_known), src=a6, dst=b_known, hlim=60)
    out = sent6(ip6(icmp6(1, 4, bytes(4), restored, b_known, a6), ICMPV6, b_known, a6, hlim=63))
    yield Case("7757-hairpin-error", "7915-6-EAM", "SHOULD", here, error, out)
    off = node(replace(gw, hairpin=False))
    out = sent4(ip4(udp("1.0.0.8", "10.0.0.10"), src="1.0.0.8", dst="10.0.0.10", ttl=63, flags=0))
    yield Case("7757-hairpin-off", "7915-6-EAM", "SHOULD", off, ip6(udp(a6, b_known), src=a6, dst=b_known), out)
    dead = ip6(udp(a6, b_known), src=a6, dst=b_known, hlim=1)
    yield Case("7757-hairpin-hop-limit", "7915-5.1-TTL", "MUST", here, dead, dropped("TTL", error6(dead, 3, 0, dst=a6)))


def untranslatable() -> Iterator[Case]:
    """RFC 7915 5.4, 4.4, RFC 6791."""
    packet = ip6(udp(ALIEN6, S6), src=ALIEN6)
    yield Case(
        "5.4-source-unmapped",
        "7915-4.4/5.4",
        "SHOULD",
        NODE,
        packet,
        dropped("SRC_UNMAPPED", error6(packet, 1, 5, dst=ALIEN6)),
    )
    quiet = node(replace(GW, icmp_quiet=True))
    yield Case("5.4-source-unmapped-quiet", "7915-4.4/5.4", "SHOULD", quiet, packet, dropped("SRC_UNMAPPED"))
    inner = ip6(udp(S6, H6), src=S6, dst=H6, hlim=50)
    error = ip6(icmp6(3, 0, bytes(4), inner, ALIEN6, S6), ICMPV6, ALIEN6, S6)
    body = icmp4(11, 0, bytes(4), ip4(udp(S4, H4), src=S4, dst=H4, ttl=50, flags=0, id=0))
    own = sent4(ip4(body, ICMP, OWN4, S4, ttl=63, flags=0), inner_id=True)
    yield Case("6791-own-address", "6791-SRC", "SHOULD", NODE, error, own)
    pool = node(replace(GW, pool6791=IPv4Network("203.0.113.8/32")))
    out = sent4(ip4(body, ICMP, "203.0.113.8", S4, ttl=63, flags=0), inner_id=True)
    yield Case("6791-pool", "6791-SRC", "SHOULD", pool, error, out)
    # The other way round: an IPv4 router that a gateway without prefix cannot represent.
    only = Gateway(eams=(eam("192.0.2.0/24", "2001:db8:4::/120"), eam("198.51.100.0/24", "2001:db8:5::/120")))
    near, far = "2001:db8:4::21", "2001:db8:5::2"
    inner4, inner6 = ip4(udp(H4, S4), src=H4, dst=S4, ttl=9), ip6(udp(near, far), src=near, dst=far, hlim=9)
    error = ip4(icmp4(11, 0, bytes(4), inner4), ICMP, src="23.1.2.3")
    named = replace(only, pool6791_6=IPv6Network("3fff::8/128"))
    for name, gw, src in (("own-address", only, OWN6), ("pool", named, "3fff::8")):
        out = sent6(ip6(icmp6(3, 0, bytes(4), inner6, src, near), ICMPV6, src, near, hlim=63))
        yield Case(f"6791-{name}-46", "6791-SRC", "SHOULD", node(gw), error, out)


def mapped_hosts() -> Iterator[Case]:
    """RFC 6791, RFC 7915 5.4: packets of sources without an IPv4 address to an explicitly mapped one."""
    # To a mapped host, about what it sent to an address that can be mapped.
    app4, app6 = "192.0.2.65", "2001:db8:46::41"
    relay = node(replace(GW, eams=(eam(f"{app4}/32", f"{app6}/128"),)))
    inner = ip6(udp(app6, H6), src=app6, dst=H6, hlim=50)
    about = ip6(icmp6(3, 0, bytes(4), inner, ALIEN6, app6), ICMPV6, ALIEN6, app6)
    body = icmp4(11, 0, bytes(4), ip4(udp(app4, H4), src=app4, dst=H4, ttl=50, flags=0, id=0))
    told = sent4(ip4(body, ICMP, OWN4, app4, ttl=63, flags=0), inner_id=True)
    yield Case("6791-mapped-host", "6791-SRC", "SHOULD", relay, about, told)
    # Nobody behind this machine has the address: the route to it leads back.
    stray = ip6(udp(ALIEN6, app6), src=ALIEN6, dst=app6)
    refused = (*dropped("SRC_UNMAPPED", error6(stray, 1, 5, dst=ALIEN6)), *UNTOUCHED)
    yield Case("5.4-source-unmapped-mapped", "7915-4.4/5.4", "SHOULD", relay, stray, refused)


def cases() -> Iterator[Case]:
    yield from rfc6052()
    yield from well_known()
    yield from explicit()
    yield from hairpin()
    yield from untranslatable()
    yield from mapped_hosts()
