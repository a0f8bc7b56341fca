"""Which node announces which address of a NAT46Gateway."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sixgate.api import UserObject
from sixgate.plan import NodeInfo, PlanResult, Snapshot, plan
from sixgate.plan.announce import MAX_ANNOUNCED
from sixgate.plan.lbplan import VipPlan
from sixgate.plan.result import TOO_MANY_ADDRESSES
from tests.unit.objects import DIGESTS, make, nodes, on, planned

PREFIX = "2001:db8:64::/96"
SERVICE = {"vip": "192.0.2.80", "port": 80, "backends": [{"address": "2001:db8::80", "port": 80}]}


def gateway(*names: str, **spec: Any) -> UserObject:
    return make("NAT46Gateway", "g", {"nodeSelector": on(*names), "prefix": PREFIX, "announce": "L2", **spec})


def stateful(cidr: str, *names: str, **more: Any) -> UserObject:
    return gateway(*names, stateful={"pools": [{"cidr": cidr}]}, **more)


def announced(result: PlanResult, node: str) -> tuple[VipPlan, ...]:
    return tuple(each for item in result.nodes[node].announcements for each in item.addresses)


def test_every_node_announces_its_own_share_of_a_pool_alone() -> None:
    result = planned(stateful("198.51.100.64/29", "a", "b"))
    assert not result.problems
    shares = {name: announced(result, name) for name in "ab"}
    assert all(each.announcers == (name,) for name, share in shares.items() for each in share)
    of_nat = {name: {s.address for s in result.nodes[name].stateful.spaces} for name in "ab"}  # type: ignore[union-attr]
    assert {name: {each.address for each in share} for name, share in shares.items()} == of_nat
    assert sum(map(len, shares.values())) == 8


def test_stateless_addresses_and_vips_are_any_nodes_that_works() -> None:
    mapping = {"ipv4": "192.0.2.64/31", "ipv6": "2001:db8:46::40/127"}
    item = gateway("a", "b", "c", stateless={"ipv4CIDRs": ["198.51.100.0/31"], "mappings": [mapping]})
    made = nodes("a", "b", "c")
    unready: tuple[NodeInfo, ...] = (*made[:2], replace(made[2], ready=False))
    result = plan(Snapshot(objects=(item,), nodes=unready, digests=DIGESTS))
    assert announced(result, "a") == announced(result, "b") == announced(result, "c")
    found = announced(result, "a")
    assert [each.address for each in found] == ["192.0.2.64", "192.0.2.65", "198.51.100.0", "198.51.100.1"]
    assert all(sorted(each.announcers) == ["a", "b"] for each in found)
    vips = announced(planned(gateway("a", "b", services=[SERVICE])), "a")
    assert [(each.address, sorted(each.announcers)) for each in vips] == [("192.0.2.80", ["a", "b"])]


def test_nothing_is_announced_that_nobody_asked_for() -> None:
    result = planned(stateful("198.51.100.64/29", "a", announce="None"))
    assert not result.problems
    assert announced(result, "a") == ()


def test_too_many_addresses_are_translated_and_not_announced() -> None:
    result = planned(stateful("198.18.0.0/21", "a", "b", "c"))
    (problem,) = result.problems
    assert (problem.reason, problem.field) == (TOO_MANY_ADDRESSES, "spec.announce")
    assert f"has 2048 addresses to announce (spec.announce), and {MAX_ANNOUNCED} are the most" in problem.message
    assert announced(result, "a") == ()
    assert result.nodes["a"].stateful is not None
