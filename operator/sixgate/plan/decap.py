"""The backend's end of DSR: nodes that take a balancer's outer header off and answer clients by themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_network

from sixgate.api.loadbalancer import LoadBalancer
from sixgate.errors import Ref
from sixgate.plan.lbplan import DecapPlan, PrefixPlan
from sixgate.plan.nodeplan import NodePlan
from sixgate.plan.snapshot import NodeInfo

OBJECTS = ("sg_decap", "sg_decap_xdp")
DEFAULT_MTU = 1500
_IPV4_BITS = 96


@dataclass(frozen=True, slots=True)
class DecapPart:
    """What one object asks of a node that holds a backend: `own` are the backend's addresses, `sources` the CIDRs that
    balancers send from."""

    ref: Ref
    vips: tuple[str, ...]
    own: tuple[str, ...]
    sources: tuple[str, ...]


def decap_parts(
    item: LoadBalancer, backends: Iterable[str], nodes_at: Mapping[str, str], balancers: Iterable[NodeInfo]
) -> dict[str, DecapPart]:
    """Parts by node, for every node that has a backend's address itself. `nodes_at` names the node of an address."""
    forwarding = item.spec.forwarding
    if forwarding.mode != "DSR":
        return {}
    declared = (forwarding.outer_source_ipv4_cidr, forwarding.outer_source_ipv6_cidr)
    sources = {str(cidr) for cidr in declared if cidr is not None}
    sources |= {str(ip_network(address)) for node in balancers for address in node.addresses}
    own: dict[str, list[str]] = {}
    for backend in backends:
        if backend in nodes_at:
            own.setdefault(nodes_at[backend], []).append(backend)
    vips = tuple(sorted(map(str, item.spec.vips)))
    ordered = tuple(sorted(sources))
    return {node: DecapPart(item.ref, vips, tuple(sorted(found)), ordered) for node, found in own.items()}


def with_decap(
    made: NodePlan,
    parts: tuple[DecapPart, ...],
    digests: Mapping[str, str],
    devices: tuple[str, ...] = ("auto",),
    mtu: int = DEFAULT_MTU,
) -> NodePlan:
    """`made` and the backends of these objects. `mtu` is the least between balancers and this node."""
    vips = tuple(sorted({vip for part in parts for vip in part.vips}))
    own = {address for part in parts for address in part.own}
    sources = sorted({cidr for part in parts for cidr in part.sources})
    return replace(
        made,
        decap=DecapPlan(
            owners=tuple(part.ref for part in parts),
            digests=tuple((name, digests[name]) for name in OBJECTS),
            devices=devices,
            mtu=mtu,
            vips=tuple(str(ip_network(vip)) for vip in vips),
            roles=(*((vip, 2) for vip in vips), *((address, 1) for address in sorted(own - set(vips)))),
            sources=tuple(_prefix(cidr) for cidr in sources),
        ),
    )


def _prefix(cidr: str) -> PrefixPlan:
    net = ip_network(cidr)
    return PrefixPlan(str(net.network_address), net.prefixlen + (_IPV4_BITS if net.version == 4 else 0))
