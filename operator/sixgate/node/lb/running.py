"""What the kernel has of the balancer, read back: a node that is restarted goes on with the tables that packets meet,
former backends and all. No file is kept of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.node.bpf.layouts import SgLbFlag
from sixgate.node.lb import layout
from sixgate.node.lb.layout import BackendValue
from sixgate.node.lb.slots import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sixgate.api.nodeconfig_lb import Balancer
    from sixgate.node.lb.store import Store


@dataclass(slots=True)
class Running:
    """Contents of the maps as bytes, tables as they are, and whose counters are whose: (table, address) to index."""

    plain: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    tables: dict[int, Table] = field(default_factory=dict)
    backends: dict[int, BackendValue] = field(default_factory=dict)
    stats: dict[tuple[int, bytes], int] = field(default_factory=dict)
    unreadable: set[int] = field(default_factory=set)


def read(store: Store) -> Running:
    """Everything that is there. Tables that no virtual address leads to are left out: somebody died before it did."""
    found = Running({name: store.read(name) for name in ("sg_lb_vip", "sg_lb_range", "sg_lb_source", "sg_lb_quic")})
    for key, value in store.read("sg_lb_backend").items():
        backend = BackendValue.unpack(value)
        if backend.kind:
            found.backends[layout.U32.unpack(key)[0]] = backend
    sizes: dict[int, int] = {}
    for name, at in (("sg_lb_vip", slice(0, 16)), ("sg_lb_range", slice(8, 24))):
        for key, value in found.plain[name].items():
            _, table, size, stat, flags = layout.VIP.unpack(value)[:5]
            if flags & SgLbFlag.SG_LB_SERVICE:
                sizes[table] = size
                found.stats[table, key[at]] = stat
    for key_number, inner_id in store.table_ids().items():
        size = sizes.get(key_number)
        chunks = store.read_table(key_number, inner_id) if size is not None else None
        if size is None or chunks is None or len(chunks) != layout.chunk_count(size):
            found.unreadable.add(key_number)
            continue
        found.tables[key_number] = Table(*layout.read_chunks(chunks, size))
    return found


def match(running: Running, balancers: Sequence[Balancer]) -> Mapping[str, int]:
    """Name of each balancer to the table that its addresses lead to now. A table is one balancer's only: a balancer
    that takes some addresses of another over begins anew."""
    tables_at: dict[bytes, set[int]] = {}
    for table, address in running.stats:
        if table in running.tables:
            tables_at.setdefault(address, set()).add(table)
    named: dict[str, int] = {}
    taken: set[int] = set()
    for item in balancers:
        counted: dict[int, int] = {}
        for vip in item.vips:
            for table in tables_at.get(layout.mapped(vip.address), ()):
                counted[table] = counted.get(table, 0) + _fits(running, item, table)
        best = max(sorted(counted.keys() - taken), key=lambda table: counted[table], default=None)
        if best is not None:
            named[item.name] = best
            taken.add(best)
    return named


def _fits(running: Running, item: Balancer, table: int) -> int:
    """How likely a table is a balancer's: several may share an address, at different ports."""
    used = {running.backends[number].addr for number in running.tables[table].used() if number in running.backends}
    return 1 + len(used & {layout.mapped(backend.address) for backend in item.backends})
