"""DiscardLog on real ring buffers: which map is read, how many lines there are, and what is said when it cannot be."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sixgate.node.bpf import BpfObject
from sixgate.node.bpf.codec import encode
from sixgate.node.bpf.layouts import SG_EVENT, SgReason
from sixgate.node.discard_log import DiscardLog
from sixgate.node.discards import LineBound
from tests.bpf.harness import XDP_PASS

Open = Callable[[str], BpfObject]
PATIENCE_S = 60.0
LOGGER = "sixgate.node.discard_log"


class Source:
    """A data plane of one program and its ring buffer."""

    def __init__(self, opened: Open) -> None:
        self.object = opened("ringbuf")
        self.object.load()

    def pin(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        with self.object.map("t_events") as table:
            table.pin(path)

    def drop(self, sport: int) -> None:
        """Tells of one packet."""
        event = {
            "time_ns": time.monotonic_ns(),
            "saddr": "192.0.2.1",
            "daddr": "192.0.2.2",
            "sport": sport,
            "dport": 53,
            "ifindex": 1,
            "reason": SgReason.SG_DROP_UDP_ZERO,
            "proto": 17,
        }
        with self.object.program("send_xdp") as program:
            assert program.test_run(encode(SG_EVENT, event) + bytes(8)).retval == XDP_PASS


class Lines:
    """What was logged."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, LOGGER)
        self.caplog = caplog

    def ports(self) -> list[int]:
        """Source ports of the packets that lines tell of."""
        return [int(record.sport) for record in self.caplog.records if hasattr(record, "sport")]

    def others(self) -> list[str]:
        return [record.getMessage() for record in self.caplog.records if not hasattr(record, "sport")]

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                await asyncio.sleep(0.01)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Lines:
    return Lines(caplog)


def run(bpffs: Path, story: Callable[[DiscardLog], Awaitable[None]], bound: LineBound | None = None) -> None:
    async def within() -> None:
        with DiscardLog(bpffs, asyncio.get_running_loop(), time.monotonic, bound) as log:
            await story(log)

    asyncio.run(within())


def test_each_packet_is_a_line_with_its_fields(opened: Open, bpffs: Path, lines: Lines) -> None:
    source = Source(opened)
    source.pin(bpffs / "maps" / "sg_events")
    source.drop(1)  # before anybody listens

    async def story(log: DiscardLog) -> None:
        log.follow()
        await lines.until(lambda: lines.ports() == [1])
        log.follow()
        source.drop(2)
        await lines.until(lambda: lines.ports() == [1, 2])

    run(bpffs, story)
    (first, second) = lines.caplog.records
    assert second.getMessage() == (
        "Packet dropped: SG_DROP_UDP_ZERO (RFC 7915 4.5: IPv4 UDP without checksum): "
        "UDP from 192.0.2.1 port 2 to 192.0.2.2 port 53 on lo."
    )
    assert (first.levelno, first.name) == (logging.INFO, LOGGER)
    assert (first.__dict__["reason"], first.__dict__["device"]) == ("SG_DROP_UDP_ZERO", "lo")


def test_lines_beyond_the_bound_become_one(opened: Open, bpffs: Path, lines: Lines) -> None:
    source = Source(opened)
    source.pin(bpffs / "maps" / "sg_events")
    for port in range(1, 26):
        source.drop(port)

    async def story(log: DiscardLog) -> None:
        log.follow()
        await lines.until(lambda: bool(lines.others()))
        source.drop(99)
        await lines.until(lambda: 99 in lines.ports())

    run(bpffs, story, LineBound(lines=20, period_s=0.5))
    assert lines.ports() == [*range(1, 21), 99]
    assert lines.others() == [
        "5 more packets were dropped than the 20 in 0.5 s that are logged; `sixgate status` counts them all."
    ]


def test_what_was_withheld_is_said_at_the_end(opened: Open, bpffs: Path, lines: Lines) -> None:
    source = Source(opened)
    source.pin(bpffs / "maps" / "sg_events")
    for port in range(1, 4):
        source.drop(port)

    async def story(log: DiscardLog) -> None:
        log.follow()
        await lines.until(lambda: lines.ports() == [1])

    run(bpffs, story, LineBound(lines=1, period_s=3600))
    assert [said.split(" than")[0] for said in lines.others()] == ["2 more packets were dropped"]


def test_the_pins_are_followed(opened: Open, bpffs: Path, lines: Lines) -> None:
    """As when a map gets another layout: beside the old one, then instead of it; and when all is taken off."""
    old, new = Source(opened), Source(opened)

    async def story(log: DiscardLog) -> None:
        log.follow()  # nothing is there yet, and nothing is to be said of that
        old.pin(bpffs / "maps" / "sg_events")
        log.follow()
        new.pin(bpffs / "maps-new" / "sg_events")
        log.follow()
        old.drop(1)
        new.drop(2)
        await lines.until(lambda: sorted(lines.ports()) == [1, 2])
        os.replace(bpffs / "maps-new" / "sg_events", bpffs / "maps" / "sg_events")
        old.drop(3)
        log.follow()
        assert 3 in lines.ports(), "what waits in a map that goes is read before"
        new.drop(4)
        await lines.until(lambda: 4 in lines.ports())
        (bpffs / "maps" / "sg_events").unlink()
        log.follow()
        new.drop(5)
        await asyncio.sleep(0.05)

    run(bpffs, story)
    assert sorted(lines.ports()) == [1, 2, 3, 4]
    assert lines.others() == []


def test_a_map_that_is_none_is_complained_of_once(opened: Open, bpffs: Path, lines: Lines) -> None:
    (bpffs / "maps").mkdir()
    source = Source(opened)
    with source.object.map("t_table") as table:
        table.pin(bpffs / "maps" / "sg_events")

    async def story(log: DiscardLog) -> None:
        log.follow()
        log.follow()

    run(bpffs, story)
    assert lines.others() == [
        "Discarded packets are not logged: Map sg_events is of type 2, where a ring buffer (27) is expected."
    ]


def test_descriptors_do_not_leak(opened: Open, bpffs: Path) -> None:
    source = Source(opened)
    source.pin(bpffs / "maps" / "sg_events")

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def story(log: DiscardLog) -> None:
        log.follow()
        open_now = descriptors()
        for _ in range(3):
            log.follow()
        assert descriptors() == open_now

    run(bpffs, story)
    before = descriptors()
    run(bpffs, story)
    assert descriptors() == before
