"""The part of a NodeConfig that is about balancing.

Tables of a balancer depend on what only its node can know: which backends answer just now, which backend a slot had
before a change, and which numbers are free. So a NodeConfig says what is wanted, and the node fills the maps of the
balancer (`sg_lb_*`) by itself; docs/design/loadbalancer.md says how.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sixgate.api.nodeconfig_base import Model, Owned, OwnerRef

PortNumber = Annotated[int, Field(ge=1, le=65535)]


class BalancerVip(Model):
    """A virtual address."""

    address: str = Field(description="The address, of either family.")
    announcers: tuple[str, ...] = Field(
        default=(), description="Nodes that may announce it, the first one that works does; empty: nobody announces."
    )


class BalancerPort(Model):
    """Ports of the virtual addresses."""

    protocol: Literal["TCP", "UDP"] = Field(description="Transport protocol.")
    first: PortNumber = Field(description="First port that clients connect to.")
    last: PortNumber = Field(description="Last port; equal to the first for a single one.")
    target: PortNumber = Field(description="Port of the backends that the first one leads to.")


class BalancerBackend(Model):
    """One backend."""

    address: str = Field(description="Its address, of either family.")
    weight: Annotated[int, Field(ge=0, le=65535)] = Field(default=1, description="Share of new flows.")
    state: Literal["Active", "Terminating", "Maintenance"] = Field(
        default="Active", description="Terminating and Maintenance get no new flows and keep old ones while they drain."
    )
    server_id: str = Field(
        default="", pattern=r"^([0-9a-f]{2}){0,16}$", description="QUIC server id as hexadecimal digits; empty: none."
    )


class BalancerTls(Model):
    """TLS of a check."""

    verify: bool = Field(default=True, description="Whether the certificate has to be right.")
    ca_bundle: str = Field(default="", description="Authorities, PEM; empty: those of the file, or the node's own.")
    ca_file: str = Field(default="", description="File with authorities on the node; empty: see caBundle.")
    server_name: str = Field(default="", description="Name that the certificate must have; empty: the address.")


class BalancerCheck(Model):
    """How the node finds out which backends work."""

    type: Literal["TCP", "HTTP", "HTTPS", "GRPC"] = Field(description="What is asked of a backend.")
    port: PortNumber = Field(description="Port that is asked.")
    path: str = Field(default="/", description="Path of the HTTP request.")
    host: str = Field(default="", description="Host of the HTTP request; empty: the backend's address.")
    grpc_service: str = Field(default="", description="Service of the gRPC health protocol; empty: the whole server.")
    tls: BalancerTls | None = Field(default=None, description="TLS of HTTPS and GRPC; left out: none is verified.")
    status_codes: tuple[int, ...] = Field(default=(200,), description="HTTP status codes that mean healthy.")
    interval_ms: int = Field(ge=10, description="Time between two checks of a backend, milliseconds.")
    timeout_ms: int = Field(ge=10, description="Time that a backend has to answer, milliseconds.")
    jitter_percent: int = Field(default=10, ge=0, le=100, description="How far a check may be moved from its time.")
    rise: int = Field(default=2, ge=1, description="Good checks in a row after which a backend is used again.")
    fall: int = Field(default=3, ge=1, description="Bad checks in a row after which it gets no new flows.")
    when_all_fail: Literal["Open", "Closed"] = Field(
        default="Open", description="With no healthy backend: use all of them, or refuse new flows."
    )


class Balancer(Owned):
    """Virtual addresses in front of backends, of one object of a user."""

    name: str = Field(min_length=1, description="Name by which the node knows it from one NodeConfig to the next.")
    vips: tuple[BalancerVip, ...] = Field(min_length=1, description="Virtual addresses.")
    ports: tuple[BalancerPort, ...] = Field(default=(), description="Their ports.")
    all_ports: bool = Field(default=False, description="True: every TCP and UDP port of the addresses.")
    backends: tuple[BalancerBackend, ...] = Field(default=(), description="Backends; without any, flows are refused.")
    table_size: int = Field(ge=3, le=65537, description="Slots of the table, a prime.")
    seed: int = Field(ge=0, le=(1 << 53) - 1, description="Seed of flow hash and table, the same on every node.")
    mode: Literal["DSR", "NAT", "L2"] = Field(default="DSR", description="How packets reach a backend.")
    devices: tuple[str, ...] = Field(default=("auto",), description="Devices on which addresses are announced.")
    outer_source_ipv4: str | None = Field(default=None, description="CIDR of outer IPv4 sources; left out, the node's.")
    outer_source_ipv6: str | None = Field(default=None, description="CIDR of outer IPv6 sources; left out, the node's.")
    drain_s: int = Field(default=300, ge=0, description="How long old flows stay with a backend that left, seconds.")
    check: BalancerCheck | None = Field(default=None, description="Health checks; left out, all backends work.")
    allow: tuple[str, ...] = Field(default=(), description="CIDRs that may connect; empty: all.")
    deny: tuple[str, ...] = Field(default=(), description="CIDRs that may not; the longest match counts.")
    affinity_s: int = Field(default=0, ge=0, description="How long a client keeps its backend, seconds; 0: not at all.")
    quic_offset: int = Field(default=0, ge=0, le=19, description="First byte of the server id in a connection id.")
    quic_length: int = Field(default=0, ge=0, le=16, description="Bytes of the server id; 0: no QUIC routing.")
    new_flows_per_s: int = Field(default=0, ge=0, description="New flows per second that are admitted; 0: any number.")
    icmp_echo: bool = Field(default=True, description="Whether ping to the addresses is answered.")


class BackendReport(Model):
    """A backend that is not used as others are."""

    address: str = Field(description="Its address.")
    state: Literal["Terminating", "Quarantined", "Maintenance", "Draining"] = Field(description="Why it is not used.")
    message: str = Field(default="", description="What its last check found.")


class BalancerReport(Model):
    """How one balancer does on this node."""

    owner: OwnerRef = Field(description="The user's object, as Kind/name.")
    backends: int = Field(default=0, description="Backends that are wanted.")
    active: int = Field(default=0, description="Backends that get new flows.")
    quarantined: int = Field(default=0, description="Backends that health checks found not to work.")
    draining: int = Field(default=0, description="Backends that only keep old flows.")
    not_active: tuple[BackendReport, ...] = Field(
        default=(), description="Backends that get no new flows, at most 20 of one balancer and 200 of one node."
    )
    announced: tuple[str, ...] = Field(default=(), description="Addresses that this node announces.")
    message: str = Field(default="", description="What is worth knowing, in a sentence.")
