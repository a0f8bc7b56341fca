"""The node agent on a real kernel: what it leaves behind, and what of others it leaves alone."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.netns.conftest import Node, libc
from tests.netns.node_state import devices, forwarding, programs_on

if TYPE_CHECKING:
    from pathlib import Path


def test_down_leaves_nothing_of_ours_and_nothing_else_changed(any_node: Node) -> None:
    before = devices(any_node), forwarding("e0")
    agent = any_node.agent()
    agent.apply(any_node.spec(xdp=("e0",)))
    assert forwarding("e0") == "1"
    assert agent.down() == []
    assert (devices(any_node), forwarding("e0")) == before
    assert programs_on(any_node) == []
    assert not any_node.root.exists()
    assert any_node.ns.run("tc", "qdisc", "show", "dev", "e0", "clsact") == ""
    assert list(any_node.state_dir.iterdir()) == []


def test_a_clsact_qdisc_of_somebody_else_stays(node: Node) -> None:
    node.tcx = False
    node.ns.run("tc", "qdisc", "add", "dev", "e0", "clsact")
    agent = node.agent()
    assert agent.apply(node.spec()).ready
    assert agent.down() == []
    assert "clsact" in node.ns.run("tc", "qdisc", "show", "dev", "e0")


def test_foreign_programs_stay(node: Node, variants: dict[str, Path]) -> None:
    """tcx beside another one; XDP not where another one sits, and that is no failure."""
    foreign = variants["two"] / "sg_t.bpf.o"
    node.ns.run("ip", "link", "set", "dev", "e0", "xdp", "obj", str(foreign), "sec", "xdp")
    status = node.agent().apply(node.spec(xdp=("e0",)))
    assert status.ready
    assert "somebody else" in status.objects[0].message
    assert status.devices[0].hooks == {"tc-ingress": "tcx"}
    assert "xdp" in node.ns.run("ip", "link", "show", "e0")
    node.agent().down()
    assert "xdp" in node.ns.run("ip", "link", "show", "e0")


def test_a_foreign_device_of_our_name_is_left_alone(node: Node) -> None:
    node.ns.veth("sg-a", "foreign1")
    status = node.agent().apply(node.spec())
    assert not status.ready
    assert "somebody else" in status.message
    node.agent().down()
    assert node.ns.ifindex("sg-a")


def test_down_without_a_bpffs_removes_what_is_in_no_pin(node: Node, bpffs: Path) -> None:
    before = devices(node)
    node.agent().apply(node.spec())
    libc("umount", os.fsencode(bpffs))
    assert node.agent().down() == []
    assert (devices(node), forwarding("e0")) == (before, "0")
    assert programs_on(node) == []
