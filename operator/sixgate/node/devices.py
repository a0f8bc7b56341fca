"""Which devices a name, a pattern or `auto` stands for, and what the data plane is told of devices. Pure."""

from __future__ import annotations

import fnmatch
import ipaddress
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sixgate.node.model import AddressSeen, Device, Observed

AUTO = "auto"
NO_FLAGS: Mapping[int, int] = MappingProxyType({})
PODS = "pods"
_IFA_F_SECONDARY, _IFA_F_DADFAILED, _IFA_F_DEPRECATED, _IFA_F_TENTATIVE = 0x01, 0x08, 0x20, 0x40
_SCOPE_GLOBAL = 0
_ULA = ipaddress.ip_network("fc00::/7")


def match(pattern: str, have: Observed) -> tuple[Device, ...]:
    """Devices in the order of their indexes. Patterns and `auto` leave out loopback and what sixgate made;
    `auto` and `pods` have no device in common."""
    devices = sorted(have.devices.values(), key=lambda device: device.ifindex)
    if pattern == AUTO:
        routed = set(have.defaults.values())
        pods = have.pod_ports.names
        return tuple(d for d in devices if d.name not in pods and _is_uplink(d, d.name in routed))
    if pattern == PODS:
        return tuple(d for d in devices if d.name in have.pod_ports.names)
    if any(char in pattern for char in "*?["):
        return tuple(d for d in devices if not d.loopback and not d.ours and fnmatch.fnmatchcase(d.name, pattern))
    return tuple(d for d in devices if d.name == pattern)


def _is_uplink(device: Device, default_route: bool) -> bool:
    if not device.up or device.loopback or device.port or device.ours:
        return False
    return default_route or any(address.scope == _SCOPE_GLOBAL for address in device.addresses)


def source_address(device: Device, version: int) -> str | None:
    """The address of a device that its own packets should carry: global, usable, and rather not a unique local one."""
    found = [a for a in device.addresses if a.scope == _SCOPE_GLOBAL and _version(a) == version]
    found = [a for a in found if not a.flags & (_IFA_F_DADFAILED | _IFA_F_TENTATIVE)] or found
    return min(found, key=_rank).address if found else None


def _version(address: AddressSeen) -> int:
    return ipaddress.ip_address(address.address).version


def _rank(address: AddressSeen) -> tuple[bool, bool, bool, bytes]:
    parsed = ipaddress.ip_address(address.address)
    return (
        bool(address.flags & _IFA_F_DEPRECATED),
        bool(address.flags & _IFA_F_SECONDARY),
        parsed in _ULA,
        parsed.packed,
    )


def device_table(have: Observed, flags: Mapping[int, int] = NO_FLAGS) -> Mapping[int, dict[str, str | int]]:
    """Contents of `sg_dev` by ifindex, for every device with a global address or with `flags` (`SgDevFlag`). Key 0 is
    for all others: addresses of the device with the default route of the family, else of any device, and the smaller
    MTU of the two."""
    table: dict[int, dict[str, str | int]] = {}
    for device in have.devices.values():
        addresses = {f"addr{version}": source_address(device, version) for version in (4, 6)}
        known = {field: address for field, address in addresses.items() if address}
        if known and not device.loopback:
            table[device.ifindex] = {**known, "mtu": device.mtu}
        if device.ifindex in flags:
            table.setdefault(device.ifindex, {"mtu": device.mtu})["flags"] = flags[device.ifindex]
    default: dict[str, str | int] = {}
    for version in (4, 6):
        field = f"addr{version}"
        routed = have.devices.get(have.defaults.get(version, ""))
        order = ([routed.ifindex] if routed else []) + sorted(table)
        chosen = next((index for index in order if field in table.get(index, {})), None)
        if chosen is not None:
            default[field] = table[chosen][field]
            default["mtu"] = min(int(default.get("mtu", 65535)), int(table[chosen]["mtu"]))
    return {0: default, **table} if default else table
