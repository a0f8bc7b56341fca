"""Which user's object an address belongs to, from a NodeConfig. Pure.

For people who look at packets: the data plane decides by the same tables, but does not say whose they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any, TypeAlias

from sixgate.node.bpf.layouts import SgGwFlag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sixgate.api.nodeconfig import EgressPolicy, NodeConfigSpec, Table
    from sixgate.node.packets import Address, Seen

Network: TypeAlias = IPv4Network | IPv6Network
_OWN_PREFIX = int(SgGwFlag.SG_GW_PREFIX)  # without it the prefix is that of another gateway
_OF_PODS = frozenset({"pod", "tunnel"})  # names of hooks in events


@dataclass(frozen=True, slots=True)
class Owners:
    """Networks with their owners, the longest first. `covered` are destinations of EgressGateways, which are theirs
    only where a pod sends to them."""

    networks: tuple[tuple[Network, str], ...] = ()
    covered: tuple[tuple[Network, str], ...] = ()

    @classmethod
    def of(cls, spec: NodeConfigSpec | None) -> Owners:
        found = [pair for table in (spec.tables if spec else ()) for pair in _of_table(table)]
        if spec is not None:
            found += [(ip_network(vip.address), item.owners[0]) for item in spec.balancers for vip in item.vips]
            found += [pair for policy in spec.egress for pair in _of_pairs(policy)]
        covered = [
            (ip_network(cidr), policy.owners[0])
            for policy in (spec.egress if spec is not None else ())
            for cidr in policy.destinations
        ]
        return cls(_longest_first(found), _longest_first(covered))

    def owner(self, seen: Seen, hook: str = "") -> str:
        """Of the destination, else of the source; empty where it is nobody's. `hook` is where the packet was seen."""
        for address in (seen.target.address, seen.source.address):
            if owner := _by(self.networks, address):
                return owner
        if hook in _OF_PODS:
            return _by(self.covered, seen.target.address) or _by(self.covered, seen.source.address)
        return ""


def _by(networks: tuple[tuple[Network, str], ...], address: Address) -> str:
    return next((owner for network, owner in networks if address in network), "")


def _longest_first(found: list[tuple[Network, str]]) -> tuple[tuple[Network, str], ...]:
    return tuple(sorted(found, key=lambda pair: -pair[0].prefixlen))


def _of_pairs(policy: EgressPolicy) -> Iterator[tuple[Network, str]]:
    for pair in policy.pairs:
        for address in (pair.ipv4, pair.ipv6):
            if address:
                yield ip_network(address), policy.owners[0]


def _of_table(table: Table) -> Iterator[tuple[Network, str]]:
    """The owners of sg_nat stand in the order of its `gw`."""
    for entry in table.entries:
        key, value = entry.key, entry.value
        if table.map == "sg_st_own" and isinstance(key, str):
            yield ip_network(key), table.owners[0]
        if table.map == "sg_st_vip" and isinstance(key, dict):
            yield ip_network(str(key["addr"])), table.owners[0]
        if table.map == "sg_nat" and isinstance(value, dict):
            yield from _of_gateways(table.owners, value)


def _of_gateways(owners: tuple[str, ...], value: dict[str, Any]) -> Iterator[tuple[Network, str]]:
    for owner, gateway in zip(owners, value.get("gw", ()), strict=False):
        if gateway.get("prefix_len") and gateway.get("flags", 0) & _OWN_PREFIX:
            yield ip_network(f"{gateway['prefix']}/{gateway['prefix_len']}"), owner
    for item in value.get("range", ()):
        length = int(item["mask"]).bit_count()
        yield ip_network((ip_address(int(item["addr"])), length)), owners[int(item["gw"])]
