"""Reads what a node has: pins under bpffs, hooks, maps, devices, routes, sysctls, and the state directory."""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from sixgate.errors import BpfError
from sixgate.node import names, netfilter, offloads, pods, resolve_tables, rtlink, sysctls, xdp_features
from sixgate.node.bpf import info
from sixgate.node.bpf.codec import Codec
from sixgate.node.bpf.ctype import Raw
from sixgate.node.bpf.map import Map
from sixgate.node.bpf.probe import has_tcx
from sixgate.node.devices import PODS
from sixgate.node.egress.ports import Ports, find_ports
from sixgate.node.host_ports import OWN_TABLE, read_host_ports
from sixgate.node.model import (
    Attached,
    Contents,
    Device,
    Hook,
    InnerPin,
    Kernel,
    LinkPin,
    MapPin,
    MapShape,
    Observed,
    Pod,
    ProgName,
    ProgPin,
    Remembered,
    SizeKey,
    Sizes,
    SlotSeen,
)
from sixgate.node.resolve import ATTACHED
from sixgate.node.resolve_passage import LEGACY_BYTES
from sixgate.node.shapes import normal_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from sixgate.api.nodeconfig import NodeConfigSpec
    from sixgate.node.netlink import Netlink
    from sixgate.node.options import NodeOptions
    from sixgate.node.statedir import StateDir

_PLAIN_QDISCS = frozenset({"noqueue", "ingress", "mq", "fq", "fq_codel", "pfifo", "pfifo_fast"})
_TC_HOOKS = ("tc-ingress", "tc-egress")
_T = TypeVar("_T")


def open_raw(path: Path) -> Map:
    """A pinned map whose keys and values are bytes; BpfError with ENOENT where there is none."""
    fd = info.open_pin(path, "map")
    found = info.map_info(fd)
    return Map(fd, Codec(Raw(found.key_size), Raw(found.value_size), map_name=path.name), path.name)


def observe(spec: NodeConfigSpec, options: NodeOptions, netlink: Netlink, state: StateDir) -> Observed:
    """All that is needed to compare with `spec`. Contents are read of the maps that `spec` or the node fills."""
    remembered = state.remembered()
    tested = state.tested()
    kernel = Kernel(
        os.uname().release,
        has_tcx() if options.tcx is None else options.tcx,
        sys_admin=pods.may_enter(),
        forwards_big6=tested.forwards_ipv6,
        tunnels_big=tested.tunnels,
    )
    originals = state.original_sizes()
    found = netlink.devices()
    if any(device.xdp_id for device in found.values()) or any(
        a.hook == "xdp" for o in spec.objects for a in o.attachments
    ):
        transmit = xdp_features.transmitters()
        found = {
            n: replace(d, xdp_transmit=None if transmit is None else d.ifindex in transmit) for n, d in found.items()
        }
    by_index = {device.ifindex: device.name for device in found.values()}
    defaults = {f: by_index[i] for f, i in netlink.default_devices().items() if i in by_index}
    maps = dict(_maps(options.bpffs))
    filled = {table.map for table in spec.tables} | remembered.tables | set(resolve_tables.NODE_MAPS)
    plain = [pin for pin in maps.values() if names.map_name(pin.pin) in filled and not pin.shape.is_outer]
    outer = [
        pin for pin in maps.values() if pin.shape.is_outer and names.map_name(pin.pin) != resolve_tables.BALANCER_TABLES
    ]
    return Observed(
        kernel=kernel,
        devices=found,
        defaults=defaults,
        maps=maps,
        programs=dict(_programs(options.bpffs)),
        links=dict(_links(options.bpffs)),
        attached=_attached(found, netlink, kernel, remembered),
        entries={pin.pin: _entries(options.bpffs / pin.pin) for pin in plain},
        slots={pin.pin: tuple(_slots(options.bpffs, pin)) for pin in outer},
        inner=tuple(_inner(options.bpffs)),
        routes=netlink.routes(by_index),
        sysctls={path: sysctls.read(path) for path in _sysctl_paths(spec, found)},
        offloads={name: offloads.still_on(name) for name in _silent(spec, found)},
        remembered=remembered,
        forwards6=rtlink.forwarding6() if spec.big_tcp else frozenset(),
        shaped=_shaped(netlink, remembered, found) if spec.big_tcp else frozenset(),
        rules6=netfilter.forward_rules6() if spec.big_tcp else (),
        pods=_pods_of(spec, options, found, kernel, originals),
        originals=originals,
        pod_ports=_pod_ports(spec, found, defaults),
        numbers=state.numbers(),
        host_ports=read_host_ports() if any(table.map == OWN_TABLE for table in spec.tables) else None,
    )


def observe_devices(spec: NodeConfigSpec, options: NodeOptions, netlink: Netlink) -> Observed:
    """Devices, and what `devices.match` has to know of them; nothing of BPF."""
    found = netlink.devices()
    by_index = {device.ifindex: device.name for device in found.values()}
    defaults = {f: by_index[i] for f, i in netlink.default_devices().items() if i in by_index}
    kernel = Kernel(os.uname().release, bool(options.tcx))
    return Observed(kernel=kernel, devices=found, defaults=defaults, pod_ports=_pod_ports(spec, found, defaults))


def _pod_ports(spec: NodeConfigSpec, devices: Mapping[str, Device], defaults: Mapping[int, str]) -> Ports:
    if not any(PODS in attachment.devices for item in spec.objects for attachment in item.attachments):
        return Ports()
    return find_ports(devices, set(rtlink.host_routes().values()), defaults.values())


def _shaped(netlink: Netlink, remembered: Remembered, devices: Mapping[str, Device]) -> frozenset[int]:
    """Devices with a clsact qdisc of somebody else's, or with one at the root that does more than queue."""
    ours = {devices[name].ifindex for name in remembered.qdiscs if name in devices}
    return frozenset(
        index
        for index, kind in netlink.qdiscs()
        if kind not in _PLAIN_QDISCS and (kind != "clsact" or index not in ours)
    )


def _pods_of(
    spec: NodeConfigSpec,
    options: NodeOptions,
    devices: dict[str, Device],
    kernel: Kernel,
    originals: Mapping[SizeKey, Sizes],
) -> tuple[Pod, ...]:
    """What devices lead to: looked at where sizes of IPv6 are wanted, and where a pod's own sizes were changed."""
    elsewhere = {device.netnsid for device in devices.values() if device.netnsid >= 0}
    asked = any(item.pods == "Live" or (item.ipv6_size or 0) > LEGACY_BYTES for item in spec.big_tcp)
    if not elsewhere or not kernel.sys_admin or not (asked or any(key.netns for key in originals)):
        return ()
    return pods.find(options.netns_dirs, elsewhere)


def _pins(directory: Path, read: Callable[[Path], _T]) -> Iterator[_T]:
    """What `read` makes of each pin; one that vanishes meanwhile is passed over."""
    if not directory.is_dir():
        return
    for path in sorted(directory.iterdir()):
        try:
            yield read(path)
        except BpfError as error:
            if path.exists():
                raise
            del error


def _maps(root: Path) -> Iterator[tuple[str, MapPin]]:
    for directory in (names.MAPS, names.NEW_MAPS):
        for path, map_info in _pins(root / directory, lambda path: (path, _map_info(path))):
            pin = f"{directory}/{path.name}"
            yield pin, MapPin(pin, map_info.id, _shape(map_info))


def _inner(root: Path) -> Iterator[InnerPin]:
    for path, map_info in _pins(root / names.INNER, lambda path: (path, _map_info(path))):
        parts = names.split(path.name)
        if len(parts) == 3:
            yield InnerPin(parts[0], parts[1], parts[2], map_info.id, _shape(map_info))


def _map_info(path: Path) -> info.MapInfo:
    fd = info.open_pin(path, "map")
    try:
        return info.map_info(fd)
    finally:
        os.close(fd)


def _shape(found: info.MapInfo) -> MapShape:
    return normal_shape(found.type, found.key_size, found.value_size, found.max_entries, found.flags)


def _programs(root: Path) -> Iterator[tuple[ProgName, ProgPin]]:
    def read(path: Path) -> tuple[Path, info.ProgInfo]:
        fd = info.open_pin(path, "program")
        try:
            return path, info.prog_info(fd)
        finally:
            os.close(fd)

    for path, found in _pins(root / names.PROGS, read):
        parts = names.split(path.name)
        if len(parts) == 3:
            name = ProgName(*parts)
            yield name, ProgPin(name, found.id, found.map_ids)


def _links(root: Path) -> Iterator[tuple[Hook, LinkPin]]:
    def read(path: Path) -> tuple[Path, info.LinkInfo]:
        fd = info.open_pin(path, "link")
        try:
            return path, info.link_info(fd)
        finally:
            os.close(fd)

    for path, found in _pins(root / names.LINKS, read):
        parts = names.split(path.name)
        if len(parts) == 2:
            hook = Hook(*parts)
            yield hook, LinkPin(hook, found.id, found.prog_id, found.ifindex)


def _attached(
    devices: dict[str, Device], netlink: Netlink, kernel: Kernel, remembered: Remembered
) -> dict[Hook, tuple[Attached, ...]]:
    """Every program on every hook, as the hooks themselves tell; of clsact filters only ours."""
    found: dict[Hook, tuple[Attached, ...]] = {}
    clsact = netlink.clsact_devices()
    xdp = netlink.xdp_attached()
    for device in devices.values():
        if device.ifindex in xdp:
            found[Hook(device.name, "xdp")] = xdp[device.ifindex]
        filters = {}
        if device.ifindex in clsact and (not kernel.tcx or device.name in remembered.filters):
            filters = netlink.filters(device.ifindex)
        for hook in _TC_HOOKS:
            programs = (*_tcx(device.ifindex, hook), *filters.get(hook, ()))
            if programs:
                found[Hook(device.name, hook)] = programs
    return found


def _tcx(ifindex: int, hook: str) -> Iterator[Attached]:
    """tcx programs, also where clsact is forced: one of ours may be left there."""
    try:
        for seen in info.query_tcx(ifindex, "tc-ingress" if hook == "tc-ingress" else "tc-egress")[0]:
            yield Attached(prog_id=seen.prog_id, link_id=seen.link_id)
    except BpfError as error:
        # Gone since the devices were listed: the event of that brings us here again.
        if error.errno != errno.ENODEV:
            raise


def _entries(path: Path) -> Contents:
    with open_raw(path) as found:
        return tuple(sorted(found.lookup_batch()))


def _slots(root: Path, pin: MapPin) -> Iterator[SlotSeen]:
    with open_raw(root / pin.pin) as found:
        for key, value in found.lookup_batch():
            inner_id = int.from_bytes(value[:4], sys.byteorder)
            if inner_id:
                yield SlotSeen(names.map_name(pin.pin), key, inner_id)


def _sysctl_paths(spec: NodeConfigSpec, devices: Iterable[str]) -> Iterator[str]:
    for item in spec.sysctls:
        parts = item.key.split("/")
        if any(part in (".", "..") for part in parts):
            continue
        for name in devices if ATTACHED in parts else ("",):
            yield "/".join(name if part == ATTACHED else part for part in parts)


def _silent(spec: NodeConfigSpec, devices: dict[str, Device]) -> Iterator[str]:
    for link in spec.links:
        if not link.offloads:
            yield from (name for name in (link.name, link.peer) if name and name in devices)
