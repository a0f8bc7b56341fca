"""What one node is to do: plain values that a template writes down without deciding anything."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

from sixgate.errors import Ref
from sixgate.plan.egressplan import EgressPlan
from sixgate.plan.lbplan import BalancerPlan, DecapPlan, VipPlan
from sixgate.plan.natplan import NatPlan
from sixgate.plan.stateplan import StatefulPlan


class Feature(IntFlag):
    """`enum sg_feature` of config.h; a test compares the two."""

    NAT = 1 << 0
    STATEFUL = 1 << 1
    EGRESS = 1 << 8
    LB = 1 << 4
    BIG_FORWARD = 1 << 12


@dataclass(frozen=True, slots=True)
class AttachmentPlan:
    program: str
    hook: str
    devices: tuple[str, ...]
    required: bool = True
    super_packets: str = ""  # what the program does with those of more than 64 KB, as in nodeconfig.Attachment


@dataclass(frozen=True, slots=True)
class MapPlan:
    """What the object file leaves open about a map; `entries` 0 keeps its size. `state`: it is carried over."""

    name: str
    entries: int
    state: bool


@dataclass(frozen=True, slots=True)
class ObjectPlan:
    """One BPF object file and where its programs go."""

    name: str
    digest: str
    owners: tuple[Ref, ...]
    attachments: tuple[AttachmentPlan, ...]
    constants: tuple[tuple[str, str | int], ...] = ()  # beside `sg_cfg`
    maps: tuple[MapPlan, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigPlan:
    """`struct sg_config`: constants of every program of the node; rates per second and source."""

    features: Feature
    slow_device: str
    slow_peer: str
    l2_len: int
    icmp_rate: int
    icmp_burst: int
    tunnel_device: str = ""
    egress_slow_device: str = ""
    st_ids: int = 0  # sessions that the node's tables have room for


@dataclass(frozen=True, slots=True)
class PrefixRoutePlan:
    """The way from a node to the gateway node that translates a prefix for it."""

    owner: Ref
    prefix: str
    via: str


@dataclass(frozen=True, slots=True)
class BigTcpPlan:
    """Sizes of one policy in bytes; 65536 for a family that is off, None for one that the policy does not speak of."""

    owner: Ref
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    ipv6_size: int | None
    ipv4_size: int | None
    pods: str
    forwarding: str


@dataclass(frozen=True, slots=True)
class AnnouncePlan:
    """Addresses of one gateway, each with the nodes that may announce it, the most preferred first."""

    owner: Ref
    addresses: tuple[VipPlan, ...]
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodePlan:
    """All features of one node. Two nodes with equal plans get the same document."""

    objects: tuple[ObjectPlan, ...] = ()
    config: ConfigPlan | None = None
    nat: NatPlan | None = None
    stateful: StatefulPlan | None = None
    routes: tuple[PrefixRoutePlan, ...] = ()
    big_tcp: tuple[BigTcpPlan, ...] = ()  # the first that names a family of a device counts
    egress: tuple[EgressPlan, ...] = ()  # oldest first
    big_forward: str = ""  # digest of the object that forwards IPv6 super-packets, empty where none does
    balancers: tuple[BalancerPlan, ...] = ()  # oldest first
    decap: DecapPlan | None = None
    announcements: tuple[AnnouncePlan, ...] = ()


EMPTY = NodePlan()
