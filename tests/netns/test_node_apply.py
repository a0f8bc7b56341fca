"""The node agent on a real kernel: what a NodeConfig becomes, and what another one changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sixgate.node import offloads
from sixgate.node.bpf import info
from sixgate.node.observe import open_raw
from tests.netns.conftest import Node
from tests.netns.node_state import counting, forwarding, inner, programs_on, table

if TYPE_CHECKING:
    from pathlib import Path


def test_apply_and_apply_again(any_node: Node) -> None:
    """The second diff is empty, also for an agent that knows nothing yet."""
    status = any_node.agent().apply(any_node.spec())
    assert status.ready, status.message
    assert [(item.owner, item.state) for item in status.objects] == [("NAT46Gateway/a", "Programmed")]
    assert {d.name: d.hooks for d in status.devices} == {
        "e0": {"tc-ingress": "clsact" if any_node.tcx is False else "tcx"}
    }
    assert len(programs_on(any_node)) == 1
    assert table(any_node) == {1: 10, 2: 20}
    assert inner(any_node) == [7, 8]
    assert forwarding("e0") == "1"
    actions: list[str] = []
    again = any_node.agent(around=counting(actions)).apply(any_node.spec())
    assert again.ready
    assert actions == []


def test_the_device_map_knows_addresses(node: Node) -> None:
    node.agent().apply(node.spec())
    with open_raw(node.root / "maps" / "sg_dev") as found:
        rows = {int.from_bytes(key, "little"): value for key, value in found.lookup_batch()}
    assert set(rows) == {0, node.ns.ifindex("e0"), node.ns.ifindex("sg-a")}
    mine = rows[node.ns.ifindex("e0")]
    assert mine[:16].hex() == "20010db8000000000000000000000001"
    assert mine[16:32].hex() == "00000000000000000000ffffc0000201"
    assert int.from_bytes(mine[32:36], "little") == 1500


def test_other_contents_and_other_constants(any_node: Node) -> None:
    agent = any_node.agent()
    agent.apply(any_node.spec())
    (before,) = programs_on(any_node)
    assert agent.apply(any_node.spec(entries={2: 21, 3: 30}, inner=(9, 9))).ready
    assert table(any_node) == {2: 21, 3: 30}
    assert inner(any_node) == [9, 9]
    assert programs_on(any_node) == [before]
    assert agent.apply(any_node.spec(features=2)).ready
    (after,) = programs_on(any_node)
    assert after != before
    assert len(any_node.pins("progs")) == 2


def test_a_link_stays_the_same_link_when_its_program_changes(node: Node) -> None:
    agent = node.agent()
    agent.apply(node.spec())
    (before,) = info.query_attached(node.ns.ifindex("e0"), "tc-ingress")
    agent.apply(node.spec(features=2))
    (after,) = info.query_attached(node.ns.ifindex("e0"), "tc-ingress")
    assert after.link_id == before.link_id
    assert after.prog_id != before.prog_id


def test_an_upgraded_object_keeps_state_maps(any_node: Node, variants: dict[str, Path]) -> None:
    any_node.agent().apply(any_node.spec())
    with open_raw(any_node.root / "maps" / "sg_hits") as hits:
        kept = hits.info.id
    any_node.objects = variants["two"]
    assert any_node.agent().apply(any_node.spec()).ready
    with open_raw(any_node.root / "maps" / "sg_hits") as hits:
        assert hits.info.id == kept
    assert len(programs_on(any_node)) == 1
    assert len(any_node.pins("progs")) == 2


@pytest.mark.parametrize(
    ("variant", "value", "size"),
    [("wide", {"addr4": "192.0.2.9", "mtu": 1400}, 40), ("pair", {"low": 1, "high": 2}, 8)],
    ids=["of another size", "of the same size"],
)
def test_a_table_of_another_layout_is_built_anew(
    any_node: Node, variants: dict[str, Path], variant: str, value: Any, size: int
) -> None:
    any_node.agent().apply(any_node.spec())
    with open_raw(any_node.root / "maps" / "sg_tab") as found, open_raw(any_node.root / "maps" / "sg_hits") as hits:
        old, kept = found.info.id, hits.info.id
    any_node.objects = variants[variant]
    status = any_node.agent().apply(any_node.spec(entries={1: value}))
    assert status.ready, status.message
    assert any_node.pins("maps-new") == []
    with open_raw(any_node.root / "maps" / "sg_tab") as found, open_raw(any_node.root / "maps" / "sg_hits") as hits:
        assert (found.info.id != old, hits.info.id == kept) == (True, True)
        assert [len(content) for _, content in found.lookup_batch()] == [size]
    assert len(programs_on(any_node)) == 1
    actions: list[str] = []
    assert any_node.agent(around=counting(actions)).apply(any_node.spec(entries={1: value})).ready
    assert actions == []


def test_from_clsact_to_tcx_and_back(node: Node) -> None:
    for tcx in (False, None, False):
        node.tcx = tcx
        assert node.agent().apply(node.spec()).ready
        assert len(programs_on(node)) == 1


def test_xdp_where_it_is_free(node: Node) -> None:
    status = node.agent().apply(node.spec(xdp=("e0",)))
    assert status.devices[0].hooks == {"tc-ingress": "tcx", "xdp": "xdp-native"}


def test_many_devices_by_pattern(node: Node) -> None:
    for number in range(5):
        node.ns.veth(f"wan{number}", f"x{number}")
    status = node.agent().apply(node.spec(devices=("wan*",)))
    assert {device.name for device in status.devices} == {f"wan{number}" for number in range(5)}


def test_offloads_are_off_on_both_ends(node: Node) -> None:
    node.agent().apply(node.spec())
    assert {name: bool(offloads.still_on(name)) for name in ("sg-a", "sg-b", "e1")} == {
        "sg-a": False,
        "sg-b": False,
        "e1": True,
    }
    offloads.switch_off("e1")
    assert offloads.still_on("e1") == ()
