"""What becomes of an answer, without a resolver: the rules alone, and nonsense that must not stop them."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgate.api.addr import PREFIX_LENGTHS_6052, embed
from sixgate.dns64.rules import (
    AAAA,
    CNAME,
    KEEP,
    NO_SOA_TTL_S,
    SOA,
    Finding,
    Networks,
    Prefix,
    Rrset,
    Rules,
    examine,
    name_text,
    synthesize,
    wire_name,
)

NAME = wire_name("v4only.example")
RULES = Rules.from_json(
    json.dumps(
        {
            "madeUnder": "64:ff9b::/96",
            "prefixes": [
                {"ipv4": "0.0.0.0/0", "ipv6": ["64:ff9b::/96"]},
                {"ipv4": "10.0.0.0/8", "ipv6": ["2001:db8:a::/96", "64:ff9b::/96"]},
            ],
            "excludeIPv6": ["::ffff:0:0/96"],
            "excludeIPv4": ["9.9.9.0/24"],
            "notGlobal": ["10.0.0.0/8", "192.168.0.0/16"],
            "never": ["cluster.local"],
        }
    )
)


def aaaa(*addresses: str, ttl: int = 300, signatures: int = 0) -> Rrset:
    rdatas = (*(IPv6Address(address).packed for address in addresses), *(b"signature",) * signatures)
    return Rrset(NAME, AAAA, (ttl,) * len(rdatas), rdatas, signatures)


def made(answer: tuple[Rrset, ...]) -> list[str]:
    return [str(IPv6Address(rdata)) for rrset in answer if rrset.rtype == AAAA for rdata in rrset.records]


def under_wkp(*addresses: str, ttl: int = 300) -> tuple[Rrset, ...]:
    network = IPv6Network("64:ff9b::/96")
    return (aaaa(*(str(embed(network, IPv4Address(address))) for address in addresses), ttl=ttl),)


@pytest.mark.parametrize(
    ("rcode", "answer", "wanted"),
    [
        (0, (), Finding(True)),
        (2, (), Finding(True)),
        (3, (), KEEP),
        (5, (aaaa("2001:db8::1"),), Finding(True)),
        (0, (aaaa("2001:db8::1"),), KEEP),
        (0, (aaaa("::ffff:1.2.3.4"),), Finding(True, ())),
    ],
)
def test_what_an_answer_means(rcode: int, answer: tuple[Rrset, ...], wanted: Finding) -> None:
    assert examine(RULES, NAME, rcode, answer, ()) == wanted


def test_signatures_leave_with_the_first_excluded_record() -> None:
    found = examine(RULES, NAME, 0, (aaaa("2001:db8::1", "::ffff:1.2.3.4", signatures=1),), ())
    assert not found.synthesize
    assert found.answer == (aaaa("2001:db8::1"),)


@pytest.mark.parametrize(("soa_ttl", "a_ttl", "wanted"), [(120, 3600, 120), (7200, 3600, 3600), (None, 3600, 600)])
def test_the_ttl_is_the_least(soa_ttl: int | None, a_ttl: int, wanted: int) -> None:
    authority = () if soa_ttl is None else (Rrset(b"\0", SOA, (soa_ttl,), (b"",)),)
    finding = examine(RULES, NAME, 0, (), authority)
    assert finding.limit_s == (NO_SOA_TTL_S if soa_ttl is None else soa_ttl)
    assert synthesize(RULES, finding, under_wkp("8.8.8.8", ttl=a_ttl))[0].ttls == (wanted,)


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("8.8.8.8", ["64:ff9b::808:808"]),
        ("10.1.2.3", ["2001:db8:a::a01:203"]),
        ("192.168.1.1", []),
        ("9.9.9.9", []),
    ],
)
def test_every_range_has_its_prefixes(address: str, wanted: list[str]) -> None:
    assert made(synthesize(RULES, Finding(True), under_wkp(address))) == wanted


@pytest.mark.parametrize(
    ("name", "spared"),
    [
        ("cluster.local", True),
        ("Web.Default.SVC.cluster.LOCAL", True),
        ("mycluster.local", False),
        ("local", False),
        ("cluster.local.example", False),
    ],
)
def test_spared_domains(name: str, spared: bool) -> None:
    assert RULES.spares(wire_name(name)) is spared


def test_a_label_that_looks_like_a_domain_is_none() -> None:
    """The octets of `cluster.local` inside one label are not the domain."""
    label = b"x" + wire_name("cluster.local")[:-1]
    assert not RULES.spares(bytes([len(label)]) + label + b"\0")


def test_an_alias_into_a_spared_domain_is_spared() -> None:
    alias = Rrset(NAME, CNAME, (300,), (wire_name("web.cluster.local"),))
    assert examine(RULES, NAME, 0, (alias,), ()) == KEEP


def test_aliases_in_a_circle_end() -> None:
    circle = (Rrset(NAME, CNAME, (1,), (wire_name("b"),)), Rrset(wire_name("b"), CNAME, (1,), (NAME,)))
    assert examine(RULES, NAME, 0, circle, ()).synthesize


def test_names_are_written_as_master_files_do() -> None:
    assert name_text(wire_name("a-b._c.example")) == "a-b._c.example."
    assert name_text(b"\4a.b\\\0") == "a\\046b\\092."
    assert name_text(b"\0") == "."


@given(st.sampled_from(PREFIX_LENGTHS_6052), st.ip_addresses(v=4), st.integers(0, 2**128 - 1))
@settings(max_examples=300, deadline=None)
def test_both_embeddings_agree(length: int, address: IPv4Address, bits: int) -> None:
    """The one of plan, by arithmetic, and the one of the rules, by octets."""
    network = IPv6Network((bits & ~(0xFF << 56), length), strict=False)
    prefix = Prefix.of(str(network))
    assert prefix.embed(address.packed) == embed(network, address).packed
    assert prefix.extract(prefix.embed(address.packed)) == address.packed


@given(st.lists(st.ip_addresses(v=6), max_size=4), st.ip_addresses(v=6))
@settings(max_examples=200, deadline=None)
def test_networks_hold_what_ipaddress_says(addresses: list[IPv6Address], asked: IPv6Address) -> None:
    networks = [IPv6Network((address, 64 + int(address) % 64), strict=False) for address in addresses]
    assert (asked.packed in Networks(networks)) == any(asked in network for network in networks)
    assert all(address.packed in Networks(networks) for address in addresses)


@given(st.binary(max_size=60), st.integers(0, 15), st.lists(st.binary(min_size=16, max_size=16), max_size=3))
@settings(max_examples=300, deadline=None)
def test_odd_names_and_records_do_not_stop_it(name: bytes, rcode: int, rdatas: list[bytes]) -> None:
    answer = (Rrset(name, AAAA, (300,) * len(rdatas), tuple(rdatas)),)
    finding = examine(RULES, name, rcode, answer, answer)
    for rrset in synthesize(RULES, finding, answer):
        assert all(text.isascii() and "\n" not in text for text in rrset.texts())
