"""What the balancer tells Prometheus: traffic of virtual addresses and backends, and which backends work.

Thousands of both are usual. Arrays are read in one call; whose a counter is, which changes with objects only, is found
out once and kept until then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

from sixgate.metrics import Columns, Family
from sixgate.node.bpf.layouts import MAPS, SgLbFlag
from sixgate.node.bpf.map import Map
from sixgate.node.columns import read_columns
from sixgate.node.lb import layout
from sixgate.node.lb.store import map_file
from sixgate.node.lb.want import use_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from sixgate.api.nodeconfig_lb import Balancer
    from sixgate.node.lb.engine import Engine
    from sixgate.node.lb.want import Health

Keys: TypeAlias = tuple[tuple[str, ...], ...]
_PACKETS, _BYTES, _FLOWS, _DROPS = range(4)  # of struct sg_lb_stat; the first three of struct sg_lb_cpu, too
_OF_VIPS = (
    ("sixgate_lb_packets", _PACKETS, "Packets to a virtual address."),
    ("sixgate_lb_bytes", _BYTES, "Bytes of layer 3 to a virtual address."),
    (
        "sixgate_lb_new_flows",
        _FLOWS,
        "New flows to a virtual address: SYNs, and first packets of UDP where they can be told.",
    ),
    ("sixgate_lb_drops", _DROPS, "Packets to a virtual address that were dropped."),
)
_OF_BACKENDS = (
    ("sixgate_lb_backend_bytes", _BYTES, "Bytes of layer 3 that a backend got."),
    ("sixgate_lb_backend_new_flows", _FLOWS, "New flows that a backend got."),
)


@dataclass(frozen=True, slots=True)
class _Places:
    """Whose counters stand where in an array: labels, and the place of each."""

    keys: Keys = ()
    places: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Entries of the array that must be read."""
        return max(self.places, default=-1) + 1

    def columns(
        self, path: Path | None, labels: tuple[str, ...], told: Sequence[tuple[str, int, str]]
    ) -> Iterator[Columns]:
        found = read_columns(path, self.count, *(column for _, column, _ in told))
        take = itemgetter(*self.places, 0) if self.places else None  # the 0 makes it a tuple of one, too
        for (name, _, text), numbers in zip(told, found, strict=True):
            values = take(numbers)[:-1] if take is not None else ()
            yield Columns("counter", name, text, labels, self.keys, values)


@dataclass(slots=True)
class BalancerMetrics:
    """Everything of the balancer below `root`; nothing where no LoadBalancer is wanted."""

    root: Path
    engine: Engine
    _health: tuple[object, object, tuple[Columns, ...]] = (None, None, ())
    _vips: tuple[object, object, _Places] = field(default=(None, None, _Places()))
    _backends: tuple[object, object, _Places] = field(default=(None, None, _Places()))

    def __call__(self) -> Iterator[Family | Columns]:
        wanted, health = self.engine.wanted, self.engine.health
        if not wanted:
            return
        yield from self._of_vips(wanted)
        if self._health[0] is not wanted or self._health[1] is not health:
            self._health = (wanted, health, tuple(_health(wanted, health)))
        yield from self._health[2]
        numbers = self.engine.numbered()
        if self._backends[0] is not wanted or self._backends[1] is not numbers:
            self._backends = (wanted, numbers, _backend_places(wanted, numbers))
        path = map_file(self.root, "sg_lb_cpu")
        yield from self._backends[2].columns(path, ("name", "backend"), _OF_BACKENDS)

    def _of_vips(self, wanted: Sequence[Balancer]) -> Iterator[Family | Columns]:
        path = map_file(self.root, "sg_lb_vip")
        if path is None:
            return
        with Map.from_pin(path, spec=MAPS["sg_lb_vip"]) as table:
            entries = table.lookup_batch()
            room = table.info.max_entries
        if self._vips[0] is not wanted or self._vips[1] != entries:
            self._vips = (wanted, entries, _vip_places(wanted, entries))
        yield from self._vips[2].columns(map_file(self.root, "sg_lb_stats"), ("name", "vip"), _OF_VIPS)
        text = "Entries of tables whose size may matter."
        yield Family("gauge", "sixgate_table_entries", text, ("table",), ((("lb_vip",), float(len(entries))),))
        text = "Entries that those tables have room for."
        yield Family("gauge", "sixgate_table_max_entries", text, ("table",), ((("lb_vip",), float(room)),))


def _owner(item: Balancer) -> str:
    return (item.owners[0] if item.owners else item.name).rpartition("/")[2]


def _vip_places(wanted: Sequence[Balancer], entries: Sequence[tuple[bytes, bytes]]) -> _Places:
    owners = {layout.mapped(vip.address): (_owner(item), vip.address) for item in wanted for vip in item.vips}
    places: dict[int, tuple[str, str]] = {}
    for key, value in entries:
        found = layout.VIP.unpack(value)
        owner = owners.get(key[:16])
        if owner is not None and found[4] & (SgLbFlag.SG_LB_SERVICE | SgLbFlag.SG_LB_RANGES):
            places[found[3]] = owner
    return _Places(tuple(places[place] for place in sorted(places)), tuple(sorted(places)))


def _backend_places(wanted: Sequence[Balancer], numbers: Mapping[tuple[str, str], int]) -> _Places:
    found = [
        ((_owner(item), backend.address), numbers[item.name, backend.address])
        for item in wanted
        for backend in item.backends
        if (item.name, backend.address) in numbers
    ]
    return _Places(tuple(owner for owner, _ in found), tuple(place for _, place in found))


def _health(wanted: Sequence[Balancer], health: Health) -> Iterator[Columns]:
    states: dict[tuple[str, ...], float] = {}
    up: dict[tuple[str, ...], float] = {}
    for item in wanted:
        active = len(use_of(item, health).active)
        down = {b.address for b in item.backends if health.why(item.name, b.address) is not None}
        name = _owner(item)
        states[name, "wanted"] = len(item.backends)
        states[name, "active"] = active
        states[name, "quarantined"] = sum(b.address in down for b in item.backends)
        up.update(((name, b.address), b.address not in down) for b in item.backends)
    text = "Backends of a LoadBalancer: wanted, active (they get new flows), quarantined by health checks."
    yield Columns("gauge", "sixgate_lb_backends", text, ("name", "state"), tuple(states), tuple(states.values()))
    text = "Whether a backend passes its health checks, as far as there are any."
    yield Columns("gauge", "sixgate_lb_backend_up", text, ("name", "backend"), tuple(up), tuple(up.values()))
