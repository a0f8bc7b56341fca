"""LoadBalancer: virtual addresses, spread over backends by consistent hashing."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sixgate.api.addr import AnyCidr, HostAddress, HostIpv4Cidr, HostIpv6Cidr
from sixgate.api.base import (
    OBJECT,
    SET,
    Acceleration,
    Column,
    Devices,
    KindInfo,
    KindSpec,
    Port,
    Protocol,
    Rule,
    Spec,
    StrictBool,
    StrictInt,
    UserObject,
    Weight,
    keyed_by,
    standing,
)
from sixgate.api.healthcheck import HealthCheckSpec

DnsLabel = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
# Primes: the balancer's permutation needs one.
TableSize = Literal[251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65537]


class ServicePortSpec(Spec):
    """A port, or a range of ports, of the virtual addresses."""

    rules = (
        Rule(
            "!has(self.endPort) || self.endPort >= self.port",
            "endPort must not be below port",
            lambda port: port.end_port is None or port.end_port >= port.port,
        ),
        Rule(
            "!has(self.targetPort) || !has(self.endPort) || self.targetPort + self.endPort - self.port <= 65535",
            "the range that begins at targetPort must end at 65535 or before",
            lambda port: (
                None in (port.target_port, port.end_port) or port.target_port + port.end_port - port.port <= 65535
            ),
        ),
    )

    name: DnsLabel | None = Field(default=None, description="Name of the port; with `service`, that of its port.")
    protocol: Protocol = Field(default="TCP", description="Transport protocol.")
    port: Port = Field(description="Port that clients connect to, or the first of a range.")
    end_port: Port | None = Field(default=None, description="Last port of the range; left out, a single port.")
    target_port: Port | None = Field(
        default=None, description="Port of the backends, or the first of their range; left out, the same."
    )


class LbBackendSpec(Spec):
    """One backend."""

    address: HostAddress = Field(description="Address of the backend, of either family.")
    weight: Weight = Field(default=1, description="Share of new flows; 0 drains the backend.")
    maintenance: StrictBool = Field(
        default=False, description="True: no new flows, old ones are kept, and health checks do not count."
    )


class ServiceRefSpec(Spec):
    """A Service of the cluster whose endpoints are the backends."""

    namespace: DnsLabel = Field(description="Namespace of the Service.")
    name: DnsLabel = Field(description="Name of the Service.")


class MaglevSpec(Spec):
    """The table that spreads flows."""

    rules = (
        Rule(
            "(has(self.tableSize) ? self.tableSize : 0) == (has(oldSelf.tableSize) ? oldSelf.tableSize : 0)",
            "tableSize cannot change: established flows would move; make a new object",
        ),
    )

    table_size: TableSize | None = Field(
        default=None, description="Slots of the table, a prime; left out, chosen by the number of backends."
    )


class NatForwardingSpec(Spec):
    """The sources that backends see, and how many sessions there may be."""

    rules = (
        Rule(
            "!has(self.preserveClientIP) || !self.preserveClientIP || "
            "!has(self.sourceAddresses) || size(self.sourceAddresses) == 0",
            "with preserveClientIP: true there is no use for sourceAddresses",
            lambda nat: not (nat.preserve_client_ip and nat.source_addresses),
        ),
    )

    preserve_client_ip: StrictBool = Field(
        default=False,
        alias="preserveClientIP",
        description="True: backends see the client's address, and its port where that is free. Their way back to "
        "clients must lead through the balancing node, so it is one node's, and backends have the VIPs' family.",
    )
    source_addresses: tuple[HostAddress, ...] = Field(
        default=(),
        max_length=16,
        description="Addresses, of either family, that are routed to the balancing nodes and shared out among them; "
        "left out, each node's own address.",
        json_schema_extra=SET,
    )
    max_sessions: Annotated[StrictInt, Field(ge=1024, le=8388608)] = Field(
        default=65536, description="Sessions of a node to the backends of one family; new flows beyond it are refused."
    )


class ForwardingSpec(Spec):
    """How a packet gets from the balancer to its backend."""

    rules = (
        Rule(
            "!has(self.nat) || (has(self.mode) && self.mode == 'NAT')",
            "nat says something of mode NAT only",
            lambda forwarding: forwarding.nat is None or forwarding.mode == "NAT",
            found="'mode ' + (has(self.mode) ? self.mode : 'DSR')",
        ),
    )

    mode: Literal["DSR", "NAT", "L2"] = Field(
        default="DSR", description="DSR: encapsulated, the backend answers by itself; NAT: both ways; L2: rewritten."
    )
    outer_source_ipv4_cidr: HostIpv4Cidr | None = Field(
        default=None,
        alias="outerSourceIPv4CIDR",
        description="Outer IPv4 sources, one per flow, so that backends spread flows over queues.",
    )
    outer_source_ipv6_cidr: HostIpv6Cidr | None = Field(
        default=None,
        alias="outerSourceIPv6CIDR",
        description="Outer IPv6 sources, one per flow, so that backends spread flows over queues.",
    )
    nat: NatForwardingSpec | None = Field(default=None, description="With mode NAT: sources and sizes.")


class SourceRangesSpec(Spec):
    """Who may connect; the longest match counts."""

    allow: tuple[AnyCidr, ...] = Field(
        default=(), max_length=256, description="Clients that may connect; empty: all.", json_schema_extra=SET
    )
    deny: tuple[AnyCidr, ...] = Field(
        default=(), max_length=256, description="Clients that may not connect.", json_schema_extra=SET
    )


class AffinitySpec(Spec):
    """All flows of a client go to one backend."""

    timeout_seconds: Annotated[StrictInt, Field(ge=1, le=86400)] = Field(
        default=10800, description="How long a client is remembered after its last flow, seconds."
    )


class QuicSpec(Spec):
    """Routing of QUIC by the server id inside its connection id."""

    offset: Annotated[StrictInt, Field(ge=0, le=19)] = Field(
        default=1, description="First byte of the server id in the connection id."
    )
    length: Annotated[StrictInt, Field(ge=1, le=16)] = Field(default=4, description="Bytes of the server id.")


def _source_of_backends(spec: Any) -> bool:
    return bool(spec.backends) != (spec.service is not None)


def _ports_or_all(spec: Any) -> bool:
    return bool(spec.ports) is not spec.all_ports


def _backend_is_no_vip(spec: Any) -> bool:
    return not {backend.address for backend in spec.backends} & set(spec.vips)


def _clients_of_one_family(spec: Any) -> bool:
    nat = spec.forwarding.nat
    return nat is None or not nat.preserve_client_ip or len({vip.version for vip in spec.vips}) == 1


def _sources_apart(spec: Any) -> bool:
    sources = set(spec.forwarding.nat.source_addresses) if spec.forwarding.nat else set()
    return not sources & ({*spec.vips} | {backend.address for backend in spec.backends})


def _ports_apart(spec: Any) -> bool:
    spans = [(port.protocol, port.port, port.end_port or port.port) for port in spec.ports]
    return not any(a[0] == b[0] and a[1] <= b[2] and b[1] <= a[2] for a, b in combinations(spans, 2))


class LoadBalancerSpec(KindSpec):
    """Addresses, backends, and how flows are spread."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "(has(self.backends) && size(self.backends) > 0) != has(self.service)",
            "exactly one of backends and service must be given",
            _source_of_backends,
            found="(has(self.service) ? 'both' : 'neither')",
        ),
        Rule(
            "(has(self.ports) && size(self.ports) > 0) != (has(self.allPorts) && self.allPorts)",
            "exactly one of ports and allPorts: true must be given",
            _ports_or_all,
            found="(has(self.allPorts) && self.allPorts ? 'both' : 'neither')",
        ),
        Rule(
            "!has(self.backends) || self.backends.all(b, !(b.address in self.vips))",
            "no backend may have the address of a VIP",
            _backend_is_no_vip,
            ".backends",
            found="self.vips.filter(v, self.backends.exists(b, b.address == v))[0]",
        ),
        Rule(
            "!has(self.forwarding) || !has(self.forwarding.nat) || !has(self.forwarding.nat.sourceAddresses) || "
            "self.forwarding.nat.sourceAddresses.all(s, !(s in self.vips) && "
            "(!has(self.backends) || self.backends.all(b, b.address != s)))",
            "no address of forwarding.nat.sourceAddresses may be that of a VIP or a backend",
            _sources_apart,
            ".forwarding",
            found="self.forwarding.nat.sourceAddresses.filter(s, s in self.vips || "
            "(has(self.backends) && self.backends.exists(b, b.address == s)))[0]",
        ),
        Rule(
            "!has(self.forwarding) || !has(self.forwarding.nat) || !has(self.forwarding.nat.preserveClientIP) || "
            "!self.forwarding.nat.preserveClientIP || "
            "self.vips.exists(v, !isIP(v)) || self.vips.all(v, ip(v).family() == ip(self.vips[0]).family())",
            "with preserveClientIP: true all vips must be of one family: backends see clients of their own only",
            _clients_of_one_family,
            ".vips",
            found="self.vips.join(', ')",
        ),
        Rule(
            "!has(self.ports) || self.ports.all(a, self.ports.exists_one(b, a.protocol == b.protocol && "
            "a.port <= (has(b.endPort) ? b.endPort : b.port) && b.port <= (has(a.endPort) ? a.endPort : a.port)))",
            "no two ports of one protocol may overlap",
            _ports_apart,
            ".ports",
        ),
    )

    vips: tuple[HostAddress, ...] = Field(
        min_length=1,
        max_length=16,
        description="Virtual addresses, of either family.",
        json_schema_extra=SET,
    )
    ports: tuple[ServicePortSpec, ...] = Field(
        default=(),
        max_length=64,
        description="Ports of the virtual addresses.",
        json_schema_extra=keyed_by("protocol", "port"),
    )
    all_ports: StrictBool = Field(default=False, description="True: every TCP and UDP port of the addresses.")
    backends: tuple[LbBackendSpec, ...] = Field(
        default=(),
        max_length=1024,
        description="Backends that are listed here.",
        json_schema_extra=keyed_by("address"),
    )
    service: ServiceRefSpec | None = Field(default=None, description="A Service whose endpoints are the backends.")
    devices: Devices = Field(
        default=("auto",),
        description="Devices whose packets are balanced: names, shell patterns, or `auto` for every uplink.",
    )
    acceleration: Acceleration = "BestEffort"
    maglev: MaglevSpec = Field(
        default_factory=MaglevSpec, description="The table that spreads flows.", json_schema_extra=OBJECT
    )
    forwarding: ForwardingSpec = Field(
        default_factory=ForwardingSpec, description="How packets reach a backend.", json_schema_extra=OBJECT
    )
    health_check: HealthCheckSpec | None = Field(
        default=None, description="How backends are checked; left out, all count as healthy."
    )
    drain_seconds: Annotated[StrictInt, Field(ge=0, le=86400)] = Field(
        default=300, description="How long a backend that leaves keeps its flows, seconds."
    )
    source_ranges: SourceRangesSpec = Field(
        default_factory=SourceRangesSpec, description="Who may connect.", json_schema_extra=OBJECT
    )
    session_affinity: AffinitySpec | None = Field(
        default=None, description="All flows of a client to one backend; left out, each flow by itself."
    )
    quic: QuicSpec | None = Field(default=None, description="QUIC by server id; left out, by addresses and ports.")
    new_flows_per_second: Annotated[StrictInt, Field(ge=0, le=100000000)] = Field(
        default=0,
        description="New TCP connections per second and node that are admitted, 0: any number. UDP is not counted: "
        "its first packet cannot be told from another.",
    )
    icmp_echo: StrictBool = Field(default=True, description="Whether the balancer answers ping to the addresses.")
    announce: Literal["L2", "None"] = Field(
        default="None", description="L2: gratuitous ARP and unsolicited NA by one node; None: routed by somebody else."
    )


class LoadBalancer(UserObject):
    """Virtual addresses in front of backends."""

    info: ClassVar[KindInfo] = KindInfo(
        plural="loadbalancers",
        singular="loadbalancer",
        short="sglb",
        columns=(
            Column("VIPs", ".spec.vips", description="Virtual addresses"),
            Column("Port", ".spec.ports[0].port", "integer", description="First port of the addresses"),
            Column("Mode", ".spec.forwarding.mode", description="How packets reach a backend"),
            *standing("Nodes that balance"),
        ),
    )

    api_version: Literal["sixgate.io/v1alpha1"]
    kind: Literal["LoadBalancer"]
    spec: LoadBalancerSpec = Field(description="What is wanted.")
