"""The gateway lab: IPv6-only and IPv4-only hosts around one gateway.

    client6 ─┐            ┌─ server4      IPv6 hosts hold IPv4-translatable addresses of 2001:db8:64::/96
             ├──  gw  ────┤               (RFC 6052 2.1): 2001:db8:64::c633:640a is 198.51.100.10 to the IPv4 side.
    server6 ─┘            └─ client4      IPv4 hosts live in 203.0.113.0/24. No host has an address of both families.

Every host has one device, `up`, and a default route to the gateway; the gateway's device towards a host bears the
host's name. The kernel of the gateway forwards both families, and knows no way between them.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from e2e.lab.run import LabRun

PREFIX = ipaddress.IPv6Network("2001:db8:64::/96")
TRANSLATABLE = ipaddress.IPv4Network("198.51.100.0/24")
GATEWAY = "gw"


def embed(address: ipaddress.IPv4Address) -> ipaddress.IPv6Address:
    """The IPv6 address that stands for an IPv4 address under the lab's prefix."""
    return ipaddress.IPv6Address(int(PREFIX.network_address) | int(address))


@dataclass(frozen=True, slots=True)
class Host:
    """An end system with one address of one family; `ipv4` is what it is called on the IPv4 side, whatever it has."""

    role: str
    family: int
    ipv4: ipaddress.IPv4Address
    gateway_address: str  # of the gateway on this link, with prefix length

    @property
    def ipv6(self) -> ipaddress.IPv6Address:
        """What it is called on the IPv6 side."""
        return embed(self.ipv4)

    @property
    def address(self) -> str:
        """The one address that the host really has."""
        return str(self.ipv6 if self.family == 6 else self.ipv4)

    @property
    def gateway(self) -> str:
        """The gateway's address on this link."""
        return self.gateway_address.split("/")[0]

    def seen_from(self, family: int) -> str:
        """The address by which hosts of `family` reach it."""
        return str(self.ipv6 if family == 6 else self.ipv4)


CLIENT6 = Host("client6", 6, ipaddress.IPv4Address("198.51.100.10"), "2001:db8:6:1::1/64")
SERVER6 = Host("server6", 6, ipaddress.IPv4Address("198.51.100.20"), "2001:db8:6:2::1/64")
SERVER4 = Host("server4", 4, ipaddress.IPv4Address("203.0.113.20"), "203.0.113.1/25")
CLIENT4 = Host("client4", 4, ipaddress.IPv4Address("203.0.113.140"), "203.0.113.129/25")
HOSTS = (CLIENT6, SERVER6, SERVER4, CLIENT4)


def build_gateway(lab: LabRun) -> None:
    """Makes the gateway's namespace with forwarding on and ICMP errors unlimited."""
    lab.add_netns(GATEWAY)
    for key in ("ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding", "ipv6/conf/default/forwarding"):
        lab.sysctl(GATEWAY, f"net/{key}", "1")
    lab.sysctl(GATEWAY, "net/ipv4/icmp_ratelimit", "0")
    lab.sysctl(GATEWAY, "net/ipv6/icmp/ratelimit", "0")


def add_host(lab: LabRun, host: Host, mtu: int = 1500) -> None:
    """Makes a host's namespace and joins it to the gateway."""
    lab.add_netns(host.role)
    lab.add_veth(host.role, "up", GATEWAY, host.role, mtu)
    up, down = lab.device("up"), lab.device(host.role)
    if host.family == 6:
        lab.ip(
            GATEWAY,
            f"addr add fe80::1/64 dev {down} nodad",
            f"addr add {host.gateway_address} dev {down} nodad",
            f"route add {host.address}/128 dev {down}",
        )
        lab.ip(host.role, f"addr add {host.address}/128 dev {up} nodad", f"route add default via fe80::1 dev {up}")
    else:
        length = host.gateway_address.split("/")[1]
        lab.ip(GATEWAY, f"addr add {host.gateway_address} dev {down}")
        lab.ip(host.role, f"addr add {host.address}/{length} dev {up}", f"route add default via {host.gateway}")


def build(lab: LabRun, hosts: tuple[Host, ...] = HOSTS) -> None:
    """Makes the gateway and the hosts named, ready to talk as soon as the gateway translates."""
    build_gateway(lab)
    for host in hosts:
        add_host(lab, host)


def add_plain_ipv6(lab: LabRun, host: Host) -> str:
    """Gives an IPv4-only host an IPv6 address too, returned, to compare translation with plain IPv6 forwarding."""
    address = f"2001:db8:f:{int(host.ipv4) & 0xFF:x}::1"
    down, up = lab.device(host.role), lab.device("up")
    lab.ip(GATEWAY, f"addr add fe80::1/64 dev {down} nodad", f"route add {address}/128 dev {down}")
    lab.ip(host.role, f"addr add {address}/128 dev {up} nodad", f"route add ::/0 via fe80::1 dev {up}")
    return address
