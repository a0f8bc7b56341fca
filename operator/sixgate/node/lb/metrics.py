"""What the balancer tells Prometheus: traffic of virtual addresses and backends, and which backends work.

Thousands of both are usual, so arrays are read in one call and added up column by column.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from sixgate.metrics import Family
from sixgate.node.bpf.layouts import MAPS, SgLbFlag
from sixgate.node.bpf.lib import possible_cpus
from sixgate.node.bpf.map import Map
from sixgate.node.lb import layout
from sixgate.node.lb.store import map_file
from sixgate.node.lb.want import use_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from sixgate.api.nodeconfig_lb import Balancer
    from sixgate.node.lb.engine import Engine

_PACKETS, _BYTES, _FLOWS, _DROPS = range(4)  # of struct sg_lb_stat; the first three of struct sg_lb_cpu, too


def families(root: Path, engine: Engine) -> Iterator[Family]:
    """Everything of the balancer below `root`; nothing where no LoadBalancer is wanted."""
    wanted = engine.wanted
    if not wanted:
        return
    yield from _vips(root, wanted)
    yield from _health(wanted, engine)
    yield from _backends(root, wanted, engine.numbered())


def _owner(item: Balancer) -> str:
    return (item.owners[0] if item.owners else item.name).rpartition("/")[2]


def _vips(root: Path, wanted: Sequence[Balancer]) -> Iterator[Family]:
    owners = {layout.mapped(vip.address): (_owner(item), vip.address) for item in wanted for vip in item.vips}
    path = map_file(root, "sg_lb_vip")
    if path is None:
        return
    places: dict[int, tuple[str, str]] = {}
    with Map.from_pin(path, spec=MAPS["sg_lb_vip"]) as table:
        entries = table.lookup_batch()
        room = table.info.max_entries
    for key, value in entries:
        found = layout.VIP.unpack(value)
        owner = owners.get(key[:16])
        if owner is not None and found[4] & (SgLbFlag.SG_LB_SERVICE | SgLbFlag.SG_LB_RANGES):
            places[found[3]] = owner
    columns = read_columns(root, "sg_lb_stats", max(places, default=0) + 1)
    labels = ("name", "vip")
    for what, column, text in (
        ("packets", _PACKETS, "Packets to a virtual address."),
        ("bytes", _BYTES, "Bytes of layer 3 to a virtual address."),
        ("new_flows", _FLOWS, "New flows to a virtual address: SYNs, and first packets of UDP where they can be told."),
        ("drops", _DROPS, "Packets to a virtual address that were dropped."),
    ):
        rows = tuple((owner, float(columns[column][place])) for place, owner in sorted(places.items()))
        yield Family("counter", f"sixgate_lb_{what}", text, labels, rows)
    text = "Entries of tables whose size may matter."
    yield Family("gauge", "sixgate_table_entries", text, ("table",), ((("lb_vip",), float(len(entries))),))
    text = "Entries that those tables have room for."
    yield Family("gauge", "sixgate_table_max_entries", text, ("table",), ((("lb_vip",), float(room)),))


def _health(wanted: Sequence[Balancer], engine: Engine) -> Iterator[Family]:
    health = engine.health
    states: list[tuple[tuple[str, ...], float]] = []
    up: dict[tuple[str, str], float] = {}
    for item in wanted:
        active = len(use_of(item, health).active)
        bad = [backend for backend in item.backends if health.why(item.name, backend.address) is not None]
        name = _owner(item)
        states.append(((name, "wanted"), float(len(item.backends))))
        states.append(((name, "active"), float(active)))
        states.append(((name, "quarantined"), float(len(bad))))
        down = {backend.address for backend in bad}
        up.update(((name, b.address), float(b.address not in down)) for b in item.backends)
    text = "Backends of a LoadBalancer: wanted, active (they get new flows), quarantined by health checks."
    yield Family("gauge", "sixgate_lb_backends", text, ("name", "state"), tuple(dict(states).items()))
    text = "Whether a backend passes its health checks, as far as there are any."
    yield Family("gauge", "sixgate_lb_backend_up", text, ("name", "backend"), tuple(up.items()))


def _backends(root: Path, wanted: Sequence[Balancer], numbers: Mapping[tuple[str, str], int]) -> Iterator[Family]:
    columns = read_columns(root, "sg_lb_cpu", max(numbers.values(), default=0) + 1)
    places = [
        ((_owner(item), backend.address), numbers[item.name, backend.address])
        for item in wanted
        for backend in item.backends
        if (item.name, backend.address) in numbers
    ]
    for what, column, text in (
        ("bytes", _BYTES, "Bytes of layer 3 that a backend got."),
        ("new_flows", _FLOWS, "New flows that a backend got."),
    ):
        values = columns[column]
        rows = tuple((owner, float(values[place])) for owner, place in places)
        yield Family("counter", f"sixgate_lb_backend_{what}", text, ("name", "backend"), rows)


def read_columns(root: Path, name: str, count: int) -> list[Sequence[int]]:
    """The first four numbers of `count` entries of a per-CPU array, all CPUs added up; zeros where there is no map."""
    path = map_file(root, name)
    if path is None:
        return [[0] * count] * 4
    with Map.from_pin(path, spec=MAPS[name]) as table:
        words = array("Q", table.first_values(count))
        width = table.value_bytes // 8
    per_cpu = width // possible_cpus()
    return [
        list(map(sum, zip(*(words[cpu * per_cpu + column :: width] for cpu in range(possible_cpus())), strict=True)))
        for column in range(4)
    ]
