"""Objects that would take the cluster's own addresses away from it."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgate.api import UserObject
from sixgate.plan import NodeInfo, PlanMemo, PlanResult, Snapshot, plan
from sixgate.plan.cluster import ClusterAddresses
from tests.unit.objects import DIGESTS, gateway, make, on

NODES = (
    NodeInfo("a", {"name": "a"}, ("10.0.0.1", "2001:db8::1", "a.example"), ("10.1.0.0/24", "2001:db8:a::/64")),
    NodeInfo("b", {"name": "b"}, ("10.0.0.2", "2001:db8:64::c633:6402"), ("10.1.1.0/24",)),
)
PREFIX = "2001:db8:64::/96"
FAR = "198.51.100.0/24"


def planned(item: UserObject) -> PlanResult:
    return plan(Snapshot((item,), NODES, service_cidrs=("10.8.0.0/16",), digests=DIGESTS))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            {"prefix": "2001:db8:9::/96", "ipv4CIDRs": ["192.0.2.0/24", "10.0.0.0/31"]},
            "wants 10.0.0.0/31 (spec.stateless.ipv4CIDRs[1]), which covers the address 10.0.0.1 of the node a",
        ),
        (
            {"prefix": "2001:db8::/96", "ipv4CIDRs": [FAR]},
            "wants 2001:db8::/96 (spec.prefix), which covers the address 2001:db8::1 of the node a",
        ),
        (
            {"mappings": [{"ipv4": "192.0.2.1/32", "ipv6": "2001:db8::1/128"}]},
            "wants 2001:db8::1/128 (spec.stateless.mappings[0].ipv6), which covers the address 2001:db8::1 of",
        ),
    ],
)
def test_a_node_is_never_cut_off(spec: dict[str, Any], says: str) -> None:
    item = gateway("g", "ab", **spec)
    result = planned(item)
    (problem,) = result.problems
    assert problem.reason == "CoversCluster"
    assert problem.message.startswith(f"NAT46Gateway/g {says}")
    assert problem.message.endswith("left out on a")
    assert result.programmed[item.ref] == ("b",)


def test_a_translatable_address_of_a_node_is_its_own() -> None:
    """b has 2001:db8:64::c633:6402, which is 198.51.100.2 to the IPv4 side: what ipv4CIDRs are for."""
    assert planned(gateway("g", "ab", prefix=PREFIX, ipv4CIDRs=[FAR])).problems == ()
    assert planned(gateway("g", "ab", prefix=PREFIX, ipv4CIDRs=["192.0.2.0/24"])).problems != ()


def test_other_nodes_addresses_do_not_stop_a_gateway() -> None:
    """A node that joins must not be able to take a gateway down."""
    assert planned(gateway("g", "b", prefix="2001:db8:9::/96", ipv4CIDRs=["10.0.0.0/31"])).problems == ()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (
            {"prefix": "2001:db8:9::/96", "ipv4CIDRs": ["10.0.0.0/8"]},
            "wants 10.0.0.0/8 (spec.stateless.ipv4CIDRs[0]), which covers the Services 10.96.0.0/16 of the cluster",
        ),
        (
            {"mappings": [{"ipv4": "10.96.0.1/32", "ipv6": "2001:db8:77::1/128"}]},
            "wants 10.96.0.1/32 (spec.stateless.mappings[0].ipv4), which covers the Services 10.96.0.0/16",
        ),
        (
            {"prefix": "2001:db8:5e::/96", "ipv4CIDRs": [FAR]},
            "wants 2001:db8:5e::/96 (spec.prefix), which covers the Services 2001:db8:5e::/112 of the cluster",
        ),
        ({"mappings": [{"ipv4": "192.0.2.1/32", "ipv6": "2001:db8:5e::1/128"}]}, ""),
    ],
)
def test_services_keep_their_addresses(spec: dict[str, Any], says: str) -> None:
    """All nodes have Services, so all leave the object out; a mapping may lead to a Service."""
    nodes = (NodeInfo("a", {"name": "a"}), NodeInfo("b", {"name": "b"}))
    item = gateway("g", "ab", **spec)
    cidrs = ("10.96.0.0/16", "2001:db8:5e::/112")
    result = plan(Snapshot((item,), nodes, service_cidrs=cidrs, digests=DIGESTS))
    assert [p.reason for p in result.problems] == ["CoversCluster"] * bool(says)
    assert all(says in p.message and p.message.endswith("left out on a, b") for p in result.problems)
    assert result.programmed[item.ref] == (() if says else ("a", "b"))
    assert plan(Snapshot((item,), nodes, digests=DIGESTS)).problems == ()


@pytest.mark.parametrize(
    ("destinations", "excluded", "says"),
    [
        (["203.0.113.0/24"], [], ""),
        (["0.0.0.0/0"], ["10.8.0.0/16"], "which covers the pods 10.1.1.0/24 of the node b"),
        (["0.0.0.0/0"], ["10.1.0.0/16", "10.8.0.0/16"], "which covers the address 10.0.0.2 of the node b"),
        (["0.0.0.0/0"], ["10.0.0.0/8", "::/0"], ""),
        (["10.0.0.0/12"], ["10.0.0.0/13"], "which covers the Services 10.8.0.0/16 of the cluster"),
        (["10.8.0.0/14"], ["10.8.0.0/16"], ""),
        (["10.1.0.128/25"], ["10.0.0.0/16"], "which covers the pods 10.1.0.0/24 of the node a"),
    ],
)
def test_egress_leaves_the_cluster_alone(destinations: list[str], excluded: list[str], says: str) -> None:
    spec = {
        "nodeSelector": on("a"),
        "pods": [{"namespaceSelector": {"matchLabels": {"x": "y"}}, "allPods": True}],
        "destinationCIDRs": destinations,
        "excludedCIDRs": excluded,
        "addresses": [{"ipv4": "198.51.100.1"}],
    }
    covering = [item for item in planned(make("EgressGateway", "e", spec)).problems if item.reason == "CoversCluster"]
    assert bool(covering) == bool(says)
    assert all(says in item.message and item.field == "spec.destinationCIDRs[0]" for item in covering)


def test_a_memo_sees_changed_services() -> None:
    memo, item = PlanMemo(), gateway("g", "a", prefix="2001:db8:9::/96", ipv4CIDRs=["10.96.1.0/24"])
    for cidrs in ((), ("10.96.0.0/16",), ()):
        snapshot = Snapshot((item,), NODES, service_cidrs=cidrs, digests=DIGESTS)
        assert plan(snapshot, memo) == plan(snapshot)
        assert bool(plan(snapshot, memo).problems) == bool(cidrs)


def test_a_memo_sees_changed_addresses() -> None:
    memo = PlanMemo()
    item = gateway("g", "a", prefix="2001:db8:9::/96", ipv4CIDRs=["10.0.0.0/31"])
    moved = (NodeInfo("a", {"name": "a"}, ("10.9.9.9",)), NODES[1])
    for nodes in (NODES, moved, NODES):
        snapshot = Snapshot((item,), nodes, digests=DIGESTS)
        assert plan(snapshot, memo) == plan(snapshot)
        assert bool(plan(snapshot, memo).problems) == (nodes is NODES)


NETWORKS = st.builds(
    lambda address, length: str(ip_network((address, length), strict=False)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)


@settings(max_examples=200, deadline=None)
@given(cidrs=st.lists(NETWORKS, max_size=8), asked=NETWORKS)
def test_overlap_is_what_ipaddress_says(cidrs: list[str], asked: str) -> None:
    found = ClusterAddresses((NodeInfo("n", {}, (), tuple(cidrs)),)).inside(ip_network(asked))
    wanted = [cidr for cidr in cidrs if ip_network(cidr).overlaps(ip_network(asked))]
    assert sorted(str(own.network) for own in found) == sorted(wanted)
