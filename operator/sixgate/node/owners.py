"""Which user's object an address belongs to, from a NodeConfig. Pure.

For people who look at packets: the data plane decides by the same tables, but does not say whose they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sixgate.api.nodeconfig import NodeConfigSpec, Table
    from sixgate.node.packets import Address, Seen

Network: TypeAlias = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Owners:
    """Networks with their owners, the longest first."""

    networks: tuple[tuple[Network, str], ...] = ()

    @classmethod
    def of(cls, spec: NodeConfigSpec | None) -> Owners:
        found = [pair for table in (spec.tables if spec else ()) for pair in _of_table(table)]
        return cls(tuple(sorted(found, key=lambda pair: -pair[0].prefixlen)))

    def owner(self, seen: Seen) -> str:
        """Of the destination, else of the source; empty where it is nobody's."""
        return self._by(seen.target.address) or self._by(seen.source.address)

    def _by(self, address: Address) -> str:
        return next((owner for network, owner in self.networks if address in network), "")


def _of_table(table: Table) -> Iterator[tuple[Network, str]]:
    """The owners of sg_nat stand in the order of its `gw`."""
    for entry in table.entries:
        value = entry.value
        if table.map == "sg_nat" and isinstance(value, dict):
            yield from _of_gateways(table.owners, value)


def _of_gateways(owners: tuple[str, ...], value: dict[str, Any]) -> Iterator[tuple[Network, str]]:
    for owner, gateway in zip(owners, value.get("gw", ()), strict=False):
        if gateway.get("prefix_len"):
            yield ip_network(f"{gateway['prefix']}/{gateway['prefix_len']}"), owner
    for item in value.get("range", ()):
        length = int(item["mask"]).bit_count()
        yield ip_network((ip_address(int(item["addr"])), length)), owners[int(item["gw"])]
