"""The lab of the stateful gateway: hosts with ordinary addresses, a gateway with a pool and virtual addresses between.

client6 ─┐            ┌─ server4      IPv6 hosts live in 2001:db8:6::/48, outside the prefix 64:ff9b:1::/96,
         ├──  gw  ────┤               IPv4 hosts in 203.0.113.0/24; nobody has an address of both families.
server6 ─┘            └─ client4      The pool 198.51.100.0/24 and the VIPs are routed to the gateway by its links.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from e2e.lab.topology import GATEWAY, build_gateway

if TYPE_CHECKING:
    from e2e.lab.run import LabRun

PREFIX = ipaddress.IPv6Network("64:ff9b:1::/96")
POOL = ipaddress.IPv4Network("198.51.100.0/24")
VIP4 = "198.51.100.80"  # in front of server6
VIP6 = "2001:db8:f::80"  # in front of server4


@dataclass(frozen=True, slots=True)
class NatHost:
    """An end system with one address of one family behind a link of its own."""

    role: str
    address: str  # with prefix length
    gateway_address: str  # of the gateway on this link, with prefix length

    @property
    def family(self) -> int:
        return 6 if ":" in self.address else 4

    @property
    def ip(self) -> str:
        return self.address.split("/")[0]

    @property
    def gateway(self) -> str:
        return self.gateway_address.split("/")[0]


CLIENT6 = NatHost("client6", "2001:db8:6:1::10/64", "2001:db8:6:1::1/64")
SERVER6 = NatHost("server6", "2001:db8:6:2::20/64", "2001:db8:6:2::1/64")
SERVER4 = NatHost("server4", "203.0.113.20/25", "203.0.113.1/25")
CLIENT4 = NatHost("client4", "203.0.113.140/25", "203.0.113.129/25")
NAT_HOSTS = (CLIENT6, SERVER6, SERVER4, CLIENT4)


def embed(address: str) -> str:
    """The IPv6 address that stands for an IPv4 address under the lab's prefix."""
    return str(ipaddress.IPv6Address(int(PREFIX.network_address) | int(ipaddress.IPv4Address(address))))


def build(lab: LabRun, hosts: tuple[NatHost, ...] = NAT_HOSTS, mtu: int = 1500) -> None:
    """Makes the gateway and the hosts named; what the gateway translates is up to the caller."""
    build_gateway(lab)
    for host in hosts:
        add_host(lab, host, mtu)


def add_host(lab: LabRun, host: NatHost, mtu: int = 1500) -> None:
    """Makes a host's namespace, joins it to the gateway and gives it a default route there."""
    lab.add_netns(host.role)
    lab.add_veth(host.role, "up", GATEWAY, host.role, mtu)
    up, down = lab.device("up"), lab.device(host.role)
    dad = " nodad" if host.family == 6 else ""
    lab.ip(GATEWAY, f"addr add {host.gateway_address} dev {down}{dad}")
    lab.ip(host.role, f"addr add {host.address} dev {up}{dad}", f"route add default via {host.gateway} dev {up}")
