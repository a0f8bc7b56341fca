"""What balances on this node and what it has counted, read from pins alone: works when no process is alive.

Names of objects come from `balancers.json` in the state directory; without it they are called by their table.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sixgate.node.bpf.layouts import SgLbFlag, SgReason
from sixgate.node.bpf.map import Map
from sixgate.node.lb import layout, running
from sixgate.node.lb.store import Store, identify
from sixgate.node.nat import Filter, NatState
from sixgate.node.statedir import BALANCERS, StateDir

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sixgate.node.lb.slots import Table

NS = 1_000_000_000
_PROTOCOLS = {number: name for name, number in layout.PROTOCOLS.items()}
_KINDS = {number: name for name, number in layout.KINDS.items()}


@dataclass(frozen=True, slots=True)
class Counted:
    """Packets, bytes of layer 3, new flows, and drops where they are counted."""

    packets: int = 0
    bytes: int = 0
    flows: int = 0
    drops: int = 0

    def __add__(self, other: Counted) -> Counted:
        return Counted(
            self.packets + other.packets, self.bytes + other.bytes, self.flows + other.flows, self.drops + other.drops
        )


@dataclass(frozen=True, slots=True)
class VipRow:
    """An address with its ports as text, `80/TCP` or `8000-8999/UDP`, empty for all; `drops` by reason."""

    address: str
    ports: tuple[str, ...]
    counted: Counted
    drops: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class BackendRow:
    """`slots` lead to it, `former` were its own and are draining; `share` of all slots."""

    id: int
    address: str
    mode: str
    state: str
    slots: int
    former: int
    share: float
    counted: Counted


@dataclass(frozen=True, slots=True)
class BalancerRow:
    """One balancer; `drain_s` seconds until former backends count no more, 0 where none do."""

    name: str
    table: int
    size: int
    drain_s: float
    vips: tuple[VipRow, ...]
    backends: tuple[BackendRow, ...]
    total: Counted = field(default=Counted())


@dataclass(frozen=True, slots=True)
class FlowRow:
    """A tracked flow, or a session of mode NAT; `idle_s` since its last packet, None where that is not known."""

    balancer: str
    protocol: str
    client: str
    vip: str
    backend: str
    idle_s: float | None


def read_balancers(root: Path, state_dir: Path) -> tuple[BalancerRow, ...]:
    """All balancers of the node, by name. BpfError where a map cannot be read."""
    if not identify(root):
        return ()
    with Store.open(root) as store:
        found = running.read(store)
    names = _names(state_dir)
    stats, drops, backends = _stats(root), _drops(root), _backends(root)
    rows = (_row(names.get(table, f"table {table}"), table, found, stats, drops, backends) for table in found.tables)
    return tuple(sorted(rows, key=lambda row: row.name))


def read_flows(root: Path, state_dir: Path) -> tuple[FlowRow, ...]:
    """Every flow that something is remembered of: those that began while the backends of their slot were changing, and
    in mode NAT all of them."""
    if not identify(root):
        return ()
    names, now = _names(state_dir), time.monotonic_ns()
    with Store.open(root) as store:
        found = running.read(store)
    with Map.from_pin(root / "maps" / "sg_lb_flow") as table:
        rows = []
        for key, value in table.items():
            assert isinstance(key, dict)
            assert isinstance(value, dict)
            backend = found.backends.get(_int(value["backend"]))
            rows.append(
                FlowRow(
                    balancer=names.get(_int(value["table"]), f"table {_int(value['table'])}"),
                    protocol=_PROTOCOLS.get(_int(key["proto"]), str(key["proto"])),
                    client=_socket(key["saddr"], key["sport"]),
                    vip=_socket(key["daddr"], key["dport"]),
                    backend=layout.unmapped(backend.addr) if backend is not None else f"id {_int(value['backend'])}",
                    idle_s=max(0.0, (now - _int(value["seen_ns"])) / NS),
                )
            )
    return (*rows, *_sessions(root, state_dir))


def _sessions(root: Path, state_dir: Path) -> Iterator[FlowRow]:
    """Flows in mode NAT, whose services are called after balancer, address, protocol and port."""
    for session in NatState(root, StateDir(state_dir).numbers()).sessions(Filter()):
        balancer, *rest = session.service.split(" ")
        if balancer.startswith("LoadBalancer/") and len(rest) == 3:
            yield FlowRow(
                balancer=balancer,
                protocol=rest[1],
                client=_socket(session.client, session.client_port),
                vip=_socket(rest[0], rest[2]),
                backend=session.remote,
                idle_s=None,
            )


def read_slots(root: Path, table: int) -> tuple[tuple[str, str], ...]:
    """Backend and former backend of every slot, by address; empty for none."""
    with Store.open(root) as store:
        found = running.read(store)
    known = {number: layout.unmapped(value.addr) for number, value in found.backends.items()}
    return tuple((known.get(slot & 0xFFFF, ""), known.get(slot >> 16, "")) for slot in found.tables[table].slots)


def _row(  # noqa: PLR0917 - what was read, each of its own type
    name: str,
    table: int,
    found: running.Running,
    stats: Mapping[int, Counted],
    drops: Mapping[int, Mapping[str, int]],
    counted: Mapping[int, Counted],
) -> BalancerRow:
    slots = found.tables[table]
    ports = _ports(found, table)
    vips = tuple(
        VipRow(layout.unmapped(address), ports.get(address, ()), stats.get(stat, Counted()), drops.get(stat, {}))
        for (of, address), stat in sorted(found.stats.items())
        if of == table
    )
    size = len(slots.slots)
    drain = max(0.0, (slots.head.drain_until_ns - time.monotonic_ns()) / NS) if not slots.steady() else 0.0
    return BalancerRow(
        name=name,
        table=table,
        size=size,
        drain_s=round(drain, 3),
        vips=vips,
        backends=_backend_rows(found, slots, counted, draining=drain > 0),
        total=sum((vip.counted for vip in vips), Counted()),
    )


def _backend_rows(
    found: running.Running, table: Table, counted: Mapping[int, Counted], *, draining: bool
) -> tuple[BackendRow, ...]:
    current = Counter(slot & 0xFFFF for slot in table.slots)
    former = Counter(slot >> 16 for slot in table.slots if slot >> 16 and slot >> 16 != slot & 0xFFFF)
    rows = []
    for number in sorted((set(current) | set(former)) - {0}):
        value = found.backends.get(number)
        if value is None:
            continue
        down = bool(value.flags & layout.DOWN)
        leaving = not current[number] and draining
        rows.append(
            BackendRow(
                id=number,
                address=layout.unmapped(value.addr),
                mode=_KINDS.get(value.kind, str(value.kind)),
                state="Quarantined" if down else "Draining" if leaving else "Active",
                slots=current[number],
                former=former[number] if draining else 0,
                share=round(current[number] / len(table.slots), 5),
                counted=counted.get(number, Counted()),
            )
        )
    return tuple(rows)


def _ports(found: running.Running, table: int) -> dict[bytes, tuple[str, ...]]:
    """Ports of each address that lead to a table; ranges as they were cut, joined again where they touch."""
    spans: dict[tuple[bytes, int], list[tuple[int, int]]] = {}
    for key, value in found.plain["sg_lb_vip"].items():
        address, port_be, protocol = layout.KEY.unpack(key)
        fields = layout.VIP.unpack(value)
        if fields[1] == table and fields[4] & SgLbFlag.SG_LB_SERVICE and protocol:
            port = int.from_bytes(port_be, "big")
            spans.setdefault((address, protocol), []).append((port, port))
    for key, value in found.plain["sg_lb_range"].items():
        bits, protocol, address, port_be = layout.RANGE_KEY.unpack(key)
        if layout.VIP.unpack(value)[1] == table:
            first = int.from_bytes(port_be, "big")
            spans.setdefault((address, protocol), []).append((first, first + (1 << (176 - bits)) - 1))
    made: dict[bytes, tuple[str, ...]] = {}
    for (address, protocol), parts in sorted(spans.items()):
        joined: list[list[int]] = []
        for first, last in sorted(parts):
            if joined and joined[-1][1] + 1 == first and first != last:
                joined[-1][1] = last
            else:
                joined.append([first, last])
        texts = (f"{a}/{_PROTOCOLS[protocol]}" if a == b else f"{a}-{b}/{_PROTOCOLS[protocol]}" for a, b in joined)
        made[address] = (*made.get(address, ()), *texts)
    return made


def _names(state_dir: Path) -> dict[int, str]:
    raw = StateDir(state_dir).read(BALANCERS)
    return {int(table): str(name) for name, table in raw.items()} if isinstance(raw, dict) else {}


def _stats(root: Path) -> dict[int, Counted]:
    return _counted(root, "sg_lb_stats")


def _backends(root: Path) -> dict[int, Counted]:
    return _counted(root, "sg_lb_cpu")


def _counted(root: Path, name: str) -> dict[int, Counted]:
    """Only the counters, at the front of each CPU's value: two or three 64-bit numbers of many thousand entries."""
    made = {}
    with Map.from_pin(root / "maps" / name) as table:
        width = table.value_bytes // max(1, _cpus(table))
        for key, raw in table.lookup_batch():
            columns = [memoryview(raw)[at : at + 32].cast("Q") for at in range(0, len(raw), width)]
            sums = [sum(column[index] for column in columns) for index in range(4)]
            if any(sums[:3]) or (name == "sg_lb_stats" and sums[3]):
                packets, size, flows, drops = sums
                made[layout.U32.unpack(key)[0]] = Counted(packets, size, flows, drops if name == "sg_lb_stats" else 0)
    return made


def _cpus(table: Map) -> int:
    slot = (table.info.value_size + 7) // 8 * 8
    return table.value_bytes // slot


def _drops(root: Path) -> dict[int, dict[str, int]]:
    made: dict[int, dict[str, int]] = {}
    with Map.from_pin(root / "maps" / "sg_lb_drops") as table:
        for key, value in table.sums():
            if isinstance(key, dict) and isinstance(value, int):
                reason = SgReason(_int(key["reason"])).name.removeprefix("SG_DROP_")
                made.setdefault(_int(key["stat"]), {})[reason] = value
    return made


def _int(value: Any) -> int:
    return int(value)


def _socket(address: Any, port: Any) -> str:
    text = str(address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
