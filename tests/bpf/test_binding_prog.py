"""Packets through programs: what goes in, what comes out, and what the kernel refuses."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from sixgate.errors import BpfError
from sixgate.node.bpf import BpfObject, Program, ProgType, SkbContext, TestRunFlag, XdpContext
from tests.bpf.conftest import Pair
from tests.bpf.harness import TC_ACT_OK, TC_ACT_REDIRECT, XDP_DROP, XDP_TX

Open = Callable[[str], BpfObject]
PACKET = bytes(range(256)) * 3


@pytest.fixture
def runner(opened: Open) -> BpfObject:
    loaded = opened("runner")
    loaded.set_type("untyped", ProgType.SCHED_CLS)
    loaded.set_constants({"answer": XDP_DROP})
    loaded.load()
    return loaded


def test_the_whole_packet_comes_back_longer(runner: BpfObject, veth: Pair) -> None:
    with runner.program("grow_xdp") as program:
        result = program.test_run(PACKET, context=XdpContext(ingress_ifindex=veth.indices[0]))

    assert result.retval == XDP_TX
    assert result.data == struct.pack("=I", veth.indices[0]) + bytes(36) + PACKET


def test_a_tc_program_grows_its_packet(runner: BpfObject) -> None:
    packet = bytes(12) + b"\x08\x00" + b"\x45" + bytes(800)
    with runner.program("grow_tc") as program:
        result = program.test_run(packet)

    assert result.retval == TC_ACT_OK
    assert len(result.data) == len(packet) + 20
    assert result.data[:14] == packet[:14]
    assert result.data[34:] == packet[14:]


def test_a_redirecting_tc_program_still_gives_its_packet_and_context(runner: BpfObject, veth: Pair) -> None:
    given = SkbContext(ifindex=veth.indices[1], mark=41, gso_size=100, gso_segs=8, wire_len=900)
    with runner.program("tell_tc") as program:
        result = program.test_run(PACKET, context=given)

    assert result.retval == TC_ACT_REDIRECT
    assert result.data == PACKET
    assert result.context is not None
    assert result.context.mark == 42
    assert result.context.cb[:4] == (veth.indices[1], 100, 8, 900)


def test_runs_are_repeated_and_timed(runner: BpfObject) -> None:
    with runner.program("answer_xdp") as program:
        result = program.test_run(PACKET, repeat=1000)
    assert result.retval == XDP_DROP
    assert result.duration_ns >= 0
    assert result.data == PACKET


def test_live_frames_run_for_real_and_give_nothing_back(runner: BpfObject, veth: Pair) -> None:
    with runner.program("answer_xdp") as program:
        context = XdpContext(ingress_ifindex=veth.indices[0])
        result = program.test_run(PACKET, repeat=64, context=context, flags=TestRunFlag.LIVE_FRAMES)
    assert result.data == b""


@pytest.mark.parametrize(
    ("name", "context", "told"),
    [
        (
            "answer_xdp",
            XdpContext(ingress_ifindex=99999),
            "running program answer_xdp on a packet failed: No such device",
        ),
        ("answer_tc", SkbContext(ifindex=99999), "running program answer_tc on a packet failed: No such device"),
        ("answer_xdp", XdpContext(meta_bytes=3), "running program answer_xdp on a packet failed: Invalid argument"),
    ],
    ids=["xdp device", "tc device", "metadata"],
)
def test_a_context_that_cannot_be_is_refused(
    runner: BpfObject, name: str, context: SkbContext | XdpContext, told: str
) -> None:
    with runner.program(name) as program, pytest.raises(BpfError, match=told):
        program.test_run(PACKET, context=context)


def test_a_packet_too_short_for_a_link_header_is_refused(runner: BpfObject) -> None:
    with runner.program("answer_tc") as program, pytest.raises(BpfError, match="Invalid argument"):
        program.test_run(b"short")


def test_a_closed_program_is_refused(runner: BpfObject) -> None:
    program: Program = runner.program("answer_tc")
    program.close()
    with pytest.raises(BpfError, match="running program answer_tc on a packet failed: Bad file descriptor"):
        program.test_run(PACKET)
