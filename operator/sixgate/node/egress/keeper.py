"""Egress on this node, kept up by one asyncio component: pods to maps, heartbeats to owners, owners to addresses.

What it decides is in tables.py and owners.py; here it happens. It dies with the agent and loses nothing: pairs, epochs
and ways are in pinned maps, addresses on devices, and a new keeper begins from them.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sixgate.api.nodeconfig import EgressReport
from sixgate.errors import ApplyError, BpfError
from sixgate.node.egress import owners as own
from sixgate.node.egress.direct import REPLY, Filter, neighbour, pair_mac, pair_macs
from sixgate.node.egress.explain import REPORT
from sixgate.node.egress.floating import Floating
from sixgate.node.egress.maps import DIRECT, HERE, MSS_CLAMP, OWNER, EgressMaps, Frame, Own, Way
from sixgate.node.egress.people import People
from sixgate.node.egress.sessions import Handover, SessionTables, pinned_program
from sixgate.node.egress.uplink import path_mtu, tunnel_mtu
from sixgate.node.egress.wire import Record
from sixgate.node.heartbeat import Heartbeat
from sixgate.node.resolve import BEHIND
from sixgate.node.statedir import StateDir

if TYPE_CHECKING:
    from sixgate.api.nodeconfig import EgressPair, EgressPolicy, NodeConfigSpec
    from sixgate.node.egress.pods import PodSource
    from sixgate.node.options import NodeOptions

log = logging.getLogger(__name__)

HELLO_S = 1.0
REPEATS = 5  # of what is told about a change of owner, one heartbeat apart
MTU_S = 5.0
COUNT_S = 10.0  # between counts of connections for the status: one write of a gateway, at most
LEAST_TICK_S = 0.02
MAX_REPORTS = 200
REBIND_S = 1.0
LEAVE_S = 1.0  # how long a pair may take to go where this node's pairs go when it is a gateway no more


@dataclass(slots=True)
class _Pair:
    """A pair with the policy that it is of."""

    pair: EgressPair
    policy: EgressPolicy

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(text for text in (self.pair.ipv4, self.pair.ipv6) if text)


@dataclass(slots=True)
class EgressKeeper:
    """`changed` is called whenever `reports` has something new to say. `clock` is monotonic seconds. All methods belong
    to the event loop; the kernel is worked on by threads of their own."""

    options: NodeOptions
    pods: PodSource | None
    clock: Callable[[], float]
    changed: Callable[[], None] = lambda: None
    _maps: EgressMaps = field(init=False)
    _owners: own.Owners = field(init=False)
    _heart: Heartbeat = field(init=False)
    _people: People = field(init=False)
    _floating: Floating = field(init=False)
    _pairs: dict[int, _Pair] = field(default_factory=dict, init=False)
    _addresses: dict[str, str] = field(default_factory=dict, init=False)  # of gateways by node, former ones too
    _macs: dict[bytes, int] = field(default_factory=dict, init=False)
    _filter: Filter = field(default_factory=Filter, init=False)
    _ways: dict[int, Way] = field(default_factory=dict, init=False)
    _reasons: dict[int, str] = field(default_factory=dict, init=False)
    _sessions: dict[int, int] = field(default_factory=dict, init=False)
    _repeat: dict[int, int] = field(default_factory=dict, init=False)
    _drains: dict[int, float] = field(default_factory=dict, init=False)
    _handover: Handover = field(init=False)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _tick_s: float = field(default=1.0, init=False)
    _running: asyncio.Task[None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._maps = EgressMaps(self.options.bpffs / "maps")
        self._owners = own.Owners(self.options.node, self.clock())
        self._handover = Handover(SessionTables(self.options.bpffs), lambda: self._heart.members)
        self._heart = Heartbeat(self.clock, self._claims, self._witness, self._records)
        # Of their own, so that no takeover waits for a thousand pods.
        self._people = People(self._maps, self.pods, ThreadPoolExecutor(1, "sixgate-egress-pods"))
        self._floating = Floating(ThreadPoolExecutor(1, "sixgate-egress-addr"))

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
        members = {pair.id: _names(policy) for policy in spec.egress for pair in policy.pairs}
        now = self.clock()
        leaving = [
            number
            for number in self._owners.mine()
            if number in self._pairs and self.options.node not in members.get(number, ())
        ]
        for number in leaving:
            to = self._owners.preferred(number, now, without=self.options.node)
            if not to or (number in members and to not in members[number]):
                continue
            await self._move(own.Move(number, to))
            for _ in range(round(LEAVE_S / self._tick_s)):
                if number not in self._owners.mine():
                    break
                self._heart.beat(self._peers())
                await asyncio.sleep(self._tick_s)

    async def stop(self) -> None:
        """What the kernel does goes on."""
        tasks = [task for task in (self._running, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._running = None
        self._heart.close()
        await self._handover.close()
        self._floating.close()
        self._maps.close()

    def _forget_all(self) -> None:
        """The maps go with the last object: what comes next begins with empty ones, and so must this."""
        for known in (self._pairs, self._addresses, self._ways, self._reasons, self._repeat, self._drains):
            known.clear()
        self._owners.configure(())
        self._heart.members = {}
        self._people.forget()

    def reports(self) -> tuple[EgressReport, ...]:
        """Pairs that this node owns or has pods for."""
        pods = self._people.selected
        mine = self._owners.mine()
        rows = []
        for number, known in sorted(self._pairs.items()):
            count = pods.get(known.policy.name, {}).get(number, 0)
            if number not in mine and not count and self.options.node not in _names(known.policy):
                continue
            rows.append(
                EgressReport(
                    object=known.policy.name,
                    pair=number,
                    ipv4=known.pair.ipv4 or "",
                    ipv6=known.pair.ipv6 or "",
                    owner=self._owners.holder(number),
                    here=number in mine,
                    epoch=self._owners.epoch(number),
                    reason=self._reasons.get(number, "") if number in mine else "",
                    pods=count,
                    sessions=self._sessions.get(number, 0) if number in mine else 0,
                )
            )
        rows.sort(key=lambda row: (not row.here, row.object, row.pair))
        return tuple(rows[:MAX_REPORTS])

    # -- configuration ---------------------------------------------------------------------------------------------

    async def _configure(self, policies: tuple[EgressPolicy, ...]) -> None:
        first = not self._pairs
        before = self._pairs
        self._pairs = {pair.id: _Pair(pair, policy) for policy in policies for pair in policy.pairs}
        self._addresses |= {member.node: member.address for policy in policies for member in policy.members}
        self._heart.members = {address: name for name, address in self._addresses.items()}
        self._owners.configure(self._wants())
        shortest = min((policy.heartbeat_ms for policy in policies), default=1000)
        self._tick_s = max(LEAST_TICK_S, shortest / 2000)
        if first:
            await self._begin()
        for number in before.keys() - self._pairs.keys():
            await self._forget(number, before[number])
        self._take_frames()
        self._refresh_ways()
        self._people.configure(policies)

    def _wants(self) -> list[own.PairWant]:
        return [
            own.PairWant(
                id=number,
                members=_names(known.policy),
                leaving=frozenset(member.node for member in known.policy.members if member.leaving),
                fenced=known.policy.announce == "L2",
                interval_s=known.policy.heartbeat_ms / 1000,
                missed=known.policy.missed,
            )
            for number, known in self._pairs.items()
        ]

    async def _begin(self) -> None:
        """What a former agent of this node left: pairs whose addresses are here stay here."""
        self._ways = self._maps.ways()
        owned = self._maps.owned()
        await self._floating.look()
        for number, known in self._pairs.items():
            here = [self._floating.holds(address) for address in known.addresses]
            if any(place is not None and not place.ours for place in here):
                self._owners.static(number, True)
            entry = owned.get(number)
            if entry is not None and entry.flags & OWNER and all(place is not None for place in here):
                log.info("Pair %d (%s) is still here, epoch %d.", number, ", ".join(known.addresses), entry.epoch)
                self._owners.adopt(number, entry.epoch)
        for number in owned.keys() - self._owners.mine().keys():
            self._maps.drop_own(number)

    async def _forget(self, number: int, known: _Pair) -> None:
        self._maps.drop_way(number)
        self._maps.drop_own(number)
        self._ways.pop(number, None)
        self._drains.pop(number, None)
        await self._floating.take_off(known.addresses)

    # -- the loop --------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        people = asyncio.create_task(self._people.run(self._people_changed))
        hello_due = mtu_due = beat_due = bind_due = count_due = 0.0
        try:
            while True:
                now = self.clock()
                if people.done():
                    people.result()
                if now >= bind_due:
                    bind_due = now + REBIND_S
                    await self._bind()
                if now >= hello_due:
                    hello_due = now + HELLO_S
                    self._hello()
                if now >= mtu_due:
                    mtu_due = now + MTU_S
                    self._refresh_ways()
                    await self._look_after()
                if now >= count_due:
                    count_due = now + COUNT_S
                    self._count()
                for effect in self._owners.tick(now):
                    self._do(effect)
                if now >= beat_due:
                    beat_due = max(now, beat_due + 2 * self._tick_s)
                    self._beat()
                self._end_drains(now)
                await asyncio.sleep(self._tick_s)
        finally:
            people.cancel()
            await asyncio.gather(people, return_exceptions=True)

    def _count(self) -> None:
        try:
            found = self._maps.sessions(self._owners.mine())
        except BpfError as error:
            log.debug("Connections could not be counted: %s", error)
            return
        if found != self._sessions:
            self._sessions = found
            self._tell()

    async def _bind(self) -> None:
        address = self._addresses.get(self.options.node, "") if self._is_gateway() else ""
        try:
            self._heart.bind(address)
            if address:
                await self._handover.bind(address)
        except OSError as error:
            log.error("Heartbeats should come from %s: %s.", address or "any address", error)

    def _is_gateway(self) -> bool:
        return any(self.options.node in _names(known.policy) for known in self._pairs.values())

    def _peers(self) -> set[str]:
        """Addresses of gateways that share a pair with this one."""
        me = self.options.node
        shared = (known.policy for known in self._pairs.values() if me in _names(known.policy))
        return {member.address for policy in shared for member in policy.members if member.node != me}

    def _beat(self) -> None:
        if self._is_gateway():
            self._heart.beat(self._peers())
        if self._repeat:
            self._heart.publish(self._repeat)
            self._repeat = {number: left - 1 for number, left in self._repeat.items() if left > 1}

    def _hello(self) -> None:
        used = {number for pairs in self._people.selected.values() for number in pairs} & self._pairs.keys()
        asked: dict[str, set[int]] = {}
        for number in used:
            for member in self._pairs[number].policy.members:
                if member.node != self.options.node:
                    asked.setdefault(member.address, set()).add(number)
        for address, pairs in asked.items():
            self._heart.hello((address,), pairs)

    def _people_changed(self) -> None:
        self._hello()
        self._tell()

    def _tell(self) -> None:
        """For the agent's status, and for `sixgate egress`, which works when this process is dead."""
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
            self._do(effect)
        self._refresh_ways(frozenset(before))
        if any(self._owners.holder(pair) != holder for pair, holder in before.items()):
            self._tell()

    def _witness(self, who: str) -> None:
        self._owners.witness(who, self.clock())

    # -- effects ---------------------------------------------------------------------------------------------------

    def _do(self, effect: own.Effect) -> None:
        match effect:
            case own.Claim():
                self._reasons[effect.pair] = effect.reason
                self._spawn(self._claim(effect))
            case own.Yield():
                self._spawn(self._yield(effect))
            case own.Move():
                self._spawn(self._move(effect))
            case own.Probe():
                self._spawn(self._probe(effect.pair))
            case own.Ask():
                self._heart.ask(self._peers())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, ApplyError | BpfError | OSError):
            log.error("Egress: %s", error)
        elif error is not None:
            raise error

    async def _claim(self, effect: own.Claim) -> None:
        """Data plane first, then the address, then everybody is told."""
        number = effect.pair
        known = self._pairs[number]
        self._drains.pop(number, None)
        self._maps.set_own(number, Own(OWNER, effect.epoch))
        self._refresh_ways(frozenset((number,)))
        self._repeat[number] = REPEATS
        self._heart.beat(self._peers())
        self._heart.publish((number,))
        log.warning("Takes %s of %s: %s.", " and ".join(known.addresses), known.policy.name, effect.reason)
        await self._floating.put_on(known.addresses, known.policy.device, self._addresses.get(self.options.node, ""))
        if number in self._owners.mine() and known.policy.announce == "L2":
            await self._floating.announce(known.addresses)
        self._tell()

    async def _yield(self, effect: own.Yield) -> None:
        number = effect.pair
        known = self._pairs[number]
        log.warning("Gives %s of %s up: %s.", " and ".join(known.addresses), known.policy.name, effect.reason)
        epoch = self._owners.epoch(number)
        self._maps.set_own(number, Own(0, epoch))
        self._drains[number] = self.clock() + known.policy.drain_s
        self._refresh_ways(frozenset((number,)))
        await self._floating.take_off(known.addresses)
        self._tell()
        holder = self._owners.holder(number)
        if holder not in ("", self.options.node):
            await self._give(number, holder)

    async def _move(self, effect: own.Move) -> None:
        number = effect.pair
        known = self._pairs[number]
        log.info("Hands %s of %s over to %s.", " and ".join(known.addresses), known.policy.name, effect.to)
        # The connections first, then the pair, then what was made meanwhile: nobody meets a gateway that knows nothing.
        await self._give(number, effect.to)
        self._owners.grant(number, self.clock())
        self._heart.beat(self._peers())

    async def _give(self, number: int, to: str) -> None:
        try:
            count, taken = await self._handover.give(number, self._addresses[to])
        except (OSError, BpfError, TimeoutError, EOFError) as error:
            log.warning("Connections of pair %d did not get to %s: %s.", number, to, error or type(error).__name__)
            return
        if count:
            log.info("Gave %d connections of pair %d to %s, which took %d.", count, number, to, taken)

    async def _probe(self, number: int) -> None:
        known = self._pairs[number]
        answered = True  # without a segment to ask nobody takes anything
        try:
            node_address = self._addresses.get(self.options.node, "")
            answered = await self._floating.alive(known.addresses, known.policy.device, node_address)
        finally:
            self._owners.answer(number, answered, self.clock())

    async def _look_after(self) -> None:
        """Addresses that somebody took off by hand come back."""
        await self._floating.look()
        self._take_frames()
        for number in self._owners.mine():
            known = self._pairs.get(number)
            if known is not None and any(self._floating.holds(address) is None for address in known.addresses):
                node_address = self._addresses.get(self.options.node, "")
                await self._floating.put_on(known.addresses, known.policy.device, node_address)
                if known.policy.announce == "L2":
                    await self._floating.announce(known.addresses)

    def _end_drains(self, now: float) -> None:
        for number in [number for number, until in self._drains.items() if now >= until]:
            del self._drains[number]
            if number not in self._owners.mine():
                self._maps.drop_own(number)

    def _refresh_ways(self, only: frozenset[int] | None = None) -> None:
        """Where each pair's packets go from here. A pair whose owner is not known keeps the way that it has."""
        for number, known in self._pairs.items():
            if only is not None and number not in only:
                continue
            holder = self._owners.holder(number)
            if not known.policy.members and self._ways.pop(number, None) is not None:
                self._maps.drop_way(number)
            address = self._addresses.get(holder, "")
            if not address:
                continue
            way = self._way(number, known.policy, address, here=holder == self.options.node)
            if self._ways.get(number) != way:
                self._maps.set_way(number, way)
                self._ways[number] = way
        if only is None:
            for number in self._ways.keys() - self._pairs.keys():
                self._maps.drop_way(number)
                del self._ways[number]

    def _way(self, number: int, policy: EgressPolicy, address: str, *, here: bool) -> Way:
        flags = (HERE if here else 0) | (MSS_CLAMP if policy.mss_clamp else 0)
        mac = pair_mac(address, number)
        link = neighbour(address) if policy.transport == "Direct" and not here and mac in self._macs else None
        if link is None:
            return Way(address, tunnel_mtu(address), flags, stat=policy.stat)
        return Way(address, path_mtu(address), flags | DIRECT, Frame(mac, link[1], link[0]), policy.stat)

    def _take_frames(self) -> None:
        """What frames of direct ways stand for here, and which of them this node's device takes."""
        own = self._addresses.get(self.options.node, "")
        pairs = [number for number, known in self._pairs.items() if known.policy.transport == "Direct"]
        self._macs = pair_macs(self._addresses.values(), pairs, own)
        self._maps.write_macs(self._macs)
        place = self._floating.holds(own) if own else None
        mine = [mac for mac, number in self._macs.items() if not number & REPLY]
        try:
            self._filter.want(mine, socket.if_nametoindex(place.device) if place is not None else 0)
        except OSError as error:
            log.error("Frames of direct ways should be taken by the device with %s: %s.", own or "no address", error)


def _names(policy: EgressPolicy) -> tuple[str, ...]:
    return tuple(member.node for member in policy.members)
