"""From a snapshot to a plan per node. Pure: the same snapshot in any order gives the same result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_

from sixgate.api.addr import Address
from sixgate.api.base import UserObject
from sixgate.api.bigtcppolicy import BIGTCPPolicy
from sixgate.api.egressgateway import EgressGateway
from sixgate.api.loadbalancer import LoadBalancer
from sixgate.api.nat46gateway import NAT46Gateway
from sixgate.errors import Problem, Ref
from sixgate.plan.balancer import BalancerPart, balancer, with_balancers
from sixgate.plan.bigtcp import big_tcp, forwards_big, with_forwarding
from sixgate.plan.claims import Claim, ClaimIndex
from sixgate.plan.cluster import ClusterAddresses, Of, covered_by_egress, translated_own
from sixgate.plan.decap import OBJECTS as DECAP_OBJECTS
from sixgate.plan.decap import DecapPart, decap_parts, with_decap
from sixgate.plan.devices import policies_overlap
from sixgate.plan.egress import (
    MAX_PAIR,
    MAX_STAT,
    EgressPart,
    Numbers,
    common_family,
    node_address,
    numbered_pairs,
    parts,
    transport_missing,
    with_egress,
    with_wire,
)
from sixgate.plan.egress import OBJECTS as EGRESS_OBJECTS
from sixgate.plan.kinds import bpf_objects_of, claims_of, not_supported, services_of
from sixgate.plan.lbnat import NO_SOURCE, family_of, shared_out, spread
from sixgate.plan.nat46 import gateway_node
from sixgate.plan.nodeplan import EMPTY, MAX_GATEWAYS, NodePlan
from sixgate.plan.pools import PoolSlice
from sixgate.plan.prefix_routes import RoutePart, route_parts
from sixgate.plan.select import NodeIndex, NodeSet, bits_of
from sixgate.plan.snapshot import Endpoints, NodeInfo, ServiceKey, Snapshot
from sixgate.plan.stateful import StatefulPart, pool_shares, too_much

CONFLICTED = "Conflicted"
NOT_SUPPORTED = "NotSupportedYet"
NO_NODES = "NoNodes"
TOO_MANY = "TooManyGateways"
DUPLICATE = "Duplicate"
COVERS = "CoversCluster"
OBJECT_MISSING = "ObjectMissing"
NO_ADDRESS = "NoAddress"
TOO_MUCH = "TooMuchState"
MAX_NAMED = 3

# Kinds whose data plane is there, and parts of them.
Programmed = NAT46Gateway | StatefulPart | RoutePart | BIGTCPPolicy | EgressPart | BalancerPart | DecapPart


@dataclass(frozen=True, slots=True)
class PlanResult:
    """A plan for every node of the snapshot, empty where nothing is wanted, and what is wrong with whose object.

    `selected` are the nodes that an object's selector means, `programmed` those of them whose plan contains it,
    `unready` all nodes of the snapshot that are not Ready.
    """

    nodes: Mapping[str, NodePlan]
    problems: tuple[Problem, ...]
    selected: Mapping[Ref, tuple[str, ...]]
    programmed: Mapping[Ref, tuple[str, ...]]
    unready: frozenset[str] = frozenset()


class PlanMemo:
    """Work of the run before, used again for the very same models: it saves time and changes no result.

    Keys are ids of models; each model is kept beside what was made of it, so its id is never given to another.
    """

    def __init__(self) -> None:
        self._digests: Mapping[str, str] = {}
        self._before: dict[tuple[int, ...], tuple[tuple[Programmed, ...], NodePlan]] = {}
        self._now: dict[tuple[int, ...], tuple[tuple[Programmed, ...], NodePlan]] = {}
        self._balancers_before: dict[int, tuple[LoadBalancer, object, BalancerPart, tuple[Problem, ...]]] = {}
        self._balancers_now: dict[int, tuple[LoadBalancer, object, BalancerPart, tuple[Problem, ...]]] = {}
        self._shares_before: dict[tuple[int, tuple[str, ...]], tuple[BalancerPart, BalancerPart]] = {}
        self._shares_now: dict[tuple[int, tuple[str, ...]], tuple[BalancerPart, BalancerPart]] = {}
        self._claims_before: dict[int, tuple[UserObject, tuple[Claim, ...]]] = {}
        self._claims_now: dict[int, tuple[UserObject, tuple[Claim, ...]]] = {}
        self._parts_before: dict[tuple[int, tuple[object, ...]], StatefulPart | RoutePart] = {}
        self._parts_now: dict[tuple[int, tuple[object, ...]], StatefulPart | RoutePart] = {}
        self._cluster_key: tuple[object, ...] = ()
        self._cluster: ClusterAddresses | None = None

    def start(self, digests: Mapping[str, str]) -> None:
        """Begins a run: what the last one did not use is forgotten."""
        same = dict(digests) == self._digests
        self._before, self._now = (self._now if same else {}), {}
        self._digests = dict(digests)
        self._claims_before, self._claims_now = self._claims_now, {}
        self._parts_before, self._parts_now = self._parts_now, {}
        self._balancers_before, self._balancers_now = self._balancers_now, {}
        self._shares_before, self._shares_now = self._shares_now, {}

    def cluster(self, nodes: tuple[NodeInfo, ...], service_cidrs: tuple[str, ...]) -> ClusterAddresses:
        of_nodes = sorted((node.name, node.addresses, node.pod_cidrs) for node in nodes)
        key = (tuple(of_nodes), tuple(sorted(service_cidrs)))
        if key != self._cluster_key or self._cluster is None:
            self._cluster_key, self._cluster = key, ClusterAddresses(nodes, service_cidrs)
        return self._cluster

    def part(self, made: StatefulPart | RoutePart) -> StatefulPart | RoutePart:
        """The part of an earlier run that equals `made`: plans of nodes are known by the parts they are made of."""
        key = (id(made.gateway), made.slices) if isinstance(made, StatefulPart) else (0, (made.route,))
        found = self._parts_before.get(key) or made
        if isinstance(found, StatefulPart) and isinstance(made, StatefulPart) and found.gateway is not made.gateway:
            found = made
        self._parts_now[key] = found
        return found

    def balancer(
        self, item: LoadBalancer, endpoints: Mapping[ServiceKey, Endpoints], announcers: tuple[str, ...]
    ) -> tuple[BalancerPart, tuple[Problem, ...]]:
        uses = (tuple(endpoints.get(key) for key in services_of(item)), announcers)
        found = self._balancers_before.get(id(item))
        if found is None or found[1] != uses:
            found = (item, uses, *balancer(item, endpoints, announcers))
        self._balancers_now[id(item)] = found
        return found[2], found[3]

    def with_sources(self, part: BalancerPart, sources: tuple[str, ...]) -> BalancerPart:
        """`part` with these sources, the same object as in an earlier run."""
        key = (id(part), sources)
        assert part.plan.nat is not None
        plan = replace(part.plan, nat=replace(part.plan.nat, sources=sources))
        found = self._shares_before.get(key) or (part, replace(part, plan=plan))
        self._shares_now[key] = found
        return found[1]

    def claims(self, item: UserObject) -> tuple[Claim, ...]:
        found = self._claims_before.get(id(item)) or (item, tuple(claims_of(item)))
        self._claims_now[id(item)] = found
        return found[1]

    def node(self, items: tuple[Programmed, ...]) -> NodePlan:
        key = tuple(map(id, items))
        found = self._now.get(key) or self._before.get(key) or (items, self._plan(items))
        self._now[key] = found
        return found[1]

    def _plan(self, items: tuple[Programmed, ...]) -> NodePlan:
        """`items` come by age. Age decides between policies, between egress objects with one destination, and who keeps
        a counter; all else stands by name: objects without a quarrel give the same NodeConfig whichever came first."""
        gateways = tuple(item for item in items if isinstance(item, NAT46Gateway | StatefulPart))
        policies = tuple(item for item in items if isinstance(item, BIGTCPPolicy))
        egress = tuple(item for item in items if isinstance(item, EgressPart))
        items = tuple(sorted(items, key=lambda item: item.ref))
        routes = tuple(item.route for item in items if isinstance(item, RoutePart))
        balancers = tuple(item for item in items if isinstance(item, BalancerPart))
        made = gateway_node(gateways, self._digests) if gateways else EMPTY
        made = replace(made, routes=routes) if routes else made
        made = with_egress(made, egress, self._digests) if egress else made
        made = with_balancers(made, balancers, self._digests) if balancers else made
        unpacked = tuple(item for item in items if isinstance(item, DecapPart))
        made = with_decap(made, unpacked, self._digests) if unpacked else made
        made = with_wire(made) if egress else made
        return self._with_policies(made, policies) if policies else made

    def _with_policies(self, made: NodePlan, policies: tuple[BIGTCPPolicy, ...]) -> NodePlan:
        sizes = big_tcp(policies)
        digest = self._digests.get("sg_fwd", "") if forwards_big(sizes) else ""
        made = replace(made, big_tcp=sizes, big_forward=digest)
        return with_forwarding(made) if digest and made.config is not None else made


def plan(snapshot: Snapshot, memo: PlanMemo | None = None) -> PlanResult:
    """What every node is to do. Of two objects that contradict each other the older keeps what it has.

    A caller who plans again and again may pass one `memo`; it must not be shared between threads.
    """
    run = _Run(snapshot, memo or PlanMemo())
    for item in run.in_order:
        run.admit(item)
    return run.result()


def _canonical(item: UserObject) -> tuple[tuple[str, str, str], str, str]:
    return (item.age_key, item.metadata.uid, item.model_dump_json(by_alias=True))


class _Run:
    """One computation: objects are admitted oldest first, each against what those before it have."""

    def __init__(self, snapshot: Snapshot, memo: PlanMemo) -> None:
        self.snapshot = snapshot
        self.memo = memo
        memo.start(snapshot.digests)
        self.index = NodeIndex(snapshot.nodes)
        self.cluster = memo.cluster(snapshot.nodes, snapshot.service_cidrs)
        self.problems: list[Problem] = []
        self.in_order = self._unique(snapshot.objects)
        self.admitted: list[UserObject] = []
        self.holds: list[NodeSet] = []
        self.holds_everywhere: list[bool] = []
        self.claims = ClaimIndex()
        self.gateways_at_least: list[NodeSet] = [0] * MAX_GATEWAYS
        self.selected: dict[Ref, NodeSet] = {}
        self.policies: list[tuple[BIGTCPPolicy, NodeSet]] = []
        self.programs: list[tuple[Programmed, NodeSet]] = []
        self.nodes = {node.name: node for node in snapshot.nodes}
        self.family = common_family(snapshot.nodes)
        self.pair_numbers, self.stat_numbers = Numbers(MAX_PAIR), Numbers(MAX_STAT)
        self.nodes_at = {address: node.name for node in snapshot.nodes for address in node.addresses}
        self.vips: dict[Address, list[tuple[Ref, NodeSet]]] = {}
        self.backends: dict[Address, list[tuple[Ref, NodeSet]]] = {}
        self.ready: NodeSet = reduce(or_, (self.index.only(node.name) for node in snapshot.nodes if node.ready), 0)

    def _unique(self, objects: tuple[UserObject, ...]) -> list[UserObject]:
        """Objects by age; of two with one name (two files may say the same) the first in that order counts."""
        kept: dict[Ref, UserObject] = {}
        by_age = sorted(objects, key=lambda item: item.age_key)
        if len({item.ref for item in by_age}) != len(by_age):
            by_age.sort(key=_canonical)
        for item in by_age:
            if item.ref in kept:
                self._blame(item, DUPLICATE, "is declared twice; the older declaration counts")
            else:
                kept[item.ref] = item
        return list(kept.values())

    def _blame(self, item: UserObject, reason: str, text: str, field: str = "") -> None:
        self.problems.append(Problem(item.ref, reason, f"{item.ref} {text}", field))

    def admit(self, item: UserObject) -> None:
        selected = self.index.select(item.spec.node_selector)
        self.selected[item.ref] = selected
        if not selected:
            self._blame(item, NO_NODES, "has a spec.nodeSelector that matches no node", "spec.nodeSelector")
        held, everywhere = self._claim(item, selected)
        if isinstance(item, BIGTCPPolicy):
            self.programs.append((item, self._claim_devices(item, selected)))
        if isinstance(item, EgressGateway):
            self._egress(item, selected, everywhere)
        unsupported = not_supported(item)
        if unsupported:
            self._blame(item, NOT_SUPPORTED, f"uses {unsupported}, which this version does not program yet")
        elif isinstance(item, NAT46Gateway) and everywhere:
            self._program(item, held)
        elif isinstance(item, LoadBalancer) and everywhere:
            self._balance(item, held)

    def _claim(self, item: UserObject, selected: NodeSet) -> tuple[NodeSet, bool]:
        """The nodes on which nobody older has what `item` claims, and whether it may hold addresses at all."""
        held, everywhere = selected, True
        claims = self.memo.claims(item)
        blamed: set[int] = set()
        for claim in claims:
            for owner, other in self.claims.overlapping(claim):
                per_node = claim.per_node or other.per_node
                shared = self.holds[owner] & selected
                if (per_node and not shared) or (not per_node and not self.holds_everywhere[owner]):
                    continue
                held &= ~shared if per_node else 0
                everywhere = everywhere and per_node
                if owner not in blamed:
                    blamed.add(owner)
                    self._blame_conflict(item, claim, self.admitted[owner], other, shared if per_node else 0)
        number = len(self.admitted)
        self.admitted.append(item)
        self.holds.append(held)
        self.holds_everywhere.append(everywhere)
        for claim in claims:
            self.claims.add(number, claim)
        return held, everywhere

    def _claim_devices(self, item: BIGTCPPolicy, selected: NodeSet) -> NodeSet:
        """The nodes on which no older policy of equal priority has one of the devices."""
        held = selected
        for older, nodes in self.policies:
            shared = nodes & selected
            pattern = policies_overlap(item, older) if shared else ""
            if pattern:
                held &= ~shared
                text = f"has priority {item.spec.priority} for the device {pattern}, but {older.ref} is older and has "
                text += f"the same priority for such a device on {self._named(shared)}"
                self._blame(item, CONFLICTED, text, "spec.devices.include")
        self.policies.append((item, held))
        return held

    def _blame_conflict(self, item: UserObject, mine: Claim, older: UserObject, its: Claim, shared: NodeSet) -> None:
        where = f" on {self._named(shared)}" if shared else ""
        text = f"wants {mine} ({mine.where}), but {older.ref} is older and has {its} ({its.where}){where}"
        self._blame(item, CONFLICTED, text, mine.where)

    def _named(self, nodes: NodeSet) -> str:
        names = self.index.names_of(nodes)
        if len(names) <= MAX_NAMED:
            return ", ".join(names)
        return f"{', '.join(names[:MAX_NAMED])} and {len(names) - MAX_NAMED} more nodes"

    def _program(self, item: NAT46Gateway, held: NodeSet) -> None:
        missing = [name for name in bpf_objects_of(item) if name not in self.snapshot.digests]
        if missing:
            self._blame(item, OBJECT_MISSING, f"needs the BPF object {missing[0]}, which is not among the built ones")
            return
        held &= ~self._blame_own(item, held)
        if self._blame_pools(item, held):
            return
        full = held & self.gateways_at_least[-1]
        if full:
            text = f"is one gateway too many on {self._named(full)}: a node holds at most {MAX_GATEWAYS}"
            self._blame(item, TOO_MANY, text, "spec.nodeSelector")
        held &= ~full
        for count in range(MAX_GATEWAYS - 1, 0, -1):
            self.gateways_at_least[count] |= self.gateways_at_least[count - 1] & held
        self.gateways_at_least[0] |= held
        if item.spec.stateless is not None:
            self.programs.append((item, held))
        else:
            self._stateful(item, held)

    def _stateful(self, item: NAT46Gateway, held: NodeSet) -> None:
        """The parts of a stateful gateway on its nodes, and the way there from all others."""
        names = self.index.names_of(held)
        shares = pool_shares(item, names, frozenset(name for name in names if self.nodes[name].ready))
        by_share: dict[tuple[PoolSlice, ...], NodeSet] = {}
        for name in names:
            by_share[shares.get(name, ())] = by_share.get(shares.get(name, ()), 0) | self.index.only(name)
        active: NodeSet = 0
        for slices, nodes in by_share.items():
            part = StatefulPart(item.ref, item, slices)
            reason = too_much(part)
            if reason:
                self._blame(item, TOO_MUCH, f"{reason} ({self._named(nodes)})", "spec.stateful.pools")
            elif slices or item.spec.services:
                self.programs.append((self.memo.part(part), nodes))
                active |= nodes if slices else 0
        if item.spec.prefix is None or item.spec.stateful is None:
            return
        translating = {name: self.nodes[name] for name in self.index.names_of(active)}
        everyone = self.index.names_of(self.index.everything & ~active)
        others = tuple(name for name in everyone if node_address(self.nodes[name], 6))
        without = [name for name in translating if not node_address(translating[name], 6)]
        if others and without:
            named = ", ".join(without[:MAX_NAMED])
            text = f"has no way to {named} from other nodes: a Node needs an IPv6 address for that"
            self._blame(item, NO_ADDRESS, text, "spec.nodeSelector")
        for route, members in route_parts(item, translating, others):
            nodes = sum(self.index.only(name) for name in members)
            self.programs.append((self.memo.part(route), nodes))
            self.selected[item.ref] |= nodes

    def _egress(self, item: EgressGateway, gateways: NodeSet, mine: bool) -> None:
        """Whatever keeps an object from having a gateway keeps its pods' packets from leaving, but one: destinations
        that cover the cluster itself would cut its pods off."""
        stat, pairs = self.stat_numbers.give(str(item.ref)), numbered_pairs(item, self.pair_numbers)
        covered = covered_by_egress(item, self.cluster)
        if covered:
            field, network, own = covered
            text = f"has the destination {network} ({field}), which covers {own}; list it in spec.excludedCIDRs"
            self._blame(item, COVERS, text, field)
        if covered:
            return
        missing = [name for name in EGRESS_OBJECTS if name not in self.snapshot.digests]
        if missing:
            self._blame(item, OBJECT_MISSING, f"needs the BPF object {missing[0]}, which is not among the built ones")
            return
        usable = gateways if mine and not transport_missing(item) else 0
        for name in self.index.names_of(usable):
            if not node_address(self.nodes[name], self.family):
                text = f"has the gateway {name}, which has no IPv{self.family} address that a tunnel could lead to"
                self._blame(item, NO_ADDRESS, f"{text}; it is left out")
        found = parts(item, self.index, self.nodes, usable, stat, pairs if mine else (), self.family)
        for part, nodes in found:
            self.programs.append((part, nodes))
            self.selected[item.ref] |= nodes

    def _blame_pools(self, item: NAT46Gateway, held: NodeSet) -> bool:
        """Whether a pool has an address of a node that it would be given out on another node."""
        stateful = item.spec.stateful
        for number, pool in enumerate(stateful.pools if stateful is not None else ()):
            field = f"spec.stateful.pools[{number}].cidr"
            for own in self.cluster.inside(pool.cidr):
                if own.of is Of.NODE and held == self.index.only(own.node):
                    continue  # a gateway of one node may share that node's own address with it
                self._blame(item, COVERS, f"has the pool {pool.cidr} ({field}), which covers {own}", field)
                return True
        return False

    def _balance(self, item: LoadBalancer, held: NodeSet) -> None:
        missing = [name for name in bpf_objects_of(item) if name not in self.snapshot.digests]
        if missing:
            self._blame(item, OBJECT_MISSING, f"needs the BPF object {missing[0]}, which is not among the built ones")
            return
        held &= ~self._blame_loops(item, held)
        announcers = self.index.names_of(held & self.ready) if item.spec.announce == "L2" else ()
        part, problems = self.memo.balancer(item, self.snapshot.endpoints, announcers)
        self.problems += problems
        for shared, nodes in self._shared_out(item, part, held):
            self.programs.append((shared, nodes))
        if all(name in self.snapshot.digests for name in DECAP_OBJECTS):
            self._unpack(item, part, held)

    def _shared_out(self, item: LoadBalancer, part: BalancerPart, held: NodeSet) -> list[tuple[BalancerPart, NodeSet]]:
        """`part` as its nodes do it: in mode NAT each has sources of its own."""
        if part.plan.nat is None or not part.plan.nat.sources:
            return [(part, held)]
        names = self.index.names_of(held)
        shares = shared_out(part.plan.nat.sources, names)
        without = spread(shares, {family_of(backend.address) for backend in part.plan.backends})
        if without:
            text = "has fewer addresses in spec.forwarding.nat.sourceAddresses than nodes, and none is left for "
            text += f"{', '.join(without[:MAX_NAMED])}; what has none does not balance"
            self._blame(item, NO_SOURCE, text, "spec.forwarding.nat.sourceAddresses")
        return [
            (self.memo.with_sources(part, shares[name]), self.index.only(name)) for name in names if name not in without
        ]

    def _unpack(self, item: LoadBalancer, part: BalancerPart, held: NodeSet) -> None:
        """Nodes that have a backend's address themselves take outer headers off, unless they balance."""
        senders = [self.nodes[name] for name in self.index.names_of(held)]
        backends = [backend.address for backend in part.plan.backends]
        for name, unpacking in decap_parts(item, backends, self.nodes_at, senders).items():
            node = self.index.only(name) & ~held
            if node:
                self.programs.append((unpacking, node))
                self.selected[item.ref] |= node

    def _blame_loops(self, item: LoadBalancer, held: NodeSet) -> NodeSet:
        """Nodes on which a backend of `item` is a VIP of an older balancer, or the other way round: packets would go
        round there for ever."""
        vips, backends = set(item.spec.vips), {backend.address for backend in item.spec.backends}
        looped: NodeSet = 0
        for addresses, taken in ((backends, self.vips), (vips, self.backends)):
            for address in sorted(addresses & taken.keys(), key=str):
                for older, nodes in taken[address]:
                    shared = nodes & held
                    if shared and not looped:
                        text = f"and {older} would make a loop: {address} is a VIP of one and a backend of the other"
                        self._blame(item, CONFLICTED, f"{text} on {self._named(shared)}", "spec.backends")
                    looped |= shared
        for addresses, taken in ((vips, self.vips), (backends, self.backends)):
            for address in addresses:
                taken.setdefault(address, []).append((item.ref, held & ~looped))
        return looped

    def _blame_own(self, item: NAT46Gateway, held: NodeSet) -> NodeSet:
        """The nodes that `item` would cut off by translating an address that they have themselves."""
        cut: NodeSet = 0
        told = ""
        for field, network, own in translated_own(item, self.cluster):
            nodes = held if own.of is Of.SERVICES else self.index.only(own.node) & held
            if nodes and not told:
                why = (
                    "what Services have is not translated"
                    if own.of is Of.SERVICES
                    else "a node does not translate its own address"
                )
                told = f"{network} ({field}), which covers {own}; {why}"
            cut |= nodes
        if cut:
            self._blame(item, COVERS, f"wants {told}; left out on {self._named(cut)}")
        return cut

    def result(self) -> PlanResult:
        names_of = self.index.names_of
        programmed: dict[Ref, NodeSet] = {}
        for item, nodes in self.programs:
            programmed[item.ref] = programmed.get(item.ref, 0) | nodes
        return PlanResult(
            nodes=self._node_plans(),
            problems=tuple(sorted(self.problems)),
            selected={ref: names_of(nodes) for ref, nodes in sorted(self.selected.items())},
            programmed={ref: names_of(nodes) for ref, nodes in sorted(programmed.items())},
            unready=frozenset(name for name, node in self.nodes.items() if not node.ready),
        )

    def _node_plans(self) -> dict[str, NodePlan]:
        """Nodes with the same objects share one plan, so that later steps can share their work."""
        by_set: dict[NodeSet, list[int]] = {}
        for number, (_, nodes) in enumerate(self.programs):
            by_set.setdefault(nodes, []).append(number)
        sets_at: list[list[NodeSet]] = [[] for _ in self.index.names]
        for nodes in by_set:
            for bit in bits_of(nodes):
                sets_at[bit].append(nodes)
        known: dict[tuple[NodeSet, ...], NodePlan] = {(): EMPTY}
        plans: dict[str, NodePlan] = {}
        for name, sets in zip(self.index.names, sets_at, strict=True):
            key = tuple(sets)
            if key not in known:
                numbers = sorted(number for nodes in sets for number in by_set[nodes])
                known[key] = self.memo.node(tuple(self.programs[number][0] for number in numbers))
            plans[name] = known[key]
        return plans
