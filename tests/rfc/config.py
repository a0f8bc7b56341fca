"""What the model of a translator is configured with: the same facts as `struct sg_nat_table`, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

WELL_KNOWN = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Eam:
    """One explicit address mapping (RFC 7757 3.1); the IPv6 suffix is at least as long as the IPv4 suffix."""

    v4: IPv4Network
    v6: IPv6Network


@dataclass(frozen=True, slots=True)
class Gateway:
    """One stateless NAT46Gateway. `ranges` are the IPv4 addresses of IPv6 hosts that live inside `prefix`."""

    prefix: IPv6Network | None = None
    ranges: tuple[IPv4Network, ...] = ()
    eams: tuple[Eam, ...] = ()
    wkp_strict: bool = True  # RFC 6052 3.1
    zero_tc: bool = False  # RFC 7915 4.1
    fixed_tos: int | None = None  # RFC 7915 5.1
    udp_zero_calc: bool = False  # RFC 7915 4.5 (2)
    mss_clamp: bool = False
    icmp_quiet: bool = False  # RFC 7915 4.4, 5.4
    hairpin: bool = True  # RFC 7757 4.2.2
    low_mtu: int = 1280  # RFC 7915 4.1
    pool6791: IPv4Network | None = None  # RFC 6791
    pool6791_6: IPv6Network | None = None  # the same for IPv4 routers that an IPv6 address stands for


@dataclass(frozen=True, slots=True)
class Node:
    """A machine: its gateways, the addresses its own ICMP errors come from, and the MTUs towards both sides.

    `routes4` and `routes6` are (destination, MTU); the longest match wins, `mtu4` and `mtu6` are the default route's.
    """

    gateways: tuple[Gateway, ...]
    own4: IPv4Address | None
    own6: IPv6Address | None
    mtu4: int = 1500
    mtu6: int = 1500
    routes4: tuple[tuple[IPv4Network, int], ...] = field(default=())
    routes6: tuple[tuple[IPv6Network, int], ...] = field(default=())

    def mtu_to4(self, addr: bytes) -> int:
        found = [(net.prefixlen, mtu) for net, mtu in self.routes4 if IPv4Address(addr) in net]
        return max(found)[1] if found else self.mtu4

    def mtu_to6(self, addr: bytes) -> int:
        found = [(net.prefixlen, mtu) for net, mtu in self.routes6 if IPv6Address(addr) in net]
        return max(found)[1] if found else self.mtu6
