"""From a NodeConfig to `Desired`: devices are looked up, keys, values and constants encoded. Pure.

What cannot be resolved becomes a Problem of its owners and is left out, and everything else goes on.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sixgate.errors import BpfError
from sixgate.node import devices, resolve_tables
from sixgate.node.bpf.codec import encode
from sixgate.node.carry import map_fields
from sixgate.node.diff import is_ours
from sixgate.node.findings import Findings
from sixgate.node.memo import TableMemo
from sixgate.node.model import (
    AddressWant,
    Desired,
    Device,
    Hook,
    HookWant,
    LinkWant,
    ObjectWant,
    Observed,
    ProgName,
    RouteKey,
    RouteWant,
    SysctlWant,
)
from sixgate.node.numbers import hand_out
from sixgate.node.resolve_bigtcp import choose, passages, resolve_sizes
from sixgate.node.resolve_passage import FORWARDING, with_programs
from sixgate.node.shapes import map_shape

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sixgate.api.nodeconfig import Attachment, BpfObject, Link, MapSetup, NodeConfigSpec
    from sixgate.node.bpf.ctype import MapSpec, Record
    from sixgate.node.resolve_passage import Passages

ATTACHED = "@attached"
BEHIND = "@behind-egress"  # in place of a device's name in an attachment


@dataclass(frozen=True, slots=True)
class ObjectFile:
    """What is known of one object file without loading it."""

    name: str
    digest: str
    programs: tuple[str, ...]
    maps: Mapping[str, MapSpec]
    rodata: Record | None


def resolve(
    spec: NodeConfigSpec, have: Observed, files: Mapping[str, ObjectFile], memo: TableMemo | None = None
) -> Desired:
    """`files` holds every object that `spec` names, digests compared already. `memo` saves time and changes nothing."""
    found = Findings()
    memo = memo or TableMemo()
    objects: list[ObjectWant] = []
    hooks: dict[Hook, HookWant] = {}
    late: list[tuple[BpfObject, Attachment, ObjectWant]] = []
    choices = choose(spec, have, found)
    passing = passages(choices, have)
    setups = {setup.name: setup for item in spec.objects for setup in item.maps}  # of all that share a map
    for item in spec.objects:
        want = _object(item, have, files[item.name], setups, found, memo)
        if want is not None:
            objects.append(want)
            for attachment in item.attachments:
                if FORWARDING in attachment.devices:
                    late.append((item, attachment, want))
                elif BEHIND in attachment.devices:
                    _behind(attachment, have, hooks)
                else:
                    _attachment(item, attachment, want, have, hooks, found)
    for item, attachment, want in late:
        _forwarding(item, attachment, want, have, hooks, passing, found)
    passing = with_programs(passing, hooks, have)
    maps = {name: d for item in spec.objects for name, d in _sized(files[item.name], setups).items()}
    for item in spec.objects:
        for setup in item.maps:
            if setup.name not in maps:
                found.problem(
                    item.owners, "MapMissing", f"Map {setup.name} should be set up, but no wanted object has that map."
                )
    numbers, misfits = hand_out(spec.numbers, have.numbers)
    for misfit in misfits:
        found.problem(misfit.owners, "NumbersExhausted", str(misfit))
    contents = memo.filled(spec.tables, have, numbers, found)
    tables, slots = resolve_tables.resolve_tables(contents, maps, have, tuple(hooks.values()), passing, found, memo)
    held = {name for item in objects for name, _ in item.maps}  # those of an object that failed stay as they are
    return Desired(
        objects=tuple(objects),
        hooks=tuple(hooks.values()),
        tables=tuple(table for table in tables if table.map in held),
        slots=tuple(slot for slot in slots if slot.map in held),
        links=tuple(_links(spec, have, found)),
        addresses=tuple(_addresses(spec, have, found)),
        routes=tuple(_routes(spec, have, found)),
        sysctls=tuple(_sysctls(spec, have, hooks, found)),
        sizes=resolve_sizes(spec, choices, have, replace(passing, tunnelled=_tunnelled(spec, hooks)), found),
        numbers=numbers,
        floating=frozenset(
            address for policy in spec.egress for pair in policy.pairs for address in (pair.ipv4, pair.ipv6) if address
        )
        | frozenset(vip.address for item in spec.balancers for vip in item.vips if vip.announcers)
        | frozenset(each.address for item in spec.announcements for each in item.addresses),
        problems=tuple(found.problems),
        notes=tuple(found.notes),
        frozen=frozenset(found.frozen),
        frozen_maps=frozenset(found.frozen_maps | {resolve_tables.BALANCER_TABLES}),
    )


def _tunnelled(spec: NodeConfigSpec, hooks: Mapping[Hook, HookWant]) -> frozenset[str]:
    """Names of devices from which packets may get into a tunnel of egress: of pods, and of a gateway's uplinks."""
    policies = [policy for policy in spec.egress if policy.transport == "VXLAN"]
    gateway = bool(policies) and any(table.map == "sg_eg_obj" for table in spec.tables)
    programs = {"sg_pod_tc"} if any(policy.pods for policy in policies) else set()
    programs |= {"sg_uplink_tc"} if gateway else set()
    return frozenset(hook.device for hook, want in hooks.items() if want.prog.program in programs)


def _object(  # noqa: PLR0917 - one step of resolve, with what it reads and writes
    item: BpfObject, have: Observed, file: ObjectFile, setups: Mapping[str, MapSetup], found: Findings, memo: TableMemo
) -> ObjectWant | None:
    encoded = hashlib.sha256(item.digest.encode())
    variables = {variable.name: variable.type for variable in file.rodata.fields} if file.rodata else {}
    for name, value in sorted(item.constants.items()):
        if name not in variables:
            known = ", ".join(variables) or "none"
            found.problem(item.owners, "ConstantUnknown", f"Object {item.name} has no constant {name}; it has {known}.")
            found.frozen.add(item.name)
            return None
        try:
            data = encode(variables[name], value, resolve=have.index_of, where=f"constant {name} of {item.name}")
        except BpfError as error:
            found.problem(item.owners, "ConstantInvalid", str(error))
            found.frozen.add(item.name)
            return None
        encoded.update(name.encode() + data)
    maps = _sized(file, setups)
    return ObjectWant(
        name=item.name,
        key=encoded.hexdigest()[:16],
        constants=json.dumps(item.constants, sort_keys=True, separators=(",", ":")),
        programs=file.programs,
        maps=tuple((name, map_shape(definition)) for name, definition in sorted(maps.items())),
        owners=item.owners,
        inner={name: map_shape(d.inner) for name, d in maps.items() if d.inner is not None},
        layouts=memo.layouts(file),
        sizes=tuple((name, maps[name].max_entries) for name in sorted(maps) if maps[name] != file.maps[name]),
        carried={name: map_fields(maps[name]) for name, setup in setups.items() if setup.carry and name in maps},
    )


def _sized(file: ObjectFile, setups: Mapping[str, MapSetup]) -> Mapping[str, MapSpec]:
    """The maps of an object file with the sizes that the NodeConfig gives them, be it with another object: what objects
    share has one size."""
    sizes = {name: setup.max_entries for name, setup in setups.items() if setup.max_entries is not None}
    return {name: replace(d, max_entries=sizes.get(name, d.max_entries)) for name, d in file.maps.items()}


def _attachment(  # noqa: PLR0917 - one step of resolve, with what it reads and writes
    item: BpfObject,
    attachment: Attachment,
    want: ObjectWant,
    have: Observed,
    hooks: dict[Hook, HookWant],
    found: Findings,
) -> None:
    if attachment.program not in want.programs:
        found.problem(
            item.owners,
            "ProgramUnknown",
            f"Object {item.name} has no program {attachment.program}; it has {', '.join(want.programs)}.",
        )
        return
    say = found.problem if attachment.required else found.note
    for pattern in attachment.devices:
        matched = devices.match(pattern, have)
        if not matched and pattern != devices.PODS:
            say(item.owners, "DeviceMissing", _missing(pattern, attachment))
        for device in matched:
            hook = Hook(device.name, attachment.hook)
            prog = ProgName(want.name, attachment.program, want.key)
            new = HookWant(hook, device.ifindex, prog, attachment.required, item.owners, attachment.super_packets)
            old = hooks.get(hook)
            if old is not None and old.prog != prog:
                say(
                    item.owners,
                    "Conflicted",
                    f"{hook} is wanted by {attachment.program} of {item.name} and by {old.prog.program} of "
                    f"{old.prog.object}; one program per hook is supported, and {old.prog.program} has it.",
                )
            elif old is not None:
                hooks[hook] = replace(new, required=old.required or new.required)
            elif (message := _occupied(new, device, have)) is not None:
                say(item.owners, "HookOccupied", message)
            else:
                hooks[hook] = new


def _behind(attachment: Attachment, have: Observed, hooks: dict[Hook, HookWant]) -> None:
    """Runs by a call of the program that has the hook; the keeper of egress makes it known to that one."""
    for device in devices.match(devices.PODS, have):
        hook = Hook(device.name, attachment.hook)
        if hook in hooks:
            hooks[hook] = replace(hooks[hook], super_packets=attachment.super_packets)


def _forwarding(  # noqa: PLR0917 - as _attachment
    item: BpfObject,
    attachment: Attachment,
    want: ObjectWant,
    have: Observed,
    hooks: dict[Hook, HookWant],
    passing: Passages,
    found: Findings,
) -> None:
    """Attaches to devices whose super-packets are to be redirected, unless a program that is there does it itself."""
    by_index = {device.ifindex: device.name for device in have.devices.values()}
    names = tuple(by_index[i] for i in passing.wanted)
    free = tuple(name for name in names if Hook(name, attachment.hook) not in hooks)
    if free:
        _attachment(item, attachment.model_copy(update={"devices": free}), want, have, hooks, found)


def _missing(pattern: str, attachment: Attachment) -> str:
    if pattern == devices.AUTO:
        return (
            f"{attachment.program} should be attached to every uplink, but no device is up with a global address or a "
            "default route."
        )
    if any(char in pattern for char in "*?["):
        return f"{attachment.program} should be attached to devices like {pattern}, but none is there."
    return f"{attachment.program} should be attached to {pattern}, but this node has no such device."


def _occupied(want: HookWant, device: Device, have: Observed) -> str | None:
    """A sentence if a hook must not be touched: a program of ours that is not pinned here, or a foreign XDP program."""
    pin = have.links.get(want.hook)
    pinned = pin if pin is not None and pin.ifindex == device.ifindex else None
    for seen in have.attached.get(want.hook, ()):
        is_pinned = pinned is not None and (
            seen.link_id == pinned.link_id or (want.hook.hook == "xdp" and seen.prog_id == pinned.prog_id)
        )
        if seen.clsact or is_pinned:
            continue
        if is_ours(have, seen.prog_id):
            by = f" through link {seen.link_id}" if seen.link_id else ""
            return (
                f"{want.hook} already runs program {seen.prog_id} of sixgate{by}, which is not pinned in this bpffs "
                "directory: another bpffs was probably mounted over the first. Unmount it; until then no second "
                "program is attached."
            )
        if want.hook.hook == "xdp":
            return (
                f"{want.hook} runs program {seen.prog_id} of somebody else, which is left alone; "
                "tc does the work there."
            )
    return None


def _links(spec: NodeConfigSpec, have: Observed, found: Findings) -> Iterator[LinkWant]:
    """Two features may want the same device: it is one, for the objects of both."""
    asked: dict[tuple[str, str, str | None, int, bool], Link] = {}
    for each in spec.links:
        key = (each.name, each.kind, each.peer, each.mtu, each.offloads)
        both = (*asked[key].owners, *each.owners) if key in asked else each.owners
        asked[key] = each.model_copy(update={"owners": tuple(dict.fromkeys(both))})
    for item in asked.values():
        foreign = [n for n in (item.name, item.peer) if n and n in have.devices and not have.devices[n].ours]
        if foreign:
            found.problem(
                item.owners,
                "DeviceForeign",
                f"Device {foreign[0]} should be made by sixgate, but a device of that name made by somebody else is "
                "there.",
            )
        elif item.kind == "veth" and not item.peer:
            found.problem(item.owners, "PeerMissing", f"Device {item.name} of kind veth needs the name of a peer.")
        else:
            yield LinkWant(item.name, item.kind, item.peer or "", item.mtu, item.offloads, item.owners)


def _addresses(spec: NodeConfigSpec, have: Observed, found: Findings) -> Iterator[AddressWant]:
    coming = {name for link in spec.links for name in (link.name, link.peer)}
    for item in spec.addresses:
        try:
            address = resolve_tables.interface(item.address)
        except ValueError as error:
            found.problem(item.owners, "AddressInvalid", f"{item.address} on {item.device} is no address: {error}.")
            continue
        if item.device not in have.devices and item.device not in coming:
            found.problem(
                item.owners,
                "DeviceMissing",
                f"{item.address} should be an address of {item.device}, but this node has no such device.",
            )
        else:
            yield AddressWant(item.device, str(address.ip), address.network.prefixlen, item.owners)


def _routes(spec: NodeConfigSpec, have: Observed, found: Findings) -> Iterator[RouteWant]:
    coming = {name for link in spec.links for name in (link.name, link.peer)}
    for item in spec.routes:
        try:
            destination, via = resolve_tables.network(item.destination), resolve_tables.hop(item.via)
        except ValueError as error:
            found.problem(item.owners, "RouteInvalid", f"The route to {item.destination} cannot be read: {error}.")
            continue
        if item.device and item.device not in have.devices and item.device not in coming:
            found.problem(
                item.owners,
                "DeviceMissing",
                f"The route to {destination} should leave through {item.device}, but this node has no such device.",
            )
            continue
        device = item.device if item.kind == "unicast" and item.device else ""
        key = RouteKey(str(destination), device, via, item.table, item.mtu or 0, item.kind)
        yield RouteWant(key, item.owners)


def _sysctls(
    spec: NodeConfigSpec, have: Observed, hooks: Mapping[Hook, HookWant], found: Findings
) -> Iterator[SysctlWant]:
    # A pod's device is its CNI's; a program that only forwards is attached where the kernel does, and asks for nothing.
    asking = {hook.device for hook, want in hooks.items() if want.required or want.super_packets != "Forwarded"}
    attached = sorted(asking - have.pod_ports.names)
    wanted: dict[str, SysctlWant] = {}
    for item in spec.sysctls:
        parts = item.key.split("/")
        if any(part in (".", "..") for part in parts):
            found.problem(item.owners, "SysctlInvalid", f"Sysctl {item.key} is no plain path.")
            continue
        names = attached if ATTACHED in parts else [""]
        for name in names:
            path = "/".join(name if part == ATTACHED else part for part in parts)
            if path in have.sysctls and have.sysctls[path] is None:
                found.problem(item.owners, "SysctlMissing", f"Sysctl {path} should be {item.value}, but is not there.")
            elif path in wanted and wanted[path].value != item.value:
                found.problem(
                    item.owners,
                    "Conflicted",
                    f"Sysctl {path} should be {item.value}, but {', '.join(wanted[path].owners) or 'another item'} "
                    f"wants {wanted[path].value}, which it keeps.",
                )
            else:
                wanted[path] = SysctlWant(path, " ".join(item.value.split()), item.owners)
    yield from wanted.values()
