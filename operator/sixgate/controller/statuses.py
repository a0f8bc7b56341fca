"""Statuses of users' objects, computed anew only where something they are computed from has changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sixgate.controller.writes import ApplyStatus, Document, status_writes
from sixgate.plan.status import NodeReport, ResolverReport, object_status
from sixgate.render.dns64 import ClusterResolvers

if TYPE_CHECKING:
    from sixgate.controller.store import ConfigEntry, UserEntry
    from sixgate.errors import Problem, Ref
    from sixgate.plan.result import PlanResult
    from sixgate.render.renderer import Rendered

Status = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Desired:
    """What one state of the inputs means; `documents` by node."""

    inputs: int
    result: PlanResult
    rendered: Rendered
    documents: Mapping[str, Document]
    resolved: tuple[Ref, ...] = ()
    """Gateways that have a resolver."""
    resolvers: ClusterResolvers = field(default_factory=lambda: ClusterResolvers({}))
    problems: tuple[Problem, ...] = ()
    """Those of planning, of rendering and of the resolvers."""


@dataclass(frozen=True, slots=True)
class _Basis:
    """Everything that the status of one object depends on but the clock."""

    entry: UserEntry
    problems: tuple[Problem, ...]
    selected: tuple[str, ...]
    programmed: tuple[str, ...]
    reports: tuple[NodeReport | None, ...]
    unready: frozenset[str]
    resolver: ResolverReport | None


@dataclass(slots=True)
class Statuses:
    """Remembers of every object the last status and what it was computed from. Used by one worker."""

    _known: dict[Ref, tuple[_Basis, Status]] = field(default_factory=dict, init=False)
    _reports: dict[str, NodeReport] = field(default_factory=dict, init=False)

    def writes(
        self,
        desired: Desired,
        users: tuple[UserEntry, ...],
        configs: Mapping[str, ConfigEntry],
        resolvers: Mapping[Ref, ResolverReport],
        now: str,
    ) -> tuple[ApplyStatus, ...]:
        """Statuses of all objects that are not being deleted, as far as they differ from the stored ones.

        `resolvers` are the reports of gateways that have a resolver.
        """
        self._reports = {node: self._report(node, entry, desired) for node, entry in configs.items()}
        problems: dict[Ref, list[Problem]] = {}
        for problem in desired.problems:
            problems.setdefault(problem.ref, []).append(problem)
        result = replace(desired.result, problems=())  # looking through those of all for each one is quadratic
        known: dict[Ref, tuple[_Basis, Status]] = {}
        for entry in users:
            if not entry.deleting:
                basis = self._basis(entry, result, tuple(problems.get(entry.ref, ())), resolvers.get(entry.ref))
                before = self._known.get(entry.ref)
                same = before is not None and before[0] == basis
                known[entry.ref] = before if before is not None and same else (basis, self._status(basis, result, now))
        self._known = known
        statuses = {ref: status for ref, (_, status) in known.items()}
        return status_writes(statuses, {entry.ref: entry for entry in users})

    def _report(self, node: str, entry: ConfigEntry, desired: Desired) -> NodeReport:
        """The same object for the same report: comparing thousands of them then costs nothing."""
        document = desired.documents.get(node)
        revision = document.revision if document is not None else entry.revision
        before = self._reports.get(node)
        if before is not None and before.wanted_revision == revision and before.status is entry.status:
            return before
        return NodeReport(revision, entry.status)

    def _basis(
        self, entry: UserEntry, result: PlanResult, problems: tuple[Problem, ...], resolver: ResolverReport | None
    ) -> _Basis:
        programmed = result.programmed.get(entry.ref, ())
        reports = tuple(map(self._reports.get, programmed))
        selected = result.selected.get(entry.ref, ())
        dead = result.unready.intersection(programmed) if result.unready else result.unready
        return _Basis(entry, (*entry.problems, *problems), selected, programmed, reports, dead, resolver)

    def _status(self, basis: _Basis, result: PlanResult, now: str) -> Status:
        entry = basis.entry
        return object_status(
            entry.ref,
            entry.generation,
            result,
            problems=basis.problems,
            reports=self._reports,
            resolver=basis.resolver,
            previous=entry.status,
            now=now,
        )
