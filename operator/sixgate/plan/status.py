"""From an object, its plan and the nodes' reports to its status. Pure: the clock is an argument.

For kstatus (Flux, Argo CD, kubectl wait) `Reconciling` and `Stalled` are present only while they are True, and the
very first status has Ready=Unknown with the generation, so that a fresh object never counts as current.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sixgate.api.nodeconfig import NodeConfigStatus
from sixgate.api.parse import INVALID
from sixgate.api.status import MAX_MESSAGE, Condition, EgressAddressStatus, NodesStatus, ObjectStatus
from sixgate.errors import Problem, Ref
from sixgate.plan.egress_status import copied, holders, told
from sixgate.plan.result import (
    CONFLICTED,
    COVERS,
    DUPLICATE,
    NO_NODES,
    OBJECT_MISSING,
    TOO_MANY,
    PlanResult,
)

# The first of these that an object has is the reason of Ready=False.
BY_WEIGHT = (INVALID, DUPLICATE, CONFLICTED, COVERS, OBJECT_MISSING, TOO_MANY, NO_NODES)
MAX_NAMED = 5
NODE_NOT_READY = "NodeNotReady"
RESOLVER_FAILING = "ResolverFailing"
UNLISTED = "Waits for the Services of the resolvers to be listed."


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a node was told and what it says: revision of its NodeConfig's spec, and that NodeConfig's status."""

    wanted_revision: str
    status: NodeConfigStatus


@dataclass(frozen=True, slots=True)
class ResolverReport:
    """The resolver of a gateway in a cluster: its Service, empty where none has `label`, and how many pods answer.

    `known` is false as long as Services have not been listed.
    """

    known: bool = True
    namespace: str = ""
    label: str = ""
    service: str = ""
    addresses: tuple[str, ...] = ()
    ready: int = 0
    pods: int = 0

    @property
    def failing(self) -> str:
        """Why nobody answers; empty where somebody does, or where that is not known."""
        if not self.known or self.ready:
            return ""
        if not self.service:
            text = f"DNS64: no Service of the namespace {self.namespace} has the label {self.label}"
            return f"{text}, so nobody answers questions; the chart installs one for each of dns64.gateways."
        pods = f"none of its {self.pods} pods is ready" if self.pods else "it has no pod"
        return f"DNS64: the Service {self.namespace}/{self.service} answers no question: {pods}."

    def __str__(self) -> str:
        where = ", ".join(self.addresses) or "the addresses of its pods"
        service = f"the Service {self.namespace}/{self.service}"
        return f"DNS64: {service} answers at {where}, {self.ready} of {max(self.pods, self.ready)} pods are ready."


@dataclass(frozen=True, slots=True)
class _Nodes:
    """Nodes of one object by what became of it there; `degraded` with the sentence that the node wrote."""

    desired: tuple[str, ...]
    ready: tuple[str, ...]
    pending: tuple[str, ...]
    dead: tuple[str, ...]  # whatever they reported: their Node objects are not Ready
    degraded: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...]  # what ready nodes have to say


def first_status(generation: int, now: str) -> dict[str, Any]:
    """The status of an object that nothing is known of yet. `now` is RFC 3339 in UTC."""
    message = "sixgate has seen this object and has not yet programmed it."
    wanted = [("Ready", "Unknown", "Pending", message), ("Reconciling", "True", "Pending", message)]
    return _status(generation, _conditions(wanted, generation, {}, now), None)


def object_status(
    ref: Ref,
    generation: int,
    result: PlanResult,
    *,
    problems: Sequence[Problem],
    reports: Mapping[str, NodeReport],
    previous: Mapping[str, Any] | None,
    now: str,
    resolver: ResolverReport | None = None,
) -> dict[str, Any]:
    """The whole status of `ref`, ready to be applied; equal to `previous` if nothing has changed.

    `problems` are those of reading and rendering (`result` has its own; those of other objects are left out here),
    `reports` what the nodes say, by node, `previous` the status that the object has now, `now` RFC 3339 in UTC,
    `resolver` is that of a gateway which has one.
    """
    mine = sorted({problem for problem in (*problems, *result.problems) if problem.ref == ref}, key=_weight)
    old = _old_conditions(previous)
    settled = _was_programmed(old, generation)
    nodes = _nodes(ref, result, reports, settled)
    addresses = _addresses(ref, result, reports)
    wanted = [
        _ready(mine, nodes, resolver, told(addresses or ())),
        _programmed(mine, nodes),
        _conflicted(mine),
        _degraded(nodes, resolver),
    ]
    if ref.kind == "EgressGateway":
        wanted.append(copied(ref.name, _told(ref, result, reports), result.unready))
    if mine:
        wanted.append(("Stalled", "True", mine[0].reason, _sentences(mine)))
    elif nodes.pending or nodes.dead:
        wanted.append(("Reconciling", "True", "Programming", _waiting(nodes)))
    elif resolver is not None and not resolver.known:
        wanted.append(("Reconciling", "True", "Programming", UNLISTED))
    counts = NodesStatus(desired=len(nodes.desired), ready=len(nodes.ready))
    return _status(generation, _conditions(wanted, generation, old, now), counts, addresses)


def _addresses(
    ref: Ref, result: PlanResult, reports: Mapping[str, NodeReport]
) -> tuple[EgressAddressStatus, ...] | None:
    if ref.kind != "EgressGateway":
        return None
    return holders(ref.name, _told(ref, result, reports), result.unready)


def _told(ref: Ref, result: PlanResult, reports: Mapping[str, NodeReport]) -> tuple[tuple[str, NodeConfigStatus], ...]:
    """What the object's nodes report."""
    return tuple((node, reports[node].status) for node in result.programmed.get(ref, ()) if node in reports)


def _weight(problem: Problem) -> tuple[int, Problem]:
    known = problem.reason in BY_WEIGHT
    return (BY_WEIGHT.index(problem.reason) if known else len(BY_WEIGHT), problem)


def _nodes(ref: Ref, result: PlanResult, reports: Mapping[str, NodeReport], settled: bool) -> _Nodes:
    desired = result.selected.get(ref, ())
    ready: list[str] = []
    dead: list[str] = []
    pending: list[str] = []
    degraded: list[tuple[str, str]] = []
    notes: list[tuple[str, str]] = []
    for node in result.programmed.get(ref, ()):
        if node in result.unready:
            dead.append(node)
            continue
        report = reports.get(node)
        state, message = _on_node(ref, report, settled) if report is not None else ("pending", "")
        if state == "ready":
            ready.append(node)
            notes += [(node, message)] if message else []
        elif state == "degraded":
            degraded.append((node, message))
        else:
            pending.append(node)
    return _Nodes(desired, tuple(ready), tuple(pending), tuple(dead), tuple(degraded), tuple(notes))


def _on_node(ref: Ref, report: NodeReport, settled: bool) -> tuple[str, str]:
    """State of `ref` on one node, `ready`, `pending` or `degraded`, and what the node has to say.

    A node's revision changes with every object on it. An object that has not changed since it was programmed keeps
    its state meanwhile: otherwise one change would rewrite the status of all.
    """
    status = report.status
    current = status.applied_revision == report.wanted_revision
    result = next((item for item in status.objects if item.owner == str(ref)), None)
    if not current and not status.ready and status.message:
        return ("degraded", status.message)
    if result is None or not (current or settled):
        return ("pending", "")
    if result.state == "Programmed":
        return ("ready", result.message)
    return ("degraded", result.message or result.reason or result.state)


def _ready(
    problems: list[Problem], nodes: _Nodes, resolver: ResolverReport | None, more: str
) -> tuple[str, str, str, str]:
    if problems:
        return ("Ready", "False", problems[0].reason, _sentences(problems))
    if nodes.degraded:
        return ("Ready", "False", "Degraded", _failing(nodes))
    if resolver is not None and resolver.failing:
        return ("Ready", "False", RESOLVER_FAILING, _cut(resolver.failing))
    if nodes.dead:
        return ("Ready", "Unknown", NODE_NOT_READY, _waiting(nodes))
    if nodes.pending:
        return ("Ready", "Unknown", "Programming", _waiting(nodes))
    if resolver is not None and not resolver.known:
        return ("Ready", "Unknown", "Programming", UNLISTED)
    answers = f" {resolver}" if resolver is not None else ""
    return ("Ready", "True", "Programmed", _cut(f"Programmed on {_count(nodes)}.{_noted(nodes)}{answers}{more}"))


def _programmed(problems: list[Problem], nodes: _Nodes) -> tuple[str, str, str, str]:
    if nodes.desired and len(nodes.ready) == len(nodes.desired):
        return ("Programmed", "True", "Programmed", f"Programmed on {_count(nodes)}.")
    waiting = NODE_NOT_READY if nodes.dead else "Programming"
    reason = problems[0].reason if problems else "Degraded" if nodes.degraded else waiting
    return ("Programmed", "False", reason, f"Programmed on {_count(nodes)}.")


def _conflicted(problems: list[Problem]) -> tuple[str, str, str, str]:
    conflicts = [problem for problem in problems if problem.reason in {CONFLICTED, DUPLICATE}]
    if conflicts:
        return ("Conflicted", "True", conflicts[0].reason, _sentences(conflicts))
    return ("Conflicted", "False", "NoConflict", "No older object has what this one wants.")


def _degraded(nodes: _Nodes, resolver: ResolverReport | None) -> tuple[str, str, str, str]:
    if nodes.degraded:
        return ("Degraded", "True", "NodesFailing", _failing(nodes))
    if resolver is not None and resolver.failing:
        return ("Degraded", "True", RESOLVER_FAILING, _cut(resolver.failing))
    return ("Degraded", "False", "AsExpected", "No node reports a failure.")


def _count(nodes: _Nodes) -> str:
    return f"{len(nodes.ready)} of {len(nodes.desired)} node{'' if len(nodes.desired) == 1 else 's'}"


def _waiting(nodes: _Nodes) -> str:
    dead = f"Nodes that are not Ready, and do not count: {_some(nodes.dead)}." if nodes.dead else ""
    pending = f"Waits for {_some(nodes.pending)} to program it." if nodes.pending else ""
    return f"{dead} {pending}".strip()


def _noted(nodes: _Nodes) -> str:
    told = "; ".join(f"{node}: {message}" for node, message in nodes.notes[:MAX_NAMED])
    more = len(nodes.notes) - MAX_NAMED
    return (f" {told}" if told else "") + (f"; and {more} more nodes" if more > 0 else "")


def _failing(nodes: _Nodes) -> str:
    told = "; ".join(f"{node}: {message}" for node, message in nodes.degraded[:MAX_NAMED])
    more = len(nodes.degraded) - MAX_NAMED
    return _cut(told + (f"; and {more} more nodes" if more > 0 else ""))


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more nodes" if more > 0 else "")


def _sentences(problems: list[Problem]) -> str:
    return _cut("; ".join(problem.message for problem in problems))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 3] + "..."


def _old_conditions(previous: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """Conditions of a status by type; what does not look like one is passed over."""
    listed = (previous or {}).get("conditions")
    found = listed if isinstance(listed, list | tuple) else ()
    return {item["type"]: item for item in found if isinstance(item, Mapping) and isinstance(item.get("type"), str)}


def _was_programmed(old: Mapping[str, Mapping[str, Any]], generation: int) -> bool:
    programmed = old.get("Programmed", {})
    return programmed.get("status") == "True" and programmed.get("observedGeneration") == generation


def _conditions(
    wanted: list[tuple[str, str, str, str]], generation: int, old: Mapping[str, Mapping[str, Any]], now: str
) -> tuple[Condition, ...]:
    made = []
    for kind, status, reason, message in wanted:
        before = old.get(kind, {})
        since = before.get("lastTransitionTime") if before.get("status") == status else None
        made.append(
            Condition.model_validate(
                {
                    "type": kind,
                    "status": status,
                    "observedGeneration": generation,
                    "lastTransitionTime": since if isinstance(since, str) else now,
                    "reason": reason,
                    "message": message,
                }
            )
        )
    return tuple(made)


def _status(
    generation: int,
    conditions: tuple[Condition, ...],
    nodes: NodesStatus | None,
    addresses: tuple[EgressAddressStatus, ...] | None = None,
) -> dict[str, Any]:
    status = ObjectStatus.model_validate(
        {"observedGeneration": generation, "conditions": conditions, "nodes": nodes, "addresses": addresses}
    )
    return status.model_dump(mode="json", by_alias=True, exclude_none=True)
