"""The wire between gateways that copy connections: frames and bad ones, what a link may have under way, versions."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sixgate.node.egress import copylink
from sixgate.node.egress.copylink import WINDOW_BYTES, Link
from sixgate.node.egress.copywire import (
    GREETING,
    HEAD,
    MAGIC,
    RECORD,
    REPLY,
    Frame,
    Kind,
    Reply,
    Verdict,
    by_object,
    read_head,
    read_reply,
    renumbered,
)
from tests.unit.copies import PAIR, Clock, port_of, record

# -- frames


def test_a_frame_comes_back_as_it_was_packed() -> None:
    frame = Frame(Kind.RECORDS, 0x3FFFFF, 5, 2**32 - 1, 6, 2048)
    assert read_head(frame.pack()) == frame
    reply = Reply(Verdict.STALE, 9, 1000, 3)
    assert read_reply(reply.pack()) == reply


@pytest.mark.parametrize(
    "fields",
    [
        (0, 4, 1, PAIR, 1, 1),  # no kind
        (99, 4, 1, PAIR, 1, 1),
        (Kind.RECORDS, 5, 1, PAIR, 1, 1),  # no family
        (Kind.RECORDS, 0, 1, PAIR, 1, 1),
        (Kind.RECORDS, 4, 2049, PAIR, 1, 1),  # more than there is room for
        (Kind.BEGIN, 4, 0, PAIR, 1, 1),
        (Kind.END, 0, 1, PAIR, 1, 1),  # records where there are none
    ],
)
def test_what_is_no_frame_is_none(fields: tuple[int, ...]) -> None:
    assert read_head(HEAD.pack(*fields)) is None


def test_a_reply_of_no_known_verdict_is_none() -> None:
    assert read_reply(REPLY.pack(0, 77, 1, 1, 1)) is None


def test_records_are_sorted_by_object_and_get_another_number() -> None:
    mixed = record(300) + record(2, 5) + record(300, 9)
    assert by_object(mixed) == {300: record(300) + record(300, 9), 2: record(2, 5)}
    assert by_object(b"") == {}
    assert by_object(record(4) * 3) == {4: record(4) * 3}
    assert renumbered(record(300) + record(300, 9), 0x102) == record(0x102) + record(0x102, 9)


# -- a link, over loopback


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def test_what_is_not_acknowledged_is_bounded_and_acknowledgements_make_room() -> None:
    async def body() -> None:
        gate = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(GREETING.size)
            writer.write(GREETING.pack(MAGIC, RECORD))
            await gate.wait()
            while True:
                frame = read_head(await reader.readexactly(HEAD.size))
                assert frame is not None
                await reader.readexactly(frame.count * RECORD)
                writer.write(Reply(Verdict.TAKEN, frame.sequence, 5, 1).pack())

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        clock = Clock()
        link = Link("g2", "127.0.0.1", port_of(server), lambda: "", clock)
        link.start()
        await until(lambda: link.ready)
        chunk, sent = record(1) * 2048, 0
        while link.room:
            link.send(Kind.RECORDS, PAIR, 1, 4, chunk)
            sent += 1
        assert sent * len(chunk) < WINDOW_BYTES + 2 * len(chunk)
        assert not link.stuck(clock.now)
        assert link.stuck(clock.now + 60)
        link.mark(clock.now)
        assert link.synced < 0
        gate.set()
        await until(lambda: link.room and link.synced == clock.now)
        assert link.refused == sent
        assert link.pairs[PAIR].sessions == 5
        await link.close()
        server.close()

    asyncio.run(body())


@pytest.mark.parametrize("answer", [b"", b"SGX9\x00\x00\x00\x00", GREETING.pack(MAGIC, RECORD + 8)])
def test_a_gateway_of_another_version_gets_nothing_and_the_reason_is_told(
    answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copylink, "AGAIN_S", 30.0)

    async def body() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(GREETING.size)
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        link = Link("g2", "127.0.0.1", port_of(server), lambda: "", Clock())
        link.start()
        await until(lambda: "another version" in link.why)
        assert link.reason == "OtherVersion"
        assert not link.ready
        await link.close()
        server.close()

    asyncio.run(body())
