"""The node agent on a real kernel: whatever broke half way or by others' hands ends as it was wanted."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from sixgate.errors import ApplyError
from sixgate.node.bpf import info
from sixgate.node.observe import open_raw
from sixgate.node.sight import Sight
from tests.netns.conftest import Node, libc
from tests.netns.node_state import counting, forwarding, inner, programs_on, state, table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sixgate.node.actions import Action


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


def test_a_pin_that_went_is_seen_by_a_look_for_another_cause(node: Node) -> None:
    """Its program went with it, whatever the last look had seen on that hook."""
    agent, spec = node.agent(), node.spec()
    with Sight(node.root) as sight:
        agent.apply(spec, sight)
        (pin,) = (node.root / "links").iterdir()
        pin.unlink()
        assert not programs_on(node)
        assert agent.apply(spec, sight).ready
    assert pin.exists()
    assert len(programs_on(node)) == 1
