"""What the operator tells Prometheus: read from its parts at every scrape."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sixgate.api.parse import KINDS
from sixgate.metrics import Family, Timing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sixgate.controller.reconcile import Reconciler
    from sixgate.controller.store import Store
    from sixgate.controller.writer import Writer


@dataclass(frozen=True, slots=True)
class OperatorMetrics:
    """A source of metrics. Called from the thread of a scrape: it only reads, and what it reads is replaced whole."""

    store: Store
    reconciler: Reconciler
    writer: Writer
    leading: Callable[[], bool]

    def __call__(self) -> Iterator[Family | Timing]:
        yield self.reconciler.took
        text = "Whether this replica holds the lease and writes."
        yield Family("gauge", "sixgate_operator_leader", text, (), (((), float(self.leading())),))
        yield from self._objects()
        text = "Writes to the API server, by what was written and how it ended."
        rows = tuple(((what, end), float(count)) for (what, end), count in sorted(self.writer.tally.copy().items()))
        yield Family("counter", "sixgate_operator_writes", text, ("what", "result"), rows)
        found = Counter((problem.ref.kind, problem.reason) for problem in self.reconciler.problems())
        text = "Problems of objects as the last look found them, by reason; each is a condition of an object."
        problems = tuple((labels, float(count)) for labels, count in sorted(found.items()))
        yield Family("gauge", "sixgate_operator_problems", text, ("kind", "reason"), problems)

        reports = sorted(self.reconciler.reports.items(), key=lambda item: item[0].name)
        text = "Pods of the DNS64 resolver of a NAT46Gateway: all of them, and those that answer."
        pods = tuple(
            ((ref.name, state), float(count))
            for ref, report in reports
            for state, count in (("all", report.pods), ("ready", report.ready))
        )
        yield Family("gauge", "sixgate_dns64_resolver_pods", text, ("name", "state"), pods)

    def _objects(self) -> Iterator[Family]:
        kinds = Counter(entry.ref.kind for entry in self.store.users())
        text = "Objects of users that the operator knows."
        rows = tuple(((kind,), float(kinds[kind])) for kind in KINDS)
        yield Family("gauge", "sixgate_operator_objects", text, ("kind",), rows)
        text = "NodeConfigs that are stored."
        yield Family("gauge", "sixgate_operator_nodeconfigs", text, (), (((), float(len(self.store.configs()))),))
