"""What everything that plans one snapshot shares: its nodes, who has which program, and what is wrong with whom."""

from __future__ import annotations

from collections.abc import Iterable

from sixgate.api.base import UserObject
from sixgate.errors import Problem, Ref
from sixgate.plan.memo import PlanMemo, Programmed
from sixgate.plan.result import OBJECT_MISSING
from sixgate.plan.select import NodeIndex, NodeSet
from sixgate.plan.snapshot import Snapshot

MAX_NAMED = 3


class Run:
    """One computation. `selected` are the nodes that an object's selector means, and those that serve it otherwise;
    `programs` come in the order in which objects were admitted."""

    def __init__(self, snapshot: Snapshot, memo: PlanMemo) -> None:
        self.snapshot, self.memo = snapshot, memo
        memo.start(snapshot.digests)
        self.index = NodeIndex(snapshot.nodes)
        self.cluster = memo.cluster(snapshot.nodes, snapshot.service_cidrs)
        self.nodes = {node.name: node for node in snapshot.nodes}
        self.problems: list[Problem] = []
        self.selected: dict[Ref, NodeSet] = {}
        self.programs: list[tuple[Programmed, NodeSet]] = []

    def program(self, part: Programmed, nodes: NodeSet) -> None:
        self.programs.append((part, nodes))

    def blame(self, item: UserObject, reason: str, text: str, field: str = "") -> None:
        self.problems.append(Problem(item.ref, reason, f"{item.ref} {text}", field))

    def lacks_objects(self, item: UserObject, names: Iterable[str]) -> bool:
        """Whether one of these BPF objects was not built; that is `item`'s problem then."""
        missing = [name for name in names if name not in self.snapshot.digests]
        if missing:
            self.blame(item, OBJECT_MISSING, f"needs the BPF object {missing[0]}, which is not among the built ones")
        return bool(missing)

    def named(self, nodes: NodeSet) -> str:
        names = self.index.names_of(nodes)
        if len(names) <= MAX_NAMED:
            return ", ".join(names)
        return f"{', '.join(names[:MAX_NAMED])} and {len(names) - MAX_NAMED} more nodes"
