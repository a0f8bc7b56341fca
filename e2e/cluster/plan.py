"""Addresses of the cluster and of the world around it.

                 outside hosts                 router: namespace `under`                 nodes
    out4  203.0.113.20 ──────────────── 203.0.113.1 │        │ fd00:30::1    ──── n1  fd00:30::11  172.30.0.11
    out   203.0.113.30, 2001:db8:f00d::30 ───────── │  br0   │ 172.30.0.1    ──── n2  fd00:30::12  172.30.0.12
    out6  2001:db8:f00d::20 ──── 2001:db8:f00d::1   │        │ control plane ──── n3  fd00:30::13  172.30.0.13

IPv6 comes first everywhere. Pods have both families, but for those of the namespace V6ONLY, which have IPv6 alone.
The router knows the way to the pods of each node, to the NAT64 prefix and to the gateway's IPv4 addresses.
"""

from __future__ import annotations

from dataclasses import dataclass

ROUTER6, ROUTER4 = "fd00:30::1", "172.30.0.1"
SERVICES = "fd00:10:96::/112,10.96.0.0/16"
DNS = "fd00:10:96::a"
POD_CIDRS = "fd00:10:244::/56,10.244.0.0/16"
V6ONLY = "v6only"
OUT4, OUT6 = "203.0.113.20", "2001:db8:f00d::20"
BOTH4, BOTH6 = "203.0.113.30", "2001:db8:f00d::30"
NAT64_PREFIX = "2001:db8:64::/96"
GATEWAY_POOL = "198.51.100.0/24"  # what the outside sees of clients behind a NAT46Gateway
STATEFUL_PREFIX, STATEFUL_POOL = "64:ff9b:1:e2e0::/96", "192.0.2.64/28"
VIP4, VIP6 = "198.18.0.80", "2001:db8:80::80"  # of the LoadBalancer; the router sends them to a node
EXIT4, EXIT6 = "172.30.0.77", "fd00:30::77"  # of the EgressGateway, on the segment of the nodes
V4_NAME = "v4only.example"  # what OUT4 is called; no other name is known outside
MTU = 1500


@dataclass(frozen=True, slots=True)
class Node:
    """One node; `number` from 1."""

    number: int

    @property
    def name(self) -> str:
        return f"n{self.number}"

    @property
    def ipv6(self) -> str:
        return f"fd00:30::{10 + self.number}"

    @property
    def ipv4(self) -> str:
        return f"172.30.0.{10 + self.number}"

    @property
    def pods6(self) -> str:
        return f"fd00:10:244:{self.number}::/64"

    @property
    def pods4(self) -> str:
        return f"10.244.{self.number}.0/24"


def translated(ipv4: str, prefix: str = NAT64_PREFIX) -> str:
    """What an IPv4 address is called under a /96."""
    first, second, third, fourth = (int(part) for part in ipv4.split("."))
    return f"{prefix.split('/', maxsplit=1)[0]}{first:02x}{second:02x}:{third:02x}{fourth:02x}"
