"""Where a gateway's addresses go, and how large a packet the way to a gateway takes. Asked of the kernel."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sixgate.node.model import Device

AUTO = "auto"
_OVERHEAD = {4: 50, 6: 70}  # outer IP, UDP, VXLAN and the inner Ethernet header
_DEFAULT_MTU = 1500
_MTU_OPTION = {4: (socket.IPPROTO_IP, 14), 6: (socket.IPPROTO_IPV6, 24)}  # IP_MTU, IPV6_MTU
_GLOBAL = 0


def device_for(
    address: str, asked: str, devices: Mapping[str, Device], defaults: Mapping[int, str], node_address: str
) -> str:
    """The device that carries an egress address: the one asked for; else the one whose subnet has it, the one with the
    default route, the one with the node's own address. Empty where there is none."""
    if asked != AUTO:
        return asked if asked in devices else ""
    found = subnet_device(address, sorted(devices.values(), key=lambda device: device.ifindex))
    default = defaults.get(ipaddress.ip_address(address).version, "")
    if found or default in devices:
        return found or default
    holders = (d.name for d in devices.values() if any(seen.address == node_address for seen in d.addresses))
    return next(holders, "")


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
