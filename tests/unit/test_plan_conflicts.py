"""Two objects that contradict each other: the older keeps what it has, in every order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgate.api import UserObject
from sixgate.api.bigtcppolicy import BIGTCPPolicy
from sixgate.errors import Ref
from sixgate.plan import Snapshot, plan
from sixgate.plan.devices import patterns_meet, policies_overlap
from tests.unit.objects import DIGESTS, gateway, make, nodes, on, planned

P1, P2 = "2001:db8:1::/96", "2001:db8:2::/96"
POOL = {"pools": [{"cidr": "198.51.100.0/28"}]}


def balancer(name: str, vip: str, *ports: dict[str, Any], age: int = 0, at: str = "a") -> UserObject:
    many = {"ports": list(ports)} if ports else {"allPorts": True}
    spec = {"nodeSelector": on(at), "vips": [vip], "backends": [{"address": "2001:db8:b::1"}], **many}
    return make("LoadBalancer", name, spec, age=age)


def egress(name: str, address: str, *, age: int = 0, at: str = "a") -> UserObject:
    selector = {"matchLabels": {"x": "y"}}
    spec = {
        "nodeSelector": on(at),
        "pods": [{"namespaceSelector": selector, "allPods": True}],
        "destinationCIDRs": ["203.0.113.0/24"],
        "addresses": [{"ipv4": address}],
    }
    return make("EgressGateway", name, spec, age=age)


def policy(name: str, include: list[str], *, age: int = 0, exclude: tuple[str, ...] = (), **more: Any) -> BIGTCPPolicy:
    spec = {"nodeSelector": on("a"), "ipv6": {}, "devices": {"include": include, "exclude": list(exclude)}, **more}
    made = make("BIGTCPPolicy", name, spec, age=age)
    assert isinstance(made, BIGTCPPolicy)
    return made


@dataclass(frozen=True)
class Case:
    name: str
    older: UserObject
    newer: UserObject
    says: str = ""  # empty where both can have what they want
    field: str = ""

    def __str__(self) -> str:
        return self.name


TCP80 = {"port": 80}
CASES = (
    Case(
        "same prefix",
        gateway("x", prefix=P1, ipv4CIDRs=["1.0.0.0/24"], age=1),
        gateway("y", prefix=P1, ipv4CIDRs=["2.0.0.0/24"]),
        f"wants {P1} (spec.prefix), but NAT46Gateway/x is older and has {P1} (spec.prefix) on a",
        "spec.prefix",
    ),
    Case(
        "a prefix inside another",
        gateway("x", prefix="2001:db8::/32", ipv4CIDRs=["1.0.0.0/24"], age=1),
        gateway("y", prefix=P1, ipv4CIDRs=["2.0.0.0/24"]),
        "NAT46Gateway/x is older and has 2001:db8::/32",
        "spec.prefix",
    ),
    Case(
        "a prefix around another",
        gateway("x", prefix=P1, ipv4CIDRs=["1.0.0.0/24"], age=1),
        gateway("y", prefix="2001:db8::/32", ipv4CIDRs=["2.0.0.0/24"]),
        f"wants 2001:db8::/32 (spec.prefix), but NAT46Gateway/x is older and has {P1}",
        "spec.prefix",
    ),
    Case(
        "same prefix on other nodes",
        gateway("x", prefix=P1, ipv4CIDRs=["1.0.0.0/24"], age=1),
        gateway("y", ["b"], prefix=P1, ipv4CIDRs=["1.0.0.0/24"]),
    ),
    Case(
        "overlapping IPv4 ranges",
        gateway("x", prefix=P1, ipv4CIDRs=["9.0.0.0/24", "1.0.0.0/16"], age=1),
        gateway("y", prefix=P2, ipv4CIDRs=["1.0.5.0/24"]),
        "wants 1.0.5.0/24 (spec.stateless.ipv4CIDRs[0])",
        "spec.stateless.ipv4CIDRs[0]",
    ),
    Case(
        "a mapping inside a range",
        gateway("x", prefix=P1, ipv4CIDRs=["1.0.0.0/16"], age=1),
        gateway("y", mappings=[{"ipv4": "1.0.5.1/32", "ipv6": "2001:db8:5::1/128"}]),
        "wants 1.0.5.1 (spec.stateless.mappings[0].ipv4)",
        "spec.stateless.mappings[0].ipv4",
    ),
    Case(
        "mappings with one IPv6 side",
        gateway("x", mappings=[{"ipv4": "1.0.0.1/32", "ipv6": "2001:db8:5::1/128"}], age=1),
        gateway("y", mappings=[{"ipv4": "1.0.0.2/32", "ipv6": "2001:db8:5::1/128"}]),
        "wants 2001:db8:5::1 (spec.stateless.mappings[0].ipv6)",
        "spec.stateless.mappings[0].ipv6",
    ),
    Case(
        "neighbouring ranges",
        gateway("x", prefix=P1, ipv4CIDRs=["1.0.0.0/24"], age=1),
        gateway("y", prefix=P2, ipv4CIDRs=["1.0.1.0/24"]),
    ),
    Case(
        "one VIP and port, wherever the nodes are",
        balancer("x", "192.0.2.1", TCP80, age=1),
        balancer("y", "192.0.2.1", TCP80, at="b"),
        "wants 192.0.2.1 port 80/TCP (spec.vips[0]), but LoadBalancer/x is older and has 192.0.2.1 port 80/TCP",
        "spec.vips[0]",
    ),
    Case("one VIP, other ports", balancer("x", "192.0.2.1", TCP80, age=1), balancer("y", "192.0.2.1", {"port": 81})),
    Case(
        "one VIP and port, other protocols",
        balancer("x", "192.0.2.1", TCP80, age=1),
        balancer("y", "192.0.2.1", {"port": 80, "protocol": "UDP"}),
    ),
    Case(
        "a port inside a range",
        balancer("x", "2001:db8::1", {"port": 1, "endPort": 100}, age=1),
        balancer("y", "2001:db8::1", TCP80),
        "has 2001:db8::1 ports 1 to 100/TCP",
        "spec.vips[0]",
    ),
    Case(
        "a whole address",
        balancer("x", "192.0.2.1", age=1),
        balancer("y", "192.0.2.1", TCP80),
        "has 192.0.2.1 (spec.vips[0])",
        "spec.vips[0]",
    ),
    Case(
        "one egress address",
        egress("x", "192.0.2.9", age=1),
        egress("y", "192.0.2.9", at="b"),
        "EgressGateway/x is older",
        "spec.addresses[0].ipv4",
    ),
    Case(
        "an egress address that is a VIP",
        balancer("x", "192.0.2.9", TCP80, age=1),
        egress("y", "192.0.2.9", at="b"),
        "LoadBalancer/x is older",
        "spec.addresses[0].ipv4",
    ),
    Case(
        "a VIP inside a pool",
        gateway("x", prefix=P1, stateful=POOL, age=1),
        balancer("y", "198.51.100.3", {"port": 2000}),
        "has 198.51.100.0/28 ports 1024 to 65535 (spec.stateful.pools[0].cidr)",
        "spec.vips[0]",
    ),
    Case(
        "a VIP below a pool's ports",
        gateway("x", prefix=P1, stateful=POOL, age=1),
        balancer("y", "198.51.100.3", TCP80),
    ),
    Case(
        "a VIP under a prefix of its node",
        gateway("x", prefix=P1, ipv4CIDRs=["192.0.2.0/24"], age=1),
        balancer("y", "192.0.2.1", TCP80),
        "has 192.0.2.0/24 (spec.stateless.ipv4CIDRs[0]) on a",
        "spec.vips[0]",
    ),
    Case(
        "a VIP under a prefix of another node",
        gateway("x", ["b"], prefix=P1, ipv4CIDRs=["192.0.2.0/24"], age=1),
        balancer("y", "192.0.2.1", TCP80),
    ),
    Case(
        "policies for one device",
        policy("x", ["eth0"], age=1),
        policy("y", ["eth*"]),
        "has priority 100 for the device eth*, but BIGTCPPolicy/x is older",
        "spec.devices.include",
    ),
    Case("policies of other priority", policy("x", ["eth0"], age=1), policy("y", ["eth0"], priority=5)),
    Case("policies of other families", policy("x", ["eth0"], age=1), policy("y", ["eth0"], ipv6=None, ipv4={})),
)


def conflicts(*objects: UserObject) -> list[tuple[Ref, str, str]]:
    problems = planned(*objects).problems
    return [(problem.ref, problem.field, problem.message) for problem in problems if problem.reason == "Conflicted"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_older_keeps_what_it_has(case: Case) -> None:
    found = conflicts(case.newer, case.older)
    assert found == conflicts(case.older, case.newer)
    if not case.says:
        assert found == []
        return
    ((ref, field, message),) = found
    assert (ref, field) == (case.newer.ref, case.field)
    assert case.says in message


@pytest.mark.parametrize("case", [case for case in CASES if case.says], ids=str)
def test_the_newer_takes_over_when_the_older_goes(case: Case) -> None:
    assert conflicts(case.newer) == []


def test_equal_age_goes_by_name() -> None:
    one, two = (gateway(name, prefix=P1, ipv4CIDRs=[f"{number}.0.0.0/24"]) for number, name in ((1, "m"), (2, "n")))
    assert [ref.name for ref, _, _ in conflicts(two, one)] == ["n"]


def test_a_loser_blocks_nobody() -> None:
    """y loses to x on a; z contradicts y only, so z has a while y still holds b against it."""
    x = gateway("x", ["a"], prefix=P1, ipv4CIDRs=["1.0.0.0/24"], age=2)
    y = gateway("y", ["a", "b"], prefix=P1, ipv4CIDRs=["2.0.0.0/24"], age=1)
    z = gateway("z", ["a", "b"], prefix=P2, ipv4CIDRs=["2.0.0.0/24"])
    for order in permutations((x, y, z)):
        result = planned(*order)
        assert result.programmed == {x.ref: ("a",), y.ref: ("b",), z.ref: ("a",)}
        assert [problem.ref for problem in result.problems] == [y.ref, z.ref]
        assert "on b" in result.problems[1].message


def test_one_sentence_for_each_older_object() -> None:
    rivals = [
        gateway(name, prefix=f"2001:db8:{name}::/96", ipv4CIDRs=[f"{n}.0.0.0/24"], age=1)
        for n, name in ((1, "a"), (2, "b"))
    ]
    late = gateway("z", prefix=P1, ipv4CIDRs=["1.0.0.0/24", "2.0.0.0/25", "2.0.0.128/25"])
    assert len(conflicts(late, *rivals)) == 2


def test_a_name_declared_twice() -> None:
    one = gateway("x", prefix=P1, ipv4CIDRs=["1.0.0.0/24"])
    two = gateway("x", prefix=P2, ipv4CIDRs=["1.0.0.0/24"])
    first, second = planned(one, two), planned(two, one)
    assert first == second
    assert [problem.reason for problem in first.problems] == ["Duplicate"]
    assert first.programmed == {one.ref: ("a",)}


@pytest.mark.parametrize(
    ("one", "other", "meets"),
    [
        ("eth0", "eth0", True),
        ("eth0", "eth1", False),
        ("eth*", "eth0", True),
        ("eth*", "*0", True),
        ("eth*", "en*", False),
        ("e?h0", "et*0", True),
        ("e??", "eth0", False),
        ("auto", "eth0", True),
        ("en[ps]*", "enp1s0", True),
        ("en[ps]*", "eno*", True),
        ("en[ps]*", "eth?", False),
        ("*a*b*c*", "c*b*a", True),
        ("", "*", True),
    ],
)
def test_patterns_meet(one: str, other: str, meets: bool) -> None:
    assert patterns_meet(one, other) is meets
    assert patterns_meet(other, one) is meets


@pytest.mark.parametrize(("exclude", "overlap"), [((), "eth*"), (("eth0",), ""), (("eth*",), ""), (("eth1",), "eth*")])
def test_excluded_devices_are_no_conflict(exclude: tuple[str, ...], overlap: str) -> None:
    assert policies_overlap(policy("x", ["eth*"], exclude=exclude), policy("y", ["eth0"])) == overlap


PREFIXES = st.sampled_from([P1, P2, "2001:db8::/32", "2001:db8:1::/48", "64:ff9b:1::/96"])
RANGES = st.sampled_from(["1.0.0.0/8", "1.2.0.0/16", "1.2.3.0/24", "2.0.0.0/24", "3.0.0.0/24"])
PLACES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)


@settings(max_examples=150, deadline=None)
@given(
    parts=st.lists(st.tuples(PREFIXES, RANGES, PLACES, st.integers(0, 3)), min_size=1, max_size=8),
    shuffled=st.randoms(use_true_random=False),
)
def test_every_order_gives_the_same_and_no_node_has_a_conflict(parts: list[Any], shuffled: Any) -> None:
    made = [
        gateway(f"g{number}", at, prefix=prefix, ipv4CIDRs=[cidr], age=age)
        for number, (prefix, cidr, at, age) in enumerate(parts)
    ]
    everywhere = nodes("a", "b", "c")
    first = plan(Snapshot(tuple(made), everywhere, digests=DIGESTS))
    shuffled.shuffle(made)
    assert plan(Snapshot(tuple(made), everywhere[::-1], digests=DIGESTS)) == first
    by_ref = {item.ref: item for item in made}
    for node in "abc":
        here = [by_ref[ref] for ref, places in first.programmed.items() if node in places]
        for one, other in ((x, y) for x in here for y in here if x.ref < y.ref):
            assert not one.spec.prefix.overlaps(other.spec.prefix)  # type: ignore[attr-defined]
    assert made[0].ref in {problem.ref for problem in first.problems} or first.programmed[made[0].ref]
