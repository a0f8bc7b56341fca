"""EgressGateways in a plan: who is a gateway, who has pods, what collides, and what the shipped example becomes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from sixgate.api import UserObject, parse_object
from sixgate.api.nodeconfig import NodeConfigSpec
from sixgate.cli import build
from sixgate.errors import Ref
from sixgate.plan.egress import MAX_PAIR, Numbers
from sixgate.plan.planner import plan
from sixgate.plan.result import CONFLICTED, COVERS, NO_NODES, PlanResult
from sixgate.plan.snapshot import NodeInfo, Snapshot
from sixgate.render.renderer import Renderer

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "egressgateway" / "payments.yaml"
DIGESTS = dict.fromkeys(("sg_egress", "sg_eslow", "sg_tc", "sg_slow", "sg_xdp", "sg_import"), "sha256:" + "0" * 64)
LABEL = {"sixgate.io/egress": "true"}
NODES = (
    NodeInfo("n1", addresses=("192.0.2.1",), pod_cidrs=("10.1.0.0/16",)),
    NodeInfo("g1", labels=LABEL, addresses=("192.0.2.2",), pod_cidrs=("10.2.0.0/16",)),
    NodeInfo("g2", labels=LABEL, addresses=("192.0.2.3",), pod_cidrs=("10.3.0.0/16",), cordoned=True),
)


def example(name: str = "payments", born: str = "2026-01-01T00:00:00Z", **spec: Any) -> UserObject:
    raw = yaml.safe_load(EXAMPLE.read_text())
    raw["metadata"] = {"name": name, "creationTimestamp": born}
    raw["spec"] |= spec
    parsed = parse_object(raw)
    assert isinstance(parsed, UserObject), parsed
    return parsed


def planned(*objects: UserObject, nodes: tuple[NodeInfo, ...] = NODES) -> PlanResult:
    return plan(Snapshot(objects=objects, nodes=nodes, digests=DIGESTS))


def reasons(result: PlanResult) -> set[tuple[str, str]]:
    return {(problem.ref.name, problem.reason) for problem in result.problems}


def specs(result: PlanResult) -> dict[str, NodeConfigSpec]:
    rendered = Renderer().render_all(result)
    assert not rendered.problems
    return dict(rendered.specs)


def test_the_example_reaches_every_node_and_the_engine_its_gateways_only() -> None:
    made = specs(planned(example()))
    assert planned(example()).programmed[Ref("EgressGateway", "payments")] == ("g1", "g2", "n1")
    for name, spec in made.items():
        (policy,) = spec.egress
        assert [(m.node, m.address, m.leaving) for m in policy.members] == [
            ("g1", "192.0.2.2", False),
            ("g2", "192.0.2.3", True),
        ]
        engine = {item.name for item in spec.objects} & {"sg_tc", "sg_slow", "sg_import"}
        assert bool(engine) is name.startswith("g")


def test_a_pod_changes_no_plan() -> None:
    """The operator writes nothing for a pod: a snapshot has none."""
    assert "pods" not in Snapshot.__dataclass_fields__


def test_of_one_address_in_two_objects_the_older_keeps_it_and_the_newer_is_held_back() -> None:
    old, new = example("old"), example("new", "2026-02-01T00:00:00Z")
    for objects in ((old, new), (new, old)):
        result = planned(*objects)
        assert reasons(result) == {("new", CONFLICTED)}
        policies = {policy.name: policy for policy in specs(result)["n1"].egress}
        assert policies["old"].members
        assert not policies["new"].members  # its pods' packets are dropped, not sent with another address


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("192.0.2.1", "wants 192.0.2.1 (spec.addresses[0].ipv4), but that is the address 192.0.2.1 of the node n1"),
        ("10.1.0.9", "wants 10.1.0.9 (spec.addresses[0].ipv4), but that is one of the pods 10.1.0.0/16 of the node n1"),
    ],
)
def test_an_address_of_the_cluster_is_no_source_and_nothing_leaves(address: str, found: str) -> None:
    result = planned(example(addresses=[{"ipv4": address, "ipv6": "2001:db8:77::9"}]))
    assert reasons(result) == {("payments", CONFLICTED)}
    assert found in result.problems[0].message
    (policy,) = specs(result)["n1"].egress
    assert not policy.members


def test_an_address_of_a_gateway_is_adopted() -> None:
    assert not planned(example(addresses=[{"ipv4": "192.0.2.2", "ipv6": "2001:db8:77::9"}])).problems


def test_destinations_that_cover_the_cluster_are_refused_with_the_overlap_named() -> None:
    result = planned(example(destinationCIDRs=["0.0.0.0/0"], excludedCIDRs=["192.0.2.0/24", "10.1.0.0/16"]))
    assert reasons(result) == {("payments", COVERS)}
    assert "10.3.0.0/16" in result.problems[0].message
    assert not specs(result)["n1"].egress


def test_without_a_gateway_the_policy_is_there_so_that_nothing_leaves() -> None:
    result = planned(example(), nodes=NODES[:1])
    assert reasons(result) == {("payments", NO_NODES)}
    (policy,) = specs(result)["n1"].egress
    assert not policy.members


def test_pods_of_a_node_with_egress_keep_its_stateful_nat64() -> None:
    """A hook has one program: that of egress, which asks the other one for what it lets pass."""
    raw = yaml.safe_load((ROOT / "examples" / "nat46gateway-stateful" / "internet.yaml").read_text())
    raw["spec"]["nodeSelector"] = {"matchLabels": LABEL}
    nat64 = parse_object(raw)
    assert isinstance(nat64, UserObject), nat64
    spec = specs(planned(example(), nat64))["g1"]
    attached = {(a.program, device) for item in spec.objects for a in item.attachments for device in a.devices}
    assert {("sg_pod_tc", "pods"), ("sg_uplink_tc", "@behind-egress")} <= attached
    assert ("sg_uplink_tc", "pods") not in attached
    constants = {item.name: item.constants for item in spec.objects}
    assert constants["sg_egress"]["sg_eg_chained"] == 1
    assert (
        "sg_eg_chained"
        not in {item.name: item.constants for item in specs(planned(example()))["g1"].objects}["sg_egress"]
    )


def _programs(spec: NodeConfigSpec, name: str) -> dict[str, tuple[str, ...]]:
    (item,) = (item for item in spec.objects if item.name == name)
    return {each.program: each.devices for each in item.attachments}


def test_direct_frames_end_at_every_uplink() -> None:
    made = specs(planned(example(transport="Direct")))
    assert {policy.transport for spec in made.values() for policy in spec.egress} == {"Direct"}
    assert _programs(made["n1"], "sg_egress")["sg_wire_tc"] == ("auto",)
    assert "sg_wire_tc" not in _programs(made["g1"], "sg_egress")
    assert _programs(made["g1"], "sg_tc")["sg_uplink_tc"] == ("auto",)
    assert "sg_wire_tc" not in _programs(specs(planned(example()))["n1"], "sg_egress")


def test_a_gateway_with_a_device_of_its_own_takes_direct_frames_at_its_uplinks_too() -> None:
    made = specs(planned(example(transport="Direct", device="eth7")))
    (item,) = (item for item in made["g1"].objects if item.name == "sg_tc")
    assert {device for each in item.attachments for device in each.devices} == {"eth7", "auto"}


def test_numbers_stay_when_others_come_and_go_and_never_collide() -> None:
    one, many = Numbers(MAX_PAIR), Numbers(MAX_PAIR)
    assert one.give("a") == many.give("a")
    few = Numbers(50)
    assert sorted(few.give(str(number)) for number in range(50)) == list(range(1, 51))


def test_every_command_of_the_docs_exists() -> None:
    text = (ROOT / "docs" / "egress.md").read_text()
    group = typer.main.get_command(build())
    known = set(group.commands["egress"].commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"\$ sixgate egress (\w+)", text)) == known
    (shown,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert isinstance(parse_object(yaml.safe_load(shown)), UserObject)
