"""A model's Node as contents of the data plane's tables: `sg_nat`, `sg_nat_map`, `sg_dev`."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from sixgate.node.bpf.layouts import SgGwFlag

if TYPE_CHECKING:
    from tests.rfc.config import Eam, Gateway, Node

Entry = tuple[dict[str, object], dict[str, object]]


@dataclass(frozen=True, slots=True)
class Tables:
    """`nat` is the one value of the inner map of sg_nat; `mappings` are keys and values of sg_nat_map."""

    nat: dict[str, object]
    mappings: tuple[Entry, ...]
    device: dict[str, object]


def tables(node: Node, generation: int) -> Tables:
    """The tables that make a gateway behave as `node` says; MTUs and routes are the kernel's and not among them."""
    ranges: list[dict[str, object]] = [
        {"addr": int(net.network_address), "mask": int(net.netmask), "gw": index}
        for index, gw in enumerate(node.gateways)
        for net in gw.ranges
    ]
    mappings = tuple(
        entry
        for index, gw in enumerate(node.gateways)
        for each in gw.eams
        for entry in _mapping(each, index, generation)
    )
    nat: dict[str, object] = {
        "n_gw": len(node.gateways),
        "n_range": len(ranges),
        "gen": generation,
        "version": generation,
        "n_map": len(mappings),
        "range": ranges,
        "gw": [_gateway(gw, index) for index, gw in enumerate(node.gateways)],
    }
    device: dict[str, object] = {"mtu": 65535}
    if node.own6 is not None:
        device["addr6"] = str(node.own6)
    if node.own4 is not None:
        device["addr4"] = str(node.own4)
    return Tables(nat, mappings, device)


def _gateway(gw: Gateway, index: int) -> dict[str, object]:
    flags = {
        SgGwFlag.SG_GW_PREFIX: gw.prefix is not None,
        SgGwFlag.SG_GW_WKP_STRICT: gw.wkp_strict,
        SgGwFlag.SG_GW_ZERO_TC: gw.zero_tc,
        SgGwFlag.SG_GW_FIXED_TOS: gw.fixed_tos is not None,
        SgGwFlag.SG_GW_UDP_ZERO_CALC: gw.udp_zero_calc,
        SgGwFlag.SG_GW_MSS_CLAMP: gw.mss_clamp,
        SgGwFlag.SG_GW_ICMP_QUIET: gw.icmp_quiet,
        SgGwFlag.SG_GW_HAIRPIN_OFF: not gw.hairpin,
    }
    value: dict[str, object] = {
        "flags": sum(int(flag) for flag, on in flags.items() if on),
        "low_mtu": gw.low_mtu,
        "stat": index,
        "tos": gw.fixed_tos or 0,
    }
    if gw.prefix is not None:
        value |= {
            "prefix": str(gw.prefix.network_address),
            "mask": str(gw.prefix.netmask),
            "prefix_len": gw.prefix.prefixlen,
        }
    if gw.pool6791 is not None:
        value |= {"pool6791": str(gw.pool6791.network_address), "pool6791_len": gw.pool6791.prefixlen}
    if gw.pool6791_6 is not None:
        value |= {"pool6791_6": str(gw.pool6791_6.network_address), "pool6791_6_len": gw.pool6791_6.prefixlen}
    return value


def _mapping(eam: Eam, gateway: int, generation: int) -> tuple[Entry, Entry]:
    """One explicit mapping as its two entries, one per direction."""
    return _one_way(eam.v6, eam.v4, gateway, generation), _one_way(eam.v4, eam.v6, gateway, generation)


def _one_way(here: IPv4Network | IPv6Network, there: IPv4Network | IPv6Network, gateway: int, generation: int) -> Entry:
    key: dict[str, object] = {
        "prefixlen": 32 + _bits(here),
        "gen": generation,
        "addr": str(here.network_address),
    }
    value: dict[str, object] = {
        "to": str(there.network_address),
        "len": _bits(here),
        "to_len": _bits(there),
        "kind": 0,
        "gw": gateway,
    }
    return key, value


def _bits(net: IPv4Network | IPv6Network) -> int:
    """Prefix length within 128 bits."""
    return net.prefixlen + (96 if isinstance(net.network_address, IPv4Address) else 0)
