"""What one balancer is to do on a node: plain values that a template writes down without deciding anything."""

from __future__ import annotations

from dataclasses import dataclass

from sixgate.errors import Ref


@dataclass(frozen=True, slots=True)
class VipPlan:
    """A virtual address and the nodes that may announce it, the most preferred first."""

    address: str
    announcers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PortPlan:
    """`first` to `last` lead to the ports of the backends that begin at `target`."""

    protocol: str
    first: int
    last: int
    target: int


@dataclass(frozen=True, slots=True)
class BackendPlan:
    """`state` is Active, Terminating or Maintenance; `server_id` hexadecimal digits, empty for none."""

    address: str
    weight: int
    state: str
    server_id: str


@dataclass(frozen=True, slots=True)
class TlsPlan:
    """TLS of a check; PEM text, path and name, empty for what was not declared."""

    verify: bool
    ca_bundle: str
    ca_file: str
    server_name: str


@dataclass(frozen=True, slots=True)
class CheckPlan:
    type: str
    port: int
    path: str
    host: str
    grpc_service: str
    tls: TlsPlan | None
    status_codes: tuple[int, ...]
    interval_ms: int
    timeout_ms: int
    jitter_percent: int
    rise: int
    fall: int
    when_all_fail: str


@dataclass(frozen=True, slots=True)
class NatSourcePlan:
    """Mode NAT: `sources` of this node, empty for its own addresses; sessions to the backends of one family. `keep`:
    there are no sources, clients keep their addresses."""

    sources: tuple[str, ...]
    max_sessions: int
    keep: bool = False


@dataclass(frozen=True, slots=True)
class BalancerPlan:
    """One LoadBalancer; CIDRs and addresses as text, 0 or empty for what is not wanted."""

    owner: Ref
    vips: tuple[VipPlan, ...]
    ports: tuple[PortPlan, ...]
    all_ports: bool
    backends: tuple[BackendPlan, ...]
    table_size: int
    seed: int
    mode: str
    devices: tuple[str, ...]
    outer_source_ipv4: str | None
    outer_source_ipv6: str | None
    drain_s: int
    check: CheckPlan | None
    allow: tuple[str, ...]
    deny: tuple[str, ...]
    affinity_s: int
    quic_offset: int
    quic_length: int
    new_flows_per_s: int
    icmp_echo: bool
    nat: NatSourcePlan | None = None


@dataclass(frozen=True, slots=True)
class PrefixPlan:
    """An address and how many of its bits count, in the 128-bit form (IPv4 /n is 96 + n)."""

    address: str
    bits: int


@dataclass(frozen=True, slots=True)
class DecapPlan:
    """The backend's end of DSR: `vips` as CIDRs of one address, `roles` of addresses (1: its own, 2: virtual),
    `sources` that balancers send from, `digests` of its objects by name."""

    owners: tuple[Ref, ...]
    digests: tuple[tuple[str, str], ...]
    devices: tuple[str, ...]
    mtu: int
    vips: tuple[str, ...]
    roles: tuple[tuple[str, int], ...]
    sources: tuple[PrefixPlan, ...]
