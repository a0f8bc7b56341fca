"""What one node is to do: plain values that a template writes down without deciding anything."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

from sixgate.errors import Ref


class Feature(IntFlag):
    """`enum sg_feature` of config.h; a test compares the two."""

    NAT = 1 << 0
    EGRESS = 1 << 8
    BIG_FORWARD = 1 << 12


class GatewayFlag(IntFlag):
    """`enum sg_gw_flag` of types.h; a test compares the two."""

    PREFIX = 1 << 0
    WKP_STRICT = 1 << 1
    ZERO_TC = 1 << 2
    FIXED_TOS = 1 << 3
    UDP_ZERO_CALC = 1 << 4
    MSS_CLAMP = 1 << 5
    ICMP_QUIET = 1 << 6
    HAIRPIN_OFF = 1 << 7


MAX_GATEWAYS = 16  # SG_NAT_MAX_GW
MAX_RANGES = 16  # SG_NAT_MAX_RANGE
MAX_STATS = 1024  # SG_NAT_MAX_STAT
KIND_EAM = 0  # SG_MAP_EAM
KIND_RANGE = 1  # SG_MAP_RANGE


@dataclass(frozen=True, slots=True)
class AttachmentPlan:
    program: str
    hook: str
    devices: tuple[str, ...]
    required: bool = True
    super_packets: str = ""  # what the program does with those of more than 64 KB, as in nodeconfig.Attachment


@dataclass(frozen=True, slots=True)
class ObjectPlan:
    """One BPF object file and where its programs go."""

    name: str
    digest: str
    owners: tuple[Ref, ...]
    attachments: tuple[AttachmentPlan, ...]
    constants: tuple[tuple[str, str], ...] = ()  # beside `sg_cfg`


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


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """`struct sg_nat_gw`; addresses as text, `::` where there is none."""

    owner: Ref
    prefix: str
    mask: str
    prefix_len: int
    pool6791: str
    pool6791_len: int
    pool6791_6: str
    pool6791_6_len: int
    flags: int
    low_mtu: int
    stat: int
    tos: int


@dataclass(frozen=True, slots=True)
class RangePlan:
    """`struct sg_nat_range`; address and mask as numbers in host order."""

    addr: int
    mask: int
    gateway: int


@dataclass(frozen=True, slots=True)
class MappingPlan:
    """One entry of `sg_nat_map`; lengths in bits of the 128-bit form (IPv4 /n is 96 + n)."""

    addr: str
    length: int
    to: str
    to_length: int
    kind: int
    gateway: int
    key_length: int


@dataclass(frozen=True, slots=True)
class NatPlan:
    """Stateless translation of one node: everything that is swapped as a whole, and the mappings of its generation.

    `generation` names the mappings (0 for none), `version` the whole table: what the data plane remembers from one
    table is not used with another.
    """

    owners: tuple[Ref, ...]
    gateways: tuple[GatewayPlan, ...]
    ranges: tuple[RangePlan, ...]
    mappings: tuple[MappingPlan, ...]
    generation: int
    version: int


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
class EgressPlan:
    """One EgressGateway on one node; `pods` are only those that the node may have."""

    owner: Ref
    stat: int
    pods: tuple[EgressPodsPlan, ...]
    destinations: tuple[str, ...]
    excluded: tuple[str, ...]
    pairs: tuple[EgressPairPlan, ...]
    members: tuple[EgressMemberPlan, ...]
    device: str
    announce: str
    mss_clamp: bool
    heartbeat_ms: int
    missed: int
    drain_s: int


@dataclass(frozen=True, slots=True)
class NodePlan:
    """All features of one node. Two nodes with equal plans get the same document."""

    objects: tuple[ObjectPlan, ...] = ()
    config: ConfigPlan | None = None
    nat: NatPlan | None = None
    big_tcp: tuple[BigTcpPlan, ...] = ()  # the first that names a family of a device counts
    egress: tuple[EgressPlan, ...] = ()  # oldest first
    big_forward: str = ""  # digest of the object that forwards IPv6 super-packets, empty where none does


EMPTY = NodePlan()
