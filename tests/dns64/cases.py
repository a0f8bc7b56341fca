"""What the scripted server answers, and what a client of the resolver must get for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.dns64.upstream import Name

WKP = "64:ff9b::"
LOCAL = "2001:db8:a::"  # represents 10.0.0.0/8
V4 = "192.88.98.33"  # global, and nobody's
HEX = "c058:6221"
SPEC: dict[str, Any] = {
    "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "gw-1"}},
    "prefix": "64:ff9b::/96",
    "stateless": {"mappings": [{"ipv4": "192.0.2.1/32", "ipv6": "2001:db8::1/128"}]},
    "dns64": {
        "upstreams": [{"address": "fd00::1"}],
        "clientCIDRs": ["fd00::/64"],
        "listenAddresses": ["fd00::53"],
        "prefixes": [
            {"ipv4CIDR": "0.0.0.0/0", "prefix": "64:ff9b::/96"},
            {"ipv4CIDR": "10.0.0.0/8", "prefix": "2001:db8:a::/96"},
            {"ipv4CIDR": "10.7.0.0/16", "prefix": "2001:db8:b::/96"},
            {"ipv4CIDR": "10.7.0.0/16", "prefix": "2001:db8:c::/64"},
        ],
        "excludeIPv6CIDRs": ["2001:db8:bad::/48"],
        "excludeIPv4CIDRs": ["198.41.0.0/24"],
        "neverSynthesize": ["cluster.local", "spared.example"],
    },
}


def v4(address: str = V4, ttl: int = 3600) -> dict[str, tuple[str, ...]]:
    return {"A": (f"{ttl} A {address}",)}


def end(**more: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The chain alias -> middle -> target in every answer, with A only at its end."""
    links = ("alias.example. 500 CNAME middle.example.", "middle.example. 400 CNAME target.example.")
    return {"ANY": links, "A": (*links, f"target.example. 3600 A {V4}"), **more}


DNAME = (
    "branch.example. 500 DNAME example.",
    "target.branch.example. 500 CNAME target.example.",
)
NAMES = {
    "v4only.example": Name({**v4(), "MX": ("300 MX 10 mail.example.",), "TXT": ('300 TXT "as it is"',)}),
    "short.example": Name(v4(ttl=30)),
    "nosoa.example": Name(v4(), soa=False),
    "nosoashort.example": Name(v4(ttl=30), soa=False),
    "native.example": Name({**v4(), "AAAA": ("300 AAAA 2001:db8::7",)}),
    "mapped.example": Name({**v4(), "AAAA": ("300 AAAA ::ffff:1.2.3.4",)}),
    "excluded.example": Name({**v4(), "AAAA": ("300 AAAA 2001:db8:bad::1",)}),
    "mixed.example": Name({**v4(), "AAAA": ("300 AAAA 2001:db8::7", "300 AAAA ::ffff:1.2.3.4")}),
    "nxaaaa.example": Name(v4(), rcodes={"AAAA": 3}),
    "alias.example": Name(end()),
    "middle.example": Name(
        {"ANY": ("400 CNAME target.example.",), "A": ("400 CNAME target.example.", f"target.example. 3600 A {V4}")}
    ),
    "target.example": Name(v4()),
    "branch.example": Name({"DNAME": ("500 DNAME example.",)}),
    "target.branch.example": Name({"ANY": DNAME, "A": (*DNAME, f"target.example. 3600 A {V4}")}),
    "nothing.example": Name({"TXT": ('300 TXT "no address"',)}),
    "afails.example": Name(rcodes={"A": 2}),
    "private.example": Name(v4("192.168.1.2")),
    "ten.example": Name(v4("10.1.2.3")),
    "ten7.example": Name(v4("10.7.2.3")),
    "refused4.example": Name(v4("198.41.0.4")),
    "two.example": Name({"A": ("300 A 198.41.0.4", f"200 A {V4}", "300 A 10.1.2.3")}),
    "app.cluster.local": Name(v4("10.96.0.10")),
    "web.spared.example": Name(v4()),
    "notspared.example": Name(v4()),
    "outside.example": Name(
        {
            "ANY": ("300 CNAME web.spared.example.",),
            "A": ("300 CNAME web.spared.example.", f"web.spared.example. 300 A {V4}"),
        }
    ),
    "silent.example": Name(v4(), silent=("AAAA",)),
    **{f"silent{number}.example": Name(v4(), silent=("A", "AAAA")) for number in range(100)},
    "big.example": Name({"TXT": tuple(f'300 TXT "{number:0200d}"' for number in range(20))}),
    **{f"rcode{code}.example": Name(v4(), rcodes={"AAAA": code}) for code in (1, 2, 4, 5)},
}


@dataclass(frozen=True)
class Case:
    """One question and what the client gets: records as "OWNER TTL TYPE DATA", in any order within a set."""

    clause: str
    name: str
    answer: tuple[str, ...] = ()
    rtype: str = "AAAA"
    rcode: str = "NOERROR"
    do: bool = False
    cd: bool = False
    authority: str | None = None

    def __str__(self) -> str:
        return self.clause


def made(name: str, ttl: int, *addresses: str) -> tuple[str, ...]:
    return tuple(f"{name}. {ttl} AAAA {address}" for address in addresses)


CHAIN = ("alias.example. 500 CNAME middle.example.", "middle.example. 400 CNAME target.example.")
SYNTHESIS = (
    Case(
        "6147 5.1.7: A only, TTL of the SOA where it is less", "v4only.example", made("v4only.example", 120, WKP + HEX)
    ),
    Case("6147 5.1.7: A only, TTL of A where it is less", "short.example", made("short.example", 30, WKP + HEX)),
    Case("6147 5.1.7: no SOA, at most 600 s", "nosoa.example", made("nosoa.example", 600, WKP + HEX)),
    Case("6147 5.1.7: no SOA, TTL of A", "nosoashort.example", made("nosoashort.example", 30, WKP + HEX)),
    Case("6147 5.1.1: a real AAAA and nothing else", "native.example", made("native.example", 300, "2001:db8::7")),
    Case("6147 5.1.4: a mapped AAAA is none", "mapped.example", made("mapped.example", 600, WKP + HEX)),
    Case("6147 5.1.4: an excluded AAAA is none", "excluded.example", made("excluded.example", 600, WKP + HEX)),
    Case("6147 5.1.4: excluded ones are removed", "mixed.example", made("mixed.example", 300, "2001:db8::7")),
    Case(
        "6147 5.1.5: CNAME chain, synthesis at its end",
        "alias.example",
        (*CHAIN, f"target.example. 120 AAAA {WKP}{HEX}"),
    ),
    Case(
        "6147 5.1.5: DNAME, synthesis at its end",
        "target.branch.example",
        (
            "branch.example. 500 DNAME example.",
            "target.branch.example. 500 CNAME target.example.",
            f"target.example. 120 AAAA {WKP}{HEX}",
        ),
    ),
    *(
        Case(
            f"6147 5.1.2: error {code} to AAAA is an empty answer",
            f"rcode{code}.example",
            made(f"rcode{code}.example", 600, WKP + HEX),
        )
        for code in (1, 2, 4, 5)
    ),
    Case("6147 5.1.2: NXDOMAIN to AAAA is NXDOMAIN", "nxaaaa.example", rcode="NXDOMAIN", authority="SOA"),
    Case("6147 5.1.2: a name that does not exist", "missing.example", rcode="NXDOMAIN", authority="SOA"),
    Case("6147 5.1.3: AAAA never answered", "silent.example", made("silent.example", 600, WKP + HEX)),
    Case("6147 5.1.6: neither AAAA nor A", "nothing.example", authority="SOA"),
    Case("6147 5.1.6: A fails", "afails.example", rcode="SERVFAIL"),
    Case("6052 3.1: no private address under the well-known prefix", "private.example", authority="SOA"),
    Case("6147 5.1.7: another range, another prefix", "ten.example", made("ten.example", 120, LOCAL + "a01:203")),
    Case(
        "6147 5.1.7: several prefixes of the longest match",
        "ten7.example",
        made("ten7.example", 120, "2001:db8:b::a07:203", "2001:db8:c:0:a:702:300:0"),
    ),
    Case("exclusions: an IPv4 address that is not represented", "refused4.example", authority="SOA"),
    Case("6147 5.1.7: every A by itself", "two.example", made("two.example", 120, WKP + HEX, LOCAL + "a01:203")),
    Case("cluster domains are never synthesised", "app.cluster.local", authority="SOA"),
    Case("cluster domains: A is as it is", "app.cluster.local", ("app.cluster.local. 3600 A 10.96.0.10",), "A"),
    Case("spared domains: names below", "web.spared.example", authority="SOA"),
    Case("spared domains: a name that only ends alike", "notspared.example", made("notspared.example", 120, WKP + HEX)),
    Case(
        "spared domains: not through an alias either",
        "outside.example",
        ("outside.example. 300 CNAME web.spared.example.",),
        authority="SOA",
    ),
)
OTHERS = (
    Case("6147 5.3.3: A unchanged", "v4only.example", (f"v4only.example. 3600 A {V4}",), "A"),
    Case("6147 5.3.3: MX unchanged", "v4only.example", ("v4only.example. 300 MX 10 mail.example.",), "MX"),
    Case("6147 5.3.3: TXT unchanged", "v4only.example", ('v4only.example. 300 TXT "as it is"',), "TXT"),
    Case("6147 5.5: DO and CD, no synthesis", "v4only.example", do=True, cd=True, authority="SOA"),
    Case("6147 5.5: CD, no synthesis", "v4only.example", cd=True, authority="SOA"),
    Case("6147 5.5: DO alone, synthesis", "v4only.example", made("v4only.example", 120, WKP + HEX), do=True),
    Case(
        "6147 5.5: CD sees what is excluded", "mapped.example", made("mapped.example", 300, "::ffff:1.2.3.4"), cd=True
    ),
    Case("6147 5.5: and nobody else does", "mapped.example", made("mapped.example", 600, WKP + HEX)),
    Case(
        "7050: ipv4only.arpa under every prefix",
        "ipv4only.arpa",
        made(
            "ipv4only.arpa",
            3600,
            *(f"{prefix}c000:{low}" for prefix in (WKP, LOCAL, "2001:db8:b::") for low in ("aa", "ab")),
            "2001:db8:c:0:c0:0:aa00:0",
            "2001:db8:c:0:c0:0:ab00:0",
        ),
    ),
    Case("7050: its A records", "ipv4only.arpa", tuple(f"ipv4only.arpa. 3600 A 192.0.0.{n}" for n in (170, 171)), "A"),
    Case("8880: other types are empty", "ipv4only.arpa", rtype="TXT", authority="SOA"),
    Case("8880: names below do not exist", "x.ipv4only.arpa", rcode="NXDOMAIN", authority="SOA"),
    Case(
        "8880: the names of its addresses",
        "170.0.0.192.in-addr.arpa",
        ("170.0.0.192.in-addr.arpa. 3600 PTR ipv4only.arpa.",),
        "PTR",
    ),
)
