"""What one node is to translate, of every gateway: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

from sixgate.errors import Ref

MAX_GATEWAYS = 16  # SG_NAT_MAX_GW
MAX_RANGES = 16  # SG_NAT_MAX_RANGE
MAX_STATS = 1024  # SG_NAT_MAX_STAT
KIND_EAM = 0  # SG_MAP_EAM
KIND_RANGE = 1  # SG_MAP_RANGE


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


class Has(IntFlag):
    """`enum sg_st_has` of types.h; a test compares the two."""

    GW = 1 << 0
    SVC4 = 1 << 1
    SVC6 = 1 << 2
    OWN4 = 1 << 3
    OWN6 = 1 << 4
    KEPT4 = 1 << 5
    KEPT6 = 1 << 6


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
    kept: tuple[tuple[int, str], ...] = ()  # families whose clients keep their addresses, and their port spaces
