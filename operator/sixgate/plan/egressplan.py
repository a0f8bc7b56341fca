"""What one node is to do of egress gateways: plain values."""

from __future__ import annotations

from dataclasses import dataclass

from sixgate.errors import Ref

BEHIND = "@behind-egress"  # in place of a device's name in an attachment
CHAINED = "sg_eg_chained"  # constant of sg_egress: 1 where there is such an attachment


@dataclass(frozen=True, slots=True)
class TermPlan:
    key: str
    operator: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EgressPodsPlan:
    namespaces: tuple[TermPlan, ...]
    pods: tuple[TermPlan, ...]


@dataclass(frozen=True, slots=True)
class EgressPairPlan:
    """`id` is the tunnel id."""

    id: int
    ipv4: str | None
    ipv6: str | None


@dataclass(frozen=True, slots=True)
class EgressMemberPlan:
    node: str
    address: str
    leaving: bool


@dataclass(frozen=True, slots=True)
class EgressNatPlan:
    """Of `struct sg_st_obj`, what an object says of its source NAT; lifetimes in the order of `enum sg_st_life`."""

    max_sessions: int
    block_size: int
    lifetimes: tuple[int, ...]
    client_ports: int
    client_sessions: int
    client_rate: int
    client_len: int


@dataclass(frozen=True, slots=True)
class EgressPlan:
    """One EgressGateway on one node; `pods` are only those that the node may have, `gateway`: the node is one."""

    owner: Ref
    stat: int
    pods: tuple[EgressPodsPlan, ...]
    destinations: tuple[str, ...]
    excluded: tuple[str, ...]
    pairs: tuple[EgressPairPlan, ...]
    members: tuple[EgressMemberPlan, ...]
    transport: str
    device: str
    announce: str
    mss_clamp: bool
    new_pods: str
    no_gateway: str
    heartbeat_ms: int
    missed: int
    drain_s: int
    gateway: bool
    nat: EgressNatPlan
