"""From a snapshot to a plan per node. Pure: the same snapshot in any order gives the same result."""

from __future__ import annotations

from sixgate.api.base import UserObject
from sixgate.api.bigtcppolicy import BIGTCPPolicy
from sixgate.api.egressgateway import EgressGateway
from sixgate.api.loadbalancer import LoadBalancer
from sixgate.api.nat46gateway import NAT46Gateway
from sixgate.errors import Ref
from sixgate.plan.admit_balancer import BalancerAdmission
from sixgate.plan.admit_egress import EgressAdmission
from sixgate.plan.admit_nat46 import GatewayAdmission
from sixgate.plan.claims import Claim, ClaimIndex
from sixgate.plan.devices import policies_overlap
from sixgate.plan.memo import PlanMemo
from sixgate.plan.nodeplan import EMPTY, NodePlan
from sixgate.plan.result import CONFLICTED, DUPLICATE, NO_NODES, PlanResult
from sixgate.plan.run import Run
from sixgate.plan.select import NodeSet, bits_of
from sixgate.plan.snapshot import Snapshot


def plan(snapshot: Snapshot, memo: PlanMemo | None = None) -> PlanResult:
    """What every node is to do. Of two objects that contradict each other the older keeps what it has.

    A caller who plans again and again may pass one `memo`; it must not be shared between threads.
    """
    planner = _Planner(Run(snapshot, memo or PlanMemo()))
    for item in planner.by_age(snapshot.objects):
        planner.admit(item)
    return planner.result()


def _canonical(item: UserObject) -> tuple[tuple[str, str, str], str, str]:
    return (item.age_key, item.metadata.uid, item.model_dump_json(by_alias=True))


class _Planner:
    """Objects are admitted oldest first, each against what those before it have."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._gateways, self._egress = GatewayAdmission(run), EgressAdmission(run)
        self._balancers = BalancerAdmission(run)
        self._admitted: list[UserObject] = []
        self._holds: list[NodeSet] = []
        self._holds_everywhere: list[bool] = []
        self._claims = ClaimIndex()
        self._policies: list[tuple[BIGTCPPolicy, NodeSet]] = []

    def by_age(self, objects: tuple[UserObject, ...]) -> list[UserObject]:
        """Objects by age; of two with one name (two files may say the same) the first in that order counts."""
        kept: dict[Ref, UserObject] = {}
        ordered = sorted(objects, key=lambda item: item.age_key)
        if len({item.ref for item in ordered}) != len(ordered):
            ordered.sort(key=_canonical)
        for item in ordered:
            if item.ref in kept:
                self._run.blame(item, DUPLICATE, "is declared twice; the older declaration counts")
            else:
                kept[item.ref] = item
        return list(kept.values())

    def admit(self, item: UserObject) -> None:
        selected = self._run.index.select(item.spec.node_selector)
        self._run.selected[item.ref] = selected
        if not selected:
            self._run.blame(item, NO_NODES, "has a spec.nodeSelector that matches no node", "spec.nodeSelector")
        held, everywhere = self._claim(item, selected)
        if isinstance(item, BIGTCPPolicy):
            self._run.program(item, self._claim_devices(item, selected))
        if isinstance(item, EgressGateway):
            self._egress.admit(item, selected, everywhere)
        elif isinstance(item, NAT46Gateway) and everywhere:
            self._gateways.admit(item, held)
        elif isinstance(item, LoadBalancer) and everywhere:
            self._balancers.admit(item, held)

    def _claim(self, item: UserObject, selected: NodeSet) -> tuple[NodeSet, bool]:
        """The nodes on which nobody older has what `item` claims, and whether it may hold addresses at all."""
        held, everywhere = selected, True
        claims = self._run.memo.claims(item)
        blamed: set[int] = set()
        for claim in claims:
            for owner, other in self._claims.overlapping(claim):
                per_node = claim.per_node or other.per_node
                shared = self._holds[owner] & selected
                if (per_node and not shared) or (not per_node and not self._holds_everywhere[owner]):
                    continue
                held &= ~shared if per_node else 0
                everywhere = everywhere and per_node
                if owner not in blamed:
                    blamed.add(owner)
                    self._blame_conflict(item, claim, self._admitted[owner], other, shared if per_node else 0)
        number = len(self._admitted)
        self._admitted.append(item)
        self._holds.append(held)
        self._holds_everywhere.append(everywhere)
        for claim in claims:
            self._claims.add(number, claim)
        return held, everywhere

    def _blame_conflict(self, item: UserObject, mine: Claim, older: UserObject, its: Claim, shared: NodeSet) -> None:
        where = f" on {self._run.named(shared)}" if shared else ""
        text = f"wants {mine} ({mine.where}), but {older.ref} is older and has {its} ({its.where}){where}"
        self._run.blame(item, CONFLICTED, text, mine.where)

    def _claim_devices(self, item: BIGTCPPolicy, selected: NodeSet) -> NodeSet:
        """The nodes on which no older policy of equal priority has one of the devices."""
        held = selected
        for older, nodes in self._policies:
            shared = nodes & selected
            pattern = policies_overlap(item, older) if shared else ""
            if pattern:
                held &= ~shared
                text = f"has priority {item.spec.priority} for the device {pattern}, but {older.ref} is older and has "
                text += f"the same priority for such a device on {self._run.named(shared)}"
                self._run.blame(item, CONFLICTED, text, "spec.devices.include")
        self._policies.append((item, held))
        return held

    def result(self) -> PlanResult:
        names_of = self._run.index.names_of
        programmed: dict[Ref, NodeSet] = {}
        for item, nodes in self._run.programs:
            programmed[item.ref] = programmed.get(item.ref, 0) | nodes
        return PlanResult(
            nodes=self._node_plans(),
            problems=tuple(sorted(self._run.problems)),
            selected={ref: names_of(nodes) for ref, nodes in sorted(self._run.selected.items())},
            programmed={ref: names_of(nodes) for ref, nodes in sorted(programmed.items())},
            unready=frozenset(name for name, node in self._run.nodes.items() if not node.ready),
        )

    def _node_plans(self) -> dict[str, NodePlan]:
        """Nodes with the same objects share one plan, so that later steps can share their work."""
        by_set: dict[NodeSet, list[int]] = {}
        for number, (_, nodes) in enumerate(self._run.programs):
            by_set.setdefault(nodes, []).append(number)
        sets_at: list[list[NodeSet]] = [[] for _ in self._run.index.names]
        for nodes in by_set:
            for bit in bits_of(nodes):
                sets_at[bit].append(nodes)
        known: dict[tuple[NodeSet, ...], NodePlan] = {(): EMPTY}
        plans: dict[str, NodePlan] = {}
        for name, sets in zip(self._run.index.names, sets_at, strict=True):
            key = tuple(sets)
            if key not in known:
                numbers = sorted(number for nodes in sets for number in by_set[nodes])
                known[key] = self._run.memo.node(tuple(self._run.programs[number][0] for number in numbers))
            plans[name] = known[key]
        return plans
