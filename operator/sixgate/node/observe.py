"""Reads what a node has: pins under bpffs, hooks, maps, devices, routes, sysctls, and the state directory."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from sixgate.node import names, netfilter, offloads, pods, resolve_tables, rtlink, sysctls, xdp_features
from sixgate.node.bpf import info
from sixgate.node.bpf.codec import Codec
from sixgate.node.bpf.ctype import Raw
from sixgate.node.bpf.map import Map
from sixgate.node.bpf.probe import has_tcx
from sixgate.node.devices import PODS
from sixgate.node.egress.ports import Ports, find_ports
from sixgate.node.host_ports import OWN_TABLE, read_host_ports
from sixgate.node.mirror import Mirror
from sixgate.node.model import (
    Attached,
    Contents,
    Device,
    Hook,
    Kernel,
    MapPin,
    Observed,
    Pod,
    Remembered,
    SizeKey,
    Sizes,
    SlotSeen,
)
from sixgate.node.resolve import ATTACHED
from sixgate.node.resolve_passage import LEGACY_BYTES
from sixgate.node.sight import Sight

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
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


def observe(
    spec: NodeConfigSpec, options: NodeOptions, netlink: Netlink, state: StateDir, sight: Sight | None = None
) -> Observed:
    """All that is needed to compare with `spec`. Contents are read of the maps that `spec` or the node fills. With
    `sight`, devices and their hooks are asked about where something has changed since it saw them."""
    if sight is None:
        with Sight(options.bpffs) as fresh:
            return observe(spec, options, netlink, state, fresh)
    sight.look(spec)
    mirror = sight.mirror
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
    by_index = mirror.names
    defaults = {f: by_index[i] for f, i in mirror.defaults.items() if i in by_index}
    ports = sight.ports(defaults.values()) if _asks_for_pods(spec) else Ports()
    found, quiet = sight.devices()
    if any(device.xdp for device in found.values()) or any(
        a.hook == "xdp" for o in spec.objects for a in o.attachments
    ):
        transmit = xdp_features.transmitters()
        found = {
            n: replace(d, xdp_transmit=None if transmit is None else d.ifindex in transmit) for n, d in found.items()
        }
    maps = dict(sight.maps())
    filled = {table.map for table in spec.tables} | remembered.tables | set(resolve_tables.NODE_MAPS)
    plain = [pin for pin in maps.values() if names.map_name(pin.pin) in filled and not pin.shape.is_outer]
    outer = [
        pin for pin in maps.values() if pin.shape.is_outer and names.map_name(pin.pin) != resolve_tables.BALANCER_TABLES
    ]
    return Observed(
        kernel=kernel,
        devices=found,
        quiet=quiet,
        defaults=defaults,
        maps=maps,
        programs=dict(sight.programs()),
        links=dict(sight.links()),
        attached=_attached(found, netlink, kernel, remembered, sight),
        entries={pin.pin: _entries(options.bpffs, pin.pin, sight) for pin in plain},
        slots={pin.pin: tuple(_slots(options.bpffs, pin)) for pin in outer},
        inner=tuple(sight.inner()),
        routes=netlink.routes(by_index),
        sysctls={path: sysctls.read(path) for path in _sysctl_paths(spec, found.keys() - ports.names)},
        offloads={name: offloads.still_on(name) for name in _silent(spec, found)},
        remembered=remembered,
        forwards6=rtlink.forwarding6() if spec.big_tcp else frozenset(),
        shaped=_shaped(netlink, remembered, found) if spec.big_tcp else frozenset(),
        rules6=netfilter.forward_rules6() if spec.big_tcp else (),
        pods=_pods_of(spec, options, found, kernel, originals),
        originals=originals,
        pod_ports=ports,
        numbers=state.numbers(),
        host_ports=read_host_ports() if any(table.map == OWN_TABLE for table in spec.tables) else None,
    )


def observe_devices(spec: NodeConfigSpec, options: NodeOptions) -> Observed:
    """Devices, and what `devices.match` has to know of them; nothing of BPF."""
    with Mirror() as mirror:
        mirror.look()
    by_index = mirror.names
    defaults = {f: by_index[i] for f, i in mirror.defaults.items() if i in by_index}
    ports = Ports()
    if _asks_for_pods(spec):
        ports = find_ports(mirror.devices, set(mirror.host_routes.values()), defaults.values())
    kernel = Kernel(os.uname().release, bool(options.tcx))
    return Observed(kernel=kernel, devices=mirror.devices, defaults=defaults, pod_ports=ports)


def _asks_for_pods(spec: NodeConfigSpec) -> bool:
    return any(PODS in attachment.devices for item in spec.objects for attachment in item.attachments)


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


def _attached(
    devices: dict[str, Device], netlink: Netlink, kernel: Kernel, remembered: Remembered, sight: Sight
) -> dict[Hook, tuple[Attached, ...]]:
    """Every program on every hook, as the hooks themselves tell; of clsact filters only ours."""
    found: dict[Hook, tuple[Attached, ...]] = {}
    asked = remembered.filters if kernel.tcx else frozenset(devices)
    clsact = netlink.clsact_devices() if asked else frozenset()
    for device in devices.values():
        if device.xdp:
            found[Hook(device.name, "xdp")] = device.xdp
        filters = {}
        if device.ifindex in clsact and device.name in asked:
            filters = netlink.filters(device.ifindex)
        tcx = sight.tcx(device.ifindex)
        for hook in _TC_HOOKS if tcx or filters else ():
            programs = (*tcx.get(hook, ()), *filters.get(hook, ()))
            if programs:
                found[Hook(device.name, hook)] = programs
    return found


def _entries(root: Path, pin: str, sight: Sight) -> Contents:
    with open_raw(root / pin) as found:
        if names.map_name(pin) not in resolve_tables.NODE_MAPS:
            return tuple(sorted(found.lookup_batch()))
        entries = dict(found.lookup_batch())
    return tuple((key, entries[key]) for key in sorted(entries.keys() - sight.quiet_keys()))


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
