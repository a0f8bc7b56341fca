"""Which devices lead to pods, and to which address, as the kernel tells. Traffic is never believed."""

from __future__ import annotations

import ipaddress
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from sixgate.node import rtlink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Set

    from sixgate.node.model import Device

ROLE_PORT, ROLE_BRIDGE, ROLE_TRUSTED = 1, 2, 3  # enum sg_eg_role
_KINDS = frozenset({"veth", "netkit"})
_GLOBAL = 0  # scope of an address
_AGAIN_S = 10.0  # after which a pod's network namespace is asked again
_AT_ONCE = 64  # namespaces that are asked again in one look


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
    return PortFinder().find(devices, host_routed, defaults)


@dataclass(slots=True)
class PortFinder:
    """Finds ports again and again; a device is thought about where it, its bridge, or its having a route is not as it
    was."""

    _ways_out: frozenset[str] = frozenset()
    _known: dict[int, tuple[Device, Device | None, bool, bool, str]] = field(default_factory=dict)

    def find(self, devices: Mapping[str, Device], host_routed: Set[int], defaults: Iterable[str]) -> Ports:
        ways_out = frozenset(defaults)
        before = self._known if ways_out == self._ways_out else {}
        by_index = {device.ifindex: device for device in devices.values() if device.kind not in _KINDS}
        self._ways_out, self._known = ways_out, {}
        pods: set[str] = set()
        bridges: set[str] = set()
        for device in devices.values():
            if device.kind not in _KINDS:
                continue
            index = device.ifindex
            master, routed = by_index.get(device.master), index in host_routed
            known = before.get(index)
            if known is None or known[0] is not device or known[1] is not master or known[2] is not routed:
                leads, bridge = _leads_to_pod(device, master, ways_out, routed=routed)
                known = (device, master, routed, leads, bridge)
            self._known[index] = known
            if known[3]:
                pods.add(device.name)
                if known[4]:
                    bridges.add(known[4])
        return Ports(frozenset(pods), frozenset(bridges))


def _leads_to_pod(device: Device, master: Device | None, ways_out: Set[str], *, routed: bool) -> tuple[bool, str]:
    """Whether a device leads to a pod, and the name of the bridge that is in between, if one is."""
    if device.netnsid < 0 or device.ours or device.name in ways_out:
        return False, ""
    if master is not None and master.name in ways_out:
        return False, ""
    if not (device.port or routed or not any(address.scope == _GLOBAL for address in device.addresses)):
        return False, ""
    return True, master.name if device.port and master is not None and master.kind == "bridge" else ""


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
                claims.setdefault(text_of(packed), set()).add(index)
    bound: dict[str, int] = {}
    for address, indexes in claims.items():
        if len(indexes) == 1:
            bound[address] = next(iter(indexes))
        elif before.get(address) in indexes:
            bound[address] = before[address]
    return bound | routed(devices, pods, host_routes)


def routed(devices: Mapping[str, Device], pods: Set[str], host_routes: Mapping[bytes, int]) -> dict[str, int]:
    """The part of `bind` that routes tell."""
    indexes = {devices[name].ifindex for name in pods}
    return {text_of(packed): index for packed, index in host_routes.items() if index in indexes}


@lru_cache(maxsize=65536)
def text_of(packed: bytes) -> str:
    """Canonical text of an address."""
    return str(ipaddress.ip_address(packed))


@dataclass(slots=True)
class Inside:
    """What addresses there are in the network namespaces of pods: one that has any is asked once, and again after a
    while, few at a time. `overdue` says that some are left to be asked."""

    overdue: bool = False
    _known: dict[tuple[int, tuple[int, ...]], tuple[float, tuple[tuple[int, bytes], ...]]] = field(default_factory=dict)
    _behind: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _left: int = 0

    def begin(self, devices: Iterable[Device]) -> None:
        """A look at these devices begins. Their indexes are never used again, so a namespace that gets the number of a
        dead one is asked anew."""
        self._behind, self._left, self.overdue = {}, _AT_ONCE, False
        for device in sorted(devices, key=lambda device: device.ifindex):
            self._behind[device.netnsid] = (*self._behind.get(device.netnsid, ()), device.ifindex)
        alive = set(self._behind.items())
        if len(self._known) > len(alive):
            self._known = {key: known for key, known in self._known.items() if key in alive}

    def addresses(self, netnsid: int) -> tuple[tuple[int, bytes], ...]:
        """Index and packed address of everything that the namespace of this number has."""
        key, now = (netnsid, self._behind[netnsid]), time.monotonic()
        asked, found = self._known.get(key, (now, ()))
        stale = bool(found) and now - asked >= _AGAIN_S
        if found and (not stale or not self._left):
            self.overdue = self.overdue or stale
            return found
        if stale:
            self._left -= 1
        self._known[key] = (now, rtlink.addresses_in(netnsid))
        return self._known[key][1]
