"""What the balancer's maps hold: the copy of them that changes are computed against, and what writes them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.node.lb import layout, running
from sixgate.node.lb.entries import Entries, Rows, merged
from sixgate.node.lb.env import Env
from sixgate.node.lb.numbers import Numbers
from sixgate.node.lb.want import Use

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sixgate.api.nodeconfig_lb import Balancer
    from sixgate.node.lb.layout import BackendValue
    from sixgate.node.lb.slots import Table
    from sixgate.node.lb.store import Store
    from sixgate.node.lb.want import Health

log = logging.getLogger(__name__)

_REFERRED_TO, _REFERRING = ("sg_lb_source", "sg_lb_quic"), ("sg_lb_range", "sg_lb_vip")
_UNKNOWN = Use(((b"", 0),), frozenset())  # of a table that was adopted: nobody knows what it was built of


@dataclass(slots=True)
class State:
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
class Change:
    """What has to be written, in the order of the fields; then what is gone goes, in the other order."""

    backends: dict[int, BackendValue] = field(default_factory=dict)
    tables: list[tuple[int, Table]] = field(default_factory=list)


class Mirror:
    """All state is in the kernel; this is a copy of it, thrown away and read anew when a write fails or somebody
    replaced a map."""

    def __init__(self) -> None:
        self._adopted = False
        self.drained: set[int] = set()  # tables whose drain is over
        self.clear()

    def clear(self) -> None:
        """There is nothing in the maps."""
        self.states: dict[str, State] = {}
        self.plain: dict[str, Rows] = {}
        self.backends: dict[int, BackendValue] = {}
        self.ids: Numbers[tuple[int, bytes]] = Numbers(1, layout.MAX_BACKEND - 1)
        self.keys: Numbers[str] = Numbers(1, layout.MAX_TABLE - 1)
        self.stats: Numbers[tuple[int, bytes]] = Numbers(1, layout.MAX_STAT - 1)

    def adopt(self, store: Store, wanted: tuple[Balancer, ...]) -> set[tuple[str, str]]:
        """Begin from what packets meet now; balancers and addresses of the backends that it leaves out are returned."""
        self.clear()
        found = running.read(store)
        store.drop_stray_pins(set(found.tables))
        self.plain, self.backends = found.plain, found.backends
        named = running.match(found, wanted)
        down: set[tuple[str, str]] = set()
        for item in wanted:
            key = named.get(item.name)
            if key is None:
                continue
            self.keys.adopt(item.name, key)
            for (table, address), stat in found.stats.items():
                if table == key:
                    self.stats.adopt((key, address), stat)
            table_now = found.tables[key]
            for number in sorted(table_now.used()):
                if number in found.backends:
                    self.ids.adopt((key, found.backends[number].addr), number)
            self.states[item.name] = State(item, _UNKNOWN, Env(), key, table_now, Entries(), {})
        self._adopt_unused(found, wanted)
        for item in wanted:
            owner = named.get(item.name, 0)
            for backend in item.backends:
                known_as = self.ids.given.get((owner, layout.mapped(backend.address)))
                if known_as is not None and found.backends[known_as].flags & layout.DOWN:
                    down.add((item.name, backend.address))
        self._adopted = True
        return down

    def _adopt_unused(self, found: running.Running, wanted: tuple[Balancer, ...]) -> None:
        """Backends without a slot, such as quarantined ones, belong to the first balancer that wants their address."""
        named = set(self.ids.given.values())
        spare: dict[bytes, list[int]] = {}
        for number, value in sorted(found.backends.items()):
            if number not in named:
                spare.setdefault(value.addr, []).append(number)
        for item in wanted:
            state = self.states.get(item.name)
            for backend in item.backends if state is not None else ():
                address = layout.mapped(backend.address)
                if state is not None and spare.get(address) and (state.key, address) not in self.ids.given:
                    self.ids.adopt((state.key, address), spare[address].pop(0))

    def write(self, store: Store, change: Change, rows: dict[str, Rows]) -> None:
        """What is new, each after what it refers to."""
        store.write(
            "sg_lb_backend", [(layout.U32.pack(n), value.pack()) for n, value in sorted(change.backends.items())]
        )
        self.backends.update(change.backends)
        for name in _REFERRED_TO:
            self._upsert(store, name, rows[name])
        store.swap(change.tables)
        for name in _REFERRING:
            self._upsert(store, name, rows[name])
        if change.tables or change.backends:
            log.info("Balancer: %d tables and %d backends written.", len(change.tables), len(change.backends))

    def _upsert(self, store: Store, name: str, rows: Rows) -> None:
        known = self.plain.setdefault(name, {})
        new = [(key, value) for key, value in rows.items() if known.get(key) != value]
        store.write(name, new)
        known.update(new)

    def delete(self, store: Store, rows: dict[str, Rows], nexts: dict[str, State], gone: Iterable[State]) -> None:
        """What nobody refers to any more, after nothing refers to it."""
        for name in (*_REFERRING, *_REFERRED_TO):
            known = self.plain.setdefault(name, {})
            surplus = [key for key in known if key not in rows[name]]
            store.delete(name, surplus)
            for key in surplus:
                del known[key]
        stray = {state.key for state in gone}
        for state in gone:
            self.keys.drop(state.item.name)
        if self._adopted:
            stray |= store.table_ids().keys() - {state.key for state in nexts.values()}
            self._adopted = False
        if stray:
            store.drop_tables(sorted(stray))
        self._free(store, nexts)
        drained = self.drained | stray
        if drained:
            store.forget_flows(drained)
        self.drained = set()

    def _free(self, store: Store, nexts: dict[str, State]) -> None:
        """Numbers of backends and counters that nobody uses. A former backend keeps its number until its drain ends."""
        used: set[int] = set()
        addresses: set[tuple[int, bytes]] = set()
        for state in nexts.values():
            names = ((state.key, layout.mapped(backend.address)) for backend in state.item.backends)
            used |= {self.ids.given[name] for name in names if name in self.ids.given}
            used |= state.table.formers()
            addresses |= {(state.key, layout.mapped(vip.address)) for vip in state.item.vips}
        free = set(self.backends) - used
        if free:
            store.forget_backends(free)
            for number in free:
                del self.backends[number]
        for name in [name for name, number in self.ids.given.items() if number not in used]:
            self.ids.drop(name)
        unused = [name for name in self.stats.given if name not in addresses]
        if unused:
            store.forget_stats({self.stats.given[name] for name in unused})
            for name in unused:
                self.stats.drop(name)


def rows_of(states: dict[str, State]) -> dict[str, Rows]:
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
