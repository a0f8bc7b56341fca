"""Balancers in mode NAT and the stateful engine: snapshots and the plans that come of them."""

from __future__ import annotations

from typing import Any

from sixgate.api import UserObject
from sixgate.plan import PlanResult
from sixgate.plan.natplan import Has
from sixgate.plan.nodeplan import Feature
from sixgate.plan.stateplan import StatefulFlag, StatefulPlan
from tests.unit.balancers import lb, the_plan, the_problem
from tests.unit.objects import make, on, planned


def natted(name: str = "web", *where: str, age: int = 0, nat: dict[str, Any] | None = None, **spec: Any) -> UserObject:
    forwarding = {"mode": "NAT"} if nat is None else {"mode": "NAT", "nat": nat}
    return lb(name, *where, age=age, forwarding=forwarding, **spec)


def the_state(result: PlanResult, node: str = "a") -> StatefulPlan:
    found = result.nodes[node].stateful
    assert found is not None
    return found


def test_mode_nat_is_an_object_of_the_engine_for_each_family_of_backends() -> None:
    both = [{"address": "203.0.113.11"}, {"address": "2001:db8::11"}]
    result = planned(natted(vips=["192.0.2.80", "2001:db8:80::80"], backends=both))
    assert not result.problems
    node, state = result.nodes["a"], the_state(result)
    assert node.config is not None
    assert node.config.features == Feature.LB | Feature.NAT | Feature.STATEFUL
    assert [item.name for item in state.objects] == ["LoadBalancer/web/4", "LoadBalancer/web/6"]
    assert [space.address for space in state.spaces] == ["own4", "own6"]
    assert [item.name for item in state.services] == ["LoadBalancer/web 192.0.2.80", "LoadBalancer/web 2001:db8:80::80"]
    assert {item.by_family for item in state.services} == {("LoadBalancer/web/4", "LoadBalancer/web/6")}
    assert node.nat is not None
    assert node.nat.has == Has.OWN4 | Has.OWN6
    assert not planned(lb()).nodes["a"].stateful


def test_balancers_and_gateways_share_the_nodes_own_address() -> None:
    services = [{"vip": "192.0.2.9", "port": 80, "backends": [{"address": "2001:db8::9", "port": 80}]}]
    shop = make("NAT46Gateway", "shop", {"nodeSelector": on("a"), "services": services})
    six = [{"address": "2001:db8::11"}]
    result = planned(shop, natted("one", age=1, backends=six), natted("two", age=2, vips=["192.0.2.81"], backends=six))
    assert not result.problems
    state = the_state(result)
    (space,) = state.spaces
    assert [str(owner) for owner in space.owners] == ["NAT46Gateway/shop", "LoadBalancer/one", "LoadBalancer/two"]
    assert len({item.gateway.stat for item in state.objects}) == len(state.objects) == 3
    assert len(state.services) == 3
    sizes = {tuple(item.maps) for item in result.nodes["a"].objects}
    assert len(sizes) == 1  # what objects share has one size


def test_sources_are_shared_out_among_nodes() -> None:
    sources = ["203.0.113.200", "203.0.113.201", "2001:db8::c8"]
    result = planned(natted("web", "a", "b", nat={"sourceAddresses": sources[:2]}))
    assert not result.problems
    had = [the_plan(result, node).nat for node in ("a", "b")]
    assert all(each is not None for each in had)
    assert sorted(source for each in had if each is not None for source in each.sources) == sources[:2]
    result = planned(natted("web", "a", "b", backends=[{"address": "2001:db8::11"}], nat={"sourceAddresses": sources}))
    problem = the_problem(result)
    assert problem.reason == "NoSource"
    assert "fewer addresses in spec.forwarding.nat.sourceAddresses than nodes, and none is left for" in problem.message
    assert sum(bool(result.nodes[node].balancers) for node in ("a", "b")) == 1


def test_a_backend_of_a_family_without_sources_is_left_out() -> None:
    both = [{"address": "203.0.113.11"}, {"address": "2001:db8::11"}]
    result = planned(natted(backends=both, nat={"sourceAddresses": ["203.0.113.200"]}))
    problem = the_problem(result)
    assert problem.reason == "NoSource"
    assert problem.message == (
        "LoadBalancer/web has the backend 2001:db8::11, but no IPv6 address in spec.forwarding.nat.sourceAddresses "
        "that it could be reached from; 1 of 2 backends are left out"
    )
    assert [backend.address for backend in the_plan(result).backends] == ["203.0.113.11"]


def test_a_source_is_nobody_elses() -> None:
    source = {"sourceAddresses": ["203.0.113.200"]}
    for other in (lb("old", vips=["203.0.113.200"]), natted("old", vips=["192.0.2.9"], nat=source)):
        problem = the_problem(planned(other, natted("new", age=-1, vips=["192.0.2.81"], nat=source)))
        assert (problem.ref.name, problem.reason) == ("new", "Conflicted")
        assert "203.0.113.200" in problem.message
        assert "is older and has" in problem.message


def test_mode_nat_has_xdp_unless_that_is_switched_off() -> None:
    """It has a short path for sessions that stand, within a family."""

    def names(**spec: Any) -> set[str]:
        return {item.name for item in planned(natted(**spec)).nodes["a"].objects}

    assert "sg_xdp" in names()
    assert "sg_xdp" in names(acceleration="Native")
    assert "sg_xdp" not in names(acceleration="Disabled")


def test_clients_that_keep_their_addresses() -> None:
    kept = {"preserveClientIP": True}
    mixed = [{"address": "203.0.113.11"}, {"address": "2001:db8:b::1"}]
    result = planned(natted(nat=kept, backends=mixed), natted("six", nat=kept, vips=["2001:db8::80"], age=1))
    left_out = {problem.ref.name: problem.message for problem in result.problems}
    assert {problem.reason for problem in result.problems} == {"ModeUnfit"}
    assert left_out["web"].startswith("LoadBalancer/web has the backend 2001:db8:b::1, but no client that keeps its ")
    assert left_out["web"].endswith("comes to it by IPv6, as no VIP is of that family; 1 of 2 backends are left out")
    node = result.nodes["a"]
    assert node.nat is not None
    assert dict(node.nat.kept) == {4: "clients4", 6: "clients6"}
    assert node.nat.has == Has.KEPT4 | Has.KEPT6
    state = the_state(result)
    assert {item.flags & StatefulFlag.KEEP for item in state.objects} == {StatefulFlag.KEEP}
    assert {space.name: space.addresses for space in state.spaces} == {"clients4": (), "clients6": ()}
