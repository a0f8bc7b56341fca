"""What runs on this node, read from pins and hooks alone: works when no process of sixgate is alive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sixgate.api.nodeconfig import BigTcpReport, NodeConfigSpec
from sixgate.errors import ApplyError
from sixgate.node import bpffs, names
from sixgate.node.bpf import layouts
from sixgate.node.bpf.map import Map
from sixgate.node.bpf.mapspec import MapType
from sixgate.node.bpf.probe import missing_permission
from sixgate.node.columns import read_columns
from sixgate.node.lock import holder
from sixgate.node.netlink import Netlink
from sixgate.node.observe import observe
from sixgate.node.report import mechanism_on
from sixgate.node.statedir import SIZES_REPORT, StateDir

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sixgate.node.model import Device, Observed
    from sixgate.node.options import NodeOptions

_METRICS = "sg_metrics"
_TABLES_WITHOUT_COUNT = frozenset({"sg_metrics", "sg_nat_stats"})  # arrays of counters, shown as counters


@dataclass(frozen=True, slots=True)
class HookRow:
    device: str
    hook: str
    mechanism: str
    object: str
    program: str
    prog_id: int
    link_id: int


@dataclass(frozen=True, slots=True)
class TableRow:
    """`entries` is None where counting would say nothing: arrays always hold all of theirs."""

    name: str
    map_id: int
    entries: int | None
    max_entries: int


@dataclass(frozen=True, slots=True)
class Count:
    """Packets, and bytes of layer 3."""

    packets: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Inspection:
    """`counters` by reason (`SG_OK_64`), `traffic` by user's object and direction. `process` is 0 where none keeps the
    node."""

    hooks: tuple[HookRow, ...]
    tables: tuple[TableRow, ...]
    counters: Mapping[str, Count]
    traffic: Mapping[str, Mapping[str, Count]]
    process: int


def inspect(options: NodeOptions, names_of: Mapping[str, Mapping[str, str]]) -> Inspection:
    """Look at the node. `names_of` names per-object counters: map, index, object. ApplyError without permission."""
    missing = missing_permission()
    if missing:
        raise ApplyError(missing)
    process = holder(options.state_dir) or 0
    if not bpffs.exists(options.bpffs):
        return Inspection((), (), {}, {}, process)
    with Netlink() as netlink:
        have = observe(NodeConfigSpec(format_version=1), options, netlink, StateDir(options.state_dir))
    return Inspection(
        hooks=_hooks(have),
        tables=_tables(options.bpffs, have),
        counters=read_reasons(options.bpffs),
        traffic=read_traffic(options.bpffs, names_of),
        process=process,
    )


def _hooks(have: Observed) -> tuple[HookRow, ...]:
    programs = {pin.prog_id: name for name, pin in have.programs.items()}
    rows = []
    for hook in sorted({*have.links, *have.attached}):
        mechanism = mechanism_on(have, hook.device, hook.hook) if hook.device in have.devices else ""
        pin = have.links.get(hook)
        seen = next((a for a in have.attached.get(hook, ()) if a.clsact), None)
        if not mechanism:
            continue
        prog_id = pin.prog_id if pin is not None else seen.prog_id if seen is not None else 0
        name = programs.get(prog_id)
        rows.append(
            HookRow(
                device=hook.device,
                hook=hook.hook,
                mechanism=mechanism,
                object=name.object if name else "",
                program=name.program if name else "",
                prog_id=prog_id,
                link_id=pin.link_id if pin is not None else 0,
            )
        )
    return tuple(rows)


def _tables(root: Path, have: Observed) -> tuple[TableRow, ...]:
    rows = []
    for pin in have.maps.values():
        name = names.map_name(pin.pin)
        if name in _TABLES_WITHOUT_COUNT or pin.shape.map_type == MapType.RINGBUF:
            continue
        entries: int | None = None
        if pin.shape.is_outer:
            entries = len(have.slots.get(pin.pin, ()))
        elif name in layouts.MAPS and not pin.shape.is_array:
            with Map.from_pin(root / pin.pin, spec=layouts.MAPS[name]) as found:
                entries = len(found.keys_raw())
        rows.append(TableRow(name, pin.map_id, entries, pin.shape.max_entries))
    return tuple(sorted(rows, key=lambda row: row.name))


def read_reasons(root: Path) -> dict[str, Count]:
    """Packets by reason (`SG_OK_64`), of the pins below `root`; empty where nothing is loaded."""
    path = root / names.map_path(_METRICS)
    if not path.exists():
        return {}
    packets, counted_bytes = read_columns(path, layouts.SgReason.SG_REASON_MAX, 0, 1)
    return {
        reason.name: Count(packets[reason], counted_bytes[reason])
        for reason in layouts.SgReason
        if reason.name != "SG_REASON_MAX"
    }


def read_traffic(root: Path, names_of: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Count]]:
    """Packets by object and direction; `names_of` is map, index, object."""
    traffic: dict[str, dict[str, Count]] = {}
    for map_name, indexes in names_of.items():
        path = root / names.map_path(map_name)
        if map_name not in layouts.MAPS or not path.exists():
            continue
        with Map.from_pin(path, spec=layouts.MAPS[map_name]) as found:
            for index, owner in indexes.items():
                value = found.sum(int(index))
                if isinstance(value, dict):
                    traffic[owner] = {direction: count_of(count) for direction, count in value.items()}
    return traffic


def count_of(value: Any) -> Count:
    """A decoded struct sg_count."""
    return Count(int(value["packets"]), int(value["bytes"])) if isinstance(value, dict) else Count()


def inspect_sizes(options: NodeOptions) -> tuple[BigTcpReport, ...]:
    """What policies want of devices, as the node last said, with the sizes that the node's own devices have now."""
    told = StateDir(options.state_dir).read(SIZES_REPORT)
    rows = [BigTcpReport.model_validate(row) for row in told] if isinstance(told, list) else []
    with Netlink() as netlink:
        devices = netlink.devices()
    return tuple(_sized(row, devices.get(row.device)) for row in rows)


def _sized(row: BigTcpReport, device: Device | None) -> BigTcpReport:
    if device is None:
        gone = "" if "/" in row.device else f"{row.device} is not there any more."
        return row.model_copy(update={"message": " ".join(filter(None, [row.message, gone]))})
    sizes = device.sizes
    now = {"ipv6_gso": sizes.gso6, "ipv6_gro": sizes.gro6, "ipv4_gso": sizes.gso4, "ipv4_gro": sizes.gro4}
    changed = any(getattr(row, field) != size for field, size in now.items())
    text = f"Somebody has changed the sizes of {row.device} since sixgate looked." if changed else ""
    return row.model_copy(update={**now, "message": " ".join(filter(None, [row.message, text]))})
