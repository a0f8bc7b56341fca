"""The part of `resolve` that is about tables: JSON keys and values become bytes by the BTF of their maps. Pure."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from typing import TYPE_CHECKING

from sixgate.errors import BpfError
from sixgate.node import devices, names
from sixgate.node.bpf.codec import encode
from sixgate.node.bpf.ctype import U32, CType, Record
from sixgate.node.bpf.layouts import SgDevFlag
from sixgate.node.egress.ports import ROLE_BRIDGE, ROLE_PORT, ROLE_TRUSTED
from sixgate.node.model import HookWant, Observed, Owners, SlotWant, TableWant
from sixgate.node.shapes import map_shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sixgate.api.nodeconfig import Table
    from sixgate.node.bpf.ctype import MapSpec
    from sixgate.node.findings import Findings
    from sixgate.node.memo import TableMemo
    from sixgate.node.resolve_passage import Passages

DEVICE_MAP = "sg_dev"
TRANSMIT_MAP = "sg_tx"
ROLE_MAP = "sg_eg_dev"
BIG_MAP = "sg_big"
NODE_MAPS = (DEVICE_MAP, TRANSMIT_MAP, ROLE_MAP, BIG_MAP)
BALANCER_TABLES = "sg_lb_table"  # its slots are filled by lb/engine.py


def interface(text: str) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
    return ipaddress.ip_interface(text)


def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)


def hop(text: str | None) -> str:
    return str(ipaddress.ip_address(text)) if text else ""


def resolve_tables(  # noqa: PLR0917 - one step of resolve, with what it reads and writes
    tables: tuple[Table, ...],
    maps: Mapping[str, MapSpec],
    have: Observed,
    hooks: tuple[HookWant, ...],
    passing: Passages,
    found: Findings,
    memo: TableMemo,
) -> tuple[tuple[TableWant, ...], tuple[SlotWant, ...]]:
    """Contents of every map that the NodeConfig or the node itself fills; `maps` are those of the wanted objects."""
    memo.keep(tables)
    plain: defaultdict[str, list[Table]] = defaultdict(list)
    slots: dict[tuple[str, bytes], SlotWant] = {}
    for table in tables:
        definition = maps.get(table.map)
        if definition is None:
            found.problem(
                table.owners, "MapMissing", f"Table {table.map} should be filled, but no wanted object has that map."
            )
            found.frozen_maps.add(table.map)
        elif table.map in NODE_MAPS or table.swap != (definition.inner is not None):
            what = "is filled by the node itself" if table.map in NODE_MAPS else "is not of the kind the table is for"
            found.problem(table.owners, "MapMismatch", f"Map {table.map} {what}; the table is left out.")
            found.frozen_maps.add(table.map)
        elif table.swap:
            _slot(table, definition, have, slots, found, memo)
        else:
            plain[table.map].append(table)
    filled = tuple(_table(maps[name], group, have, found, memo) for name, group in plain.items())
    return (*filled, *_node_tables(maps, have, hooks, passing)), tuple(slots.values())


def _encode_entries(
    table: Table, definition: MapSpec, have: Observed, found: Findings, memo: TableMemo
) -> Mapping[bytes, bytes] | None:
    """Encoded entries; None, with a problem, if one of them does not fit the map."""
    try:
        return memo.entries(table, definition, have.index_of)
    except BpfError as error:
        found.problem(table.owners, "EntryInvalid", str(error))
        return None


def _table(definition: MapSpec, group: list[Table], have: Observed, found: Findings, memo: TableMemo) -> TableWant:
    contents: dict[bytes, bytes] = {}
    owners_of: dict[bytes, Owners] = {}
    for table in group:
        encoded = _encode_entries(table, definition, have, found, memo)
        if encoded is None:
            found.frozen_maps.add(definition.name)
            continue
        for key, value in encoded.items():
            if contents.setdefault(key, value) != value:
                found.problem(
                    table.owners,
                    "Conflicted",
                    f"Two entries of {definition.name} have the same key and different values; "
                    f"the one of {', '.join(owners_of[key]) or 'the NodeConfig'} stays.",
                )
            owners_of.setdefault(key, table.owners)
    everyone = tuple(sorted({owner for table in group for owner in table.owners}))
    return TableWant(
        map=definition.name,
        contents=tuple(sorted(contents.items())),
        array=map_shape(definition).is_array,
        owners=everyone,
        entry_owners={key: owners for key, owners in owners_of.items() if owners != everyone},
    )


def _slot(  # noqa: PLR0917 - one step of resolve_tables, with what it reads and writes
    table: Table,
    definition: MapSpec,
    have: Observed,
    slots: dict[tuple[str, bytes], SlotWant],
    found: Findings,
    memo: TableMemo,
) -> None:
    inner = definition.inner
    assert inner is not None  # the caller looked
    try:
        outer = 0 if table.outer_key is None else table.outer_key
        key = encode(definition.key, outer, resolve=have.index_of, where=f"outer key of {table.map}")
    except BpfError as error:
        found.problem(table.owners, "EntryInvalid", str(error))
        found.frozen_maps.add(table.map)
        return
    encoded = _encode_entries(table, inner, have, found, memo)
    if encoded is None:
        found.frozen_maps.add(table.map)
        return
    if (table.map, key) in slots:
        found.problem(
            table.owners, "Conflicted", f"Slot {outer!r} of {table.map} is wanted by two tables; the first one has it."
        )
        return
    contents, shape = tuple(sorted(encoded.items())), map_shape(inner)
    digest = names.contents_digest(contents, shape)
    slots[table.map, key] = SlotWant(table.map, key, contents, digest, shape, table.owners)


def _node_tables(
    maps: Mapping[str, MapSpec], have: Observed, hooks: tuple[HookWant, ...], passing: Passages
) -> tuple[TableWant, ...]:
    """Tables whose contents only the node knows."""
    made = []
    if DEVICE_MAP in maps:
        definition = maps[DEVICE_MAP]
        known = {field.name for field in definition.value.fields} if isinstance(definition.value, Record) else set()
        contents = {}
        by_redirect = dict.fromkeys(_veths(have) & _accelerated(hooks), int(SgDevFlag.SG_DEV_NO_TX))
        for index, device in devices.device_table(have, by_redirect).items():
            value = {name: content for name, content in device.items() if name in known}
            contents[encode(definition.key, index)] = encode(definition.value, value, where=DEVICE_MAP)
        made.append(TableWant(DEVICE_MAP, tuple(sorted(contents.items())), map_shape(definition).is_array, ()))
    if TRANSMIT_MAP in maps:
        definition = maps[TRANSMIT_MAP]
        # A kernel that does not tell: a card sends once it has a program; whether a veth does is up to its other end.
        assumed = _accelerated(hooks) - _veths(have)
        able = [
            d.ifindex
            for d in have.devices.values()
            if d.xdp_transmit or (d.xdp_transmit is None and d.ifindex in assumed)
        ]
        entries = {encode(U32, index): _transmit_value(definition.value, index) for index in able}
        made.append(TableWant(TRANSMIT_MAP, tuple(sorted(entries.items())), False, ()))
    if ROLE_MAP in maps:
        roles = {encode(U32, index): encode(U32, role) for index, role in _roles(have, hooks).items()}
        made.append(TableWant(ROLE_MAP, tuple(sorted(roles.items())), False, ()))
    if BIG_MAP in maps:
        definition = maps[BIG_MAP]
        entries = {
            encode(definition.key, index): encode(definition.value, {"flags": flags}, where=BIG_MAP)
            for index, flags in passing.flags().items()
        }
        made.append(TableWant(BIG_MAP, tuple(sorted(entries.items())), False, ()))
    return tuple(made)


def _accelerated(hooks: tuple[HookWant, ...]) -> set[int]:
    return {hook.ifindex for hook in hooks if hook.hook.hook == "xdp"}


def _veths(have: Observed) -> set[int]:
    return {device.ifindex for device in have.devices.values() if device.kind == "veth"}


def _roles(have: Observed, hooks: tuple[HookWant, ...]) -> dict[int, int]:
    """Devices that egress knows. A pod's device is listed only when its program runs: until then uplinks stop it."""
    ports = have.pod_ports
    found = {}
    for want in hooks:
        device = have.devices.get(want.hook.device)
        if device is None:
            continue
        if device.name not in ports.names:
            found[device.ifindex] = ROLE_TRUSTED
        elif want.hook.hook == "tc-ingress" and _runs(have, want):
            found[device.ifindex] = ROLE_BRIDGE if device.name in ports.bridges else ROLE_PORT
    return found


def _runs(have: Observed, want: HookWant) -> bool:
    pin = have.links.get(want.hook)
    return (pin is not None and pin.ifindex == want.ifindex) or any(a.clsact for a in have.attached.get(want.hook, ()))


def _transmit_value(ctype: CType, ifindex: int) -> bytes:
    """A device map's value: the ifindex, then, where the map has room for one, no program (struct bpf_devmap_val)."""
    return encode(U32, ifindex).ljust(ctype.size, b"\0")
