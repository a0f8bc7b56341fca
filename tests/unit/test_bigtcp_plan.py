"""BIGTCPPolicy from object to NodeConfig: order, conflicts, sizes, and what shipped examples mean."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sixgate.api import NodeConfigSpec, UserObject, parse_object
from sixgate.api.nodeconfig import ItemResult, NodeConfigStatus
from sixgate.plan import NodeInfo, NodeReport, Snapshot, object_status, plan
from sixgate.plan.nodeplan import Feature
from sixgate.render import Renderer
from tests.unit.objects import DIGESTS, gateway, make, on, planned

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES, PAGE = ROOT / "examples" / "bigtcppolicy", ROOT / "docs" / "bigtcp.md"


def policy(name: str, nodes: tuple[str, ...] = ("a",), *, age: int = 0, **spec: Any) -> UserObject:
    return make("BIGTCPPolicy", name, {"nodeSelector": on(*nodes), **spec}, age=age)


def document(*objects: UserObject, node: str = "a") -> NodeConfigSpec:
    return Renderer().render(planned(*objects).nodes[node])


def test_a_policy_alone_makes_a_document() -> None:
    (item,) = document(
        policy("p", ipv6={"maxSize": 131072}, devices={"include": ["eth*"], "exclude": ["eth1"]})
    ).big_tcp
    assert item.model_dump() == {
        "owners": ("BIGTCPPolicy/p",),
        "include": ("eth*",),
        "exclude": ("eth1",),
        "ipv6_size": 131072,
        "ipv4_size": None,
        "pods": "Off",
        "forwarding": "Auto",
    }


FWD = {**DIGESTS, "sg_fwd": "sha256:" + "f" * 64}


def with_program(*objects: UserObject) -> NodeConfigSpec:
    return Renderer().render(planned(*objects, digests=FWD).nodes["a"])


def test_a_policy_for_ipv6_brings_the_program_that_forwards() -> None:
    (item,) = with_program(policy("p", ipv6={})).objects
    (attachment,) = item.attachments
    assert (item.name, item.owners) == ("sg_fwd", ("BIGTCPPolicy/p",))
    assert (attachment.devices, attachment.super_packets) == (("@forwarding",), "Forwarded")
    assert not attachment.required


@pytest.mark.parametrize("spec", [{"ipv4": {}}, {"ipv6": {}, "forwarding": "Kernel"}, {"ipv6": {"maxSize": 65536}}])
def test_no_program_where_nothing_is_to_be_forwarded(spec: dict[str, Any]) -> None:
    assert with_program(policy("p", **spec)).objects == ()


def test_a_gateways_program_forwards_by_itself() -> None:
    spec = with_program(gateway("g", ipv4CIDRs=["198.51.100.0/24"], prefix="2001:db8:64::/96"), policy("p", ipv6={}))
    (program,) = [item for item in spec.objects if item.name == "sg_tc"]
    config: Any = program.constants["sg_cfg"]
    assert config["features"] == Feature.NAT | Feature.BIG_FORWARD
    assert [attachment.super_packets for attachment in program.attachments] == ["TranslatedAndForwarded"]


def test_a_family_that_is_off_is_kept_at_64_kb() -> None:
    (item,) = document(policy("p", ipv6={}, ipv4={"enabled": False})).big_tcp
    assert (item.ipv6_size, item.ipv4_size) == (196608, 65536)


def test_the_highest_priority_comes_first_and_of_equals_the_oldest() -> None:
    spec = document(
        policy("low", ipv6={}, priority=1, age=9),
        policy("young", ipv6={}, devices={"include": ["eth1"]}, age=1),
        policy("old", ipv6={}, devices={"include": ["eth0"]}, age=5),
        policy("high", ipv6={}, priority=900),
    )
    assert [item.owners[0].split("/")[1] for item in spec.big_tcp] == ["high", "old", "young", "low"]


def test_of_two_policies_for_one_device_the_older_is_planned() -> None:
    result = planned(policy("new", ("a", "b"), ipv6={}), policy("old", ("b", "c"), ipv6={}, age=3))
    (problem,) = result.problems
    assert (str(problem.ref), problem.reason) == ("BIGTCPPolicy/new", "Conflicted")
    owners = {node: [str(item.owner) for item in made.big_tcp] for node, made in result.nodes.items()}
    assert owners == {"a": ["BIGTCPPolicy/new"], "b": ["BIGTCPPolicy/old"], "c": ["BIGTCPPolicy/old"]}


def test_a_gateway_beside_a_policy_keeps_its_document() -> None:
    alone = document(gateway("g", ipv4CIDRs=["198.51.100.0/24"], prefix="2001:db8:64::/96"))
    both = document(gateway("g", ipv4CIDRs=["198.51.100.0/24"], prefix="2001:db8:64::/96"), policy("p", ipv4={}))
    assert both.big_tcp
    assert both.model_copy(update={"big_tcp": (), "revision": ""}) == alone.model_copy(update={"revision": ""})


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_an_example_is_planned(path: Path) -> None:
    parsed = parse_object(yaml.safe_load(path.read_text()))
    assert isinstance(parsed, UserObject)
    labels = {"node-role.kubernetes.io/storage": ""}
    result = plan(Snapshot((parsed,), (NodeInfo("n", labels),), digests=DIGESTS))
    assert not result.problems
    assert Renderer().render(result.nodes["n"]).big_tcp


def test_the_policy_of_the_page_is_valid() -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    parsed = parse_object(yaml.safe_load(shown))
    assert isinstance(parsed, UserObject)
    result = plan(Snapshot((parsed,), (NodeInfo("n", {"example.com/storage": "yes"}),), digests=DIGESTS))
    assert not result.problems
    assert len(Renderer().render(result.nodes["n"]).big_tcp) == 1


def test_what_a_ready_node_has_to_say_stands_in_the_policy() -> None:
    item = policy("p", ipv6={})
    result = planned(item)
    said = ItemResult(owner=str(item.ref), state="Programmed", reason="Clamped", message="eth0 gets 100000 bytes.")
    report = NodeReport("r", NodeConfigStatus(applied_revision="r", ready=True, objects=(said,)))
    status = object_status(
        item.ref, 1, result, problems=(), reports={"a": report}, previous=None, now="2026-01-01T00:00:00Z"
    )
    (ready,) = [c for c in status["conditions"] if c["type"] == "Ready"]
    assert (ready["status"], ready["message"]) == ("True", "Programmed on 1 of 1 node. a: eth0 gets 100000 bytes.")
