"""LoadBalancers in mode NAT: their flows are sessions of the stateful engine, which knows where replies belong.

The balancer chooses the backend of a new flow; the engine gives it a source that the backend sees, and remembers both.
A balancer has an object of the engine for each family of its backends, because sources have the backend's family; a
virtual address is a service of the engine, whatever its ports.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address

from sixgate.api.stateful import LifetimesSpec
from sixgate.errors import Problem, Ref
from sixgate.plan.egressplan import BEHIND, CHAINED
from sixgate.plan.lbplan import BackendPlan, BalancerPlan
from sixgate.plan.nat46 import PODS, number_of
from sixgate.plan.natplan import MAX_STATS, GatewayFlag, NatPlan
from sixgate.plan.nodeplan import AttachmentPlan, Feature, NodePlan, ObjectPlan
from sixgate.plan.pools import rendezvous
from sixgate.plan.stateful import (
    ALL_BLOCKS,
    MAX_HALF_OPEN,
    OWN,
    OWN_PORTS,
    PROTOCOLS,
    bare_writer,
    has_bits,
    lifetimes,
    state_maps,
)
from sixgate.plan.stateplan import (
    ObjectStatePlan,
    PoolPlan,
    PortSpacePlan,
    ServicePlan,
    StatefulFlag,
    StatefulPlan,
    joined,
)

NO_SOURCE = "NoSource"
MODE_UNFIT = "ModeUnfit"
FAMILIES = (4, 6)
ANY = {4: "0.0.0.0", 6: "::"}


@dataclass(frozen=True, slots=True)
class _Object:
    """One family of one balancer."""

    name: str
    family: int
    item: BalancerPlan


def family_of(address: str) -> int:
    return ip_address(address).version


def shared_out(sources: Iterable[str], nodes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What each of `nodes` has of `sources`: of each family as evenly as can be, and a node that joins or leaves moves
    few of them. A session lives on one node, so no two of them have the same address."""
    held: dict[str, list[str]] = {node: [] for node in nodes}
    for family in FAMILIES:
        counts = dict.fromkeys(sorted(nodes), 0)
        for source in sorted((s for s in sources if family_of(s) == family), key=ip_address):
            if not counts:
                break
            fewest = min(counts.values())
            node = rendezvous(source, [name for name, count in counts.items() if count == fewest])
            counts[node] += 1
            held[node].append(source)
    return {node: tuple(found) for node, found in held.items()}


def with_sources(
    ref: Ref, sources: Sequence[str], backends: tuple[BackendPlan, ...], problems: list[Problem]
) -> tuple[BackendPlan, ...]:
    """`backends` without those of a family that none of the declared `sources` has."""
    if not sources:
        return backends
    families = {family_of(source) for source in sources}
    without = [backend for backend in backends if family_of(backend.address) not in families]
    if without:
        version = family_of(without[0].address)
        text = f"{ref} has the backend {without[0].address}, but no IPv{version} address in "
        text += f"spec.forwarding.nat.sourceAddresses that it could be reached from; {len(without)} of {len(backends)} "
        problems.append(Problem(ref, NO_SOURCE, f"{text}backends are left out", "spec.forwarding.nat.sourceAddresses"))
    return tuple(backend for backend in backends if backend not in without)


def with_clients_family(
    ref: Ref, vips: Iterable[str], backends: tuple[BackendPlan, ...], problems: list[Problem]
) -> tuple[BackendPlan, ...]:
    """`backends` that see a client's own address: those of the family of `vips`."""
    families = {family_of(vip) for vip in vips}
    without = [backend for backend in backends if family_of(backend.address) not in families]
    if without:
        version = family_of(without[0].address)
        text = f"{ref} has the backend {without[0].address}, but no client that keeps its address "
        text += f"(spec.forwarding.nat.preserveClientIP) comes to it by IPv{version}, as no VIP is of that family; "
        text += f"{len(without)} of {len(backends)} backends are left out"
        problems.append(Problem(ref, MODE_UNFIT, text, "spec.forwarding.nat.preserveClientIP"))
    return tuple(backend for backend in backends if backend not in without)


def with_engine(made: NodePlan, balancers: tuple[BalancerPlan, ...]) -> NodePlan:
    """`made`, which balances, with the engine for those of `balancers` in mode NAT; one that runs serves all."""
    mine = tuple(item for item in balancers if item.nat is not None)
    if not mine or made.config is None:
        return made
    stateful = joined(made.stateful, _state(mine, made))
    owners = tuple(item.owner for item in mine)
    has = has_bits(stateful)
    nat = made.nat or NatPlan(owners, (), (), (), 0, 0)
    kept = sorted((6 if ":" in space.address else 4, space.name) for space in stateful.spaces if space.clients)
    version = number_of((nat.gateways, nat.ranges, nat.generation, has, tuple(kept)))
    nat = replace(nat, has=has, kept=tuple(kept), version=version)
    maps = state_maps(stateful)
    objects = []
    for item in made.objects:
        objects.append(replace(_for_pods(item, egress=bool(made.egress)), maps=maps))
    features = made.config.features | Feature.NAT | Feature.STATEFUL
    return replace(
        made,
        objects=tuple(objects),
        config=replace(made.config, features=features, st_ids=stateful.ids),
        nat=nat,
        stateful=stateful,
    )


def _for_pods(item: ObjectPlan, *, egress: bool) -> ObjectPlan:
    """Backends and clients on this node come in by no uplink. Where egress has their devices, it asks for what it lets
    pass."""
    if item.name == "sg_egress":
        return replace(item, constants=tuple({**dict(item.constants), CHAINED: 1}.items()))
    if item.name != "sg_tc" or any({PODS, BEHIND} & {*each.devices} for each in item.attachments):
        return item
    pods = AttachmentPlan("sg_uplink_tc", "tc-ingress", (BEHIND if egress else PODS,), required=False)
    return replace(item, attachments=(*item.attachments, pods))


def _objects(item: BalancerPlan) -> tuple[_Object, ...]:
    families = {family_of(backend.address) for backend in item.backends}
    return tuple(
        _Object(f"{item.owner}/{family}", family, item)
        for family in FAMILIES
        if family in families or (not families and family == family_of(item.vips[0].address))
    )


def _state(balancers: tuple[BalancerPlan, ...], made: NodePlan) -> StatefulPlan:
    taken = {gateway.stat for gateway in made.nat.gateways} if made.nat is not None else set()
    taken |= {known.gateway.stat for known in made.stateful.objects} if made.stateful is not None else set()
    objects: list[ObjectStatePlan] = []
    spaces: dict[str, PortSpacePlan] = {}
    services: list[ServicePlan] = []
    for item in balancers:
        stat = int.from_bytes(hashlib.sha256(str(item.owner).encode()).digest()[:4], "big") % MAX_STATS
        while stat in taken:
            stat = (stat + 1) % MAX_STATS
        taken.add(stat)
        named = {each.family: each for each in _objects(item)}
        for each in named.values():
            own = _spaces(each)
            for space in own:
                known = spaces.get(space.name)
                spaces[space.name] = known.shared_with(space) if known else space
            objects.append(_object(each, tuple(spaces[space.name] for space in own), stat))
        by_family = (named[4].name if 4 in named else "", named[6].name if 6 in named else "")
        services += (
            ServicePlan(
                name=f"{item.owner} {vip.address}",
                owner=item.owner,
                vip=vip.address,
                port=0,
                proto=0,
                obj=by_family[0] or by_family[1],
                backends=(),
                balanced=True,
                by_family=by_family,
            )
            for vip in item.vips
        )
    return StatefulPlan(
        owners=tuple(item.owner for item in balancers),
        objects=tuple(objects),
        spaces=tuple(spaces.values()),
        bindings=(),
        services=tuple(services),
    )


def _spaces(each: _Object) -> tuple[PortSpacePlan, ...]:
    assert each.item.nat is not None
    owners = (each.item.owner,)
    if each.item.nat.keep:
        name, whole = f"clients{each.family}", PROTOCOLS * ALL_BLOCKS
        any_address = ANY[each.family]
        return (PortSpacePlan(name, any_address, 1, 0, ALL_BLOCKS, whole, each.name, False, owners, clients=True),)
    declared = [source for source in each.item.nat.sources if family_of(source) == each.family]
    return tuple(
        PortSpacePlan(
            name=address,
            address=address,
            n_addrs=1,
            first_block=0,
            blocks=ALL_BLOCKS,
            count=PROTOCOLS * ALL_BLOCKS,
            obj=each.name,
            static=False,
            owners=owners,
        )
        for address in declared or [OWN[each.family]]
    )


def _object(each: _Object, spaces: tuple[PortSpacePlan, ...], stat: int) -> ObjectStatePlan:
    assert each.item.nat is not None
    sessions = each.item.nat.max_sessions
    ports = len(spaces) * (OWN_PORTS[1] - OWN_PORTS[0] + 1)
    return ObjectStatePlan(
        name=each.name,
        owner=each.item.owner,
        gateway=bare_writer(each.item.owner, stat, GatewayFlag.STATEFUL | GatewayFlag.UDP_ZERO_CALC),
        flags=int(StatefulFlag.LIVE | StatefulFlag.PAIRED | (StatefulFlag.KEEP if each.item.nat.keep else 0)),
        max_sessions=sessions,
        lifetimes=lifetimes(LifetimesSpec()),
        client_ports=0,
        client_sessions=0,
        client_rate=0,
        client_len=128,
        half_size=max(1, min(MAX_HALF_OPEN, ports // 4, sessions // 4)),
        block_size=0,
        pools=tuple(PoolPlan(space, *OWN_PORTS) for space in spaces),
    )


def spread(sources: Mapping[str, tuple[str, ...]], families: Iterable[int]) -> list[str]:
    """Nodes that have none of `sources` in one of `families`, which there are."""
    wanted = [family for family in families if any(family_of(s) == family for own in sources.values() for s in own)]
    return sorted(
        node for node, own in sources.items() if any(family not in {family_of(s) for s in own} for family in wanted)
    )
