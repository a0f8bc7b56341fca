"""What planning keeps from one run to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sixgate.api.base import UserObject
from sixgate.api.bigtcppolicy import BIGTCPPolicy
from sixgate.api.loadbalancer import LoadBalancer
from sixgate.api.nat46gateway import NAT46Gateway
from sixgate.errors import Problem
from sixgate.plan.announce import AnnouncePart
from sixgate.plan.balancer import BalancerPart, balancer, with_balancers, with_lb_maps
from sixgate.plan.bigtcp import big_tcp, forwards_big, with_forwarding
from sixgate.plan.claims import Claim
from sixgate.plan.cluster import ClusterAddresses
from sixgate.plan.decap import DecapPart, with_decap
from sixgate.plan.egress import EgressPart, with_egress, with_wire
from sixgate.plan.kinds import claims_of, services_of
from sixgate.plan.nat46 import gateway_node
from sixgate.plan.nodeplan import EMPTY, NodePlan
from sixgate.plan.prefix_routes import RoutePart
from sixgate.plan.snapshot import Endpoints, NodeInfo, ServiceKey
from sixgate.plan.stateful import StatefulPart

# Kinds whose data plane is there, and parts of them.
Programmed = (
    NAT46Gateway | StatefulPart | RoutePart | AnnouncePart | BIGTCPPolicy | EgressPart | BalancerPart | DecapPart
)


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
        self._parts_before: dict[tuple[int, tuple[object, ...]], StatefulPart | RoutePart | AnnouncePart] = {}
        self._parts_now: dict[tuple[int, tuple[object, ...]], StatefulPart | RoutePart | AnnouncePart] = {}
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

    def part(self, made: StatefulPart | RoutePart | AnnouncePart) -> StatefulPart | RoutePart | AnnouncePart:
        """The part of an earlier run that equals `made`: plans of nodes are known by the parts they are made of."""
        key: tuple[int, tuple[object, ...]]
        if isinstance(made, StatefulPart):
            key = (id(made.gateway), made.slices)
        else:
            key = (0, (made.route if isinstance(made, RoutePart) else made.plan,))
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
        announced = tuple(item.plan for item in items if isinstance(item, AnnouncePart))
        made = replace(made, announcements=announced) if announced else made
        made = with_egress(made, egress, self._digests) if egress else made
        made = with_balancers(made, balancers, self._digests) if balancers else made
        unpacked = tuple(item for item in items if isinstance(item, DecapPart))
        made = with_decap(made, unpacked, self._digests) if unpacked else made
        made = with_lb_maps(with_wire(made) if egress else made)
        return self._with_policies(made, policies) if policies else made

    def _with_policies(self, made: NodePlan, policies: tuple[BIGTCPPolicy, ...]) -> NodePlan:
        sizes = big_tcp(policies)
        digest = self._digests.get("sg_fwd", "") if forwards_big(sizes) else ""
        made = replace(made, big_tcp=sizes, big_forward=digest)
        return with_forwarding(made) if digest and made.config is not None else made
