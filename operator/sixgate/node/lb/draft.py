"""What is to be written for a balancer: its backends' numbers and values, its table, its entries."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import TYPE_CHECKING

from sixgate.node.lb import layout
from sixgate.node.lb.entries import entries_of, quic_row
from sixgate.node.lb.layout import BackendValue
from sixgate.node.lb.mirror import Change, Mirror, State
from sixgate.node.lb.slots import Table, change, fresh, settle
from sixgate.node.lb.want import Health, Use, use_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sixgate.api.nodeconfig_lb import Balancer
    from sixgate.node.lb.env import Env
    from sixgate.node.maglev import Maglev

_MASK32 = 0xFFFFFFFF


class UnfitError(Exception):
    """Something of one balancer cannot be done on this node."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Draft:
    """One step's changes, computed against `mirror`: balancers are asked for one by one, what has to be written for
    them gathers in `change`. `now` is CLOCK_MONOTONIC in nanoseconds."""

    def __init__(self, mirror: Mirror, builder: Callable[[], Maglev], env: Env, health: Health, now: int) -> None:
        self._mirror, self._builder, self._env, self._health, self._now = mirror, builder, env, health, now
        self.change = Change()

    def next(self, item: Balancer) -> State:
        """`item` as it is to be; what is to be written for it is put into `change`. OutOfNumbersError, UnfitError or
        BpfError where it cannot be."""
        old = self._mirror.states.get(item.name)
        expired = old is not None and not old.table.steady() and not old.table.draining(self._now)
        same = old is not None and old.item is item and old.env == self._env
        if old is not None and same and not expired and old.health is self._health:
            return old
        use = use_of(item, self._health)
        same = same and old is not None and old.use == use
        if old is not None and same and not expired:
            old.health = self._health
            return old
        key = self._mirror.keys.give(item.name)[0]
        wanted = {layout.mapped(backend.address): backend for backend in item.backends}
        services = self._services_of(item) if item.mode == "NAT" else None
        ids = {address: self._mirror.ids.give((key, address))[0] for address in wanted}
        table = self._table(item, use, old, ids)
        active = {address for address, _ in use.active}
        for address, number in ids.items():
            flags = layout.DOWN if address in use.down else 0
            flags |= 0 if address in active else layout.NO_NEW
            flags |= layout.ENDED if item.mode == "NAT" and number not in table.used() else 0
            value = self._backend(item, address, number, flags)
            if self._mirror.backends.get(number) != value:
                self.change.backends[number] = value
        self._leave(key, old, wanted)
        if expired:
            self._mirror.drained.add(key)
        if old is None or table is not old.table:
            self.change.tables.append((key, table))
        stats = {}
        for vip in item.vips:
            address = layout.mapped(vip.address)
            stats[address] = self._mirror.stats.give((key, address))[0]
        quic = dict(
            quic_row(key, backend.server_id, ids[address])
            for address, backend in wanted.items()
            if backend.server_id and item.quic_length and address not in use.down
        )
        formers = table.formers()
        for row, value_raw in self._mirror.plain["sg_lb_quic"].items():  # of backends that left and still have flows
            if layout.QUIC_KEY.unpack(row)[0] == key and layout.U32.unpack(value_raw)[0] in formers:
                quic.setdefault(row, value_raw)
        entries = entries_of(item, key, stats, self._env.local, services)
        return State(item, use, self._env, key, table, entries, quic, self._health)

    def _leave(self, key: int, old: State | None, wanted: Collection[bytes]) -> None:
        """Backends that are declared no more keep what they have, and get nothing new, not of their own clients."""
        before = {layout.mapped(backend.address) for backend in old.item.backends} if old is not None else set()
        for address in sorted(before.difference(wanted)):
            number = self._mirror.ids.given.get((key, address))
            known = self._mirror.backends.get(number) if number is not None else None
            if number is not None and known is not None and not known.flags & layout.NO_NEW:
                version = (known.version + 1) & _MASK32 or 1
                self.change.backends[number] = replace(known, flags=known.flags | layout.NO_NEW, version=version)

    def _services_of(self, item: Balancer) -> dict[bytes, int]:
        """Numbers of its addresses among the services of the stateful engine, which their table says first."""
        known = dict(self._env.services)
        named = {vip.address: f"{item.name} {vip.address}" for vip in item.vips}
        missing = next((name for name in named.values() if name not in known), None)
        if missing is not None:
            raise UnfitError("NoService", f"{missing} is to go through NAT, but has no number among its services.")
        return {layout.mapped(address): known[name] for address, name in named.items()}

    def _table(self, item: Balancer, use: Use, old: State | None, ids: dict[bytes, int]) -> Table:
        same = old is not None and (old.use.active, old.item.table_size, old.item.seed) == (
            use.active,
            item.table_size,
            item.seed,
        )
        if old is not None and same:
            return settle(old.table) if not old.table.steady() and not old.table.draining(self._now) else old.table
        if use.active:
            built = self._builder().build(use.active, item.table_size, item.seed)
            by_index = [ids[address] for address, _ in use.active]
            backends = list(map(by_index.__getitem__, built))
        else:
            backends = [0] * item.table_size
        if old is None:
            return fresh(backends)
        changed = change(old.table, backends, item.drain_s, self._now)
        if changed is old.table and not changed.steady() and not changed.draining(self._now):
            return settle(changed)
        return changed

    def _backend(self, item: Balancer, address: bytes, number: int, flags: int) -> BackendValue:
        is_v4 = layout.unmapped(address).count(":") == 0
        declared = item.outer_source_ipv4 if is_v4 else item.outer_source_ipv6
        own = self._env.source4 if is_v4 else self._env.source6
        source, mask = bytes(16), 0
        if item.mode == "DSR":
            if not declared and not own:
                raise UnfitError(
                    "NoSource",
                    f"{item.name} sends packets to {layout.unmapped(address)}, but this node has no "
                    f"IPv{4 if is_v4 else 6} address that they could come from; declare one in spec.forwarding.",
                )
            if declared:
                net = ip_network(declared)
                source, mask = layout.mapped(net.network_address), int(net.hostmask) & _MASK32
            else:
                source = layout.mapped(own)
        old = self._mirror.backends.get(number, layout.FREE)
        value = BackendValue(address, source, mask, old.version, layout.KINDS[item.mode], flags)
        return value if value == old else replace(value, version=(old.version + 1) & _MASK32 or 1)
