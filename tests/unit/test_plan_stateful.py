"""Stateful gateways: shared out between nodes, routes from all others, and the tables that come of it."""

from __future__ import annotations

import re
from dataclasses import replace
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sixgate.api import UserObject, parse_object
from sixgate.api.nodeconfig import NodeConfigSpec
from sixgate.cli import build
from sixgate.errors import Ref
from sixgate.node.bpf import layouts
from sixgate.plan import NodeInfo, NodePlan, PlanMemo, PlanResult, Snapshot, plan
from sixgate.plan.natplan import Has
from sixgate.plan.nodeplan import Feature
from sixgate.plan.stateful import ALL_BLOCKS, PROTOCOLS
from sixgate.plan.stateplan import PortSpacePlan, ReservationPlan, StatefulFlag, StatefulPlan, joined
from sixgate.render import Renderer
from tests.unit.objects import DIGESTS, gateway, nodes, planned

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "64:ff9b:1::/96"
POOL = {"pools": [{"cidr": "198.51.100.0/29"}]}
VIP = {"vip": "203.0.113.80", "port": 80, "backends": [{"address": "2001:db8::1", "port": 8080}]}
MIRROR = {"vip": "2001:db8:f::80", "port": 80, "backends": [{"address": "192.0.2.1", "port": 8080, "weight": 2}]}


def spec_of(made: NodePlan) -> NodeConfigSpec:
    return Renderer().render(made)


def state_of(result: PlanResult, node: str = "a") -> StatefulPlan:
    assert not result.problems
    found = result.nodes[node].stateful
    assert found is not None
    return found


def entries(spec: NodeConfigSpec, name: str) -> list[tuple[Any, Any]]:
    return [(entry.key, entry.value) for table in spec.tables if table.map == name for entry in table.entries]


def cluster(*names: str, without: tuple[str, ...] = (), down: tuple[str, ...] = ()) -> tuple[NodeInfo, ...]:
    return tuple(
        NodeInfo(
            name,
            {"name": name},
            addresses=(f"192.0.2.{number}",) + (() if name in without else (f"2001:db8::{number}",)),
            ready=name not in down,
        )
        for number, name in enumerate(names, 10)
    )


def on_cluster(item: UserObject, found: tuple[NodeInfo, ...]) -> PlanResult:
    return plan(Snapshot(objects=(item,), nodes=found, digests=DIGESTS))


def test_a_pool_becomes_an_object_with_places_for_its_ports() -> None:
    state = state_of(planned(gateway("g", prefix=PREFIX, stateful=POOL)))
    (item,) = state.objects
    assert (item.name, item.n_addrs, item.max_sessions) == ("g", 8, 1048576)
    assert item.flags == StatefulFlag.LIVE | StatefulFlag.PAIRED | StatefulFlag.HAIRPIN
    assert item.lifetimes == (300, 60, 7440, 240, 6, 5, 120)
    assert item.half_size == 65536
    assert [space.name for space in state.spaces] == [f"198.51.100.{last}" for last in range(8)]
    assert {space.count for space in state.spaces} == {PROTOCOLS * ALL_BLOCKS}
    assert state.ids == 1048576
    assert state.port_entries >= 8 * PROTOCOLS * ALL_BLOCKS


def test_the_document_of_a_pool() -> None:
    result = planned(gateway("g", prefix=PREFIX, stateful=POOL))
    spec = spec_of(result.nodes["a"])
    assert {space.space: len(space.items) for space in spec.numbers} == {
        "obj": 1,
        "svc": 0,
        "pool": 1,
        "half": 1,
        "port": 8,
    }
    ((_, table),) = entries(spec, "sg_nat")
    assert table["gw"][0]["obj"] == {"$number": "obj/g"}
    assert table["stateful"] == Has.GW | Has.OWN4
    ((key, value),) = entries(spec, "sg_st_obj")
    assert key == {"$number": "obj/g"}
    assert value["n_pools"] == value["n_addrs"] == 8
    assert value["gw"]["prefix"] == "64:ff9b:1::"
    owned = entries(spec, "sg_st_own")
    assert [key for key, _ in owned] == [f"198.51.100.{last}" for last in range(8)]
    assert owned[3][1]["base"] == {"$number": "port/198.51.100.3", "plus": 0}
    sizes = {setup.name: setup for item in spec.objects for setup in item.maps}
    assert sizes["sg_st_sess"].max_entries == 1048576
    assert sizes["sg_st_sess"].carry
    assert not sizes["sg_st_resv"].carry
    tc = next(item for item in spec.objects if item.name == "sg_tc")
    assert tc.constants["sg_cfg"]["features"] == Feature.NAT | Feature.STATEFUL  # type: ignore[index, call-overload]
    assert tc.constants["sg_cfg"]["st_ids"] == 1048576  # type: ignore[index, call-overload]


def test_a_stateless_gateway_costs_nothing_of_it() -> None:
    spec = spec_of(planned(gateway("g", prefix=PREFIX, ipv4CIDRs=["198.51.100.0/24"])).nodes["a"])
    assert not spec.numbers
    assert not [table.map for table in spec.tables if table.map.startswith("sg_st")]
    assert not [setup.name for item in spec.objects for setup in item.maps if setup.name.startswith("sg_st")]
    assert {setup.max_entries for item in spec.objects for setup in item.maps} == {1}, "room for balancing"


def test_everything_of_a_gateway_has_its_settings() -> None:
    stateful = {
        "pools": [{"cidr": "198.51.100.1/32", "ports": {"first": 2000, "last": 2999}}],
        "filtering": "AddressDependent",
        "pooling": "Arbitrary",
        "hairpinning": False,
        "maxSessions": 5000,
        "portBlockSize": 100,
        "lifetimes": {"udp": 120, "icmpQuery": 61, "tcpEstablished": 7201, "tcpTransitory": 241, "tcpIncomingSYN": 7},
        "clientLimits": {"prefixLength": 64, "ports": 1, "sessions": 2, "newSessionsPerSecond": 3},
        "staticBindings": [
            {"protocol": "UDP", "ipv4": "198.51.100.1", "ipv4Port": 2100, "ipv6": "2001:db8::5", "ipv6Port": 53}
        ],
    }
    result = planned(gateway("g", prefix=PREFIX, stateful=stateful))
    state = state_of(result)
    (item,) = state.objects
    assert item.flags == StatefulFlag.LIVE | StatefulFlag.ADF | StatefulFlag.STATIC | StatefulFlag.CLIENTS
    assert (item.client_ports, item.client_sessions, item.client_rate, item.client_len) == (1, 2, 3, 64)
    assert (item.block_size, item.half_size, state.ids) == (100, 250, 5120)
    assert item.lifetimes[:5] == (120, 61, 7201, 241, 7)
    spec = spec_of(result.nodes["a"])
    bound = entries(spec, "sg_st_bind")
    assert [(key["addr"], key["port"], key["proto"], key["side"]) for key, _ in bound] == [
        ("2001:db8::5", 53, 17, 0),
        ("198.51.100.1", 2100, 17, 1),
    ]
    ((key, bits),) = entries(spec, "sg_st_resv")
    assert key == {"$number": "port/198.51.100.1", "plus": ALL_BLOCKS + 2100 // 64}
    assert bits == 1 << 2100 % 64
    assert entries(spec, "sg_st_own")[0][1]["flags"] == 2


def test_services_have_the_nodes_own_addresses_as_sources() -> None:
    result = planned(gateway("g", services=[VIP, MIRROR]))
    state = state_of(result)
    assert [item.name for item in state.objects] == ["g/6", "g/4"]
    assert [(space.address, space.n_addrs) for space in state.spaces] == [("own4", 1), ("own6", 1)]
    spec = spec_of(result.nodes["a"])
    assert [key for key, _ in entries(spec, "sg_st_own")] == [{"$address": 4}, {"$address": 6}]
    assert [(key["addr"], key["port"], key["proto"]) for key, _ in entries(spec, "sg_st_vip")] == [
        ("203.0.113.80", 80, 6),
        ("2001:db8:f::80", 80, 6),
    ]
    tables = [table for table in spec.tables if table.map == "sg_st_table"]
    assert [table.outer_key for table in tables] == [
        {"$number": "svc/203.0.113.80 TCP 80"},
        {"$number": "svc/2001:db8:f::80 TCP 80"},
    ]
    ((_, nat),) = entries(spec, "sg_nat")
    assert nat["n_gw"] == 0
    assert nat["stateful"] == Has.SVC4 | Has.SVC6 | Has.OWN4 | Has.OWN6


def test_a_service_in_front_of_ipv4_uses_the_pool_of_its_gateway() -> None:
    state = state_of(planned(gateway("g", prefix=PREFIX, stateful=POOL, services=[VIP, MIRROR])))
    assert [item.name for item in state.objects] == ["g", "g/6"]
    assert {service.vip: service.obj for service in state.services} == {VIP["vip"]: "g/6", MIRROR["vip"]: "g"}


def test_two_pools_of_one_address_stand_in_one_place() -> None:
    halves = [
        {"cidr": "198.51.100.1/32", "ports": {"last": 30000}},
        {"cidr": "198.51.100.1/32", "ports": {"first": 30001}},
    ]
    (space,) = (state := state_of(planned(gateway("g", prefix=PREFIX, stateful={"pools": halves})))).spaces
    assert [(pool.first, pool.last) for pool in state.objects[0].pools] == [(1024, 30000), (30001, 65535)]
    assert {pool.space for pool in state.objects[0].pools} == {space}


def test_a_large_pool_stands_in_rows() -> None:
    wide = {"pools": [{"cidr": "198.51.100.0/24"}, {"cidr": "198.51.100.0/25", "ports": {"first": 512, "last": 1023}}]}
    state = state_of(planned(gateway("g", prefix=PREFIX, stateful=wide)))
    assert [(space.name, space.n_addrs) for space in state.spaces] == [
        ("198.51.100.0+128:8+1016", 128),
        ("198.51.100.128+128:16+1008", 128),
    ]
    assert len(state.objects[0].pools) == 3


def test_more_ports_than_fit_are_told() -> None:
    (problem,) = planned(gateway("g", prefix=PREFIX, stateful={"pools": [{"cidr": "10.0.0.0/20"}]})).problems
    assert problem.reason == "TooMuchState"
    assert "in its pools on one node, where those of 682 addresses fit" in problem.message


def test_a_node_shares_its_own_address_with_its_own_gateway_only() -> None:
    own = {"pools": [{"cidr": "192.0.2.10/32"}]}
    alone = on_cluster(gateway("g", ["a"], prefix=PREFIX, stateful=own), cluster("a", "b"))
    assert not alone.problems
    (problem,) = on_cluster(gateway("g", ["a", "b"], prefix=PREFIX, stateful=own), cluster("a", "b")).problems
    assert problem.reason == "CoversCluster"
    assert "has the pool 192.0.2.10/32 (spec.stateful.pools[0].cidr), which covers" in problem.message


# Several nodes


GATEWAYS = ("a", "b", "c")
OTHERS = ("d", "e", "f", "g", "h")


def two_tiers(down: tuple[str, ...] = (), pool: str = "198.51.100.0/29") -> PlanResult:
    item = gateway("g", GATEWAYS, prefix=PREFIX, stateful={"pools": [{"cidr": pool}]})
    return on_cluster(item, cluster(*GATEWAYS, *OTHERS, down=down))


def addresses(result: PlanResult, node: str) -> set[str]:
    state = result.nodes[node].stateful
    return {space.address for space in state.spaces} if state else set()


def ways(result: PlanResult) -> dict[str, str]:
    return {name: made.routes[0].via for name, made in result.nodes.items() if made.routes}


def test_gateway_nodes_share_the_pool_and_all_others_have_a_way_to_one_of_them() -> None:
    result = two_tiers()
    assert not result.problems
    held = [addresses(result, name) for name in GATEWAYS]
    assert set.union(*held) == {str(IPv4Address("198.51.100.0") + n) for n in range(8)}
    assert sum(map(len, held)) == 8
    assert set(ways(result)) == set(OTHERS)
    assert set(ways(result).values()) <= {"2001:db8::10", "2001:db8::11", "2001:db8::12"}
    spec = spec_of(result.nodes["d"])
    assert [(route.destination, route.via, route.owners) for route in spec.routes] == [
        (PREFIX, ways(result)["d"], ("NAT46Gateway/g",))
    ]
    assert not spec.objects, "a node that only has a route loads nothing"
    assert set(result.programmed[next(iter(result.programmed))]) == {*GATEWAYS, *OTHERS}


def test_a_gateway_node_that_dies_is_used_no_more_and_nothing_else_moves() -> None:
    before = two_tiers()
    victim = ways(before)["d"]
    name = next(name for number, name in enumerate(GATEWAYS, 10) if victim.endswith(str(number)))
    after = two_tiers(down=(name,))
    assert victim not in ways(after).values()
    for node, via in ways(before).items():
        if via != victim:
            assert ways(after)[node] == via, "who used another one stays"
    for node in GATEWAYS:
        assert addresses(after, node) == addresses(before, node), "its data plane may well go on"


def test_with_fewer_addresses_than_nodes_the_ready_ones_have_them() -> None:
    before = two_tiers(pool="198.51.100.1/32")
    (holder,) = (name for name in GATEWAYS if addresses(before, name))
    assert {*GATEWAYS, *OTHERS} - {holder} == set(ways(before)), "gateway nodes without an address use the one with it"
    after = two_tiers(down=(holder,), pool="198.51.100.1/32")
    assert not addresses(after, holder)
    (heir,) = (name for name in GATEWAYS if addresses(after, name))
    assert set(ways(after)) == {*GATEWAYS, *OTHERS} - {heir}


def test_where_no_gateway_is_ready_the_way_stays() -> None:
    assert set(ways(two_tiers(down=GATEWAYS))) == set(OTHERS)


def test_a_gateway_without_an_ipv6_address_has_no_way_to_it() -> None:
    item = gateway("g", ["a"], prefix=PREFIX, stateful=POOL)
    (problem,) = on_cluster(item, cluster("a", "b", without=("a",))).problems
    assert problem.reason == "NoAddress"
    assert problem.message.endswith("has no way to a from other nodes: a Node needs an IPv6 address for that")


def test_the_order_of_nodes_is_of_no_matter() -> None:
    item = gateway("g", GATEWAYS, prefix=PREFIX, stateful=POOL)
    found = cluster(*GATEWAYS, *OTHERS)
    assert on_cluster(item, found).nodes == on_cluster(item, found[::-1]).nodes


def test_a_memo_changes_nothing_but_time() -> None:
    item = gateway("g", GATEWAYS, prefix=PREFIX, stateful=POOL)
    memo = PlanMemo()
    snapshots = [Snapshot(objects=(item,), nodes=cluster(*GATEWAYS, *OTHERS), digests=DIGESTS) for _ in range(2)]
    first, second = (plan(snapshot, memo) for snapshot in snapshots)
    assert first == second == plan(snapshots[0])
    assert all(first.nodes[name] is second.nodes[name] for name in first.nodes)
    other = plan(Snapshot(objects=(item,), nodes=cluster(*GATEWAYS, *OTHERS, down=("a",)), digests=DIGESTS), memo)
    assert other == plan(Snapshot(objects=(item,), nodes=cluster(*GATEWAYS, *OTHERS, down=("a",)), digests=DIGESTS))


@pytest.mark.parametrize(
    ("mine", "theirs", "prefix"),
    [
        (StatefulFlag, layouts.SgStFlag, "SG_ST_"),
        (Has, layouts.SgStHas, "SG_ST_HAS_"),
        (Feature, layouts.SgFeature, "SG_F_"),
    ],
)
def test_flags_are_those_of_the_data_plane(mine: type[IntFlag], theirs: type[IntEnum], prefix: str) -> None:
    known = {each.name: int(each) for each in theirs}
    assert {f"{prefix}{flag.name}": int(flag) for flag in mine}.items() <= known.items()


@pytest.mark.parametrize("folder", ["nat46gateway-stateful", "nat46gateway-services"])
def test_shipped_examples_are_programmed(folder: str) -> None:
    (path,) = (ROOT / "examples" / folder).glob("*.yaml")
    parsed = parse_object(yaml.safe_load(path.read_text()))
    assert isinstance(parsed, UserObject), parsed
    labelled = tuple(NodeInfo(node.name, {"sixgate.io/nat64": "true"}) for node in nodes("a"))
    result = plan(Snapshot(objects=(parsed,), nodes=labelled, digests=DIGESTS))
    assert not result.problems
    assert entries(spec_of(result.nodes["a"]), "sg_st_vip")


def test_the_gateway_of_the_page_is_programmed() -> None:
    page = (ROOT / "docs" / "nat64-stateful.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.S)
    assert blocks
    labelled = tuple(NodeInfo(node.name, {"sixgate.io/nat64": "true"}) for node in nodes("a"))
    for block in blocks:
        parsed = parse_object(yaml.safe_load(block))
        assert isinstance(parsed, UserObject), parsed
        assert not plan(Snapshot(objects=(parsed,), nodes=labelled, digests=DIGESTS)).problems


def test_the_commands_of_the_page_exist() -> None:
    page = (ROOT / "docs" / "nat64-stateful.md").read_text()
    commands = re.findall(r"^    sixgate (.*)$", page, re.M)
    assert commands
    for command in commands:
        words = command.split()
        told = CliRunner().invoke(build(), [*words[:2], "--help"], terminal_width=200)
        assert told.exit_code == 0
        assert all(word in told.output for word in words[2:] if word.startswith("--"))


def test_what_two_features_keep_at_one_address_has_one_place() -> None:
    """A port rests and a static one stays free if either of them needs it; nobody's part is lost."""
    lone = PortSpacePlan("192.0.2.1", "192.0.2.1", 1, 0, 2, 6, "x", False, (Ref("A", "a"),), same=True)
    shared = replace(lone, owners=(Ref("B", "b"),), static=True, same=False)
    other = replace(lone, name="192.0.2.2", address="192.0.2.2")
    one = StatefulPlan((Ref("A", "a"),), (), (lone, other), (), ())
    two = StatefulPlan((Ref("B", "b"),), (), (shared,), (), (), (ReservationPlan(Ref("B", "b"), "192.0.2.1", 0, 1),))
    made = joined(one, two)
    assert made.spaces == (replace(shared, owners=(Ref("A", "a"), Ref("B", "b"))), other)
    assert (made.owners, made.reservations) == ((Ref("A", "a"), Ref("B", "b")), two.reservations)
    assert joined(None, two) == two
