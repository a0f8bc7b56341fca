"""Ring buffers: what a program sends arrives once and in order, and a full one costs nothing but records."""

from __future__ import annotations

import asyncio
import errno
import select
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sixgate.errors import BpfError
from sixgate.node.bpf import BpfObject, Map, RingBuffer
from tests.bpf.harness import XDP_DROP, XDP_PASS

Open = Callable[[str], BpfObject]
RECORD_BYTES = 56
HEADER_BYTES = 8  # of each record in the kernel's buffer
CAPACITY = 4096 // (RECORD_BYTES + HEADER_BYTES)


@pytest.fixture
def sender(opened: Open) -> BpfObject:
    loaded = opened("ringbuf")
    loaded.load()
    return loaded


@pytest.fixture
def ring(sender: BpfObject) -> Iterator[RingBuffer]:
    with sender.map("t_events") as table:
        made = RingBuffer(table)
    yield made  # the map's own descriptor is closed by now
    made.close()


def send(sender: BpfObject, number: int) -> int:
    """One record that begins with `number`; the program's verdict."""
    with sender.program("send_xdp") as program:
        return program.test_run(record(number) + bytes(40)).retval


def record(number: int) -> bytes:
    return number.to_bytes(4, "big") + b"x" * (RECORD_BYTES - 4)


def readable(ring: RingBuffer) -> bool:
    return bool(select.select([ring], [], [], 0)[0])


def test_records_arrive_once_and_in_order(sender: BpfObject, ring: RingBuffer) -> None:
    assert ring.consume() == []
    assert [send(sender, number) for number in range(3)] == [XDP_PASS] * 3

    assert ring.consume() == [record(number) for number in range(3)]
    assert ring.consume() == []


def test_it_is_readable_while_records_wait(sender: BpfObject, ring: RingBuffer) -> None:
    assert not readable(ring)
    send(sender, 1)
    send(sender, 2)
    assert readable(ring)
    assert ring.consume(limit=1) == [record(1)]
    assert readable(ring)
    assert ring.consume(limit=1) == [record(2)]
    assert not readable(ring)


def test_asyncio_is_woken_each_time(sender: BpfObject, ring: RingBuffer) -> None:
    """The kernel wakes readers only when they had read everything: the second record must not be missed."""

    async def hear() -> list[list[bytes]]:
        loop, heard = asyncio.get_running_loop(), asyncio.Queue[list[bytes]]()
        loop.add_reader(ring.fileno(), lambda: heard.put_nowait(ring.consume()))
        got = []
        for number in (1, 2):
            send(sender, number)
            got.append(await asyncio.wait_for(heard.get(), 20))
        loop.remove_reader(ring.fileno())
        return got

    assert asyncio.run(hear()) == [[record(1)], [record(2)]]


def test_a_full_buffer_loses_the_newest(sender: BpfObject, ring: RingBuffer) -> None:
    verdicts = [send(sender, number) for number in range(CAPACITY + 4)]
    fit = verdicts.count(XDP_PASS)

    assert verdicts == [XDP_PASS] * fit + [XDP_DROP] * (CAPACITY + 4 - fit)
    assert ring.consume() == [record(number) for number in range(fit)]
    assert send(sender, 99) == XDP_PASS
    assert ring.consume() == [record(99)]


def test_what_one_reader_left_the_next_one_gets(sender: BpfObject, ring: RingBuffer, bpffs: Path) -> None:
    with sender.map("t_events") as table:
        table.pin(bpffs / "t_events")
    for number in range(3):
        send(sender, number)
    assert ring.consume(limit=1) == [record(0)]
    ring.close()
    ring.close()
    with Map.from_pin(bpffs / "t_events") as table, RingBuffer(table) as again:
        assert again.consume() == [record(1), record(2)]


def test_what_is_refused(sender: BpfObject, ring: RingBuffer) -> None:
    with (
        sender.map("t_table") as table,
        pytest.raises(BpfError, match=r"Map t_table is of type 2, where a ring buffer \(27\) is expected"),
    ):
        RingBuffer(table)
    with pytest.raises(BpfError, match="t_events is read 1 record at a time or more, not 0"):
        ring.consume(limit=0)
    ring.close()
    with pytest.raises(BpfError, match="Ring buffer t_events is closed") as caught:
        ring.fileno()
    assert caught.value.errno == errno.EBADF
    with pytest.raises(BpfError, match="Ring buffer t_events is closed"):
        ring.consume()


def test_a_closed_map_is_refused_with_the_reason(sender: BpfObject) -> None:
    table = sender.map("t_events")
    table.close()
    with pytest.raises(
        BpfError, match="opening ring buffer t_events for reading failed: Bad file descriptor"
    ) as caught:
        RingBuffer(table)
    assert caught.value.errno == errno.EBADF
