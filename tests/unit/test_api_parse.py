"""What the models take and what they refuse, with which sentence."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgate.api import KINDS, UserObject, parse_object
from sixgate.api.addr import embed, extract, is_global_ipv4, parse_network
from sixgate.errors import Ref
from tests.unit.cases_api import BAD, GATEWAY, GOOD, Case, changed

# RFC 6052 2.4, both tables.
VECTORS = (
    ("2001:db8::/32", "2001:db8:c000:221::"),
    ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
    ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
    ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
    ("2001:db8:122:344::/96", "2001:db8:122:344::c000:221"),
    ("64:ff9b::/96", "64:ff9b::c000:221"),
)


@pytest.mark.parametrize(("prefix", "address"), VECTORS)
def test_rfc6052_vectors(prefix: str, address: str) -> None:
    assert embed(IPv6Network(prefix), IPv4Address("192.0.2.33")) == IPv6Address(address)
    assert extract(IPv6Network(prefix), IPv6Address(address)) == IPv4Address("192.0.2.33")


@pytest.mark.parametrize("case", GOOD, ids=str)
def test_right_objects_are_taken(case: Case) -> None:
    parsed = parse_object(case.raw)
    assert isinstance(parsed, UserObject), parsed
    assert parsed.ref == Ref(case.raw["kind"], case.raw["metadata"]["name"])


@pytest.mark.parametrize("case", BAD, ids=str)
def test_wrong_objects_get_a_sentence(case: Case) -> None:
    problems = parse_object(case.raw)
    assert isinstance(problems, tuple)
    (problem,) = problems
    assert (problem.reason, problem.field) == ("Invalid", case.field)
    assert case.says in problem.message
    assert problem.message.startswith(f"{case.raw['kind']}/{case.raw['metadata']['name']}: {case.field} ")


def test_every_wrong_field_is_named_at_once() -> None:
    raw = changed(changed(GATEWAY, "spec.prefix", "x"), "spec.stateless.tos", 999)
    assert [problem.field for problem in parse_object(raw)] == ["spec.prefix", "spec.stateless.tos"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("raw", "field", "says"),
    [
        (None, "", "must be an object with apiVersion"),
        ([1], "", "must be an object with apiVersion"),
        ({}, "apiVersion", "must be sixgate.io/v1alpha1, found None"),
        (GATEWAY | {"apiVersion": "sixgate.io/v2"}, "apiVersion", "must be sixgate.io/v1alpha1"),
        (GATEWAY | {"kind": "Gateway"}, "kind", "must be one of NAT46Gateway"),
        (GATEWAY | {"kind": ["NAT46Gateway"]}, "kind", "must be one of NAT46Gateway"),
        (GATEWAY | {"metadata": None}, "metadata.name", "must be a lower-case DNS name"),
        (GATEWAY | {"metadata": {"name": "A/b"}}, "metadata.name", "must be a lower-case DNS name"),
        (GATEWAY | {"metadata": {"name": "x" * 254}}, "metadata.name", "must be a lower-case DNS name"),
        (GATEWAY | {"metadata": {"name": "a", "generation": "x"}}, "metadata.generation", "is wrong"),
        (GATEWAY | {"spec": None}, "spec", "must be an object"),
        (GATEWAY | {"more": 1}, "more", "is not a field of this kind"),
    ],
)
def test_what_is_no_object_gets_a_sentence(raw: Any, field: str, says: str) -> None:
    problems = parse_object(raw)
    assert isinstance(problems, tuple)
    assert (problems[0].field, problems[0].reason) == (field, "Invalid")
    assert says in problems[0].message


def test_status_and_foreign_metadata_are_not_read() -> None:
    metadata = {"name": "lab", "uid": "u", "creationTimestamp": None, "managedFields": [{"x": 1}], "finalizers": ["f"]}
    parsed = parse_object(GATEWAY | {"metadata": metadata, "status": {"of": "a newer version"}})
    assert isinstance(parsed, UserObject)
    assert parsed.metadata.uid == "u"


@pytest.mark.parametrize("text", ["0.0.0.0/0", "10.1.2.3/32", "224.0.0.0/24", "198.51.100.0/24", "192.0.2.0/25"])
def test_special_ipv4_is_not_global(text: str) -> None:
    network = parse_network(text, (4,))
    assert network.version == 4
    assert not is_global_ipv4(network)


def test_ordinary_ipv4_is_global() -> None:
    network = parse_network("8.8.8.0/24", (4,))
    assert network.version == 4
    assert is_global_ipv4(network)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["auto", "::/96"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
PATHS = (
    "spec",
    "spec.prefix",
    "spec.nodeSelector",
    "spec.devices",
    "spec.stateless",
    "spec.stateless.mappings",
    "spec.stateless.ipv4CIDRs",
    "spec.stateless.tos",
    "metadata",
    "metadata.name",
    "kind",
    "apiVersion",
)


@settings(max_examples=500, deadline=None)
@given(raw=JSON, path=st.sampled_from(PATHS), kind=st.sampled_from(sorted(KINDS)))
def test_nothing_makes_reading_fail(raw: Any, path: str, kind: str) -> None:
    for thing in (raw, changed(GATEWAY, path, raw), {**GATEWAY, "kind": kind, "spec": raw}):
        parsed = parse_object(thing)
        assert isinstance(parsed, UserObject) or (parsed and all(problem.message for problem in parsed))
