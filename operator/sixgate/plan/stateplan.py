"""What one node is to keep sessions for: plain values, and the room that their maps need."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntFlag
from functools import lru_cache
from ipaddress import IPv4Address

from sixgate.errors import Ref
from sixgate.plan.natplan import GatewayPlan

IDS_STEP = 512
OWN_STATIC = 2  # SG_OWN_STATIC
OWN_SAME = 4  # SG_OWN_SAME


class StatefulFlag(IntFlag):
    """`enum sg_st_flag` of types_nat.h; a test compares the two."""

    LIVE = 1 << 0
    ADF = 1 << 1
    PAIRED = 1 << 2
    HAIRPIN = 1 << 3
    STATIC = 1 << 4
    CLIENTS = 1 << 5
    SAME = 1 << 7
    KEEP = 1 << 8


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
    clients: bool = False  # any client's address: clients keep theirs, ports are each backend's

    @property
    def address_value(self) -> str | dict[str, int]:
        """The first address as a NodeConfig writes it."""
        return {"$address": int(self.address[-1])} if self.address.startswith("own") else self.address

    @property
    def addresses(self) -> tuple[tuple[str | dict[str, int], int], ...]:
        """Every address that is the node's, and where its ports begin in the space."""
        if self.clients:
            return ()
        step = self.count // self.n_addrs
        if self.n_addrs == 1:
            return ((self.address_value, 0),)
        first = IPv4Address(self.address)
        return tuple((str(first + number), number * step) for number in range(self.n_addrs))

    @property
    def own_flags(self) -> int:
        """`enum sg_own_flag`; whether the host has the address is known to the node only."""
        return (OWN_STATIC if self.static else 0) | (OWN_SAME if self.same else 0)

    def shared_with(self, other: PortSpacePlan) -> PortSpacePlan:
        """The one place of what both say of the same addresses: static ports of either are kept free, and a port rests
        before it is used again if the clients of either need that."""
        owners = tuple(dict.fromkeys((*self.owners, *other.owners)))
        return replace(self, owners=owners, static=self.static or other.static, same=self.same and other.same)


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


def joined(one: StatefulPlan | None, other: StatefulPlan) -> StatefulPlan:
    """Both on one node; what stands at the same addresses has one place."""
    if one is None:
        return other
    spaces = {space.name: space for space in one.spaces}
    for space in other.spaces:
        known = spaces.get(space.name)
        spaces[space.name] = known.shared_with(space) if known is not None else space
    return StatefulPlan(
        owners=tuple(dict.fromkeys((*one.owners, *other.owners))),
        objects=(*one.objects, *other.objects),
        spaces=tuple(spaces.values()),
        bindings=(*one.bindings, *other.bindings),
        services=(*one.services, *other.services),
        reservations=(*one.reservations, *other.reservations),
    )
