"""The way from every other node to the gateway nodes: which one a node's packets go to. Pure.

Sessions live on one gateway node, so a node keeps to one of them for as long as it is there and ready (rendezvous
hashing): where one goes, only the nodes that used it move.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sixgate.api.nat46gateway import NAT46Gateway
from sixgate.errors import Ref
from sixgate.plan.egress import node_address
from sixgate.plan.nodeplan import PrefixRoutePlan
from sixgate.plan.pools import rendezvous
from sixgate.plan.snapshot import NodeInfo


@dataclass(frozen=True, slots=True)
class RoutePart:
    """The route of one gateway's prefix on some nodes."""

    ref: Ref
    route: PrefixRoutePlan


def route_parts(
    gateway: NAT46Gateway, translating: Mapping[str, NodeInfo], others: tuple[str, ...]
) -> Iterator[tuple[RoutePart, tuple[str, ...]]]:
    """Routes from `others` to those that translate, and the nodes that have each; none where nobody can be reached.

    Nodes that are not ready are used only where no other is left: their data plane may well go on.
    """
    reachable = {name: node for name, node in translating.items() if node_address(node, 6)}
    usable = [name for name, node in reachable.items() if node.ready] or list(reachable)
    members: dict[str, list[str]] = {}
    for name in others if usable else ():
        members.setdefault(rendezvous(f"{gateway.ref} {name}", usable), []).append(name)
    for target, names in sorted(members.items()):
        route = PrefixRoutePlan(gateway.ref, str(gateway.spec.prefix), node_address(reachable[target], 6))
        yield RoutePart(gateway.ref, route), tuple(names)
