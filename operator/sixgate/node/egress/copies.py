"""Connections of this node's pairs, copied all the time to the gateway that would take over (docs/design/egress.md).

Ten times a second what has changed is collected and told; everything is told again and again, spread out, which repairs
what was lost and renews timers, and at once to a standby that is new. The engine's objects of pairs that this node
does not have are put to sleep.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.errors import BpfError
from sixgate.node.egress.copylink import COPYING, Link, PairCopies
from sixgate.node.egress.copytables import IDS_OF_A_WORD, Copied, CopyTables
from sixgate.node.egress.copywire import RECORD, Kind, by_object
from sixgate.node.egress.direct import pair_mac
from sixgate.node.egress.sessions import PORT

if TYPE_CHECKING:
    from sixgate.node.egress.known import Known
    from sixgate.node.egress.owners import Owners

log = logging.getLogger(__name__)

TICK_S = 0.1  # between collections: what a connection must be older than to be copied
URGENT_S = 0.02  # the same while a standby has not got everything yet
ROUND_S = 20.0  # in which everything is told once, at least
RATE = 10_000  # sessions that are told of in a second for that, at most: a round of more than 200,000 takes longer
BUSY_S = 0.01  # of a tick: heartbeats are sent by the same loop
STRIDE = 512  # words of the bitmap that are walked over at once, where every session is looked at
SETTLE_S = 2.0  # how long another gateway must be the better standby before copies go there
GRACE_S = 5.0  # in which a standby may come, or come back
LOOK_S = 1.0  # between looks at what the objects are, and questions to standbys


@dataclass(frozen=True, slots=True)
class CopyReport:
    """Of a pair that this node owns: the gateway that has copies, or should have, how many of what age in seconds, and
    why there is none, empty if there is."""

    standby: str = ""
    copies: int = 0
    behind_s: int = 0
    why: str = ""
    reason: str = ""  # the same in one word


@dataclass(slots=True)
class Copies:
    """`source` is the address that connections come from, `draining` says whether a pair is still served here."""

    tables: CopyTables
    known: Known
    owners: Owners
    clock: Callable[[], float]
    draining: Callable[[int], bool]
    port: int = PORT
    _links: dict[str, Link] = field(default_factory=dict)  # by node
    _targets: dict[int, str] = field(default_factory=dict)  # node, by pair
    _better: dict[int, tuple[str, float]] = field(default_factory=dict)  # another standby, and since when
    _objects: dict[int, tuple[int, int]] = field(default_factory=dict)  # pair and family, by number
    _told: dict[int, Copied] = field(default_factory=dict)
    _asleep: dict[int, bool] = field(default_factory=dict)
    _looked: float = -1e9
    _walk: int = 0  # word that comes next, of what has changed
    _walked: float = 0.0  # when that walk began
    _at: int = 0  # word of the round
    _round: dict[int, tuple[Link, int]] = field(default_factory=dict)  # connection that was told to begin, by pair
    _whole: dict[int, tuple[Link, int]] = field(default_factory=dict)  # that everything was told over, or is being
    _credit: float = 0.0  # sessions that this tick may tell of
    _urgent: bool = False
    _closing: set[asyncio.Task[None]] = field(default_factory=set)
    _failed: str = ""
    _fine: dict[int, float] = field(default_factory=dict)  # when a pair had all its copies last, or was new here

    @property
    def slack_s(self) -> int:
        """Copies live that much longer than what they are copied from: three rounds, of as many as there can be."""
        return int(3 * max(ROUND_S, self.tables.words * IDS_OF_A_WORD / RATE))

    # -- what the keeper calls -------------------------------------------------------------------------------------

    def follow(self) -> None:
        """The tables may be others now, or gone."""
        try:
            if self.tables.open():
                self.tables.spare_all()
                self._restart()
        except BpfError as error:
            log.debug("Nothing to copy: %s", error)
            self.tables.close()
            self._restart()
        self._looked = -1e9

    def close(self) -> None:
        """What the kernel does goes on."""
        self.tables.close()
        self._restart()

    def wake(self, pair: int) -> None:
        """The pair is this node's: its copies are connections from now on."""
        try:
            for number in self.tables.objects(pair).values() if self.tables.is_open else ():
                self._sleep(number, asleep=False)
        except BpfError as error:
            log.error("Copies of pair %d still sleep: %s", pair, error)
            self._looked = -1e9

    async def run(self) -> None:
        try:
            while True:
                self._once()
                await asyncio.sleep(URGENT_S if self._urgent else TICK_S)
        finally:
            await asyncio.gather(*(link.close() for link in self._links.values()))
            self._links.clear()
            self._targets.clear()

    def report(self, pair: int) -> CopyReport:
        """Of a pair that is this node's. What is lacking is told as lacking after GRACE_S; until then it may come."""
        now, node = self.clock(), self._targets.get(pair, "")
        link = self._links.get(node)
        copies = link.pairs.get(pair, PairCopies()) if link is not None else PairCopies()
        reason, why = self._lack(pair, link, copies)
        if not why:
            self._fine[pair] = now
        elif reason != "OneGateway" and now - self._fine.setdefault(pair, now) < GRACE_S:
            reason = COPYING
        if link is None:
            return CopyReport(why=why, reason=reason)
        behind = max(0, round(now - link.synced)) if link.synced >= 0 else 0
        return CopyReport(node, 0 if link.why or copies.why else copies.sessions, behind, why, reason)

    def _lack(self, pair: int, link: Link | None, copies: PairCopies) -> tuple[str, str]:
        """Why no gateway has all of a pair's connections, in a word and in a sentence; empty if one has."""
        known = self.known.pairs.get(pair)
        if known is None or len(known.gateways) < 2:
            return ("OneGateway", "There is no other gateway.")
        if self._failed or not self.tables.is_open:
            return ("TablesMissing", self._failed or "The tables of connections are not there.")
        if link is None:
            return ("NoStandby", "No other gateway is alive.")
        if link.why:
            return (link.reason, f"{link.node} has no copies: {link.why}.")
        if copies.why:
            return ("StandbyRefuses", f"{link.node} has no copies: {copies.why}.")
        if not copies.whole:
            return (COPYING, f"{link.node} has not got all of them yet.")
        if copies.refused:
            return ("StandbyFull", f"{link.node} has no room for some of them, or their ports are taken there.")
        return ("", "")

    def refused(self) -> int:
        """Records that standbys had no room for, or whose port was taken there."""
        return sum(link.refused for link in self._links.values())

    def sent(self) -> tuple[int, int]:
        """Records and bytes, over connections that are there."""
        return sum(n.sent_records for n in self._links.values()), sum(n.sent_bytes for n in self._links.values())

    # -- a tick ----------------------------------------------------------------------------------------------------

    def _restart(self) -> None:
        self._objects.clear()
        self._told.clear()
        self._asleep.clear()
        self._round.clear()
        self._whole.clear()
        self._at = self._walk = 0
        self._urgent = False
        for link in self._links.values():
            link.break_off("the engine's tables are new")

    def _once(self) -> None:
        if not self.tables.is_open:
            return
        now = self.clock()
        try:
            if now - self._looked >= LOOK_S:
                self._looked = now
                self._look()
            self._choose(now)
            self._plan_round()
            self._configure()
            self._copy(now)
            self._failed = ""
        except BpfError as error:
            if str(error) != self._failed:
                self._failed = str(error)
                log.error("Connections are not copied: %s", error)

    def _look(self) -> None:
        """Numbers of the engine's objects, which of them sleep, and what standbys say of themselves."""
        mine = self.owners.mine()
        self._objects = {
            number: (pair, family)
            for pair, known in self.known.pairs.items()
            if self.known.node in known.gateways
            for family, number in self.tables.objects(pair).items()
        }
        for number, (pair, _) in self._objects.items():
            self._sleep(number, asleep=pair not in mine and not self.draining(pair))
        for pair in self._targets:
            link = self._link(pair)
            if link is not None and link.room:
                link.send(Kind.PING, pair, self.owners.epoch(pair))

    def _sleep(self, number: int, *, asleep: bool) -> None:
        if self._asleep.get(number) != asleep:
            self.tables.asleep(number, asleep)
            self._asleep[number] = asleep

    # -- where to --------------------------------------------------------------------------------------------------

    def _choose(self, now: float) -> None:
        """The next owner of each pair, which does not change for a lost heartbeat."""
        mine = self.owners.mine()
        for pair in self._fine.keys() - mine.keys():
            del self._fine[pair]
        for pair in self._better.keys() - mine.keys():
            del self._better[pair]
        for pair in self._targets.keys() - mine.keys():
            del self._targets[pair]
            self._whole.pop(pair, None)
        for pair in mine:
            known = self.known.pairs.get(pair)
            if known is None:
                continue
            best = self.owners.preferred(pair, now, without=self.known.node)
            current = self._targets.get(pair, "")
            link = self._links.get(current)
            held = link is not None and link.ready and current in known.gateways
            if best in ("", current):
                self._better.pop(pair, None)
                if not best and current and not held:
                    del self._targets[pair]
                    self._whole.pop(pair, None)
                continue
            since = self._better.setdefault(pair, (best, now))
            if since[0] != best:
                since = self._better[pair] = (best, now)
            if held and now - since[1] < SETTLE_S:
                continue
            if link is not None and held:
                link.send(Kind.DROP, pair, self.owners.epoch(pair))
            del self._better[pair]
            self._targets[pair] = best
            self._whole.pop(pair, None)
        self._connect()

    def _connect(self) -> None:
        wanted = set(self._targets.values())
        for node in wanted - self._links.keys():
            address = self.known.gateways[node]
            link = self._links[node] = Link(node, address, self.port, lambda: self.known.own_address, self.clock)
            link.start()
        moved = {node for node, link in self._links.items() if self.known.gateways.get(node) != link.address}
        for node in (self._links.keys() - wanted) | moved:
            task = asyncio.create_task(self._links.pop(node).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _link(self, pair: int) -> Link | None:
        link = self._links.get(self._targets.get(pair, ""))
        return link if link is not None and link.ready else None

    def _configure(self) -> None:
        """Tells the engine whose sessions are to be told of."""
        changed = {}
        for number, (pair, _) in self._objects.items():
            item = self._copied(pair)
            if self._told.get(number) != item:
                changed[number] = item
        self.tables.configure(changed)
        self._told |= changed

    def _copied(self, pair: int) -> Copied:
        known = self.known.pairs[pair]
        own = self.known.own_address
        link = self._link(pair)
        on = link is not None and not _refuses(link, pair)
        every = on and pair in self._round
        if known.policy.transport != "Direct" or not own:
            return Copied(pair, on, every)
        try:
            return Copied(pair, on, every, socket.if_nametoindex(known.policy.device), pair_mac(own, pair))
        except OSError:
            return Copied(pair, on, every)

    # -- what ------------------------------------------------------------------------------------------------------

    def _copy(self, now: float) -> None:
        links = [link for link in self._links.values() if link.ready]
        for link in links:
            if link.stuck(now):
                link.break_off(f"{link.node} does not keep up")
        if not links or not self._room():
            return
        if self._walk == 0:
            self._walked = now
        until, end = now + BUSY_S, self.tables.words
        if self._urgent and self._round.keys() == self._targets.keys():
            end = self._at  # the rest is told of once, by the round
        while self._walk < end and self._room():
            _, self._walk = self._collect(self._walk, end, whole=False)
            if self.clock() > until:
                break
        if self._walk >= self.tables.words:
            for link in links:
                link.mark(self._walked)
        if self._walk >= end:
            self._walk = 0
        self._go_round(until)

    def _room(self) -> bool:
        return all(link.room for link in self._links.values())

    def _collect(self, at: int, end: int, *, whole: bool) -> tuple[int, int]:
        """How many records were sent, and where the walk has ended."""
        records, at = self.tables.collect(at, end, whole=whole, slack=self.slack_s)
        self._send(records)
        return len(records) // RECORD, at

    # -- everything ------------------------------------------------------------------------------------------------

    def _is_fresh(self, pair: int) -> bool:
        """Whether the standby should be told of everything at once: it has just come, or takes the pair only now."""
        link = self._link(pair)
        if link is None:
            return False
        if _refuses(link, pair):
            self._whole.pop(pair, None)
            self._round.pop(pair, None)
            return False
        return self._whole.get(pair) != (link, link.connected)

    def _plan_round(self) -> None:
        fresh = {pair for pair in self._targets if self._is_fresh(pair)}
        if fresh:
            self._begin_round(fresh | (self._round.keys() if self._urgent else set()), urgent=True)
        elif not self._round:
            self._begin_round(set(self._whole) & self._targets.keys(), urgent=False)

    def _begin_round(self, pairs: set[int], *, urgent: bool) -> None:
        self._round, self._at, self._urgent, self._credit = {}, 0, urgent, 0.0
        for pair in sorted(pairs):
            link = self._link(pair)
            if link is not None and not _refuses(link, pair):
                self._round[pair] = self._whole[pair] = (link, link.connected)
                link.send(Kind.BEGIN, pair, self.owners.epoch(pair))

    def _go_round(self, until: float) -> None:
        """A part of the walk over everything: as fast as the standby takes it where that is new, else no faster than
        RATE."""
        if not self._round:
            return
        words = self.tables.words
        step = words if self._urgent else max(1, round(words * TICK_S / ROUND_S))
        end = min(words, self._at + step)
        self._credit = min(self._credit, 0.0) + RATE * TICK_S
        while self._at < end and (self._urgent or self._credit > 0) and self._room():
            count, self._at = self._collect(self._at, min(end, self._at + STRIDE), whole=True)
            self._credit -= count
            if self.clock() > until:
                break
        if self._at >= words:
            for pair, begun in self._round.items():
                link = self._link(pair)
                if link is not None and begun == (link, link.connected):
                    link.send(Kind.END, pair, self.owners.epoch(pair))
            self._round, self._at, self._urgent = {}, 0, False

    def _send(self, records: bytes) -> None:
        for number, data in by_object(records).items():
            pair, family = self._objects.get(number, (0, 0))
            link = self._link(pair)
            if link is not None:
                link.send(Kind.RECORDS, pair, self.owners.epoch(pair), family, data)


def _refuses(link: Link, pair: int) -> bool:
    """Whether the standby does not take the pair, as it said last. It is asked again and again (PING)."""
    copies = link.pairs.get(pair)
    return copies is not None and bool(copies.why)
