"""What plan must know of each kind: its claims, which BPF objects it needs."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

from sixgate.api.addr import Address
from sixgate.api.base import UserObject
from sixgate.api.egressgateway import EgressGateway
from sixgate.api.loadbalancer import LoadBalancer
from sixgate.api.nat46gateway import NAT46Gateway
from sixgate.plan import balancer
from sixgate.plan.claims import Claim
from sixgate.plan.nat46 import objects_needed
from sixgate.plan.snapshot import ServiceKey


def claims_of(item: UserObject) -> Iterator[Claim]:
    """Everything that `item` wants for itself alone."""
    match item:
        case NAT46Gateway():
            yield from _gateway_claims(item)
        case EgressGateway():
            for number, pair in enumerate(item.spec.addresses):
                for family, address in (("ipv4", pair.ipv4), ("ipv6", pair.ipv6)):
                    if address is not None:
                        yield _host(address, f"spec.addresses[{number}].{family}")
        case LoadBalancer():
            yield from _balancer_claims(item)
        case _:
            return


def services_of(item: UserObject) -> tuple[ServiceKey, ...]:
    """Services of the cluster whose endpoints `item` needs."""
    if isinstance(item, LoadBalancer) and item.spec.service is not None:
        return (ServiceKey(item.spec.service.namespace, item.spec.service.name),)
    return ()


def bpf_objects_of(item: UserObject) -> tuple[str, ...]:
    """BPF objects that `item` needs on its nodes."""
    match item:
        case NAT46Gateway():
            return objects_needed(item)
        case LoadBalancer():
            return balancer.objects_needed(item)
        case _:
            return ()


def _gateway_claims(gateway: NAT46Gateway) -> Iterator[Claim]:
    spec = gateway.spec
    if spec.prefix is not None:
        yield Claim(spec.prefix, "spec.prefix", per_node=True)
    if spec.stateless is not None:
        for number, cidr in enumerate(spec.stateless.ipv4_cidrs):
            yield Claim(cidr, f"spec.stateless.ipv4CIDRs[{number}]", per_node=True)
        for number, mapping in enumerate(spec.stateless.mappings):
            yield Claim(mapping.ipv4, f"spec.stateless.mappings[{number}].ipv4", per_node=True)
            yield Claim(mapping.ipv6, f"spec.stateless.mappings[{number}].ipv6", per_node=True)
    if spec.stateful is not None:
        for number, pool in enumerate(spec.stateful.pools):
            ports = (pool.ports.first, pool.ports.last)
            yield Claim(pool.cidr, f"spec.stateful.pools[{number}].cidr", per_node=False, ports=ports)
    for number, service in enumerate(spec.services):
        ports = (service.port, service.port)
        yield _host(service.vip, f"spec.services[{number}].vip", service.protocol, ports)


def _balancer_claims(balancer: LoadBalancer) -> Iterator[Claim]:
    spec = balancer.spec
    for number, vip in enumerate(spec.vips):
        field = f"spec.vips[{number}]"
        if spec.all_ports:
            yield _host(vip, field)
        for port in spec.ports:
            yield _host(vip, field, port.protocol, (port.port, port.end_port or port.port))
    for number, source in enumerate(spec.forwarding.nat.source_addresses if spec.forwarding.nat else ()):
        yield _host(source, f"spec.forwarding.nat.sourceAddresses[{number}]")


def _host(address: Address, field: str, protocol: str = "", ports: tuple[int, int] = (0, 65535)) -> Claim:
    return Claim(ip_network(address), field, per_node=False, protocol=protocol, ports=ports)
