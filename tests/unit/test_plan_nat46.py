"""Stateless gateways as tables of the data plane."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Any

import pytest

from sixgate.api import UserObject
from sixgate.api.nat46gateway import MAX_IPV4_CIDRS, MAX_MAPPINGS
from sixgate.errors import Ref
from sixgate.node.bpf import layouts
from sixgate.node.bpf.ctype import Array
from sixgate.plan import NodeInfo, NodePlan, PlanMemo, Snapshot, natplan, plan
from sixgate.plan.nat46 import stat_indexes
from sixgate.plan.natplan import GatewayFlag, GatewayPlan, MappingPlan, NatPlan, RangePlan
from sixgate.plan.nodeplan import EMPTY, Feature
from tests.unit.objects import DIGESTS, gateway, nodes, planned

P1 = "2001:db8:1::/96"
CIDRS: dict[str, Any] = {"prefix": P1, "ipv4CIDRs": ["198.51.100.0/24"]}


def plan_of(*gateways: UserObject, node: str = "a") -> NodePlan:
    result = planned(*gateways)
    assert not result.problems
    return result.nodes[node]


def nat_of(*gateways: UserObject) -> NatPlan:
    nat = plan_of(*gateways).nat
    assert nat is not None
    return nat


def one(**spec: Any) -> GatewayPlan:
    (found,) = nat_of(gateway("g", **spec)).gateways
    return found


def test_a_gateway_with_defaults() -> None:
    assert one(**CIDRS) == GatewayPlan(
        owner=Ref("NAT46Gateway", "g"),
        prefix="2001:db8:1::",
        mask="ffff:ffff:ffff:ffff:ffff:ffff::",
        prefix_len=96,
        pool6791="::",
        pool6791_len=0,
        pool6791_6="::",
        pool6791_6_len=0,
        flags=GatewayFlag.PREFIX | GatewayFlag.WKP_STRICT,
        low_mtu=1280,
        stat=stat_indexes(("g",))[0],
        tos=0,
    )


@pytest.mark.parametrize(
    ("spec", "flag", "is_set"),
    [
        ({}, GatewayFlag.PREFIX, True),
        ({"strictWellKnownPrefix": False}, GatewayFlag.WKP_STRICT, False),
        ({"trafficClass": "Zero"}, GatewayFlag.ZERO_TC, True),
        ({"tos": 0}, GatewayFlag.FIXED_TOS, True),
        ({"udpZeroChecksum": "Compute"}, GatewayFlag.UDP_ZERO_CALC, True),
        ({"mssClamp": True}, GatewayFlag.MSS_CLAMP, True),
        ({"icmpErrors": "Quiet"}, GatewayFlag.ICMP_QUIET, True),
        ({"hairpinning": False}, GatewayFlag.HAIRPIN_OFF, True),
    ],
)
def test_each_option_sets_its_flag_alone(spec: dict[str, Any], flag: GatewayFlag, is_set: bool) -> None:
    plain = int(GatewayFlag.PREFIX | GatewayFlag.WKP_STRICT)
    assert one(**CIDRS, **spec).flags == (plain | flag if is_set else plain & ~flag)


def test_values_of_options() -> None:
    made = one(
        **CIDRS, tos=184, lowestIPv6MTU=1500, icmpSourceCIDR="192.0.2.0/28", icmpSourceIPv6CIDR="2001:db8:9::/64"
    )
    assert (made.tos, made.low_mtu) == (184, 1500)
    assert (made.pool6791, made.pool6791_len, made.pool6791_6, made.pool6791_6_len) == (
        "192.0.2.0",
        28,
        "2001:db8:9::",
        64,
    )


def test_explicit_mappings_go_both_ways() -> None:
    nat = nat_of(gateway("g", mappings=[{"ipv4": "192.0.2.64/28", "ipv6": "2001:db8:46::/120"}]))
    assert nat.gateways[0].flags & GatewayFlag.PREFIX == 0
    assert nat.mappings == (
        MappingPlan("192.0.2.64", 124, "2001:db8:46::", 120, 0, 0, 156),
        MappingPlan("2001:db8:46::", 120, "192.0.2.64", 124, 0, 0, 152),
    )
    assert nat.generation != 0


def test_no_mappings_are_generation_zero() -> None:
    assert nat_of(gateway("g", **CIDRS)).generation == 0


def test_generations_differ_with_contents() -> None:
    def generation(address: str) -> int:
        return nat_of(gateway("g", mappings=[{"ipv4": "192.0.2.1/32", "ipv6": address}])).generation

    assert generation("2001:db8::1/128") == generation("2001:db8:0::1/128") != generation("2001:db8::2/128")


def test_ranges_as_numbers() -> None:
    assert nat_of(gateway("g", **CIDRS)).ranges == (RangePlan(0xC6336400, 0xFFFFFF00, 0),)


def test_ranges_beyond_sixteen_are_mappings() -> None:
    nat = nat_of(gateway("g", prefix=P1, ipv4CIDRs=[f"10.0.{number}.0/24" for number in range(20)]))
    assert len(nat.ranges) == 16
    assert [(entry.addr, entry.length, entry.kind, entry.to) for entry in nat.mappings] == [
        (f"10.0.{number}.0", 120, 1, "::") for number in range(16, 20)
    ]


def test_gateways_stand_in_order_of_name_whichever_is_older() -> None:
    """Which of two objects without a quarrel was made first must not be seen in a NodeConfig: a GitOps tool that makes
    them in another order after a disaster gets the same data plane."""
    nats = []
    for ages in ((1, 9), (9, 1), (5, 5)):
        a = gateway("a", prefix="2001:db8:a::/96", ipv4CIDRs=["10.0.0.0/24"], age=ages[0])
        b = gateway("b", prefix="2001:db8:b::/96", ipv4CIDRs=["10.0.1.0/24"], age=ages[1])
        nats.append(nat_of(a, b))
    assert nats[0] == nats[1] == nats[2]
    assert [made.owner.name for made in nats[0].gateways] == ["a", "b"]
    assert nats[0].owners == tuple(made.owner for made in nats[0].gateways)
    assert [(made.addr, made.gateway) for made in nats[0].ranges] == [(0x0A000000, 0), (0x0A000100, 1)]


def test_devices_are_joined() -> None:
    first = gateway("g", **CIDRS, devices=["eth1", "auto"])
    second = gateway("h", prefix="2001:db8:2::/96", ipv4CIDRs=["10.0.0.0/24"], devices=["eth0", "eth1"])
    made = plan_of(first, second)
    assert [(item.name, item.attachments[0].devices) for item in made.objects] == [
        ("sg_tc", ("auto", "eth0", "eth1")),
        ("sg_slow", ("sg-slow1",)),
    ]


def test_acceleration_adds_xdp() -> None:
    """Native on one device; what is only wanted BestEffort is not required, and no device is in both."""
    native = gateway("n", **CIDRS, devices=["eth0"], acceleration="Native")
    willing = gateway(
        "w", prefix="2001:db8:2::/96", ipv4CIDRs=["10.0.0.0/24"], devices=["eth0", "eth1"], acceleration="BestEffort"
    )
    without = gateway("x", prefix="2001:db8:3::/96", ipv4CIDRs=["10.0.1.0/24"], devices=["eth2"])
    xdp = plan_of(native, willing, without).objects[-1]
    assert (xdp.name, [owner.name for owner in xdp.owners]) == ("sg_xdp", ["n", "w"])
    assert [(made.hook, made.devices, made.required) for made in xdp.attachments] == [
        ("xdp", ("eth0",), True),
        ("xdp", ("eth1",), False),
    ]


def test_the_lowest_rate_of_a_node_counts() -> None:
    def config(*limits: dict[str, int] | None) -> tuple[int, int]:
        made = []
        for n, limit in enumerate(limits, 1):
            spec: dict[str, Any] = {"prefix": f"2001:db8:{n}::/96", "ipv4CIDRs": [f"10.0.{n}.0/24"]}
            if limit:
                spec["icmpRateLimit"] = limit
            made.append(gateway(f"g{n}", **spec))
        found = plan_of(*made).config
        assert found is not None
        return found.icmp_rate, found.icmp_burst

    assert config(None) == (100, 100)
    assert config(None, {"perSecond": 1000, "burst": 500}) == (1000, 500)
    assert config({"perSecond": 1000, "burst": 5}, {"perSecond": 0, "burst": 50}) == (0, 5)


def test_sixteen_gateways_fit_and_the_youngest_is_one_too_many() -> None:
    made = [
        gateway(
            f"g{n:02}",
            "ab" if n < 16 else "bc",
            prefix=f"2001:db8:{n:x}::/96",
            ipv4CIDRs=[f"10.0.{n}.0/24"],
            age=30 - n,
        )
        for n in range(17)
    ]
    result = planned(*reversed(made))
    (problem,) = result.problems
    assert (problem.ref.name, problem.reason) == ("g16", "TooManyGateways")
    assert problem.message == "NAT46Gateway/g16 is one gateway too many on b: a node holds at most 16"
    assert result.programmed[made[16].ref] == ("c",)
    counts = [len(result.nodes[node].nat.gateways) for node in "abc"]  # type: ignore[union-attr]
    assert counts == [16, 16, 1]


def test_counter_slots_stay() -> None:
    """Deleting a younger gateway moves no older one; two names with one hash get two slots."""
    names = tuple(f"g{n}" for n in range(400))
    slots = stat_indexes(names)
    assert len(set(slots)) == len(names)
    assert all(0 <= slot < 1024 for slot in slots)
    assert stat_indexes(names[:100]) == slots[:100]
    assert stat_indexes(names[:1]) == slots[:1]


def test_a_selector_that_means_no_node_says_so() -> None:
    item = gateway("g", ["elsewhere"], **CIDRS)
    result = planned(item)
    (problem,) = result.problems
    assert (problem.ref, problem.reason) == (item.ref, "NoNodes")
    assert "has a spec.nodeSelector that matches no node" in problem.message
    assert set(result.nodes.values()) == {EMPTY}


def test_a_missing_object_file_is_named() -> None:
    item = gateway("g", **CIDRS, acceleration="BestEffort")
    result = planned(item, digests={name: DIGESTS[name] for name in ("sg_tc", "sg_slow")})
    (problem,) = result.problems
    assert problem.reason == "ObjectMissing"
    assert "needs the BPF object sg_xdp" in problem.message


def test_nodes_with_the_same_objects_share_one_plan() -> None:
    result = planned(gateway("g", "ab", **CIDRS))
    assert result.nodes["a"] is result.nodes["b"]
    assert result.nodes["c"] == EMPTY


def test_a_memo_changes_no_result() -> None:
    memo = PlanMemo()
    first = gateway("g", "ab", **CIDRS)
    second = gateway("h", "bc", prefix="2001:db8:2::/96", ipv4CIDRs=["10.0.0.0/24"])
    rounds = (
        ((first,), DIGESTS),
        ((first, second), DIGESTS),
        ((first, second), DIGESTS),
        ((second,), dict.fromkeys(DIGESTS, "sha256:" + "d" * 64)),
        ((), DIGESTS),
        ((first,), DIGESTS),
    )
    for objects, digests in rounds:
        snapshot = Snapshot(objects, nodes("a", "b", "c"), digests=digests)
        assert plan(snapshot, memo) == plan(snapshot)


def test_a_memo_gives_the_very_same_plan_again() -> None:
    memo = PlanMemo()
    snapshot = Snapshot((gateway("g", **CIDRS),), nodes("a"), digests=DIGESTS)
    assert plan(snapshot, memo).nodes["a"] is plan(snapshot, memo).nodes["a"]


def test_a_node_listed_twice_is_one_node() -> None:
    snapshot = Snapshot(
        (gateway("g", **CIDRS),), (NodeInfo("a", {"name": "a"}), NodeInfo("a", {"name": "a"})), digests=DIGESTS
    )
    assert list(plan(snapshot).nodes) == ["a"]


@pytest.mark.parametrize(
    ("flags", "generated", "start"), [(GatewayFlag, layouts.SgGwFlag, "SG_GW_"), (Feature, layouts.SgFeature, "SG_F_")]
)
def test_flags_are_those_of_the_objects(flags: type[IntFlag], generated: type[IntEnum], start: str) -> None:
    have = {member.name: member.value for member in generated}
    assert {start + str(flag.name): flag.value for flag in flags}.items() <= have.items()


def test_limits_are_those_of_the_objects() -> None:
    counts = {field.name: field.type.count for field in layouts.SG_NAT_TABLE.fields if isinstance(field.type, Array)}
    assert counts == {"range": natplan.MAX_RANGES, "gw": natplan.MAX_GATEWAYS}
    assert layouts.MAPS["sg_nat_stats"].max_entries == natplan.MAX_STATS


def test_kinds_of_mappings_are_those_of_the_objects() -> None:
    assert (natplan.KIND_EAM, natplan.KIND_RANGE) == (layouts.SgMapKind.SG_MAP_EAM, layouts.SgMapKind.SG_MAP_RANGE)


def test_all_mappings_fit_twice() -> None:
    """Two generations stand beside each other while a table is swapped."""
    most = natplan.MAX_GATEWAYS * (2 * MAX_MAPPINGS + MAX_IPV4_CIDRS)
    assert 2 * most <= layouts.MAPS["sg_nat_map"].max_entries


def test_versions_differ_with_contents() -> None:
    tables = [
        nat_of(gateway("g", **CIDRS)),
        nat_of(gateway("g", **CIDRS, tos=1)),
        nat_of(gateway("g", prefix=P1, ipv4CIDRs=["198.51.100.0/25"])),
        nat_of(gateway("g", **CIDRS, mappings=[{"ipv4": "192.0.2.1/32", "ipv6": "2001:db8::1/128"}])),
    ]
    assert len({table.version for table in tables}) == len(tables)
    assert tables[0].version == nat_of(gateway("g", **CIDRS)).version


MAPPED: dict[str, Any] = {"mappings": [{"ipv4": "192.0.2.64/28", "ipv6": "2001:db8:46::40/124"}]}
MORE: dict[str, Any] = {"mappings": [{"ipv4": "192.0.2.80/28", "ipv6": "2001:db8:46::50/124"}]}


def test_gateways_without_a_prefix_are_joined_with_the_one_that_has_one() -> None:
    mapped, prefixed = nat_of(gateway("a", **MAPPED), gateway("b", **CIDRS)).gateways
    assert (mapped.prefix, mapped.mask, mapped.prefix_len) == (prefixed.prefix, prefixed.mask, 96)
    assert mapped.flags == GatewayFlag.WKP_STRICT | GatewayFlag.JOINED
    assert prefixed.flags == GatewayFlag.PREFIX | GatewayFlag.WKP_STRICT | GatewayFlag.JOINED


@pytest.mark.parametrize(
    "more",
    [
        [gateway("b", **CIDRS), gateway("c", prefix="2001:db8:2::/96", **MORE)],
        [gateway("b", **MORE)],
        [gateway("b", prefix=P1, stateful={"pools": [{"cidr": "203.0.113.0/30"}]})],
    ],
    ids=["two prefixes", "none", "a stateful one"],
)
def test_a_gateway_stands_alone_where_no_single_prefix_is_to_be_shared(more: list[UserObject]) -> None:
    found = nat_of(gateway("a", **MAPPED), *more).gateways
    assert not any(each.flags & GatewayFlag.JOINED for each in found)
    assert found[0].prefix_len == 0
