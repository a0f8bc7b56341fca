"""Copying connections to a standby: who gets copies, what a standby believes, and whom."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from sixgate.node.egress.copies import SETTLE_S, SLACK_S, Copies
from sixgate.node.egress.copylink import PairCopies
from sixgate.node.egress.copytables import Copied, Put
from sixgate.node.egress.copywire import (
    GREETING,
    HEAD,
    MAGIC,
    RECORD,
    Frame,
    Kind,
    Reply,
    Verdict,
)
from sixgate.node.egress.sessions import Handover, SessionTables
from sixgate.node.egress.standby import Standby
from tests.unit.copies import PAIR, Clock, port_of, record

# -- doubles of what is beside


@dataclass
class Tables:
    """The engine, as far as it is asked."""

    words: int = 64
    is_open: bool = True
    objects_of: dict[int, dict[int, int]] = field(default_factory=lambda: {PAIR: {4: 1, 6: 2}})
    changed: list[bytes] = field(default_factory=list)
    everything: bytes = b""
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    sleeping: dict[int, bool] = field(default_factory=dict)
    configured: dict[int, Copied] = field(default_factory=dict)
    refuse: int = 0

    def objects(self, pair: int) -> dict[int, int]:
        return self.objects_of.get(pair, {})

    def sessions(self, objects: Any) -> int:
        del objects
        return 42

    def asleep(self, obj: int, asleep: bool) -> None:
        self.sleeping[obj] = asleep

    def configure(self, objects: Mapping[int, Copied]) -> None:
        self.configured.update(objects)

    def collect(self, at: int, end: int, *, whole: bool, slack: int) -> tuple[bytes, int]:
        assert slack == SLACK_S
        if whole:
            return (self.everything if at == 0 else b""), end
        return (self.changed.pop(0) if self.changed else b""), end

    def put(self, records: bytes) -> Put:
        self.calls.append(("put", records))
        return Put(len(records) // RECORD - self.refuse, full=self.refuse)

    def prune(self, obj: int, since: int) -> int:
        self.calls.append(("prune", obj, since))
        return 1


@dataclass
class Owning:
    """Who owns what."""

    own: dict[int, int] = field(default_factory=dict)
    best: str = "g2"
    holders: dict[int, str] = field(default_factory=dict)
    epochs: dict[int, int] = field(default_factory=dict)

    def mine(self) -> dict[int, int]:
        return self.own

    def epoch(self, pair: int) -> int:
        return self.own.get(pair, self.epochs.get(pair, 0))

    def holder(self, pair: int) -> str:
        return self.holders.get(pair, "")

    def preferred(self, pair: int, now: float, without: str = "") -> str:
        assert without == "g1"
        return self.best


def known(*gateways: str) -> Any:
    pair = SimpleNamespace(gateways=gateways, policy=SimpleNamespace(transport="VXLAN", device="eth0"))
    addresses = {name: f"192.0.2.{name[1:]}" for name in ("g1", "g2", "g3")}
    return SimpleNamespace(node="g1", pairs={PAIR: pair}, gateways=addresses, own_address="192.0.2.1")


# -- what a standby believes


@pytest.fixture
def standby() -> Standby:
    return Standby(Tables(), known("g1", "g2"), Owning(), lambda _: False)  # type: ignore[arg-type]


def said(standby: Standby, frame: Frame, records: bytes = b"", peer: str = "192.0.2.2") -> Reply:
    return standby.take(frame, records, peer)


def test_records_are_taken_with_the_standbys_own_number(standby: Standby) -> None:
    reply = said(standby, Frame(Kind.RECORDS, PAIR, 1, 3, 6, 2), record(77) * 2)
    assert reply == Reply(Verdict.TAKEN, 3, 42, 0)
    assert standby.tables.calls == [("put", record(2) * 2)]  # type: ignore[attr-defined]


def test_records_without_room_are_counted_and_said(standby: Standby) -> None:
    standby.tables.refuse = 2  # type: ignore[attr-defined]
    assert said(standby, Frame(Kind.RECORDS, PAIR, 1, 1, 4, 5), record(1) * 5).refused == 2
    assert standby.refused == 2


def test_an_owner_takes_no_copies_of_what_is_its_own(standby: Standby) -> None:
    standby.owners.own[PAIR] = 1  # type: ignore[attr-defined]
    assert said(standby, Frame(Kind.RECORDS, PAIR, 9, 1, 4, 1), record(1)).verdict is Verdict.MINE
    assert not standby.tables.calls  # type: ignore[attr-defined]


def test_a_former_owner_is_not_believed_any_more(standby: Standby) -> None:
    standby.owners.holders[PAIR], standby.owners.epochs[PAIR] = "g3", 5  # type: ignore[attr-defined]
    assert said(standby, Frame(Kind.RECORDS, PAIR, 4, 1, 4, 1), record(1)).verdict is Verdict.STALE
    assert said(standby, Frame(Kind.RECORDS, PAIR, 4, 2, 4, 1), record(1), "192.0.2.3").verdict is Verdict.TAKEN
    assert said(standby, Frame(Kind.RECORDS, PAIR, 6, 3, 4, 1), record(1)).verdict is Verdict.TAKEN


@pytest.mark.parametrize("gone", ["pair", "member", "tables", "family"])
def test_what_a_standby_does_not_know_it_does_not_take(standby: Standby, gone: str) -> None:
    if gone == "pair":
        standby.known.pairs.clear()
    elif gone == "member":
        standby.known.pairs[PAIR].gateways = ("g2", "g3")  # type: ignore[misc]
    elif gone == "tables":
        standby.tables.is_open = False  # type: ignore[misc]
    else:
        del standby.tables.objects_of[PAIR][4]  # type: ignore[attr-defined]
    assert said(standby, Frame(Kind.RECORDS, PAIR, 1, 1, 4, 1), record(1)).verdict is Verdict.UNKNOWN
    assert not standby.tables.calls  # type: ignore[attr-defined]


def test_what_a_copy_of_everything_left_out_is_over(standby: Standby) -> None:
    said(standby, Frame(Kind.END, PAIR, 1, 1))  # of which nobody saw the beginning
    assert not standby.tables.calls  # type: ignore[attr-defined]
    said(standby, Frame(Kind.BEGIN, PAIR, 1, 2))
    said(standby, Frame(Kind.END, PAIR, 1, 3))
    assert [call[:2] for call in standby.tables.calls] == [("prune", 1), ("prune", 2)]  # type: ignore[attr-defined]


def test_nothing_is_pruned_while_connections_that_began_here_are_served(standby: Standby) -> None:
    standby.draining = lambda _: True
    for number, kind in enumerate((Kind.BEGIN, Kind.END, Kind.DROP)):
        said(standby, Frame(kind, PAIR, 1, number))
    assert not standby.tables.calls  # type: ignore[attr-defined]


# -- who gets copies


class FakeLink:
    """A link that stands, and what was sent through it."""

    def __init__(self, node: str, address: str, *_: Any) -> None:
        self.node, self.address, self.connected = node, address, 1
        self.ready = self.room = True
        self.why, self.synced, self.refused = "", 0.0, 0
        self.pairs: dict[int, Any] = {}
        self.sent: list[tuple[Any, ...]] = []
        self.broken: list[str] = []

    def start(self) -> None:
        pass

    async def close(self) -> None:
        self.ready = False

    def send(self, kind: Kind, pair: int, epoch: int, family: int = 0, records: bytes = b"") -> None:
        self.sent.append((kind, pair, epoch, family, records))

    def mark(self, now: float) -> None:
        self.synced = now

    def stuck(self, now: float) -> bool:
        del now
        return False

    def break_off(self, why: str) -> None:
        self.broken.append(why)

    def kinds(self) -> list[Kind]:
        return [row[0] for row in self.sent if row[0] is not Kind.PING]


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Copies:
    monkeypatch.setattr("sixgate.node.egress.copies.Link", FakeLink)
    return Copies(Tables(), known("g1", "g2", "g3"), Owning({PAIR: 3}), Clock(), lambda _: False)  # type: ignore[arg-type]


def ticks(copies: Copies, count: int = 1, step: float = 0.1) -> None:
    async def body() -> None:
        for _ in range(count):
            copies._once()
            copies.clock.now += step  # type: ignore[attr-defined]
            await asyncio.sleep(0)

    asyncio.run(body())


def test_a_new_standby_is_told_of_everything_and_then_of_what_changes(copies: Copies) -> None:
    copies.tables.everything = record(1) + record(2)  # type: ignore[attr-defined]
    ticks(copies)
    link: Any = copies._links["g2"]
    assert link.kinds()[0] is Kind.BEGIN
    assert link.kinds()[-1] is Kind.END
    assert (Kind.RECORDS, PAIR, 3, 4, record(1)) in link.sent
    assert (Kind.RECORDS, PAIR, 3, 6, record(2)) in link.sent
    assert copies.tables.configured == {1: Copied(PAIR, True), 2: Copied(PAIR, True)}  # type: ignore[attr-defined]
    link.sent.clear()
    copies.tables.everything = b""  # type: ignore[attr-defined]
    copies.tables.changed = [record(2, 8)]  # type: ignore[attr-defined]
    ticks(copies)
    assert (Kind.RECORDS, PAIR, 3, 6, record(2, 8)) in link.sent


def test_a_connection_that_is_new_begins_with_everything_again(copies: Copies) -> None:
    ticks(copies, 3)
    link: Any = copies._links["g2"]
    link.sent.clear()
    link.connected += 1
    ticks(copies)
    assert link.kinds()[0] is Kind.BEGIN
    assert link.kinds()[-1] is Kind.END


def test_nothing_is_collected_while_the_window_is_full(copies: Copies) -> None:
    """What has changed stays marked, and nothing is kept in memory."""
    ticks(copies, 2)
    link: Any = copies._links["g2"]
    link.sent.clear()
    link.room = False
    copies.tables.changed = [record(1)]  # type: ignore[attr-defined]
    ticks(copies, 20)
    assert link.kinds() == []
    link.room = True
    ticks(copies)
    assert (Kind.RECORDS, PAIR, 3, 4, record(1)) in link.sent


def test_a_lost_heartbeat_moves_no_copies_and_a_better_standby_does(copies: Copies) -> None:
    ticks(copies, 2)
    first: Any = copies._links["g2"]
    copies.owners.best = ""  # type: ignore[attr-defined]
    ticks(copies, 5)
    assert set(copies._links) == {"g2"}
    copies.owners.best = "g3"  # type: ignore[attr-defined]
    ticks(copies, 2)
    assert set(copies._links) == {"g2"}
    ticks(copies, 2, SETTLE_S)
    ticks(copies)
    assert set(copies._links) == {"g3"}
    assert Kind.DROP in first.kinds()


def test_what_is_another_gateways_sleeps_and_wakes_before_it_comes(copies: Copies) -> None:
    copies.owners.own.clear()  # type: ignore[attr-defined]
    ticks(copies)
    assert copies.tables.sleeping == {1: True, 2: True}  # type: ignore[attr-defined]
    copies.wake(PAIR)
    assert copies.tables.sleeping == {1: False, 2: False}  # type: ignore[attr-defined]


def test_the_report_says_why_nothing_would_survive(copies: Copies) -> None:
    assert "alive" in copies.report(PAIR).why
    copies.known.pairs[PAIR].gateways = ("g1",)  # type: ignore[misc]
    assert copies.report(PAIR).why == "There is no other gateway."
    copies.known.pairs[PAIR].gateways = ("g1", "g2")  # type: ignore[misc]
    ticks(copies)
    link: Any = copies._links["g2"]
    assert "not got all" in copies.report(PAIR).why
    link.pairs[PAIR] = PairCopies(9, True)
    assert (copies.report(PAIR).copies, copies.report(PAIR).why) == (9, "")
    link.pairs[PAIR].refused = 3
    assert "no room for 3" in copies.report(PAIR).why
    link.why = "the connection failed"
    assert copies.report(PAIR).why == "g2 has no copies: the connection failed."


# -- who may speak at all, over loopback


@pytest.mark.parametrize(
    ("members", "greeting", "answered"),
    [
        ((), GREETING.pack(MAGIC, RECORD), b""),  # no gateway: nothing, not even a greeting
        (("127.0.0.1",), GREETING.pack(MAGIC, RECORD + 8), GREETING.pack(MAGIC, RECORD)),
        (("127.0.0.1",), b"GET / HTTP/1.1\r\n\r\n", b""),
        (("127.0.0.1",), GREETING.pack(MAGIC, RECORD) + bytes(HEAD.size), GREETING.pack(MAGIC, RECORD)),
    ],
)
def test_strangers_and_nonsense_get_no_further_than_the_greeting(
    standby: Standby, monkeypatch: pytest.MonkeyPatch, members: tuple[str, ...], greeting: bytes, answered: bytes
) -> None:
    monkeypatch.setattr("sixgate.node.egress.sessions.PORT", 0)

    async def body() -> None:
        handover = Handover(SessionTables(None), lambda: members, standby.serve)  # type: ignore[arg-type]
        await handover.bind("127.0.0.1")
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(handover._server))
        writer.write(greeting)
        got = b""
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionResetError):  # what was said is not even read
                got = await reader.read()
        assert got == answered
        writer.close()
        await handover.close()

    asyncio.run(body())
    assert not standby.tables.calls  # type: ignore[attr-defined]
