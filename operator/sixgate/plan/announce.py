"""Addresses of a NAT46Gateway that its nodes answer for on the segment. Pure.

Whoever has a session has its pool address, so an address of a pool is announced by the node whose share it is in and by
nobody else. Stateless addresses and those of services are any node's: one has each, and the next one takes it over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from sixgate.api.nat46gateway import NAT46Gateway
from sixgate.errors import Ref
from sixgate.plan.balancer import preference
from sixgate.plan.lbplan import VipPlan
from sixgate.plan.nodeplan import AnnouncePlan
from sixgate.plan.pools import PoolSlice

MAX_ANNOUNCED = 1024  # of one object


@dataclass(frozen=True, slots=True)
class AnnouncePart:
    """What some nodes announce of one gateway."""

    ref: Ref
    plan: AnnouncePlan


def too_many(gateway: NAT46Gateway) -> int:
    """How many addresses the gateway would announce, 0 if they are not too many."""
    spec = gateway.spec
    count = sum(pool.cidr.num_addresses for pool in spec.stateful.pools) if spec.stateful is not None else 0
    if spec.stateless is not None:
        count += sum(network.num_addresses for network in spec.stateless.ipv4_cidrs)
        count += sum(mapping.ipv4.num_addresses for mapping in spec.stateless.mappings)
    count += len({service.vip for service in spec.services})
    return count if count > MAX_ANNOUNCED else 0


def shared_part(gateway: NAT46Gateway, nodes: Iterable[str]) -> AnnouncePart | None:
    """Addresses that any of `nodes`, those that work, may announce; None where there are none."""
    names = tuple(nodes)
    found = dict.fromkeys(_shared(gateway)) if names else {}
    return _part(gateway, tuple(VipPlan(address, preference(address, names)) for address in found))


def own_part(gateway: NAT46Gateway, slices: tuple[PoolSlice, ...], node: str) -> AnnouncePart | None:
    """Addresses of the pools that `node` alone has."""
    numbers = sorted({number for item in slices for number in range(item.first, item.last + 1)})
    return _part(gateway, tuple(VipPlan(str(IPv4Address(number)), (node,)) for number in numbers))


def _part(gateway: NAT46Gateway, addresses: tuple[VipPlan, ...]) -> AnnouncePart | None:
    if not addresses:
        return None
    return AnnouncePart(gateway.ref, AnnouncePlan(gateway.ref, addresses, gateway.spec.devices))


def _shared(gateway: NAT46Gateway) -> Iterator[str]:
    stateless = gateway.spec.stateless
    if stateless is not None:
        networks = {*stateless.ipv4_cidrs, *(mapping.ipv4 for mapping in stateless.mappings)}
        yield from (str(address) for network in sorted(networks) for address in network)
    yield from sorted({str(service.vip) for service in gateway.spec.services})
