"""Keeps the balancer's maps as `balancers` of a NodeConfig and the state of the backends want them.

One object per node, used from one thread. All state is in the kernel; what is held here is a copy of it, which is
thrown away and read anew when a write fails or somebody replaced a map.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from typing import TYPE_CHECKING

from sixgate.errors import ApplyError, BpfError, Problem
from sixgate.node import devices
from sixgate.node.bpf.manifest import load_manifest
from sixgate.node.findings import owner_ref
from sixgate.node.lb import layout, running
from sixgate.node.lb.entries import Entries, Rows, entries_of, merged, quic_row
from sixgate.node.lb.layout import BackendValue
from sixgate.node.lb.numbers import Numbers, OutOfNumbersError
from sixgate.node.lb.slots import Table, change, fresh, settle
from sixgate.node.lb.store import Store, identify, table_pins
from sixgate.node.lb.want import Health, Use, bounded, report_of, use_of
from sixgate.node.maglev import Maglev

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from sixgate.api.nodeconfig_lb import Balancer, BalancerReport
    from sixgate.node.model import Observed
    from sixgate.node.numbers import Numbers as Handed

log = logging.getLogger(__name__)

NS = 1_000_000_000
_MASK32 = 0xFFFFFFFF
_REFERRED_TO, _REFERRING = ("sg_lb_source", "sg_lb_quic"), ("sg_lb_range", "sg_lb_vip")
_UNKNOWN = Use(((b"", 0),), frozenset())  # of a table that was adopted: nobody knows what it was built of


@dataclass(frozen=True, slots=True)
class Env:
    """What the node is: outer sources by family, empty where it has no address of that family; `local` are addresses
    (16 bytes) that it has by somebody else's hand."""

    source4: str = ""
    source6: str = ""
    local: frozenset[bytes] = frozenset()
    services: tuple[tuple[str, int], ...] = ()  # numbers in sg_st_svcs of virtual addresses in mode NAT, by name


def environment(have: Observed, numbers: Handed) -> Env:
    """What the balancer must know of this node's devices, and of the numbers that it handed out."""
    default = devices.device_table(have).get(0, {})
    seen = (
        address
        for device in have.devices.values()
        for address in device.addresses
        if not (address.ours or address.floating)
    )
    return Env(
        source4=str(default.get("addr4", "")),
        source6=str(default.get("addr6", "")),
        local=frozenset(layout.mapped(address.address) for address in seen),
        services=_services(numbers),
    )


def _services(numbers: Handed) -> tuple[tuple[str, int], ...]:
    given = numbers["svc"].given if "svc" in numbers else {}
    return tuple(sorted((name, first) for name, (first, _) in given.items() if name.startswith("LoadBalancer/")))


@dataclass(slots=True)
class _State:
    """One balancer as it is in the kernel."""

    item: Balancer
    use: Use
    env: Env
    key: int
    table: Table
    entries: Entries
    quic: Rows
    health: Health | None = None  # that `use` was made of


@dataclass(slots=True)
class _Change:
    """What has to be written, in the order of the fields; then what is gone goes, in the other order."""

    backends: dict[int, BackendValue] = field(default_factory=dict)
    tables: list[tuple[int, Table]] = field(default_factory=list)


class Engine:
    """`root` is the bpffs directory, `objects` that of the object files, `clock_ns` CLOCK_MONOTONIC."""

    def __init__(self, root: Path, objects: Path, clock_ns: Callable[[], int]) -> None:
        self._root, self._objects, self._clock_ns = root, objects, clock_ns
        self._maglev: Maglev | None = None
        self._states: dict[str, _State] = {}
        self._plain: dict[str, Rows] = {}
        self._backends: dict[int, BackendValue] = {}
        self._ids: Numbers[tuple[int, bytes]] = Numbers(1, layout.MAX_BACKEND - 1)
        self._keys: Numbers[str] = Numbers(1, layout.MAX_TABLE - 1)
        self._stats: Numbers[tuple[int, bytes]] = Numbers(1, layout.MAX_STAT - 1)
        self._maps: tuple[int, ...] = ()
        self._done: tuple[object, ...] = ()
        self._drained: set[int] = set()  # tables whose drain is over
        self._adopted = False
        self._given: tuple[Balancer, ...] = ()
        self._texts: dict[str, tuple[str, Balancer]] = {}
        self._numbered: tuple[object, dict[tuple[str, str], int]] = (None, {})
        self._reported: dict[str, tuple[_State | None, Health, tuple[str, ...], BalancerReport]] = {}
        self.wanted: tuple[Balancer, ...] = ()
        self.health = Health()
        self.env = Env()
        self.announced: frozenset[str] = frozenset()  # addresses that this node announces
        self.trouble = ""  # why it cannot announce one
        self.problems: tuple[Problem, ...] = ()

    # What is to be done, and when

    def want(self, balancers: tuple[Balancer, ...], env: Env) -> bool:
        """Take a new want; whether `sync` has something to do."""
        self.wanted, self.env = self._interned(balancers), env
        if not balancers and not self._states and not self._maps and not table_pins(self._root):
            return False
        return self._current() != self._done or identify(self._root) != self._maps or self.due_s() == 0

    def settled(self) -> bool:
        """Whether the maps are there and were as they were wanted last."""
        return bool(self._maps and self._done)

    def _interned(self, balancers: tuple[Balancer, ...]) -> tuple[Balancer, ...]:
        """The same, with the very objects of the former want where they are equal: most of a thousand are, and to
        compare models field by field takes longer than everything else together."""
        if balancers is self._given:
            return self.wanted
        known, self._texts = self._texts, {}
        for item in balancers:
            text = item.model_dump_json()
            old = known.get(item.name)
            self._texts[item.name] = old if old is not None and old[0] == text else (text, item)
        self._given = balancers
        return tuple(self._texts[item.name][1] for item in balancers)

    def due_s(self) -> float | None:
        """Seconds until a drain is over; None where there is none."""
        ends = [s.table.head.drain_until_ns for s in self._states.values() if not s.table.steady()]
        return max(0.0, (min(ends) - self._clock_ns()) / NS) if ends else None

    def _current(self) -> tuple[object, ...]:
        return (self.wanted, self.env, self.health)

    def sync(self) -> None:
        """Make the maps as they are wanted. ApplyError or BpfError where the kernel refuses; the next call begins from
        what is there then."""
        current = self._current()
        try:
            maps = identify(self._root)
            if not maps:
                if self.wanted:
                    raise ApplyError("The maps of the balancer should be there, but are not: no program has them.")
                self._forget()
            else:
                with Store.open(self._root) as store:
                    if maps != self._maps:
                        self._adopt(store)
                        self._maps = maps
                    self._sync(store)
        except BaseException:
            self._maps, self._done = (), ()
            raise
        self._done = current

    def _forget(self) -> None:
        """The maps are gone, and so is everything that stood in them."""
        for path in table_pins(self._root):
            path.unlink(missing_ok=True)
        self._clear()
        self._maps = ()

    def _clear(self) -> None:
        self._states.clear()
        self._plain, self._backends = {}, {}
        self._ids, self._keys = Numbers(1, layout.MAX_BACKEND - 1), Numbers(1, layout.MAX_TABLE - 1)
        self._stats = Numbers(1, layout.MAX_STAT - 1)

    def _adopt(self, store: Store) -> None:
        """Begin from what packets meet now."""
        self._clear()
        found = running.read(store)
        store.drop_stray_pins(set(found.tables))
        self._plain, self._backends = found.plain, found.backends
        named = running.match(found, self.wanted)
        down: set[tuple[str, str]] = set()
        for item in self.wanted:
            key = named.get(item.name)
            if key is None:
                continue
            self._keys.adopt(item.name, key)
            for (table, address), stat in found.stats.items():
                if table == key:
                    self._stats.adopt((key, address), stat)
            table_now = found.tables[key]
            for number in sorted(table_now.used()):
                if number in found.backends:
                    self._ids.adopt((key, found.backends[number].addr), number)
            self._states[item.name] = _State(item, _UNKNOWN, Env(), key, table_now, Entries(), {})
        self._adopt_unused(found)
        for item in self.wanted:
            owner = named.get(item.name, 0)
            for backend in item.backends:
                known_as = self._ids.given.get((owner, layout.mapped(backend.address)))
                if known_as is not None and found.backends[known_as].flags & layout.DOWN:
                    down.add((item.name, backend.address))
        why = "It did not answer before the agent was restarted."
        checked = {item.name for item in self.wanted if item.check is not None}
        known = {target: why for target in down if target[0] in checked}
        self.health = Health({**known, **self.health.quarantined})
        self._adopted = True

    def _adopt_unused(self, found: running.Running) -> None:
        """Backends without a slot, such as quarantined ones, belong to the first balancer that wants their address."""
        named = set(self._ids.given.values())
        spare: dict[bytes, list[int]] = {}
        for number, value in sorted(found.backends.items()):
            if number not in named:
                spare.setdefault(value.addr, []).append(number)
        for item in self.wanted:
            state = self._states.get(item.name)
            for backend in item.backends if state is not None else ():
                address = layout.mapped(backend.address)
                if state is not None and spare.get(address) and (state.key, address) not in self._ids.given:
                    self._ids.adopt((state.key, address), spare[address].pop(0))

    # One step

    def _sync(self, store: Store) -> None:
        now = self._clock_ns()
        todo = _Change()
        problems: list[Problem] = []
        names = {item.name for item in self.wanted}
        gone = [state for name, state in self._states.items() if name not in names]
        nexts: dict[str, _State] = {}
        for item in self.wanted:
            try:
                nexts[item.name] = self._next(item, todo, now)
            except OutOfNumbersError:
                text = f"{item.name} needs more backends, tables or counters than this node has numbers for"
                problems += _problems(item, "TooMany", f"{text} ({layout.MAX_BACKEND - 1} of each).")
            except _UnfitError as error:
                problems += _problems(item, error.reason, str(error))
            except BpfError as error:
                problems += _problems(item, "KernelRefused", f"The table of {item.name} could not be made: {error}")
            if item.name not in nexts and item.name in self._states:
                nexts[item.name] = self._states[item.name]
        rows = self._rows(nexts)
        self._write(store, todo, rows)
        self._delete(store, rows, nexts, gone)
        self._states = nexts
        self.problems = tuple(problems)

    def _next(self, item: Balancer, todo: _Change, now: int) -> _State:
        """`item` as it is to be; what is to be written for it is put into `todo`."""
        old = self._states.get(item.name)
        expired = old is not None and not old.table.steady() and not old.table.draining(now)
        same = old is not None and old.item is item and old.env == self.env
        if old is not None and same and not expired and old.health is self.health:
            return old
        use = use_of(item, self.health)
        same = same and old is not None and old.use == use
        if old is not None and same and not expired:
            old.health = self.health
            return old
        key = self._keys.give(item.name)[0]
        wanted = {layout.mapped(backend.address): backend for backend in item.backends}
        services = self._services_of(item) if item.mode == "NAT" else None
        ids = {address: self._ids.give((key, address))[0] for address in wanted}
        table = self._table(item, use, old, ids, now)
        for address, number in ids.items():
            ended = item.mode == "NAT" and number not in table.used()
            value = self._backend(item, address, number, _flags(down=address in use.down, ended=ended))
            if self._backends.get(number) != value:
                todo.backends[number] = value
        if expired:
            self._drained.add(key)
        if old is None or table is not old.table:
            todo.tables.append((key, table))
        stats = {}
        for vip in item.vips:
            address = layout.mapped(vip.address)
            stats[address] = self._stats.give((key, address))[0]
        quic = dict(
            quic_row(key, backend.server_id, ids[address])
            for address, backend in wanted.items()
            if backend.server_id and item.quic_length and address not in use.down
        )
        formers = table.formers()
        for row, value_raw in self._plain["sg_lb_quic"].items():  # of backends that left and still have flows
            if layout.QUIC_KEY.unpack(row)[0] == key and layout.U32.unpack(value_raw)[0] in formers:
                quic.setdefault(row, value_raw)
        entries = entries_of(item, key, stats, self.env.local, services)
        return _State(item, use, self.env, key, table, entries, quic, self.health)

    def _services_of(self, item: Balancer) -> dict[bytes, int]:
        """Numbers of its addresses among the services of the stateful engine, which their table says first."""
        known = dict(self.env.services)
        named = {vip.address: f"{item.name} {vip.address}" for vip in item.vips}
        missing = next((name for name in named.values() if name not in known), None)
        if missing is not None:
            raise _UnfitError("NoService", f"{missing} is to go through NAT, but has no number among its services.")
        return {layout.mapped(address): known[name] for address, name in named.items()}

    def _table(self, item: Balancer, use: Use, old: _State | None, ids: dict[bytes, int], now: int) -> Table:
        same = old is not None and (old.use.active, old.item.table_size, old.item.seed) == (
            use.active,
            item.table_size,
            item.seed,
        )
        if old is not None and same:
            return settle(old.table) if not old.table.steady() and not old.table.draining(now) else old.table
        if use.active:
            built = self._builder().build(use.active, item.table_size, item.seed)
            by_index = [ids[address] for address, _ in use.active]
            backends = list(map(by_index.__getitem__, built))
        else:
            backends = [0] * item.table_size
        if old is None:
            return fresh(backends)
        changed = change(old.table, backends, item.drain_s, now)
        if changed is old.table and not changed.steady() and not changed.draining(now):
            return settle(changed)
        return changed

    def _builder(self) -> Maglev:
        if self._maglev is None:
            self._maglev = Maglev(load_manifest(self._objects))
        return self._maglev

    def _backend(self, item: Balancer, address: bytes, number: int, flags: int) -> BackendValue:
        is_v4 = layout.unmapped(address).count(":") == 0
        declared = item.outer_source_ipv4 if is_v4 else item.outer_source_ipv6
        own = self.env.source4 if is_v4 else self.env.source6
        source, mask = bytes(16), 0
        if item.mode == "DSR":
            if not declared and not own:
                raise _UnfitError(
                    "NoSource",
                    f"{item.name} sends packets to {layout.unmapped(address)}, but this node has no "
                    f"IPv{4 if is_v4 else 6} address that they could come from; declare one in spec.forwarding.",
                )
            if declared:
                net = ip_network(declared)
                source, mask = layout.mapped(net.network_address), int(net.hostmask) & _MASK32
            else:
                source = layout.mapped(own)
        old = self._backends.get(number, layout.FREE)
        value = BackendValue(address, source, mask, old.version, layout.KINDS[item.mode], flags)
        return value if value == old else replace(value, version=(old.version + 1) & _MASK32 or 1)

    def _write(self, store: Store, todo: _Change, rows: dict[str, Rows]) -> None:
        store.write("sg_lb_backend", [(layout.U32.pack(n), value.pack()) for n, value in sorted(todo.backends.items())])
        self._backends.update(todo.backends)
        for name in _REFERRED_TO:
            self._upsert(store, name, rows[name])
        store.swap(todo.tables)
        for name in _REFERRING:
            self._upsert(store, name, rows[name])
        if todo.tables or todo.backends:
            log.info("Balancer: %d tables and %d backends written.", len(todo.tables), len(todo.backends))

    def _upsert(self, store: Store, name: str, rows: Rows) -> None:
        known = self._plain.setdefault(name, {})
        new = [(key, value) for key, value in rows.items() if known.get(key) != value]
        store.write(name, new)
        known.update(new)

    @staticmethod
    def _rows(states: dict[str, _State]) -> dict[str, Rows]:
        """Contents of the plain maps."""
        made: dict[str, Rows] = {n: {} for n in ("sg_lb_source", "sg_lb_quic", "sg_lb_range", "sg_lb_vip")}
        addresses: dict[bytes, list[layout.VipValue]] = {}
        for state in states.values():
            made["sg_lb_vip"].update(state.entries.vips)
            made["sg_lb_range"].update(state.entries.ranges)
            made["sg_lb_source"].update(state.entries.sources)
            made["sg_lb_quic"].update(state.quic)
            for address, value in state.entries.addresses.items():
                addresses.setdefault(address, []).append(value)
        for address, values in addresses.items():
            made["sg_lb_vip"][layout.vip_key(address)] = merged(values).pack()
        return made

    def _delete(self, store: Store, rows: dict[str, Rows], nexts: dict[str, _State], gone: Iterable[_State]) -> None:
        """What nobody refers to any more, after nothing refers to it."""
        for name in (*_REFERRING, *_REFERRED_TO):
            known = self._plain.setdefault(name, {})
            surplus = [key for key in known if key not in rows[name]]
            store.delete(name, surplus)
            for key in surplus:
                del known[key]
        stray = {state.key for state in gone}
        for state in gone:
            self._keys.drop(state.item.name)
        if self._adopted:
            stray |= store.table_ids().keys() - {state.key for state in nexts.values()}
            self._adopted = False
        if stray:
            store.drop_tables(sorted(stray))
        self._free(store, nexts)
        drained = self._drained | stray
        if drained:
            store.forget_flows(drained)
        self._drained = set()

    def _free(self, store: Store, nexts: dict[str, _State]) -> None:
        """Numbers of backends and counters that nobody uses. A former backend keeps its number until its drain ends."""
        used: set[int] = set()
        addresses: set[tuple[int, bytes]] = set()
        for state in nexts.values():
            names = ((state.key, layout.mapped(backend.address)) for backend in state.item.backends)
            used |= {self._ids.given[name] for name in names if name in self._ids.given}
            used |= state.table.formers()
            addresses |= {(state.key, layout.mapped(vip.address)) for vip in state.item.vips}
        free = set(self._backends) - used
        if free:
            store.forget_backends(free)
            for number in free:
                del self._backends[number]
        for name in [name for name, number in self._ids.given.items() if number not in used]:
            self._ids.drop(name)
        unused = [name for name in self._stats.given if name not in addresses]
        if unused:
            store.forget_stats({self._stats.given[name] for name in unused})
            for name in unused:
                self._stats.drop(name)

    # What is said of it

    def numbered(self) -> dict[tuple[str, str], int]:
        """Balancer and address of its backends to their numbers in the maps, the same object while they are the same.
        May be asked from any thread."""
        given = self._keys.given.copy(), self._ids.given.copy()
        if self._numbered[0] != given:
            named = {number: name for name, number in given[0].items()}
            found = {
                (named[table], layout.unmapped(address)): number
                for (table, address), number in given[1].items()
                if table in named
            }
            self._numbered = given, found
        return self._numbered[1]

    def reports(self) -> tuple[BalancerReport, ...]:
        known, self._reported = self._reported, {}
        for item in self.wanted:
            state = self._states.get(item.name)
            announced = tuple(vip.address for vip in item.vips if vip.address in self.announced)
            old = known.get(item.name)
            if old is None or old[0] is not state or old[1] is not self.health or old[2] != announced:
                report = report_of(item, self.health, self._leaving(item, state), announced)
                old = (state, self.health, announced, report)
            self._reported[item.name] = old
        return bounded([report for _, _, _, report in self._reported.values()])

    def _leaving(self, item: Balancer, state: _State | None) -> frozenset[bytes]:
        """Backends that still have flows and are wanted no more."""
        if state is None:
            return frozenset()
        named = {self._backends[number].addr for number in state.table.formers() if number in self._backends}
        return frozenset(named - {layout.mapped(backend.address) for backend in item.backends})

    def tables(self) -> dict[str, int]:
        """Names of balancers and the keys of their tables."""
        return {name: state.key for name, state in sorted(self._states.items())}

    def faults(self) -> tuple[Problem, ...]:
        """What could not be done, and balancers without a backend that answers."""
        dead = ((item, use_of(item, self.health).fallback) for item in self.wanted if item.check is not None)
        return (
            *self.problems,
            *(problem for item, text in dead if text for problem in _problems(item, "NoBackend", text)),
            *(
                problem
                for item in self.wanted
                if self.trouble and any(vip.announcers for vip in item.vips)
                for problem in _problems(item, "NotAnnounced", self.trouble)
            ),
        )

    def notes(self) -> tuple[Problem, ...]:
        """Balancers that work without some of their backends."""
        return tuple(
            Problem(owner_ref(report.owner), "BackendsDown", report.message)
            for report in self.reports()
            if report.message
        )

    def close(self) -> None:
        if self._maglev is not None:
            self._maglev.close()
            self._maglev = None


class _UnfitError(Exception):
    """Something of one balancer cannot be done on this node."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _flags(*, down: bool, ended: bool) -> int:
    return (layout.DOWN if down else 0) | (layout.ENDED if ended else 0)


def _problems(item: Balancer, reason: str, message: str) -> list[Problem]:
    return [Problem(owner_ref(owner), reason, message) for owner in item.owners or ("",)]
