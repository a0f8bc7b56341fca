"""EgressGateways as parts of nodes: which nodes have a hand in one, and what each of them must know. Pure.

A node is a gateway, or may have pods that are selected, or both. Nodes that are the same in this get the same part. The
pods themselves are none of plan's business: a node knows its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address

from sixgate.api.base import LabelSelector
from sixgate.api.egressgateway import EgressGateway
from sixgate.errors import Ref
from sixgate.plan.egress_nat import with_nat
from sixgate.plan.egressplan import (
    BEHIND,
    CHAINED,
    EgressMemberPlan,
    EgressNatPlan,
    EgressPairPlan,
    EgressPlan,
    EgressPodsPlan,
    TermPlan,
)
from sixgate.plan.nat46 import PODS
from sixgate.plan.nodeplan import AttachmentPlan, ConfigPlan, Feature, NodePlan, ObjectPlan
from sixgate.plan.select import NodeIndex, NodeSet
from sixgate.plan.snapshot import NodeInfo
from sixgate.plan.stateful import lifetimes

TUNNEL_DEVICE = "sg-egress0"
SLOW_DEVICE = "sg-eslow0"
SLOW_PEER = "sg-eslow1"
OBJECTS = ("sg_egress", "sg_eslow", "sg_tc", "sg_slow", "sg_import")
MAX_PAIR = 0x3FFFFE
MAX_STAT = 4095
ICMP_RATE = 100
ETHERNET_HEADER_BYTES = 14


@dataclass(frozen=True, slots=True)
class EgressPart:
    """What one object is on some nodes."""

    ref: Ref
    plan: EgressPlan


class Numbers:
    """Numbers below a bound for names: by hash, so that they stay the same when others come and go, and the next free
    one where two names collide; whoever asks first (the older object) keeps its own."""

    def __init__(self, highest: int) -> None:
        self._highest = highest
        self._taken: set[int] = set()

    def give(self, name: str) -> int:
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % self._highest + 1
        while number in self._taken:
            number = number % self._highest + 1
        self._taken.add(number)
        return number


def node_address(node: NodeInfo, version: int) -> str:
    """The first address of a family, empty where the node has none."""
    return next((text for text in node.addresses if _version(text) == version), "")


def _version(text: str) -> int:
    try:
        return ip_address(text).version
    except ValueError:
        return 0


def common_family(nodes: tuple[NodeInfo, ...]) -> int:
    """The family that tunnels use: one that all nodes have, rather IPv6."""
    return 6 if nodes and all(node_address(node, 6) for node in nodes) else 4


def parts(  # noqa: PLR0917 - what the planner knows, each of a type of its own
    item: EgressGateway,
    index: NodeIndex,
    nodes: Mapping[str, NodeInfo],
    gateways: NodeSet,
    stat: int,
    pairs: tuple[EgressPairPlan, ...],
    family: int,
) -> Iterator[tuple[EgressPart, NodeSet]]:
    """Every distinct part of `item` and the nodes that have it; none without `pairs` keeps packets from leaving."""
    members = tuple(
        EgressMemberPlan(name, address, nodes[name].cordoned)
        for name in index.names_of(gateways)
        if (address := node_address(nodes[name], family))
    )
    groups: dict[tuple[int, ...], NodeSet] = {(): index.everything}
    serving = index.everything & sum(index.only(member.node) for member in members)
    for number, pods in enumerate(item.spec.pods):
        selected = index.everything if pods.node_selector is None else index.select(pods.node_selector)
        split: dict[tuple[int, ...], NodeSet] = {}
        for chosen, group in groups.items():
            for key, rest in (((*chosen, number), group & selected), (chosen, group & ~selected)):
                if rest:
                    split[key] = rest
        groups = split
    for chosen, group in groups.items():
        for gateway, held in ((True, group & serving), (False, group & ~serving if chosen else 0)):
            if held:
                made = _plan(item, chosen, stat, pairs, members)
                yield EgressPart(item.ref, replace(made, gateway=gateway and bool(pairs))), held


def _plan(
    item: EgressGateway,
    chosen: tuple[int, ...],
    stat: int,
    pairs: tuple[EgressPairPlan, ...],
    members: tuple[EgressMemberPlan, ...],
) -> EgressPlan:
    spec = item.spec
    return EgressPlan(
        owner=item.ref,
        stat=stat,
        pods=tuple(
            EgressPodsPlan(
                _terms(pods.namespace_selector), _terms(pods.pod_selector) if pods.pod_selector is not None else ()
            )
            for pods in (spec.pods[number] for number in chosen)
        ),
        destinations=tuple(sorted(map(str, spec.destination_cidrs))),
        excluded=tuple(sorted(map(str, spec.excluded_cidrs))),
        pairs=pairs,
        members=members,
        transport=spec.transport,
        device=spec.device,
        announce=spec.announce,
        mss_clamp=spec.mss_clamp,
        new_pods=spec.new_pods,
        no_gateway=spec.no_gateway,
        heartbeat_ms=spec.failover.heartbeat_milliseconds,
        missed=spec.failover.missed_heartbeats,
        drain_s=spec.failover.drain_seconds,
        gateway=False,
        nat=EgressNatPlan(
            max_sessions=spec.nat.max_sessions,
            block_size=spec.nat.port_block_size,
            lifetimes=lifetimes(spec.nat.lifetimes),
            client_ports=spec.nat.client_limits.ports,
            client_sessions=spec.nat.client_limits.sessions,
            client_rate=spec.nat.client_limits.new_sessions_per_second,
            client_len=spec.nat.client_limits.prefix_length,
        ),
    )


def _terms(selector: LabelSelector) -> tuple[TermPlan, ...]:
    labels = (TermPlan(key, "In", (value,)) for key, value in sorted(selector.match_labels.items()))
    return (*labels, *(TermPlan(term.key, term.operator, tuple(term.values)) for term in selector.match_expressions))


def numbered_pairs(item: EgressGateway, numbers: Numbers) -> tuple[EgressPairPlan, ...]:
    """Pairs with their tunnel ids."""
    return tuple(
        EgressPairPlan(
            numbers.give(f"{item.ref} {pair.ipv4} {pair.ipv6}"),
            str(pair.ipv4) if pair.ipv4 else None,
            str(pair.ipv6) if pair.ipv6 else None,
        )
        for pair in item.spec.addresses
    )


def with_wire(made: NodePlan) -> NodePlan:
    """A node with egress that is planned in everything else, where frames of direct ways end: at a gateway sg_uplink_tc
    hands them over, elsewhere sg_wire_tc takes them. A node without gateways whose uplinks have another program, or
    have one on chosen devices, sends none, so it gets none: replies come as requests went."""
    direct = [plan for plan in made.egress if plan.transport == "Direct"]
    if not direct:
        return made
    ingress = [a for item in made.objects for a in item.attachments if a.hook == "tc-ingress"]
    known = {"sg_uplink_tc", "sg_unpack_tc"}
    uplinks = [a for a in ingress if a.program in known and a.devices not in {(PODS,), (BEHIND,)}]
    program, name = "sg_wire_tc", "sg_egress"
    if any(plan.gateway for plan in direct):
        program, name = "sg_uplink_tc", "sg_tc"
        if any(a.program == program and "auto" in a.devices for a in uplinks):
            return made
    elif any(a.program == "sg_unpack_tc" or "auto" not in a.devices for a in uplinks):
        return replace(made, egress=tuple(replace(plan, transport="VXLAN") for plan in made.egress))
    elif uplinks:
        return made
    wire = AttachmentPlan(program, "tc-ingress", ("auto",))
    objects = (
        replace(item, attachments=(*item.attachments, wire)) if item.name == name else item for item in made.objects
    )
    return replace(made, objects=tuple(objects))


def with_egress(made: NodePlan, found: tuple[EgressPart, ...], digests: Mapping[str, str]) -> NodePlan:
    """The plan of a node that, beside what it does already, has a hand in egress."""
    owners = tuple(part.ref for part in found)
    objects, chained = _behind(made.objects)
    egress = ObjectPlan(
        "sg_egress",
        digests["sg_egress"],
        owners,
        (
            AttachmentPlan("sg_pod_tc", "tc-ingress", (PODS,)),
            AttachmentPlan("sg_tunnel_tc", "tc-ingress", (TUNNEL_DEVICE,)),
            AttachmentPlan("sg_guard_tc", "tc-egress", ("auto",)),
        ),
        constants=((CHAINED, 1),) if chained else (),
    )
    slow = ObjectPlan(
        "sg_eslow",
        digests["sg_eslow"],
        owners,
        (AttachmentPlan("sg_eslow_tc", "tc-ingress", (SLOW_PEER,)),),
    )
    found_plans = tuple(part.plan for part in found)
    config = made.config or ConfigPlan(Feature(0), SLOW_DEVICE, SLOW_PEER, ETHERNET_HEADER_BYTES, ICMP_RATE, ICMP_RATE)
    with_pods = replace(
        made,
        objects=(egress, slow, *objects),
        config=replace(
            config,
            features=config.features | Feature.EGRESS,
            tunnel_device=TUNNEL_DEVICE,
            egress_slow_device=SLOW_DEVICE,
        ),
        egress=found_plans,
    )
    serving = tuple(plan for plan in found_plans if plan.gateway)
    return with_nat(with_pods, serving, digests) if serving else with_pods


def _behind(objects: tuple[ObjectPlan, ...]) -> tuple[tuple[ObjectPlan, ...], bool]:
    """Where another program wants pods' devices, too, it is asked for what egress lets pass."""
    moved = tuple(
        replace(
            item,
            attachments=tuple(replace(a, devices=(BEHIND,)) if a.devices == (PODS,) else a for a in item.attachments),
        )
        for item in objects
    )
    return moved, moved != objects
