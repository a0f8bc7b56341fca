"""The nodes that random packets are sent through: every flag, every prefix length, MTUs around every limit."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from tests.rfc.config import Eam, Gateway, Node


def _gateway(
    prefix: str | None, ranges: tuple[str, ...] = (), eams: tuple[tuple[str, str], ...] = (), **flags: object
) -> Gateway:
    mapped = tuple(Eam(IPv4Network(v4), IPv6Network(v6)) for v4, v6 in eams)
    nets = tuple(IPv4Network(each) for each in ranges)
    return Gateway(IPv6Network(prefix) if prefix else None, nets, mapped, **flags)  # type: ignore[arg-type]


def _node(*gateways: Gateway, mtu4: int = 1500, mtu6: int = 1500) -> Node:
    return Node(gateways, IPv4Address("198.51.100.1"), IPv6Address("2001:db8:f::1"), mtu4, mtu6)


MAPPINGS = (
    ("192.0.2.1/32", "2001:db8:a::1/128"),
    ("192.0.3.0/24", "2001:db8:b::/120"),
    ("192.0.4.128/26", "2001:db8:c::/64"),
)
POOL, POOL6 = IPv4Network("203.0.113.8/29"), IPv6Network("2001:db8:e::/64")

NODES: tuple[Node, ...] = (
    _node(_gateway("64:ff9b::/96", ("8.8.8.0/24",))),
    _node(_gateway("64:ff9b::/96", ("8.8.8.0/24",), wkp_strict=False, zero_tc=True, fixed_tos=0x20)),
    _node(_gateway("64:ff9b:1:fffe::/96", ("192.0.2.0/24",), mss_clamp=True), mtu4=1400),
    _node(_gateway("2001:db8:100::/40", ("192.0.2.0/24",), MAPPINGS[1:], udp_zero_calc=True)),
    _node(_gateway("2001:db8:100::/40", ("192.0.2.0/24",), MAPPINGS, mss_clamp=True, pool6791=POOL), mtu6=1400),
    _node(_gateway("2001:db8:122:344::/64", ("192.0.2.0/24",), low_mtu=1400, icmp_quiet=True), mtu6=1500),
    _node(_gateway("2001:db8:122:300::/56", ("192.0.2.0/24",), low_mtu=1500, udp_zero_calc=True), mtu6=1280),
    _node(_gateway("2001:db8:122::/48", (), MAPPINGS, hairpin=False)),
    _node(_gateway("2620:0:100::/48", ("192.0.2.0/28",), MAPPINGS), mtu4=1300),
    _node(_gateway(None, (), (*MAPPINGS, ("198.51.0.0/16", "2001:db8:d::/112")), pool6791_6=POOL6)),
    _node(
        _gateway("64:ff9b::/96", ("8.8.8.0/24",)),
        _gateway("2001:db8:100::/40", ("192.0.2.0/24",), MAPPINGS[1:], fixed_tos=0),
    ),
    _node(_gateway("3ffe:1::/32", ("192.0.2.0/24",), MAPPINGS[1:2]), mtu4=1000),
)
