"""Copying connections to a standby: who gets copies of what, how fast, and what a standby believes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from sixgate.node.egress.copies import GRACE_S, RATE, ROUND_S, SETTLE_S, STRIDE, TICK_S, Copies
from sixgate.node.egress.copylink import PairCopies
from sixgate.node.egress.copytables import Copied
from sixgate.node.egress.copywire import GREETING, HEAD, MAGIC, RECORD, Frame, Kind, Reply, Verdict
from sixgate.node.egress.sessions import Handover, SessionTables
from sixgate.node.egress.standby import FORGET_S, Standby
from tests.unit.copies import PAIR, Clock, Owning, Tables, known, port_of, record, standby_of

# -- what a standby believes


@pytest.fixture
def standby() -> Standby:
    return standby_of("g1", "g2")


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


async def pruned(standby: Standby) -> list[Any]:
    """Objects that were looked through, once that is over."""
    if standby._pruning is not None:
        await standby._pruning
    return [call[2] for call in standby.tables.calls if call[0] == "prune"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("holder", "dead", "spoken", "mine", "forgotten"),
    [
        ("g2", False, False, False, True),
        ("g2", False, True, False, False),  # it copies all the time
        ("g2", True, False, False, False),  # nobody else may have them
        ("", False, False, False, False),
        ("g1", False, False, True, False),
    ],
)
def test_copies_that_a_living_owner_does_not_speak_of_are_forgotten(  # noqa: PLR0917 - one row of a table
    standby: Standby, holder: str, dead: bool, spoken: bool, mine: bool, forgotten: bool
) -> None:
    owners, clock = standby.owners, standby.clock
    owners.holders[PAIR] = holder  # type: ignore[attr-defined]
    owners.dead = {holder} if dead else set()  # type: ignore[attr-defined]
    owners.own = {PAIR: 1} if mine else {}  # type: ignore[attr-defined]

    async def scene() -> list[Any]:
        for _ in range(int(FORGET_S)):
            standby.look()
            assert standby._pruning is None
            clock.now += 1  # type: ignore[attr-defined]
            if spoken:
                said(standby, Frame(Kind.PING, PAIR, 1, 1))
        standby.look()
        return await pruned(standby)

    assert asyncio.run(scene()) == ([{1, 2}] if forgotten else [])


def test_what_a_copy_of_everything_left_out_is_over(standby: Standby) -> None:
    async def body() -> None:
        said(standby, Frame(Kind.END, PAIR, 1, 1))  # of which nobody saw the beginning
        assert await pruned(standby) == []
        said(standby, Frame(Kind.BEGIN, PAIR, 1, 2))
        said(standby, Frame(Kind.END, PAIR, 1, 3))
        assert await pruned(standby) == [{1, 2}]
        assert not any(standby.tables.outdated.values())  # type: ignore[attr-defined]

    asyncio.run(body())


@pytest.mark.parametrize("comes", ["the pair", "another beginning"])
def test_pruning_stops_where_sessions_may_be_new(standby: Standby, comes: str) -> None:
    """A million sessions are looked through in many steps, and between them the world goes on."""
    standby.tables.words = 3 * 512  # type: ignore[misc]

    async def body() -> None:
        said(standby, Frame(Kind.BEGIN, PAIR, 1, 1))
        said(standby, Frame(Kind.DROP, PAIR, 1, 2))
        while not standby.tables.calls:  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        if comes == "the pair":
            standby.owners.own[PAIR] = 2  # type: ignore[attr-defined]
        else:
            said(standby, Frame(Kind.BEGIN, PAIR, 1, 3))
        assert await pruned(standby) == [{1, 2}]
        assert not any(standby.tables.outdated.values())  # type: ignore[attr-defined]

    asyncio.run(body())


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
    assert copies.tables.configured == {1: Copied(PAIR, True, True), 2: Copied(PAIR, True, True)}  # type: ignore[attr-defined]
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


def test_a_round_takes_as_long_as_there_are_sessions(copies: Copies) -> None:
    """A standby that has everything is told of it again, RATE sessions a second, and no faster than in ROUND_S."""
    words = copies.tables.words = 4 * STRIDE  # type: ignore[misc]
    ticks(copies)
    tables: Any = copies.tables

    def steps(each: bytes) -> int:
        tables.walked.clear()
        tables.collect = lambda at, end, whole, slack: (
            Tables.collect(tables, at, end, whole=whole, slack=slack) and (each if whole else b"", end)
        )
        link: Any = copies._links["g2"]
        link.sent.clear()
        taken = 0
        while Kind.END not in link.kinds():
            ticks(copies)
            taken += 1
        return taken

    usual = round(ROUND_S / TICK_S)
    assert abs(steps(b"") - usual) <= usual / 10
    per_step = 2 * RATE * TICK_S
    assert steps(record(1) * round(per_step)) >= 1.8 * usual
    assert all(end - at <= STRIDE for at, end, whole in tables.walked if whole)
    assert words == copies.tables.words


def test_what_changed_while_nobody_listened_is_told_once(copies: Copies) -> None:
    """A standby that comes is told of everything; what has changed meanwhile is part of that."""
    copies.tables.changed = [record(1)]  # type: ignore[attr-defined]
    copies.tables.everything = record(1)  # type: ignore[attr-defined]
    ticks(copies)
    link: Any = copies._links["g2"]
    assert link.kinds() == [Kind.BEGIN, Kind.RECORDS, Kind.END]
    ticks(copies)
    assert link.kinds()[3:].count(Kind.RECORDS) == 2  # what was marked after all, and the next round


def test_one_pair_that_is_new_has_no_other_told_anew(copies: Copies) -> None:
    copies.known.pairs[PAIR + 1] = copies.known.pairs[PAIR]  # type: ignore[index]
    copies.tables.objects_of[PAIR + 1] = {4: 3}  # type: ignore[attr-defined]
    ticks(copies)
    copies.owners.own[PAIR + 1] = 1  # type: ignore[attr-defined]
    copies.clock.now += 1  # type: ignore[attr-defined]
    link: Any = copies._links["g2"]
    link.sent.clear()
    ticks(copies)
    assert [row[:2] for row in link.sent if row[0] in {Kind.BEGIN, Kind.END}] == [
        (Kind.BEGIN, PAIR + 1),
        (Kind.END, PAIR + 1),
    ]
    assert {n: item.all for n, item in copies.tables.configured.items()} == {1: False, 2: False, 3: True}  # type: ignore[attr-defined]


def test_a_standby_that_refuses_is_asked_until_it_takes_the_pair(copies: Copies) -> None:
    copies.tables.everything = record(1)  # type: ignore[attr-defined]
    ticks(copies, 2)
    link: Any = copies._links["g2"]
    link.pairs[PAIR] = PairCopies(why="it does not know the pair yet")
    link.sent.clear()
    ticks(copies, 30)
    assert {row[0] for row in link.sent} == {Kind.PING}
    assert not copies.tables.configured[1].on  # type: ignore[attr-defined]
    link.pairs[PAIR].why = ""
    ticks(copies)
    assert link.kinds()[0] is Kind.BEGIN
    assert link.kinds()[-1] is Kind.END


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
    assert "no room for some" in copies.report(PAIR).why
    link.why, link.reason = "the connection failed", "StandbyUnreachable"
    assert copies.report(PAIR).why == "g2 has no copies: the connection failed."


def test_what_may_come_back_is_waited_for_before_it_is_lacking(copies: Copies) -> None:
    """A gateway that is restarted is no news at once."""
    clock: Any = copies.clock
    assert copies.report(PAIR).reason == "Copying"
    clock.now += GRACE_S
    assert copies.report(PAIR).reason == "NoStandby"
    ticks(copies, 2)
    link: Any = copies._links["g2"]
    link.pairs[PAIR] = PairCopies(9, True)
    assert copies.report(PAIR).reason == ""
    link.pairs[PAIR].why = "it knows of a later owner"
    clock.now += GRACE_S - 1
    assert copies.report(PAIR).reason == "Copying"
    clock.now += 1
    assert copies.report(PAIR).reason == "StandbyRefuses"
    copies.tables.is_open = False  # type: ignore[misc]
    assert copies.report(PAIR).reason == "TablesMissing"
    copies.known.pairs[PAIR].gateways = ("g1",)  # type: ignore[misc]
    assert copies.report(PAIR).reason == "OneGateway"


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
