"""Which devices lead to pods, and to which address, as the kernel tells. Traffic is never believed."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Set

    from sixgate.node.model import Device

ROLE_PORT, ROLE_BRIDGE, ROLE_TRUSTED = 1, 2, 3  # enum sg_eg_role
_KINDS = frozenset({"veth", "netkit"})
_GLOBAL = 0  # scope of an address


@dataclass(frozen=True, slots=True)
class Ports:
    """Names of devices: those whose other end is in a pod, and the bridges that join such."""

    pods: frozenset[str] = frozenset()
    bridges: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        return self.pods | self.bridges


def find_ports(devices: Mapping[str, Device], host_routed: Set[int], defaults: Iterable[str]) -> Ports:
    """A veth or netkit whose other end is in another network namespace leads to a pod, unless it is this machine's own
    way out: then it has the default route, or an address and no host route, and is in no bridge."""
    by_index = {device.ifindex: device for device in devices.values()}
    ways_out = set(defaults)
    pods: set[str] = set()
    bridges: set[str] = set()
    for device in devices.values():
        if device.kind not in _KINDS or device.netnsid < 0 or device.ours or device.name in ways_out:
            continue
        master = by_index.get(device.master)
        addressed = any(address.scope == _GLOBAL for address in device.addresses)
        if master is not None and master.name in ways_out:
            continue
        if device.port or device.ifindex in host_routed or not addressed:
            pods.add(device.name)
            if device.port and master is not None and master.kind == "bridge":
                bridges.add(master.name)
    return Ports(frozenset(pods), frozenset(bridges))


def bind(
    devices: Mapping[str, Device],
    pods: Set[str],
    host_routes: Mapping[bytes, int],
    inside: Callable[[int], Iterable[tuple[int, bytes]]],
    before: Mapping[str, int],
) -> dict[str, int]:
    """Pod address to the ifindex of the device that leads to it.

    `inside` tells index and packed address of everything in another namespace by its number, `host_routes` ifindex by
    packed address. A host route decides; else the device whose other end has the address; of several the one that had
    it `before`, and none where nobody had.
    """
    by_index = {devices[name].ifindex: devices[name] for name in pods}
    claims: dict[str, set[int]] = {}
    asked: dict[int, tuple[tuple[int, bytes], ...]] = {}
    for index, device in by_index.items():
        if device.netnsid not in asked:
            asked[device.netnsid] = tuple(inside(device.netnsid))
        for there, packed in asked[device.netnsid]:
            if there == device.lower:
                claims.setdefault(str(ipaddress.ip_address(packed)), set()).add(index)
    bound: dict[str, int] = {}
    for address, indexes in claims.items():
        if len(indexes) == 1:
            bound[address] = next(iter(indexes))
        elif before.get(address) in indexes:
            bound[address] = before[address]
    for packed, index in host_routes.items():
        if index in by_index:
            bound[str(ipaddress.ip_address(packed))] = index
    return bound
