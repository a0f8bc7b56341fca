"""What one node is to do: plain values that a template writes down without deciding anything."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from functools import lru_cache
from ipaddress import IPv4Address

from sixgate.errors import Ref
from sixgate.plan.lbplan import BalancerPlan, DecapPlan

IDS_STEP = 512


class Feature(IntFlag):
    """`enum sg_feature` of config.h; a test compares the two."""

    NAT = 1 << 0
    STATEFUL = 1 << 1
    EGRESS = 1 << 8
    LB = 1 << 4
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
    STATEFUL = 1 << 8
    JOINED = 1 << 9


class StatefulFlag(IntFlag):
    """`enum sg_st_flag` of types_nat.h; a test compares the two."""

    LIVE = 1 << 0
    ADF = 1 << 1
    PAIRED = 1 << 2
    HAIRPIN = 1 << 3
    STATIC = 1 << 4
    CLIENTS = 1 << 5
    SAME = 1 << 7


class Has(IntFlag):
    """`enum sg_st_has` of types.h; a test compares the two."""

    GW = 1 << 0
    SVC4 = 1 << 1
    SVC6 = 1 << 2
    OWN4 = 1 << 3
    OWN6 = 1 << 4


MAX_GATEWAYS = 16  # SG_NAT_MAX_GW
MAX_RANGES = 16  # SG_NAT_MAX_RANGE
MAX_STATS = 1024  # SG_NAT_MAX_STAT
OWN_STATIC = 2  # SG_OWN_STATIC
OWN_SAME = 4  # SG_OWN_SAME
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
    obj: str = ""  # name of its stateful object, empty for a stateless gateway


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
    has: int = 0  # of enum sg_st_has


@dataclass(frozen=True, slots=True)
class PortSpacePlan:
    """Addresses in a row whose ports stand together in `sg_st_port`; `address` is the first one, or `own4`, `own6` for
    the node's. `name` is what the node hands numbers out by, `count` how many entries they take."""

    name: str
    address: str
    n_addrs: int
    first_block: int
    blocks: int
    count: int
    obj: str  # (one of) the object(s) that use it
    static: bool
    owners: tuple[Ref, ...]
    same: bool = False  # its clients are of the same family

    @property
    def address_value(self) -> str | dict[str, int]:
        """The first address as a NodeConfig writes it."""
        return {"$address": int(self.address[-1])} if self.address.startswith("own") else self.address

    @property
    def addresses(self) -> tuple[tuple[str | dict[str, int], int], ...]:
        """Every address, and where its ports begin in the space."""
        step = self.count // self.n_addrs
        if self.n_addrs == 1:
            return ((self.address_value, 0),)
        first = IPv4Address(self.address)
        return tuple((str(first + number), number * step) for number in range(self.n_addrs))

    @property
    def own_flags(self) -> int:
        """`enum sg_own_flag`; whether the host has the address is known to the node only."""
        return (OWN_STATIC if self.static else 0) | (OWN_SAME if self.same else 0)


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """One entry of `sg_st_pool`: a part of an object's pools that lies in one port space."""

    space: PortSpacePlan
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class ObjectStatePlan:
    """`struct sg_st_obj`: something that keeps sessions. `name` is what its index is handed out by."""

    name: str
    owner: Ref
    gateway: GatewayPlan
    flags: int
    max_sessions: int
    lifetimes: tuple[int, ...]
    client_ports: int
    client_sessions: int
    client_rate: int
    client_len: int
    half_size: int
    block_size: int
    pools: tuple[PoolPlan, ...]

    @property
    def n_addrs(self) -> int:
        return sum(pool.space.n_addrs for pool in self.pools)


@dataclass(frozen=True, slots=True)
class BindingPlan:
    """A static binding: protocol number, pool's address and port, host's address and port, its object; `space` and
    `offset` say where the port's reservation stands."""

    proto: int
    ipv4: str
    ipv4_port: int
    ipv6: str
    ipv6_port: int
    obj: str
    owner: Ref
    space: str
    offset: int


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """A virtual address and its backends (address, port, weight); `obj` is the object whose pools are the sources.

    Of a balancer (`balanced`) it is an address with all its ports, and the balancer has the backends: `by_family` names
    the objects for IPv4 and IPv6 backends, empty for none."""

    name: str
    owner: Ref
    vip: str
    port: int
    proto: int
    obj: str
    backends: tuple[tuple[str, int, int], ...]
    balanced: bool = False
    by_family: tuple[str, str] = ("", "")

    @property
    def ring(self) -> tuple[tuple[str, int], ...]:
        """Backends as keys and weights of the Maglev ring."""
        return tuple((f"{address} {port}", weight) for address, port, weight in self.backends)


@dataclass(frozen=True, slots=True)
class ReservationPlan:
    """Ports of one entry of `sg_st_resv` that are given to no client, as bits; where it stands as in BindingPlan."""

    owner: Ref
    space: str
    offset: int
    bits: int


def rounded(number: int, step: int) -> int:
    return max(step, -(-number // step) * step)


@lru_cache(maxsize=1024)
def roomy(count: int) -> int:
    """Room for `count` entries and some to come: a map that has to be made anew carries all its entries over."""
    step = max(4096, 1 << max(0, count.bit_length() - 3))
    return rounded(count, step)


@dataclass(frozen=True, slots=True)
class StatefulPlan:
    """Everything on one node that keeps sessions, and the room that its maps need."""

    owners: tuple[Ref, ...]
    objects: tuple[ObjectStatePlan, ...]
    spaces: tuple[PortSpacePlan, ...]
    bindings: tuple[BindingPlan, ...]
    services: tuple[ServicePlan, ...]
    reservations: tuple[ReservationPlan, ...] = ()

    @property
    def ids(self) -> int:
        """How many sessions there may be."""
        return rounded(sum(item.max_sessions for item in self.objects), IDS_STEP)

    @property
    def port_entries(self) -> int:
        return roomy(sum(space.count for space in self.spaces))

    @property
    def half_entries(self) -> int:
        return roomy(sum(item.half_size for item in self.objects))


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


EMPTY = NodePlan()
