"""Attachments on real devices: XDP and tcx links, their pins, replacement in one step, and devices that go away."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import pytest
from pyroute2 import IPRoute

from sixgate.errors import BpfError
from sixgate.node.bpf import AttachType, BpfObject, Hook, Link, LinkType, Program, is_gone, query_attached
from sixgate.node.bpf.info import query_tcx
from sixgate.node.bpf.probe import has_tcx
from tests.bpf.conftest import Pair

Open = Callable[[str], BpfObject]
Load = Callable[[str], Program]


@pytest.fixture
def load(opened: Open) -> Iterator[Load]:
    """Loads a program of runner.bpf.c anew at each call, so that two of the same name have ids of their own."""
    with ExitStack() as stack:

        def load_one(name: str) -> Program:
            runner = opened("runner")
            runner.set_autoload([name])
            runner.load()
            return stack.enter_context(runner.program(name))

        yield load_one


@pytest.fixture
def tcx() -> None:
    if not has_tcx():
        pytest.skip("This kernel has no tcx (Linux 6.6).")


@pytest.mark.usefixtures("tcx")
@pytest.mark.parametrize(("direction", "hook"), [("ingress", "tc-ingress"), ("egress", "tc-egress")])
def test_tcx_programs_stand_beside_each_other_in_order(
    load: Load, veth: Pair, direction: Literal["ingress", "egress"], hook: Hook
) -> None:
    ifindex = veth.indices[0]
    foreign, ours, urgent = load("answer_tc"), load("tell_tc"), load("grow_tc")
    assert query_attached(ifindex, hook) == []

    with Link.tcx(foreign, ifindex, direction) as first, Link.tcx(ours, ifindex, direction) as second:
        with Link.tcx(urgent, ifindex, direction, order="first") as front:
            found = query_attached(ifindex, hook)
            assert [each.prog_id for each in found] == [urgent.info.id, foreign.info.id, ours.info.id]
            assert [each.link_id for each in found] == [front.info.id, first.info.id, second.info.id]
        assert [each.prog_id for each in query_attached(ifindex, hook)] == [foreign.info.id, ours.info.id]
        facts = second.info
        assert (facts.type, facts.ifindex, facts.prog_id) == (LinkType.TCX, ifindex, ours.info.id)
        assert facts.attach_type == (AttachType.TCX_INGRESS if direction == "ingress" else AttachType.TCX_EGRESS)
    # The last descriptor of a link that is not pinned takes it off.
    assert query_attached(ifindex, hook) == []


@pytest.mark.usefixtures("tcx")
def test_a_pinned_link_outlives_its_descriptor_and_is_adopted(load: Load, veth: Pair, bpffs: Path) -> None:
    ifindex, path = veth.indices[0], bpffs / f"{veth.names[0]}:tc-ingress"
    old, new = load("answer_tc"), load("answer_tc")
    with Link.tcx(old, ifindex) as link:
        link.pin(path)
        with pytest.raises(BpfError, match=r"pinning answer_tc on tcx ingress of device .* failed: File exists"):
            link.pin(path)
    assert [each.prog_id for each in query_attached(ifindex, "tc-ingress")] == [old.info.id]

    before = query_tcx(ifindex, "tc-ingress")[1]
    with Link.from_pin(path) as adopted:
        adopted.update(new)
        assert adopted.info.prog_id == new.info.id
        assert query_tcx(ifindex, "tc-ingress")[1] != before
        adopted.detach()
        assert query_attached(ifindex, "tc-ingress") == []
        adopted.detach()


@pytest.mark.usefixtures("tcx")
def test_a_replacement_can_insist_on_what_it_replaces(load: Load, veth: Pair) -> None:
    one, two, three = load("answer_tc"), load("answer_tc"), load("answer_tc")
    with Link.tcx(one, veth.indices[0]) as link:
        with pytest.raises(BpfError, match=r"replacing the program of .* by answer_tc failed: Operation not permitted"):
            link.update(two, old=three)
        assert link.info.prog_id == one.info.id
        link.update(two, old=one)
        assert link.info.prog_id == two.info.id


def test_xdp_is_attached_and_replaced(load: Load, veth: Pair) -> None:
    ifindex, old, new = veth.indices[0], load("answer_xdp"), load("grow_xdp")
    with Link.xdp(old, ifindex, "generic") as link:
        (found,) = query_attached(ifindex, "xdp")
        assert (found.prog_id, found.mode) == (old.info.id, "generic")
        facts = link.info
        assert (facts.type, facts.ifindex, facts.attach_type) == (LinkType.XDP, ifindex, AttachType.XDP)
        link.update(new, old=old)
        assert query_attached(ifindex, "xdp")[0].prog_id == new.info.id
        with pytest.raises(
            BpfError, match=r"attaching answer_xdp on xdp of device .* failed: Device or resource busy"
        ) as caught:
            Link.xdp(old, ifindex, "generic")
        assert caught.value.errno == errno.EBUSY
    assert query_attached(ifindex, "xdp") == []


@pytest.mark.parametrize("mode", ["native", "best-effort"])
def test_veth_takes_native_xdp(load: Load, veth: Pair, mode: Literal["native", "best-effort"]) -> None:
    with Link.xdp(load("answer_xdp"), veth.indices[0], mode):
        (found,) = query_attached(veth.indices[0], "xdp")
        assert found.mode == "native"


def test_a_device_without_native_xdp_says_so(load: Load, private_net: None) -> None:
    with IPRoute() as route:
        loopback = route.link_lookup(ifname="lo")[0]
    with pytest.raises(
        BpfError, match=r"attaching answer_xdp on xdp of device 1 in native mode failed: .*supported"
    ) as caught:
        Link.xdp(load("answer_xdp"), loopback, "native")
    assert caught.value.errno == errno.EOPNOTSUPP
    with Link.xdp(load("answer_xdp"), loopback, "best-effort"):
        assert query_attached(loopback, "xdp")[0].mode == "generic"


@pytest.mark.usefixtures("tcx")
def test_a_link_whose_device_is_gone_is_recognised(load: Load, veth: Pair, bpffs: Path) -> None:
    on_tc, on_xdp = load("answer_tc"), load("answer_xdp")
    with Link.tcx(on_tc, veth.indices[0]) as tc, Link.xdp(on_xdp, veth.indices[0], "generic") as xdp:
        for link, name in ((tc, "tc"), (xdp, "xdp")):
            link.pin(bpffs / name)
        with IPRoute() as route:
            route.link("del", index=veth.indices[0])
        for link, program in ((tc, on_tc), (xdp, on_xdp)):
            assert link.info.ifindex == 0
            with pytest.raises(BpfError) as caught:
                link.update(program)
            assert is_gone(caught.value), caught.value
            link.detach()
        with Link.from_pin(bpffs / "tc") as again:
            assert again.info.ifindex == 0


def test_a_wrong_kind_of_program_or_device_is_refused(load: Load, veth: Pair) -> None:
    for program, doing in ((load("answer_xdp"), Link.tcx), (load("answer_tc"), Link.xdp)):
        with pytest.raises(BpfError, match=r"attaching answer_.* failed: Invalid argument"):
            doing(program, veth.indices[0])
    for doing, program in ((Link.tcx, load("answer_tc")), (Link.xdp, load("answer_xdp"))):
        with pytest.raises(BpfError, match="device 999999") as caught:
            doing(program, 999999)
        assert caught.value.errno in (errno.ENODEV, errno.EINVAL)
    with pytest.raises(BpfError, match="listing programs on tc-ingress of device 999999 failed: No such device"):
        query_attached(999999, "tc-ingress")
    with pytest.raises(BpfError, match="reading the XDP program of device 999999 failed: No such device") as caught:
        query_attached(999999, "xdp")
    assert caught.value.errno == errno.ENODEV


def test_something_else_at_the_pin_is_refused(load: Load, bpffs: Path) -> None:
    load("answer_tc").pin(bpffs / "x")
    with pytest.raises(BpfError, match="holds a program, where a link is expected"):
        Link.from_pin(bpffs / "x")
    with pytest.raises(BpfError, match=r"opening the link pinned at .*absent failed: No such file") as caught:
        Link.from_pin(bpffs / "absent")
    assert caught.value.errno == errno.ENOENT
