"""Egress on this node, kept up by one asyncio component: pods to maps, heartbeats to owners, owners to addresses.

What it decides is in tables.py and owners.py; what is done about it in people.py, ways.py and effects.py. It dies with
the agent and loses nothing: pairs, epochs and ways are in pinned maps, addresses on devices, and a new keeper begins
from them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.api.nodeconfig import EgressReport
from sixgate.errors import ApplyError, BpfError
from sixgate.node.egress import owners as own
from sixgate.node.egress.copies import Copies, CopyReport
from sixgate.node.egress.copytables import CopyTables
from sixgate.node.egress.effects import Effects
from sixgate.node.egress.explain import REPORT
from sixgate.node.egress.floating import Floating
from sixgate.node.egress.known import Known, KnownPair
from sixgate.node.egress.maps import OWNER, EgressMaps
from sixgate.node.egress.people import People
from sixgate.node.egress.sessions import Handover, SessionTables, pinned_program
from sixgate.node.egress.standby import Standby
from sixgate.node.egress.ways import Ways
from sixgate.node.egress.wire import Record
from sixgate.node.heartbeat import Heartbeat
from sixgate.node.resolve import BEHIND
from sixgate.node.statedir import StateDir

if TYPE_CHECKING:
    from sixgate.api.nodeconfig import EgressPolicy, NodeConfigSpec
    from sixgate.node.egress.pods import PodSource
    from sixgate.node.options import NodeOptions

log = logging.getLogger(__name__)

HELLO_S = 1.0
MTU_S = 5.0
TELL_S = 0.25  # between reports of pods: they are born in bursts
COUNT_S = 10.0  # between counts of connections for the status: one write of a gateway, at most
LEAST_TICK_S = 0.02
MAX_REPORTS = 200
NO_COPIES = CopyReport()
REBIND_S = 1.0
LEAVE_S = 1.0  # how long a pair may take to go where this node's pairs go when it is a gateway no more


@dataclass(slots=True)
class EgressKeeper:
    """`changed` is called whenever `reports` has something new to say. `clock` is monotonic seconds. All methods belong
    to the event loop; the kernel is worked on by threads of their own."""

    options: NodeOptions
    pods: PodSource | None
    clock: Callable[[], float]
    changed: Callable[[], None] = lambda: None
    _known: Known = field(init=False)
    _maps: EgressMaps = field(init=False)
    _owners: own.Owners = field(init=False)
    _heart: Heartbeat = field(init=False)
    _people: People = field(init=False)
    _floating: Floating = field(init=False)
    _handover: Handover = field(init=False)
    _copies: Copies = field(init=False)
    _standby: Standby = field(init=False)
    _ways: Ways = field(init=False)
    _effects: Effects = field(init=False)
    _sessions: dict[int, int] = field(default_factory=dict, init=False)
    _copied: dict[int, CopyReport] = field(default_factory=dict, init=False)  # as it was told last
    _hindered: dict[int, str] = field(default_factory=dict, init=False)  # as it was told last
    _tick_s: float = field(default=1.0, init=False)
    _untold: bool = field(default=False, init=False)
    _running: asyncio.Task[None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._known = Known(self.options.node)
        self._maps = EgressMaps(self.options.bpffs / "maps")
        self._owners = own.Owners(self.options.node, self.clock())
        self._handover = Handover(SessionTables(self.options.bpffs), lambda: self._heart.members)
        self._heart = Heartbeat(self.clock, self._claims, self._witness, self._records)
        # Of their own, so that no takeover waits for a thousand pods.
        self._people = People(self._maps, self.pods, ThreadPoolExecutor(1, "sixgate-egress-pods"))
        self._floating = Floating(ThreadPoolExecutor(1, "sixgate-egress-addr"))

        def draining(pair: int) -> bool:
            return self._effects.draining(pair)

        tables = CopyTables(self.options.bpffs)
        self._copies = Copies(tables, self._known, self._owners, self.clock, draining)
        self._standby = Standby(tables, self._known, self._owners, draining, self.clock)
        self._handover.copies = self._standby.serve
        self._ways = Ways(self._maps, self._known, self._owners, self._floating)
        self._effects = Effects(
            self._known,
            self._owners,
            self._maps,
            self._ways,
            self._floating,
            self._heart,
            self._handover,
            self.clock,
            self._tell,
            self._copies.wake,
        )

    # -- what the agent calls --------------------------------------------------------------------------------------

    async def follow(self, spec: NodeConfigSpec) -> None:
        """After `spec` was applied: maps and devices are there."""
        if not spec.egress:
            await self.stop()
            self._forget_all()
            return
        try:
            self._maps.open()
        except BpfError as error:
            log.error("Egress waits for its maps: %s", error)
            return
        self._chain(spec)
        await self._configure(spec.egress)
        self._copies.follow()
        if self._running is None or self._running.done():
            if self._running is not None:
                self._running.result()
            self._running = asyncio.create_task(self._run())

    def _chain(self, spec: NodeConfigSpec) -> None:
        wanted = [(item.name, a.program) for item in spec.objects for a in item.attachments if BEHIND in a.devices]
        try:
            if not wanted:
                self._maps.chain(None)
            for name, program in wanted:
                with pinned_program(self.options.bpffs, name, program) as found:
                    self._maps.chain(found.fd)
        except (BpfError, OSError) as error:
            log.error("What pods send elsewhere should be seen by %s: %s", wanted, error)

    async def prepare(self, spec: NodeConfigSpec) -> None:
        """Before `spec` is applied: what this node is no gateway of any more goes to one that is, while the connections
        are still here."""
        members = {
            pair.id: {member.node for member in policy.members} for policy in spec.egress for pair in policy.pairs
        }
        now = self.clock()
        leaving = [
            number
            for number in self._owners.mine()
            if number in self._known.pairs and self.options.node not in members.get(number, ())
        ]
        for number in leaving:
            to = self._owners.preferred(number, now, without=self.options.node)
            if not to or (number in members and to not in members[number]):
                continue
            await self._effects.move(own.Move(number, to))
            for _ in range(round(LEAVE_S / self._tick_s)):
                if number not in self._owners.mine():
                    break
                self._heart.beat(self._known.peers())
                await asyncio.sleep(self._tick_s)

    async def stop(self) -> None:
        """What the kernel does goes on."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._effects.stop()
        self._running = None
        self._heart.close()
        await self._handover.close()
        self._standby.close()
        self._copies.close()
        self._floating.close()
        self._maps.close()

    def _forget_all(self) -> None:
        """The maps go with the last object: what comes next begins with empty ones, and so must this."""
        self._known.forget()
        self._ways.forget()
        self._effects.forget()
        self._owners.configure(())
        self._heart.members = {}
        self._people.forget()

    def reports(self) -> tuple[EgressReport, ...]:
        """Pairs that this node owns or has pods for."""
        pods = self._people.selected
        mine = self._owners.mine()
        rows = []
        for number, known in sorted(self._known.pairs.items()):
            count = pods.get(known.policy.name, {}).get(number, 0)
            if number not in mine and not count and self.options.node not in known.gateways:
                continue
            copies = self._copies.report(number) if number in mine else NO_COPIES
            rows.append(
                EgressReport(
                    object=known.policy.name,
                    pair=number,
                    ipv4=known.pair.ipv4 or "",
                    ipv6=known.pair.ipv6 or "",
                    owner=self._owners.holder(number),
                    here=number in mine,
                    epoch=self._owners.epoch(number),
                    reason=self._effects.reasons.get(number, "") if number in mine else "",
                    hindrance=self._hindered.get(number, ""),
                    pods=count,
                    sessions=self._sessions.get(number, 0) if number in mine else 0,
                    standby=copies.standby,
                    copies=copies.copies,
                    behind_seconds=copies.behind_s,
                    uncopied=copies.why,
                    uncopied_reason=copies.reason,
                )
            )
        rows.sort(key=lambda row: (not row.here, row.object, row.pair))
        return tuple(rows[:MAX_REPORTS])

    # -- configuration ---------------------------------------------------------------------------------------------

    async def _configure(self, policies: tuple[EgressPolicy, ...]) -> None:
        before = self._known.pairs
        self._known.configure(policies)
        self._heart.members = {address: name for name, address in self._known.gateways.items()}
        self._owners.configure(self._known.wants())
        shortest = min((policy.heartbeat_ms for policy in policies), default=1000)
        self._tick_s = max(LEAST_TICK_S, shortest / 2000)
        if not before:
            await self._begin()
        for number in before.keys() - self._known.pairs.keys():
            await self._forget(number, before[number])
        self._ways.take_frames()
        self._ways.refresh()
        self._people.configure(policies)

    async def _begin(self) -> None:
        """What a former agent of this node left: pairs whose addresses are here stay here."""
        self._ways.begin()
        owned = self._maps.owned()
        await self._floating.look()
        for number, known in self._known.pairs.items():
            here = [self._floating.holds(address) for address in known.addresses]
            if any(place is not None and not place.ours for place in here):
                self._owners.static(number, True)
            entry = owned.get(number)
            if entry is not None and entry.flags & OWNER and all(place is not None for place in here):
                log.info("Pair %d (%s) is still here, epoch %d.", number, ", ".join(known.addresses), entry.epoch)
                self._owners.adopt(number, entry.epoch)
        for number in owned.keys() - self._owners.mine().keys():
            self._maps.drop_own(number)

    async def _forget(self, number: int, known: KnownPair) -> None:
        self._ways.drop(number)
        self._maps.drop_own(number)
        self._effects.forget_pair(number)
        await self._floating.take_off(known.addresses)

    # -- the loop --------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        people = asyncio.create_task(self._people.run(self._people_changed))
        copies = asyncio.create_task(self._copies.run())
        hello_due = mtu_due = beat_due = bind_due = count_due = tell_due = 0.0
        try:
            while True:
                now = self.clock()
                if people.done():
                    people.result()
                if copies.done():
                    copies.result()
                if now >= bind_due:
                    bind_due = now + REBIND_S
                    await self._bind()
                if now >= hello_due:
                    hello_due = now + HELLO_S
                    self._hello()
                    self._look_at_copies()
                    self._look_at_lacking(now)
                    self._standby.look()
                if now >= mtu_due:
                    mtu_due = now + MTU_S
                    self._ways.refresh()
                    await self._effects.look_after()
                if now >= count_due:
                    count_due = now + COUNT_S
                    self._count()
                if self._untold and now >= tell_due:
                    tell_due = now + TELL_S
                    self._tell()
                for effect in self._owners.tick(now):
                    self._effects.do(effect)
                if now >= beat_due:
                    beat_due = max(now, beat_due + 2 * self._tick_s)
                    self._beat()
                self._effects.end_drains(now)
                await asyncio.sleep(self._tick_s)
        finally:
            people.cancel()
            copies.cancel()
            await asyncio.gather(people, copies, return_exceptions=True)

    def _count(self) -> None:
        try:
            found = self._maps.sessions(self._owners.mine())
        except BpfError as error:
            log.debug("Connections could not be counted: %s", error)
            return
        copies = {number: self._copies.report(number) for number in found}
        if found != self._sessions or copies != self._copied:
            self._sessions, self._copied = found, copies
            self._tell()

    def _look_at_copies(self) -> None:
        """Who has copies is told at once, and how many only now and then."""
        found = {number: self._copies.report(number) for number in self._owners.mine()}
        told = {n: (r.standby, r.why, r.reason) for n, r in self._copied.items()}
        if told != {n: (r.standby, r.why, r.reason) for n, r in found.items()}:
            self._copied = found
            self._tell()

    def _look_at_lacking(self, now: float) -> None:
        """A pair without an owner is told with what keeps this node from taking it."""
        found = {number: self._hindrance(number, now) for number in self._known.pairs}
        found = {number: why for number, why in found.items() if why}
        if found != self._hindered:
            self._hindered = found
            self._tell()

    def _hindrance(self, number: int, now: float) -> str:
        if not self._owners.lacking(number, now):
            return ""
        known = self._known.pairs[number]
        here = self._floating.hindrance(known.addresses, known.policy.device, self._known.own_address)
        return here or self._owners.hindrance(number, now)

    async def _bind(self) -> None:
        address = self._known.own_address if self._known.is_gateway() else ""
        try:
            self._heart.bind(address)
            if address:
                await self._handover.bind(address)
        except OSError as error:
            log.error("Heartbeats should come from %s: %s.", address or "any address", error)

    def _beat(self) -> None:
        if self._known.is_gateway():
            self._heart.beat(self._known.peers())
        self._effects.publish_again()

    def _hello(self) -> None:
        used = {number for pairs in self._people.selected.values() for number in pairs} & self._known.pairs.keys()
        asked: dict[str, set[int]] = {}
        for number in used:
            for member in self._known.pairs[number].policy.members:
                if member.node != self.options.node:
                    asked.setdefault(member.address, set()).add(number)
        for address, pairs in asked.items():
            self._heart.hello((address,), pairs)

    def _people_changed(self) -> None:
        self._hello()
        self._untold = True

    def _tell(self) -> None:
        """For the agent's status, and for `sixgate egress`, which works when this process is dead."""
        self._untold = False
        pairs = [row.model_dump(mode="json") for row in self.reports()]
        try:
            StateDir(self.options.state_dir).write(REPORT, {"pairs": pairs, "pods": self._people.addresses()})
        except (OSError, ApplyError) as error:
            log.error("What is known of egress could not be written down: %s", error)
        self.changed()

    def _records(self) -> tuple[Record, ...]:
        return tuple(
            Record(pair, epoch, self._owners.granted(pair), self._owners.is_static(pair))
            for pair, epoch in self._owners.mine().items()
        )

    def _claims(self, node: str, records: tuple[Record, ...]) -> None:
        before = {record.pair: self._owners.holder(record.pair) for record in records}
        said = ((record.pair, record.epoch, record.released, record.static) for record in records)
        for effect in self._owners.hear(node, said, self.clock()):
            self._effects.do(effect)
        self._ways.refresh(frozenset(before))
        if any(self._owners.holder(pair) != holder for pair, holder in before.items()):
            self._tell()

    def _witness(self, who: str) -> None:
        self._owners.witness(who, self.clock())
