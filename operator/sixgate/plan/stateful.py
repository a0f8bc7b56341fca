"""Stateful gateways of one node as tables of the data plane: objects that keep sessions, their pools, services.

A gateway has up to three objects: the one of its pool (NAT64, and IPv6 VIPs in front of IPv4 backends), one whose
sources are the node's own IPv6 address (IPv4 VIPs), and, without a pool, one with the node's own IPv4 address. Where
things stand in arrays is the node's business (`numbers` of a NodeConfig): it must not move when others come and go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from sixgate.api.nat46gateway import NAT46Gateway
from sixgate.api.stateful import LifetimesSpec, NatServiceSpec, StatefulSpec
from sixgate.errors import Ref
from sixgate.plan.natplan import GatewayFlag, GatewayPlan, Has
from sixgate.plan.nodeplan import MapPlan
from sixgate.plan.pools import PoolSlice, Shares, share_out
from sixgate.plan.stateplan import (
    IDS_STEP,
    BindingPlan,
    ObjectStatePlan,
    PoolPlan,
    PortSpacePlan,
    ReservationPlan,
    ServicePlan,
    StatefulFlag,
    StatefulPlan,
    roomy,
)

PROTOCOLS = 3  # SG_ST_PROTOS: TCP, UDP, ICMP
PORTS_PER_BLOCK = 64
ALL_BLOCKS = 65536 // PORTS_PER_BLOCK
SINGLE_ADDRESSES = 64  # up to this many addresses of a node stand apart, with all their ports: nothing ever moves them
MAX_POOLS = 64  # of one object: the data plane's bound
MAX_PORT_ENTRIES = 1 << 21  # of 280 bytes each
MAX_HALF_OPEN = 65536
SERVICE_SESSIONS = 262144
LOWEST_IPV6_MTU = 1280
OWN = {4: "own4", 6: "own6"}
OWN_PORTS = (1024, 65535)
PROTO_NUMBERS = {"TCP": 6, "UDP": 17}
PROTO_PLACES = {6: 0, 17: 1}


@dataclass(frozen=True, slots=True)
class StatefulPart:
    """What one stateful gateway is on some nodes: all of it, with a part of its pools."""

    ref: Ref
    gateway: NAT46Gateway
    slices: tuple[PoolSlice, ...]


@dataclass(frozen=True, slots=True)
class _Source:
    """An object before its addresses have places: `slices` of a pool, or the node's own address of `family`."""

    name: str
    part: StatefulPart
    family: int
    slices: tuple[PoolSlice, ...]


def pool_shares(gateway: NAT46Gateway, nodes: tuple[str, ...], ready: frozenset[str]) -> Shares:
    """What each node has of the gateway's pools; `ready` are those that are."""
    spec = gateway.spec.stateful
    if spec is None:
        return {}
    pools = tuple((pool.cidr, pool.ports.first, pool.ports.last) for pool in spec.pools)
    return share_out(pools, nodes, ready)


def pool_object(gateway: NAT46Gateway) -> str:
    """Name of the object that has the gateway's pools."""
    return gateway.metadata.name


def stateful_plan(parts: tuple[StatefulPart, ...], writers: tuple[GatewayPlan, ...]) -> StatefulPlan:
    """`writers` say how each part's packets are written, in the order of `parts`, oldest first."""
    sources = [source for part in parts for source in _sources(part)]
    spaces = _spaces(sources)
    by_ref = {part.ref: writer for part, writer in zip(parts, writers, strict=True)}
    objects = tuple(_object(source, by_ref[source.part.ref], spaces) for source in sources)
    bindings = tuple(binding for part in parts for binding in _bindings(part, spaces))
    return StatefulPlan(
        owners=tuple(part.ref for part in parts),
        objects=objects,
        spaces=spaces,
        bindings=bindings,
        reservations=_reservations(bindings),
        services=tuple(service for part in parts for service in _services(part)),
    )


def state_maps(plan: StatefulPlan) -> tuple[MapPlan, ...]:
    """Sizes of the engine's maps; those that only the data plane writes are carried over when they change."""
    blocks = sum(
        pool.space.n_addrs * ((pool.last - pool.first + 1) // item.block_size + 1)
        for item in plan.objects
        for pool in item.pools
        if item.block_size
    )
    sizes = {
        **dict.fromkeys(("sg_st_sess", "sg_st_map", "sg_st_fwd", "sg_st_find"), plan.ids),
        **dict.fromkeys(("sg_st_sids", "sg_st_mids"), plan.ids // IDS_STEP),
        "sg_st_port": plan.port_entries,
        "sg_st_half": plan.half_entries,
        "sg_st_use": 0,
        "sg_st_client": roomy(plan.ids) if any(item.flags & StatefulFlag.CLIENTS for item in plan.objects) else 0,
        "sg_st_blk": roomy(blocks * PROTOCOLS) if blocks else 0,
    }
    state = tuple(MapPlan(name, size, True) for name, size in sizes.items())
    return (*state, MapPlan("sg_st_resv", plan.port_entries, False))


def has_bits(plan: StatefulPlan) -> int:
    """`enum sg_st_has`: what the data plane has to look for at all."""
    found = Has(0)
    for item in plan.objects:
        if item.gateway.obj == item.name:
            found |= Has.GW
    for service in (each for each in plan.services if not each.balanced):
        found |= Has.SVC6 if ":" in service.vip else Has.SVC4
    for space in plan.spaces:
        six = space.address == OWN[6] or ":" in space.address
        if space.clients:
            found |= Has.KEPT6 if six else Has.KEPT4
        else:
            found |= Has.OWN6 if six else Has.OWN4
    return int(found)


def writer(gateway: NAT46Gateway, stat: int) -> GatewayPlan:
    """How the gateway's packets are written. A missing UDP checksum is computed (RFC 6146 3.4)."""
    prefix, stateful = gateway.spec.prefix, gateway.spec.stateful
    flags = GatewayFlag.UDP_ZERO_CALC
    if prefix is not None:
        flags |= GatewayFlag.PREFIX | GatewayFlag.WKP_STRICT
    if stateful is not None:
        flags |= GatewayFlag.STATEFUL
    made = bare_writer(gateway.ref, stat, flags)
    if prefix is not None:
        address, mask = str(prefix.network_address), str(prefix.netmask)
        made = replace(made, prefix=address, mask=mask, prefix_len=prefix.prefixlen)
    return replace(made, obj=pool_object(gateway)) if stateful is not None else made


def bare_writer(owner: Ref, stat: int, flags: GatewayFlag) -> GatewayPlan:
    """How packets are written of an object that maps no prefix."""
    return GatewayPlan(
        owner=owner,
        prefix="::",
        mask="::",
        prefix_len=0,
        pool6791="::",
        pool6791_len=0,
        pool6791_6="::",
        pool6791_6_len=0,
        flags=int(flags),
        low_mtu=LOWEST_IPV6_MTU,
        stat=stat,
        tos=0,
    )


def too_much(part: StatefulPart) -> str:
    """Why this part is more than a node can hold, empty if it is not."""
    sources = list(_sources(part))
    spaces = _spaces(sources)
    entries = sum(space.count for space in spaces)
    if entries > MAX_PORT_ENTRIES:
        most = MAX_PORT_ENTRIES // (PROTOCOLS * ALL_BLOCKS)
        ports = entries * PORTS_PER_BLOCK // PROTOCOLS
        return f"has {ports} ports in its pools on one node, where those of {most} addresses fit"
    for source in sources:
        pieces = len(_pools(source, spaces))
        if pieces > MAX_POOLS:
            return f"has pools in {pieces} pieces on one node, where {MAX_POOLS} fit"
    return ""


def _sources(part: StatefulPart) -> Iterator[_Source]:
    gateway = part.gateway
    if part.slices:
        yield _Source(pool_object(gateway), part, 4, part.slices)
    families = {service.backends[0].address.version for service in gateway.spec.services}
    if 6 in families:
        yield _Source(f"{gateway.metadata.name}/6", part, 6, ())
    if 4 in families and not part.slices:
        yield _Source(f"{gateway.metadata.name}/4", part, 4, ())


def _spaces(sources: Iterable[_Source]) -> tuple[PortSpacePlan, ...]:
    """Where the ports of every address stand. Pools that share an address share its place."""
    found: dict[str, PortSpacePlan] = {}
    slices = [(item, source) for source in sources for item in source.slices]
    cuts = sorted({edge for item, _ in slices for edge in (item.first, item.last + 1)})
    singly = len({number for item, _ in slices for number in _some(item)}) <= SINGLE_ADDRESSES
    for source in sources:
        if not source.slices:
            space = _space(OWN[source.family], OWN[source.family], 1, (0, 65535), source, found)
            found[space.name] = space
    for item, source in slices:
        edges = range(item.first, item.last + 1) if singly else [c for c in cuts if item.first <= c <= item.last]
        for number, first in enumerate(edges):
            after = edges[number + 1] if number + 1 < len(edges) else item.last + 1
            ports = (0, 65535) if singly else _ports_at(first, [other for other, _ in slices])
            name = f"{IPv4Address(first)}" if after == first + 1 else f"{IPv4Address(first)}+{after - first}"
            space = _space(name, str(IPv4Address(first)), after - first, ports, source, found)
            found[space.name] = space
    return tuple(found[name] for name in sorted(found))


def _some(item: PoolSlice) -> range:
    """Addresses of a slice, no more than it takes to tell that there are too many."""
    return range(item.first, min(item.last, item.first + SINGLE_ADDRESSES) + 1)


def _ports_at(address: int, slices: list[PoolSlice]) -> tuple[int, int]:
    mine = [item for item in slices if item.first <= address <= item.last]
    return min(item.first_port for item in mine), max(item.last_port for item in mine)


def _space(  # noqa: PLR0917 - one step of _spaces, with what it knows
    name: str, address: str, n_addrs: int, ports: tuple[int, int], source: _Source, found: dict[str, PortSpacePlan]
) -> PortSpacePlan:
    first = ports[0] // PORTS_PER_BLOCK
    blocks = ports[1] // PORTS_PER_BLOCK - first + 1
    if blocks != ALL_BLOCKS:
        name += f":{first}+{blocks}"
    known = found.get(name)
    stateful = source.part.gateway.spec.stateful
    bound = {str(binding.ipv4) for binding in stateful.static_bindings} if stateful and source.slices else set()
    start = 0 if address in OWN.values() else int(IPv4Address(address))
    static = any(start <= int(IPv4Address(text)) < start + n_addrs for text in bound)
    return PortSpacePlan(
        name=name,
        address=address,
        n_addrs=n_addrs,
        first_block=first,
        blocks=blocks,
        count=n_addrs * PROTOCOLS * blocks,
        obj=known.obj if known else source.name,
        static=static or (known.static if known else False),
        owners=tuple(dict.fromkeys((*(known.owners if known else ()), source.part.ref))),
    )


def _pools(source: _Source, spaces: tuple[PortSpacePlan, ...]) -> tuple[PoolPlan, ...]:
    if not source.slices:
        return tuple(PoolPlan(space, *OWN_PORTS) for space in spaces if space.address == OWN[source.family])
    return tuple(
        PoolPlan(space, item.first_port, item.last_port)
        for item in source.slices
        for space in spaces
        if space.address not in OWN.values() and item.first <= int(IPv4Address(space.address)) <= item.last
    )


def _object(source: _Source, how: GatewayPlan, spaces: tuple[PortSpacePlan, ...]) -> ObjectStatePlan:
    spec = source.part.gateway.spec.stateful
    given = spec if spec is not None and source.slices else None
    pools = _pools(source, spaces)
    ports = sum(pool.space.n_addrs * (pool.last - pool.first + 1) for pool in pools)
    sessions = given.max_sessions if given else SERVICE_SESSIONS
    limits = given.client_limits if given else None
    return ObjectStatePlan(
        name=source.name,
        owner=source.part.ref,
        gateway=how,
        flags=int(_flags(given)),
        max_sessions=sessions,
        lifetimes=lifetimes(given.lifetimes if given else LifetimesSpec()),
        client_ports=limits.ports if limits else 0,
        client_sessions=limits.sessions if limits else 0,
        client_rate=limits.new_sessions_per_second if limits else 0,
        client_len=limits.prefix_length if limits else 128,
        half_size=max(1, min(MAX_HALF_OPEN, ports // 4, sessions // 4)),
        block_size=given.port_block_size if given else 0,
        pools=pools,
    )


def _flags(spec: StatefulSpec | None) -> StatefulFlag:
    if spec is None:
        return StatefulFlag.LIVE | StatefulFlag.PAIRED
    limits = spec.client_limits
    wanted = {
        StatefulFlag.LIVE: True,
        StatefulFlag.ADF: spec.filtering == "AddressDependent",
        StatefulFlag.PAIRED: spec.pooling == "Paired",
        StatefulFlag.HAIRPIN: spec.hairpinning,
        StatefulFlag.STATIC: bool(spec.static_bindings),
        StatefulFlag.CLIENTS: bool(limits.ports or limits.sessions or limits.new_sessions_per_second),
    }
    return StatefulFlag(sum(flag for flag, is_set in wanted.items() if is_set))


def lifetimes(spec: LifetimesSpec) -> tuple[int, ...]:
    """In the order of `enum sg_st_life`."""
    return (
        spec.udp,
        spec.icmp_query,
        spec.tcp_established,
        spec.tcp_transitory,
        spec.tcp_incoming_syn,
        spec.fragment,
        spec.port_rest,
    )


def _bindings(part: StatefulPart, spaces: tuple[PortSpacePlan, ...]) -> Iterator[BindingPlan]:
    spec = part.gateway.spec.stateful
    for binding in spec.static_bindings if spec is not None else ():
        number = int(binding.ipv4)
        for space in spaces:
            if space.address in OWN.values():
                continue
            place = number - int(IPv4Address(space.address))
            block = binding.ipv4_port // PORTS_PER_BLOCK - space.first_block
            if not 0 <= place < space.n_addrs or not 0 <= block < space.blocks:
                continue
            proto = PROTO_NUMBERS[binding.protocol]
            yield BindingPlan(
                proto=proto,
                ipv4=str(binding.ipv4),
                ipv4_port=binding.ipv4_port,
                ipv6=str(binding.ipv6),
                ipv6_port=binding.ipv6_port,
                obj=pool_object(part.gateway),
                owner=part.ref,
                space=space.name,
                offset=(place * PROTOCOLS + PROTO_PLACES[proto]) * space.blocks + block,
            )


def _reservations(bindings: tuple[BindingPlan, ...]) -> tuple[ReservationPlan, ...]:
    bits: dict[tuple[str, int], tuple[Ref, int]] = {}
    for item in bindings:
        owner, others = bits.get((item.space, item.offset), (item.owner, 0))
        bits[item.space, item.offset] = (owner, others | 1 << item.ipv4_port % PORTS_PER_BLOCK)
    return tuple(ReservationPlan(owner, *place, number) for place, (owner, number) in sorted(bits.items()))


def _services(part: StatefulPart) -> Iterator[ServicePlan]:
    for service in part.gateway.spec.services:
        family = service.backends[0].address.version
        pooled = family == 4 and part.slices
        yield ServicePlan(
            name=f"{service.vip} {service.protocol} {service.port}",
            owner=part.ref,
            vip=str(service.vip),
            port=service.port,
            proto=PROTO_NUMBERS[service.protocol],
            obj=pool_object(part.gateway) if pooled else f"{part.gateway.metadata.name}/{family}",
            backends=_backends(service),
        )


def _backends(service: NatServiceSpec) -> tuple[tuple[str, int, int], ...]:
    return tuple((str(item.address), item.port, item.weight) for item in service.backends)
