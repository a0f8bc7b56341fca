"""Every row of RFC 6147, 7050 and 8880 on the real resolver: the first answer, and the same again from its cache."""

from __future__ import annotations

import ipaddress
import socket
import time

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest

from sixgate.api.addr import embed
from tests.dns64.cases import LOCAL, OTHERS, SYNTHESIS, WKP, Case
from tests.dns64.conftest import RESOLVER, STRANGER, Running

ADDRESS = ipaddress.IPv4Address("192.0.2.33")
# RFC 6052 2.4
TABLE_6052 = {
    "2001:db8::/32": "2001:db8:c000:221::",
    "2001:db8:100::/40": "2001:db8:1c0:2:21::",
    "2001:db8:122::/48": "2001:db8:122:c000:2:2100::",
    "2001:db8:122:300::/56": "2001:db8:122:3c0:0:221::",
    "2001:db8:122:344::/64": "2001:db8:122:344:c0:2:2100::",
    "2001:db8:122:344::/96": "2001:db8:122:344::c000:221",
}


def rows(message: dns.message.Message, slack_s: int = 0) -> set[tuple[str, int, str, str]]:
    return {
        (rrset.name.to_text(), rrset.ttl + slack_s, dns.rdatatype.to_text(rrset.rdtype), rdata.to_text())
        for rrset in message.answer
        for rdata in rrset
        if rrset.rdtype != dns.rdatatype.RRSIG
    }


def wanted(case: Case) -> set[tuple[str, int, str, str]]:
    found = set()
    for text in case.answer:
        owner, ttl, rtype, data = text.split(maxsplit=3)
        found.add((owner, int(ttl), rtype, data))
    return found


def normal(found: set[tuple[str, int, str, str]]) -> set[tuple[str, int, str, str]]:
    """Addresses as Python writes them: dnspython writes mapped ones in another way."""
    return {
        (owner, ttl, rtype, str(ipaddress.IPv6Address(data)) if rtype == "AAAA" else data)
        for owner, ttl, rtype, data in found
    }


@pytest.mark.parametrize("case", [*SYNTHESIS, *OTHERS], ids=str)
def test_answer(resolver: Running, case: Case) -> None:
    for attempt in ("asked for", "cached"):
        answer = resolver.ask(case.name, case.rtype, case.do, case.cd)
        assert dns.rcode.to_text(answer.rcode()) == case.rcode, attempt
        found, expected = normal(rows(answer)), normal(wanted(case))
        assert {(o, t, d) for o, _, t, d in found} == {(o, t, d) for o, _, t, d in expected}, attempt
        ttls = {(o, t, d): ttl for o, ttl, t, d in expected}
        for owner, ttl, rtype, data in found:
            limit = ttls[(owner, rtype, data)]
            assert ttl <= limit, attempt
            if attempt == "asked for":
                # Another case may have asked before: cached TTLs have gone down by the time since, and not by more.
                assert ttl > limit - 60, (attempt, ttl, limit)
        if case.authority is not None:
            assert case.authority in {dns.rdatatype.to_text(rrset.rdtype) for rrset in answer.authority}, attempt
        assert answer.flags & dns.flags.RA
        if case in SYNTHESIS:
            assert not answer.flags & dns.flags.AD


@pytest.mark.parametrize("do", [False, True])
def test_a_native_answer_that_validates(resolver: Running, do: bool) -> None:
    answer = resolver.ask("dual.signed.example", do=do)
    assert {row[3] for row in rows(answer)} == {"2001:db8::7"}
    assert bool(answer.flags & dns.flags.AD) == do


@pytest.mark.parametrize("do", [False, True])
def test_synthesis_after_a_proof_that_there_is_no_aaaa(resolver: Running, do: bool) -> None:
    answer = resolver.ask("v4only.signed.example", do=do)
    assert {row[3] for row in rows(answer)} == {"64:ff9b::c058:6221"}
    assert not answer.flags & dns.flags.AD


def test_what_does_not_validate_is_not_synthesised(resolver: Running) -> None:
    for name in ("fakea.signed.example", "fakenx.signed.example"):
        for _ in range(2):
            assert resolver.ask(name).rcode() == dns.rcode.SERVFAIL, name
    answer = resolver.ask("fakea.signed.example", "A", cd=True)
    assert {row[3] for row in rows(answer)} == {"192.88.98.66"}


@pytest.mark.parametrize("prefix", [WKP, LOCAL])
def test_names_of_addresses_under_a_prefix(resolver: Running, prefix: str) -> None:
    before = len(resolver.upstream.asked)
    name = ipaddress.IPv6Address(prefix + "8.8.8.8").reverse_pointer
    assert {row[3] for row in rows(resolver.ask(name, "PTR"))} == {"lab.nat64.invalid."}
    assert len(resolver.upstream.asked) == before


def test_ipv4only_is_answered_here_but_for_its_delegation(resolver: Running) -> None:
    before = len(resolver.upstream.asked)
    for rtype in ("A", "AAAA", "MX", "SOA"):
        resolver.ask("ipv4only.arpa", rtype)
    assert len(resolver.upstream.asked) == before
    resolver.ask("ipv4only.arpa", "DS")
    assert ("ipv4only.arpa.", "DS") in resolver.upstream.asked[before:]


def test_other_classes_are_not_synthesised(resolver: Running) -> None:
    before = len(resolver.upstream.asked)
    answer = resolver.ask("v4only.example", rdclass="CH")
    assert not answer.answer
    assert ("v4only.example.", "A") not in resolver.upstream.asked[before:]


def test_large_answers_come_over_tcp(resolver: Running) -> None:
    assert resolver.ask("big.example", "TXT").flags & dns.flags.TC
    query = dns.message.make_query("big.example", "TXT")
    assert len(rows(dns.query.tcp(query, RESOLVER, timeout=30))) == 20


def test_strangers_get_no_answer(resolver: Running) -> None:
    with pytest.raises(dns.exception.Timeout):
        resolver.ask("v4only.example", timeout=0.5, source=STRANGER)


@pytest.mark.parametrize("prefix", TABLE_6052)
def test_embedding_in_every_length(prefix: str) -> None:
    """The plan's arithmetic and the resolver's are two: this is what both must give."""
    from sixgate.dns64 import rules  # noqa: PLC0415

    network = ipaddress.IPv6Network(prefix, strict=False)
    wanted_address = ipaddress.IPv6Address(TABLE_6052[prefix])
    assert embed(network, ADDRESS) == wanted_address
    assert rules.Prefix.of(str(network)).embed(ADDRESS.packed) == wanted_address.packed
    assert rules.Prefix.of(str(network)).extract(wanted_address.packed) == ADDRESS.packed


def test_names_without_an_answer_do_not_silence_the_others(resolver: Running) -> None:
    """unbound thinks an upstream dead that owes it many answers, and asks it nothing more for minutes."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.connect((RESOLVER, 53))
        for _ in range(10):
            for number in range(100):
                client.send(dns.message.make_query(f"silent{number}.example", "AAAA").to_wire())
            time.sleep(0.5)
        rcodes = [resolver.ask(f"other{number}.example").rcode() for number in range(5)]
    assert rcodes == [dns.rcode.NXDOMAIN] * 5
