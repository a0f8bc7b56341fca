"""An installation as the API server tells it, and whether all is well. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Json = Mapping[str, Any]
LEASE_SILENCE_S = 5.0  # a leader renews every second; after this nobody leads
MAX_TOLD = 20  # things that are not well, of each kind, in one status


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One NodeConfig. `wanted` and `applied` are revisions: they differ while the node has not caught up."""

    name: str
    ready: bool
    wanted: str
    applied: str
    kernel: str
    message: str

    @property
    def behind(self) -> bool:
        return self.wanted != self.applied

    @property
    def state(self) -> str:
        if not self.applied:
            return "Silent"
        return "Behind" if self.behind else "Ready" if self.ready else "Degraded"

    @property
    def why(self) -> str:
        """A sentence for each state but Ready."""
        match self.state:
            case "Silent":
                return self.message or "The agent of this node should report what it has, and has not yet."
            case "Behind":
                return self.message or f"The node has revision {self.applied}, and {self.wanted} is wanted."
            case _:
                return self.message


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """One object of a user, with its Ready condition. `raw` is what the API server has."""

    kind: str
    name: str
    ready: str
    reason: str
    message: str
    desired: int
    nodes: int
    raw: Json

    @property
    def ok(self) -> bool:
        return self.ready == "True"


@dataclass(frozen=True, slots=True)
class OperatorRow:
    """The lease of the operator: who holds it, and seconds since it was renewed; None where there is no lease."""

    holder: str
    age_s: float | None

    @property
    def leads(self) -> bool:
        return bool(self.holder) and self.age_s is not None and self.age_s < LEASE_SILENCE_S


@dataclass(frozen=True, slots=True)
class Installation:
    operator: OperatorRow
    nodes: tuple[NodeRow, ...]
    objects: tuple[ObjectRow, ...]

    @property
    def complaints(self) -> tuple[str, ...]:
        """A sentence for everything that is not well, at most MAX_TOLD of nodes and of objects."""
        said = []
        if not self.operator.leads:
            holder = self.operator.holder or "nobody"
            silence = "" if self.operator.age_s is None else f" was last renewed {self.operator.age_s:.0f} s ago and"
            said.append(
                f"A replica of the operator should hold the lease; it{silence} is held by {holder}, so nothing changes."
            )
        said += _few([f"Node {row.name}: {row.why}" for row in self.nodes if row.state != "Ready"], "nodes")
        bad = [
            f"{row.kind}/{row.name}: Ready={row.ready}, {row.reason or 'without a reason'}. {row.message}".rstrip()
            for row in self.objects
            if not row.ok
        ]
        return (*said, *_few(bad, "objects"))

    @property
    def ready(self) -> bool:
        return not self.complaints

    def document(self) -> dict[str, Any]:
        """For machines."""
        return {
            "ready": self.ready,
            "operator": {
                "leads": self.operator.leads,
                "holder": self.operator.holder,
                "renewedSecondsAgo": self.operator.age_s,
            },
            "nodes": {
                "total": len(self.nodes),
                **{state.lower(): count for state, count in self.node_states().items()},
            },
            "objects": {
                kind: {"total": total, "ready": ready} for kind, (ready, total) in self.object_states().items()
            },
            "complaints": list(self.complaints),
        }

    def node_states(self) -> dict[str, int]:
        return {s: sum(row.state == s for row in self.nodes) for s in ("Ready", "Behind", "Degraded", "Silent")}

    def object_states(self) -> dict[str, tuple[int, int]]:
        """Ready ones and all, by kind; kinds of which there is none are left out."""
        kinds = sorted({row.kind for row in self.objects})
        return {
            kind: (sum(r.ok for r in self.objects if r.kind == kind), sum(r.kind == kind for r in self.objects))
            for kind in kinds
        }


def _few(sentences: list[str], what: str) -> list[str]:
    if len(sentences) <= MAX_TOLD:
        return sentences
    return [*sentences[:MAX_TOLD], f"And {len(sentences) - MAX_TOLD} more {what} are not ready."]


def object_row(kind: str, raw: Json) -> ObjectRow:
    """An object as the API server has it; one that nobody has looked at yet is Unknown."""
    status = raw.get("status") or {}
    conditions = [item for item in status.get("conditions", ()) if item.get("type") == "Ready"]
    condition = conditions[0] if conditions else {}
    nodes = status.get("nodes") or {}
    generation = raw["metadata"].get("generation", 0)
    stale = bool(condition) and condition.get("observedGeneration", generation) < generation
    return ObjectRow(
        kind=kind,
        name=str(raw["metadata"]["name"]),
        ready="Unknown" if stale else str(condition.get("status", "Unknown")),
        reason="Stale" if stale else str(condition.get("reason", "NotSeen")),
        message=(
            f"The object has changed to generation {generation}, which the operator has not looked at yet."
            if stale
            else str(condition.get("message", "The operator has not looked at this object yet."))
        ),
        desired=int(nodes.get("desired", 0)),
        nodes=int(nodes.get("ready", 0)),
        raw=raw,
    )


def node_rows(table: Json) -> tuple[NodeRow, ...]:
    """Rows of a server-side table of NodeConfigs, whose columns are those of the CRD: a thousand nodes are then a
    thousand lines, and not their whole configuration."""
    columns = {column["name"]: number for number, column in enumerate(table["columnDefinitions"])}

    def cell(row: Json, name: str) -> Any:
        return row["cells"][columns[name]]

    return tuple(
        NodeRow(
            name=str(cell(row, "Name")),
            ready=str(cell(row, "Ready")).lower() == "true",
            wanted=str(cell(row, "Wanted") or ""),
            applied=str(cell(row, "Applied") or ""),
            kernel=str(cell(row, "Kernel") or ""),
            message=str(cell(row, "Message") or ""),
        )
        for row in table["rows"]
    )


def operator_row(lease: Json | None, now: datetime) -> OperatorRow:
    spec = (lease or {}).get("spec") or {}
    renewed = spec.get("renewTime")
    age = None if not renewed else max(0.0, (now - datetime.fromisoformat(renewed)).total_seconds())
    return OperatorRow(str(spec.get("holderIdentity") or ""), age)
