"""Where a gateway's addresses go, and how large a packet the way to a gateway takes. Asked of the kernel."""

from __future__ import annotations

import contextlib
import fnmatch
import ipaddress
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sixgate.node.model import Device

AUTO = "auto"
_OVERHEAD = {4: 50, 6: 70}  # outer IP, UDP, VXLAN and the inner Ethernet header
_DEFAULT_MTU = 1500
_MTU_OPTION = {4: (socket.IPPROTO_IP, 14), 6: (socket.IPPROTO_IPV6, 24)}  # IP_MTU, IPV6_MTU
_GLOBAL = 0


def device_for(
    address: str, asked: str, devices: Mapping[str, Device], defaults: Mapping[int, str], node_address: str
) -> str:
    """The device that carries an egress address: the one asked for; with `auto`, and among those that a pattern stands
    for, the one whose subnet has it, the one with the default route, the one with the node's own address, and of a
    pattern's at last the first. Empty where there is none."""
    if asked in devices:
        return asked
    able = sorted(_asked_for(asked, devices.values()), key=lambda device: device.ifindex)
    names = [device.name for device in able]
    found, default = subnet_device(address, able), defaults.get(ipaddress.ip_address(address).version, "")
    if found or default in names:
        return found or default
    holders = [device.name for device in able if any(seen.address == node_address for seen in device.addresses)]
    return next(iter(holders or (names if asked != AUTO else ())), "")


def _asked_for(asked: str, devices: Iterable[Device]) -> Iterator[Device]:
    for device in devices:
        if asked == AUTO or (not device.loopback and not device.ours and fnmatch.fnmatchcase(device.name, asked)):
            yield device


def subnet_device(address: str, devices: Iterable[Device]) -> str:
    """The first of `devices` that has a subnet with the address, where others may ask for it; empty without one."""
    parsed = ipaddress.ip_address(address)
    for device in devices:
        for seen in device.addresses:
            own = ipaddress.ip_interface(f"{seen.address}/{seen.prefix_len}")
            shared = own.network.prefixlen < own.max_prefixlen and seen.scope == _GLOBAL
            if shared and not device.loopback and own.version == parsed.version and parsed in own.network:
                return device.name
    return ""


def path_mtu(gateway: str) -> int:
    """Bytes of layer 3 on the way to `gateway`, as the kernel knows it."""
    version = ipaddress.ip_address(gateway).version
    mtu = _DEFAULT_MTU
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((gateway, 9))
        mtu = probe.getsockopt(*_MTU_OPTION[version])
    return mtu


def tunnel_mtu(gateway: str) -> int:
    """The same inside a tunnel, less its headers."""
    return path_mtu(gateway) - _OVERHEAD[ipaddress.ip_address(gateway).version]
