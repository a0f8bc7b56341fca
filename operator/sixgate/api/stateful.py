"""NAT46Gateway's stateful part: IPv4 pools with sessions (RFC 6146), and virtual addresses across the families."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import Field

from sixgate.api.addr import HostAddress, HostIpv4Cidr, Ipv4, Ipv6
from sixgate.api.base import OBJECT, Port, Protocol, Rule, Spec, StrictBool, StrictInt, Weight, keyed_by


class PortRangeSpec(Spec):
    """Ports from `first` to `last`."""

    rules = (
        Rule(
            "(has(self.first) ? self.first : 1024) <= (has(self.last) ? self.last : 65535)",
            "first must not be above last",
            lambda ports: ports.first <= ports.last,
        ),
    )

    first: Port = Field(default=1024, description="First port of the range.")
    last: Port = Field(default=65535, description="Last port of the range.")


class PoolSpec(Spec):
    """IPv4 addresses and ports that IPv6 clients appear as."""

    cidr: HostIpv4Cidr = Field(description="IPv4 addresses of the pool; a single one has length 32.")
    ports: PortRangeSpec = Field(
        default_factory=PortRangeSpec,
        description="Ports of each address that are given to clients.",
        json_schema_extra=OBJECT,
    )


class StaticBindingSpec(Spec):
    """A port of the pool that always belongs to one IPv6 address and port."""

    protocol: Protocol = Field(description="Transport protocol.")
    ipv4: Ipv4 = Field(description="Address of the pool.")
    ipv4_port: Port = Field(alias="ipv4Port", description="Port at the pool's address.")
    ipv6: Ipv6 = Field(description="Address of the IPv6 host.")
    ipv6_port: Port = Field(alias="ipv6Port", description="Port of the IPv6 host.")


class LifetimesSpec(Spec):
    """How long an idle session is kept, in seconds; no value is below the minimum of its RFC."""

    udp: Annotated[StrictInt, Field(ge=120, le=86400)] = Field(
        default=300, description="UDP session, seconds (RFC 4787 REQ-5)."
    )
    icmp_query: Annotated[StrictInt, Field(ge=60, le=86400)] = Field(
        default=60, description="ICMP query session, seconds (RFC 5508 REQ-1)."
    )
    tcp_established: Annotated[StrictInt, Field(ge=7200, le=604800)] = Field(
        default=7440, description="Established TCP connection, seconds (RFC 5382 REQ-5)."
    )
    tcp_transitory: Annotated[StrictInt, Field(ge=240, le=86400)] = Field(
        default=240, description="TCP connection that opens or closes, seconds (RFC 5382 REQ-5)."
    )
    tcp_incoming_syn: Annotated[StrictInt, Field(ge=6, le=60)] = Field(
        default=6,
        alias="tcpIncomingSYN",
        description="How long an unexpected SYN from IPv4 is held, seconds (RFC 6146 3.5.2.2).",
    )
    fragment: Annotated[StrictInt, Field(ge=2, le=120)] = Field(
        default=5, description="How long fragments wait for their first one, seconds."
    )
    port_rest: Annotated[StrictInt, Field(ge=0, le=3600)] = Field(
        default=120, description="How long a released port rests before reuse, seconds (RFC 6888 REQ-8)."
    )


class ClientLimitsSpec(Spec):
    """Limits per client, so that one cannot take what belongs to all (RFC 6888 REQ-4)."""

    prefix_length: Annotated[StrictInt, Field(ge=32, le=128)] = Field(
        default=128, description="Length of the IPv6 prefix that counts as one client."
    )
    ports: Annotated[StrictInt, Field(ge=0, le=4194304)] = Field(
        default=0, description="Ports that a client may hold; 0 is without limit."
    )
    sessions: Annotated[StrictInt, Field(ge=0, le=16777216)] = Field(
        default=0, description="Sessions that a client may hold; 0 is without limit."
    )
    new_sessions_per_second: Annotated[StrictInt, Field(ge=0, le=1000000)] = Field(
        default=0, description="New sessions per second and client; 0 is without limit."
    )


def _pools_apart(spec: Any) -> bool:
    return not any(
        a.cidr.overlaps(b.cidr) and a.ports.first <= b.ports.last and b.ports.first <= a.ports.last
        for a, b in combinations(spec.pools, 2)
    )


class StatefulSpec(Spec):
    """Stateful NAT64 (RFC 6146)."""

    rules = (
        Rule(
            "self.pools.all(a, !isCIDR(a.cidr) || self.pools.exists_one(b, isCIDR(b.cidr) && "
            "(cidr(a.cidr).containsCIDR(b.cidr) || cidr(b.cidr).containsCIDR(a.cidr)) && "
            "a.ports.first <= b.ports.last && b.ports.first <= a.ports.last))",
            "no two pools may have the same address and port",
            _pools_apart,
            ".pools",
        ),
        Rule(
            "(has(self.portBlockSize) ? self.portBlockSize : 0) == "
            "(has(oldSelf.portBlockSize) ? oldSelf.portBlockSize : 0)",
            "portBlockSize cannot change: every session would move; make a new object",
        ),
    )

    pools: tuple[PoolSpec, ...] = Field(
        min_length=1,
        max_length=64,
        description="Addresses and ports that clients appear as.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    filtering: Literal["EndpointIndependent", "AddressDependent"] = Field(
        default="EndpointIndependent",
        description="Who may answer through a mapping: everybody, or the addresses that were sent to (RFC 4787 REQ-8).",
    )
    pooling: Literal["Paired", "Arbitrary"] = Field(
        default="Paired", description="Paired: a client keeps one address of the pool (RFC 4787 REQ-2)."
    )
    hairpinning: StrictBool = Field(default=True, description="Clients reach each other by their pool addresses.")
    max_sessions: Annotated[StrictInt, Field(ge=1024, le=16777216)] = Field(
        default=1048576, description="Sessions per node; a full table refuses new ones and never evicts."
    )
    port_block_size: Annotated[StrictInt, Field(ge=0, le=32768)] = Field(
        default=0, description="Ports per client block for deterministic assignment (RFC 7422); 0 assigns single ports."
    )
    lifetimes: LifetimesSpec = Field(
        default_factory=LifetimesSpec,
        description="How long idle sessions are kept.",
        json_schema_extra=OBJECT,
    )
    client_limits: ClientLimitsSpec = Field(
        default_factory=ClientLimitsSpec, description="Limits per client.", json_schema_extra=OBJECT
    )
    static_bindings: tuple[StaticBindingSpec, ...] = Field(
        default=(),
        max_length=1024,
        description="Ports of the pool that are bound for good.",
        json_schema_extra=keyed_by("protocol", "ipv4", "ipv4Port"),
    )


class NatBackendSpec(Spec):
    """One backend of a translated service."""

    address: HostAddress = Field(description="Address of the backend, of the other family than the VIP.")
    port: Port = Field(description="Port of the backend.")
    weight: Weight = Field(default=1, description="Share of new sessions; 0 drains the backend.")


def _families_differ(service: Any) -> bool:
    return all(backend.address.version != service.vip.version for backend in service.backends)


class NatServiceSpec(Spec):
    """A virtual address of one family in front of backends of the other."""

    rules = (
        Rule(
            "!isIP(self.vip) || "
            "self.backends.all(b, !isIP(b.address) || ip(b.address).family() != ip(self.vip).family())",
            "backends must be of the other family than vip",
            _families_differ,
        ),
        Rule(
            "self.backends.exists(b, !has(b.weight) || b.weight > 0)",
            "at least one backend must have a weight above 0",
            lambda service: any(backend.weight for backend in service.backends),
        ),
    )

    vip: HostAddress = Field(description="Virtual address that clients connect to.")
    port: Port = Field(description="Port that clients connect to.")
    protocol: Protocol = Field(default="TCP", description="Transport protocol.")
    backends: tuple[NatBackendSpec, ...] = Field(
        min_length=1,
        max_length=128,
        description="Where sessions go, by weight; they may be VIPs of clusters.",
        json_schema_extra=keyed_by("address", "port"),
    )
