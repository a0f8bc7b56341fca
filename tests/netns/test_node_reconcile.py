"""The node agent on a real kernel: apply, adopt, replace, repair, remove."""

from __future__ import annotations

import ctypes
import errno
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from sixgate.errors import ApplyError
from sixgate.node import offloads
from sixgate.node.agent import NodeAgent
from sixgate.node.bpf import info
from sixgate.node.netlink import Netlink
from sixgate.node.observe import open_raw
from tests.netns.conftest import Namespace, Node, libc

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sixgate.node.actions import Action


def programs_on(node: Node, device: str = "e0") -> list[int]:
    """Ids of every program on tc ingress of a device, by tcx and by our clsact filter."""
    ifindex = node.ns.ifindex(device)
    with Netlink() as netlink:
        filters = netlink.filters(ifindex).get("tc-ingress", ())
    return [seen.prog_id for seen in (*info.query_attached(ifindex, "tc-ingress"), *filters)]


def table(node: Node, name: str = "sg_tab") -> dict[int, int]:
    with open_raw(node.root / "maps" / name) as found:
        return {int.from_bytes(k, "little"): int.from_bytes(v, "little") for k, v in found.lookup_batch()}


def inner(node: Node) -> list[int]:
    """Contents of the table in slot 0, found by its pin."""
    with open_raw(node.root / "maps" / "sg_out") as outer:
        held = outer.get_raw(bytes(4))
    for name in node.pins("inner"):
        with open_raw(node.root / "inner" / name) as found:
            if found.info.id.to_bytes(4, "little") == held:
                return [int.from_bytes(value, "little") for _, value in sorted(found.lookup_batch())]
    raise AssertionError("the table in slot 0 is not pinned")


def state(node: Node) -> dict[str, Any]:
    """Everything that a NodeConfig decides, as the kernel has it."""
    return {
        "maps": [name for folder in ("maps", "maps-new") for name in node.pins(folder)],
        # Without the key, which holds the index of a device that is made anew.
        "programs": [name.rpartition(":")[0] for name in node.pins("progs")],
        "attached": len(programs_on(node)),
        "tab": table(node),
        "inner": (inner(node), len(node.pins("inner"))),
        "links": [(link["ifname"], link["mtu"], link.get("ifalias")) for link in _links(node.ns)],
        "addresses": [a["local"] for link in _links(node.ns) for a in link["addr_info"] if a["scope"] == "global"],
        "route": node.ns.run("ip", "-6", "route", "show", "fd98::/64").strip(),
        "forwarding": forwarding("e0"),
    }


def _links(ns: Namespace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ns.run("ip", "-j", "addr", "show"))
    return sorted(found, key=lambda link: str(link["ifname"]))


def devices(node: Node) -> list[tuple[Any, ...]]:
    """What of each device does not change by itself, as its operational state does."""
    return [(link["ifname"], link["mtu"], link["group"], link.get("xdp"), link["qdisc"]) for link in _links(node.ns)]


def forwarding(device: str) -> str:
    with open(f"/proc/sys/net/ipv4/conf/{device}/forwarding") as file:
        return file.read().strip()


def counting(actions: list[str]) -> Callable[[Callable[[Action], None]], Callable[[Action], None]]:
    """Wraps the interpreter so that it notes what it does."""

    def around(run: Callable[[Action], None]) -> Callable[[Action], None]:
        def noted(action: Action) -> None:
            actions.append(str(action))
            run(action)

        return noted

    return around


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


def test_from_clsact_to_tcx_and_back(node: Node) -> None:
    for tcx in (False, None, False):
        node.tcx = tcx
        assert node.agent().apply(node.spec()).ready
        assert len(programs_on(node)) == 1


@pytest.mark.parametrize("tcx", [None, False], ids=["tcx", "clsact"])
@pytest.mark.parametrize("target", ["apply", "change", "down"])
def test_dying_between_any_two_actions_converges(node: Node, target: str, tcx: bool | None) -> None:
    """The first k actions of a plan, then a fresh agent: for every k the same end."""

    class Killed(BaseException):
        pass

    def mortal(steps: int) -> Callable[[Callable[[Action], None]], Callable[[Action], None]]:
        left = [steps]

        def around(run: Callable[[Action], None]) -> Callable[[Action], None]:
            def once(action: Action) -> None:
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                run(action)

            return once

        return around

    node.tcx = tcx
    first, second = node.spec(xdp=("e0",)), node.spec(features=2, entries={2: 21, 3: 30}, inner=(9, 9))
    if target == "down":
        wanted: dict[str, Any] = {}
    else:
        node.agent().apply(first)
        if target == "change":
            node.agent().apply(second)
        wanted = state(node)
        node.agent().down()
    for steps in range(100):
        if target != "apply":
            node.agent().apply(first)
        dying = node.agent(around=mortal(steps))
        try:
            if target == "down":
                dying.down()
            else:
                dying.apply(first if target == "apply" else second)
        except Killed:
            finished = False
        else:
            finished = True
        actions: list[str] = []
        fresh = node.agent(around=counting(actions))
        if target == "down":
            assert fresh.down() == [], steps
            assert not node.root.exists()
            assert programs_on(node) == []
            assert forwarding("e0") == "0"
        else:
            assert fresh.apply(first if target == "apply" else second).ready, steps
            assert state(node) == wanted, steps
            if target == "apply":
                fresh.down()
        if finished:
            assert steps > 5
            return
    pytest.fail("the plan has no end")


def test_a_second_bpffs_over_the_first_never_doubles_a_program(node: Node, bpffs: Path) -> None:
    node.agent().apply(node.spec())
    before = programs_on(node)
    libc("mount", b"bpf", os.fsencode(bpffs), b"bpf", ctypes.c_ulong(0), b"mode=0700")
    status = node.agent().apply(node.spec())
    assert programs_on(node) == before
    assert not status.ready
    assert status.objects[0].state == "Degraded"
    assert "another bpffs was probably mounted over the first" in status.objects[0].message
    libc("umount", os.fsencode(bpffs))
    assert node.agent().apply(node.spec()).ready
    assert programs_on(node) == before


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


def test_xdp_where_it_is_free(node: Node) -> None:
    status = node.agent().apply(node.spec(xdp=("e0",)))
    assert status.devices[0].hooks == {"tc-ingress": "tcx", "xdp": "xdp-native"}


def test_a_device_that_comes_late_goes_and_comes_back(any_node: Node) -> None:
    agent = any_node.agent()
    spec = any_node.spec(devices=("e0", "late0"))
    status = agent.apply(spec)
    assert status.objects[0].message == "t_tc should be attached to late0, but this node has no such device."
    assert len(programs_on(any_node)) == 1
    for _ in range(2):
        any_node.ns.veth("late0", "late1")
        assert agent.apply(spec).ready
        assert len(programs_on(any_node, "late0")) == 1
        any_node.ns.ip("link del late0")
        assert not agent.apply(spec).ready
    any_node.ns.veth("late0", "late1")
    assert agent.apply(spec).ready


def test_what_others_break_is_repaired(any_node: Node) -> None:
    spec = any_node.spec()
    any_node.agent().apply(spec)
    wanted = state(any_node)
    any_node.ns.ip("link del sg-a")
    with open("/proc/sys/net/ipv4/conf/e0/forwarding", "w") as file:
        file.write("0")
    with open_raw(any_node.root / "maps" / "sg_tab") as found:
        found.delete_batch([(1).to_bytes(4, "little")])
        found.set_raw((50).to_bytes(4, "little"), bytes(8))
    for pin in (any_node.root / "links").iterdir():
        pin.unlink()
    any_node.ns.run("tc", "qdisc", "del", "dev", "e0", "clsact", check=False)
    assert any_node.agent().apply(spec).ready
    assert state(any_node) == wanted


@pytest.mark.parametrize("pin", ["sg_tab", "sg_out", "sg_hits"])
def test_a_lost_map_pin_is_not_taken_for_the_map_that_programs_use(node: Node, pin: str) -> None:
    node.agent().apply(node.spec())
    (node.root / "maps" / pin).unlink()
    assert node.agent().apply(node.spec()).ready
    with open_raw(node.root / "maps" / pin) as found:
        map_id = found.info.id
    fd = info.open_pin(next((node.root / "progs").glob("sg_t:t_tc:*")), "program")
    try:
        used = info.prog_info(fd)
    finally:
        os.close(fd)
    assert map_id in used.map_ids
    assert programs_on(node) == [used.id]


def test_a_full_map_degrades_its_owner_and_heals(node: Node) -> None:
    agent = node.agent()
    assert agent.apply(node.spec()).ready
    status = agent.apply(node.spec(entries={key: key for key in range(100, 170)}, inner=(5, 5)))
    assert not status.ready
    assert "Map sg_tab holds 64 entries" in status.objects[0].message
    assert table(node) == {1: 10, 2: 20}
    assert inner(node) == [7, 8]  # the swap waits for what it may refer to
    assert agent.apply(node.spec(entries={5: 50})).ready
    assert table(node) == {5: 50}


def test_a_failed_action_is_retried_with_backoff_and_holds_up_nothing_else(node: Node) -> None:
    now = [0.0]
    refused: list[str] = []

    def around(run: Callable[[Action], None]) -> Callable[[Action], None]:
        def refusing(action: Action) -> None:
            if "fd98::/64" in str(action):
                refused.append(str(action))
                raise ApplyError("The route is refused.", errno.EPERM)
            run(action)

        return refusing

    agent = node.agent(around=around, clock=lambda: now[0])
    status = agent.apply(node.spec())
    assert (status.ready, status.objects[0].message) == (False, "The route is refused.")
    assert len(programs_on(node)) == 1
    tries = len(refused)
    agent.apply(node.spec())
    assert len(refused) == tries
    now[0] += 1.1
    agent.apply(node.spec())
    assert len(refused) > tries
    tries = len(refused)
    now[0] += 1.1
    agent.apply(node.spec())
    assert len(refused) == tries


@pytest.mark.parametrize("wrong", ["digest in the NodeConfig", "file"])
def test_another_object_file_is_refused_whole(node: Node, tmp_path: Path, wrong: str) -> None:
    agent = node.agent()
    assert agent.apply(node.spec()).ready
    before = state(node)
    other = tmp_path / "objects"
    other.mkdir()
    (other / "manifest.json").write_text((node.objects / "manifest.json").read_text())
    (other / "sg_t.bpf.o").write_bytes((node.objects / "sg_t.bpf.o").read_bytes() + b"x")
    spec = node.spec(features=3)
    if wrong == "file":
        node.objects = other
    else:
        spec = spec.model_copy(
            update={"objects": (spec.objects[0].model_copy(update={"digest": "sha256:" + "1" * 64}),)}
        ).hashed()
    status = node.agent().apply(spec)
    assert not status.ready
    assert "sha256:" in status.message
    assert state(node) == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"formatVersion": 2}, "format version 2"),
        ({"surprise": 1}, "spec.surprise"),
        ({"links": [{"name": "x" * 16, "kind": "veth"}]}, "spec.links.0.name"),
    ],
)
def test_a_document_that_cannot_be_read_is_refused_whole(node: Node, change: dict[str, Any], sentence: str) -> None:
    agent = node.agent()
    document = node.spec().model_dump(mode="json", by_alias=True)
    assert agent.apply_document(document).ready
    before = state(node)
    status = agent.apply_document({**document, **change})
    assert not status.ready
    assert sentence in status.message
    assert state(node) == before


def test_a_directory_that_is_no_bpffs_is_refused(node: Node, tmp_path: Path) -> None:
    node.root = tmp_path / "plain" / "sixgate"
    status = node.agent().apply(node.spec())
    assert "should be on a BPF file system" in status.message
    assert programs_on(node) == []


def test_a_foreign_device_of_our_name_is_left_alone(node: Node) -> None:
    node.ns.veth("sg-a", "foreign1")
    status = node.agent().apply(node.spec())
    assert not status.ready
    assert "somebody else" in status.message
    node.agent().down()
    assert node.ns.ifindex("sg-a")


def test_offloads_are_off_on_both_ends(node: Node) -> None:
    node.agent().apply(node.spec())
    assert {name: bool(offloads.still_on(name)) for name in ("sg-a", "sg-b", "e1")} == {
        "sg-a": False,
        "sg-b": False,
        "e1": True,
    }
    offloads.switch_off("e1")
    assert offloads.still_on("e1") == ()


def test_down_without_a_bpffs_removes_what_is_in_no_pin(node: Node, bpffs: Path) -> None:
    before = devices(node)
    node.agent().apply(node.spec())
    libc("umount", os.fsencode(bpffs))
    assert node.agent().down() == []
    assert (devices(node), forwarding("e0")) == (before, "0")
    assert programs_on(node) == []


def test_two_processes_do_not_keep_one_node(node: Node) -> None:
    first = node.agent()
    first.apply(node.spec())
    with NodeAgent(first._options) as second:
        assert f"pid {os.getpid()}" in second.apply(node.spec(features=2)).message
    first.close()
    with NodeAgent(first._options) as second:
        assert second.apply(node.spec(features=2)).ready


def test_many_devices_by_pattern(node: Node) -> None:
    for number in range(5):
        node.ns.veth(f"wan{number}", f"x{number}")
    status = node.agent().apply(node.spec(devices=("wan*",)))
    assert {device.name for device in status.devices} == {f"wan{number}" for number in range(5)}
