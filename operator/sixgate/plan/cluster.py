"""The cluster's own addresses, and who would take them away.

A gateway that translates its own node's address cuts that node off, and one that translates addresses of Services takes
those away from it; an egress gateway whose destinations cover pods, Services or nodes sends inner traffic out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Network, ip_network

from sixgate.api.addr import Address, Network, extract
from sixgate.api.egressgateway import EgressGateway
from sixgate.api.nat46gateway import NAT46Gateway
from sixgate.plan.snapshot import NodeInfo


class Of(Enum):
    """Whose addresses they are."""

    NODE = "node"
    PODS = "pods"
    SERVICES = "services"


@dataclass(frozen=True, slots=True)
class Own:
    """An address of a node, a CIDR of its pods, or one of the cluster's Services, whose `node` is empty; `first` and
    `last` as numbers."""

    first: int
    last: int
    node: str
    network: Network
    of: Of

    def __str__(self) -> str:
        match self.of:
            case Of.NODE:
                return f"the address {self.network.network_address} of the node {self.node}"
            case Of.PODS:
                return f"the pods {self.network} of the node {self.node}"
            case Of.SERVICES:
                return f"the Services {self.network} of the cluster"


class ClusterAddresses:
    """Addresses of all nodes and Services by family, found by overlap."""

    def __init__(self, nodes: tuple[NodeInfo, ...], service_cidrs: tuple[str, ...] = ()) -> None:
        self._own: dict[int, list[Own]] = {4: [], 6: []}
        for node in nodes:
            self._add(node.addresses, node.name, Of.NODE)
            self._add(node.pod_cidrs, node.name, Of.PODS)
        self._add(service_cidrs, "", Of.SERVICES)
        self._firsts: dict[int, list[int]] = {}
        self._highest: dict[int, list[int]] = {}  # of `last`, up to and including each item
        for version, own in self._own.items():
            own.sort(key=lambda item: (item.first, item.last, item.node))
            self._firsts[version] = [item.first for item in own]
            highest: list[int] = []
            for item in own:
                highest.append(max(item.last, highest[-1] if highest else 0))
            self._highest[version] = highest

    def _add(self, texts: tuple[str, ...], node: str, of: Of) -> None:
        for text in texts:
            network = _network(text)
            if network is not None:
                first = int(network.network_address)
                size = 1 << (network.max_prefixlen - network.prefixlen)
                self._own[network.version].append(Own(first, first + size - 1, node, network, of))

    def inside(self, network: Network) -> Iterator[Own]:
        """What overlaps with `network`, from the highest address down."""
        own, highest = self._own[network.version], self._highest[network.version]
        first, last = int(network.network_address), int(network.broadcast_address)
        for position in range(bisect_right(self._firsts[network.version], last) - 1, -1, -1):
            if highest[position] < first:
                return
            if own[position].last >= first:
                yield own[position]


@lru_cache(maxsize=65536)
def _network(text: str) -> Network | None:
    """`text` as a network; None for what is no address, such as a host name."""
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def translated_own(gateway: NAT46Gateway, cluster: ClusterAddresses) -> Iterator[tuple[str, Network, Own]]:
    """Field, network and address of each node, or of Services, that `gateway` would translate although they are taken.

    A Service may be what `mappings[].ipv6` leads to: nothing is taken from it then. An IPv6 address under the
    prefix is a host's own if it embeds an IPv4 address of ipv4CIDRs (RFC 6052 2.1).
    """
    stateless = gateway.spec.stateless
    if stateless is None:
        return
    everybody, nodes_only = frozenset({Of.NODE, Of.SERVICES}), frozenset({Of.NODE})
    wanted: list[tuple[str, Network, frozenset[Of]]] = []
    for number, cidr in enumerate(stateless.ipv4_cidrs):
        wanted.append((f"spec.stateless.ipv4CIDRs[{number}]", cidr, everybody))
    for number, mapping in enumerate(stateless.mappings):
        wanted.append((f"spec.stateless.mappings[{number}].ipv4", mapping.ipv4, everybody))
        wanted.append((f"spec.stateless.mappings[{number}].ipv6", mapping.ipv6, nodes_only))
    prefix = gateway.spec.prefix
    if prefix is not None:
        wanted.append(("spec.prefix", prefix, everybody))
    for field, network, whose in wanted:
        for own in cluster.inside(network):
            is_host = isinstance(network, IPv6Network) and network == prefix and _is_translatable(gateway, own)
            if own.of in whose and not is_host:
                yield field, network, own


def _is_translatable(gateway: NAT46Gateway, own: Own) -> bool:
    prefix, stateless = gateway.spec.prefix, gateway.spec.stateless
    if prefix is None or stateless is None or not isinstance(own.network, IPv6Network):
        return False
    inner: IPv4Address = extract(prefix, own.network.network_address)
    return any(inner in cidr for cidr in stateless.ipv4_cidrs)


def covered_by_egress(egress: EgressGateway, cluster: ClusterAddresses) -> tuple[str, Network, Own] | None:
    """The first destination that covers the cluster's own pods, Services or nodes and is not excluded again."""
    excluded = egress.spec.excluded_cidrs
    for number, destination in enumerate(egress.spec.destination_cidrs):
        for own in cluster.inside(destination):
            if not any(_contains(cidr, own) for cidr in excluded):
                return f"spec.destinationCIDRs[{number}]", destination, own
    return None


def address_of_cluster(
    egress: EgressGateway, cluster: ClusterAddresses, gateways: Collection[str]
) -> tuple[str, Address, Own] | None:
    """The first of its source addresses that the cluster has for something else than the gateways themselves."""
    for number, pair in enumerate(egress.spec.addresses):
        for family, address in (("ipv4", pair.ipv4), ("ipv6", pair.ipv6)):
            if address is None:
                continue
            for own in cluster.inside(ip_network(address)):
                if own.of is not Of.NODE or own.node not in gateways:
                    return f"spec.addresses[{number}].{family}", address, own
    return None


def _contains(cidr: Network, own: Own) -> bool:
    if cidr.version != own.network.version:
        return False
    return int(cidr.network_address) <= own.first and own.last <= int(cidr.broadcast_address)
