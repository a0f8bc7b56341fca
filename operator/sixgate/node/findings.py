"""What `resolve` has to say about items that it could not resolve."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.errors import Problem, Ref

if TYPE_CHECKING:
    from sixgate.node.model import Owners


@dataclass(slots=True)
class Findings:
    """Collects what one run of `resolve` has to say."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    frozen: set[str] = field(default_factory=set)
    frozen_maps: set[str] = field(default_factory=set)

    def problem(self, owners: Owners, reason: str, message: str) -> None:
        self.problems.extend(Problem(owner_ref(owner), reason, message) for owner in owners or ("",))

    def note(self, owners: Owners, reason: str, message: str) -> None:
        self.notes.extend(Problem(owner_ref(owner), reason, message) for owner in owners or ("",))


def owner_ref(owner: str) -> Ref:
    """`NAT46Gateway/gw` as a Ref; the NodeConfig itself for an item without owner."""
    kind, _, name = owner.partition("/")
    return Ref(kind, name) if name else Ref("NodeConfig", "")
