"""Whether gateways have room for new sessions: what becomes a condition of the object.

The data plane counts what it refuses. A refusal is told for as long as it lasts and half a minute beyond, so that a
condition does not come and go with every look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.errors import BpfError, Problem, Ref
from sixgate.node.nat import NatState

if TYPE_CHECKING:
    from pathlib import Path

    from sixgate.node.numbers import Numbers

HOLD_S = 30.0
PRESSURE = 0.9
REFUSALS = {
    "full": (
        "TableFull",
        "{name} has {used} of {limit} sessions that it may have, and has refused {count} new flows; raise "
        "spec.stateful.maxSessions, or limit clients.",
    ),
    "no_port": (
        "PortsExhausted",
        "{name} had no free port for {count} new flows, which were refused; add addresses to spec.stateful.pools, or "
        "limit clients.",
    ),
}


@dataclass(slots=True)
class _Refused:
    since: int  # the counter when it began
    last: int
    until_s: float


@dataclass(slots=True)
class NatWatch:
    """Compares the data plane's counters from look to look. `clock` is monotonic seconds."""

    bpffs: Path
    clock: Callable[[], float]
    _before: dict[tuple[str, str], int] = field(default_factory=dict)
    _refused: dict[tuple[str, str], _Refused] = field(default_factory=dict)

    def look(self, numbers: Numbers) -> tuple[list[Problem], list[Problem]]:
        """Problems (new flows are refused) and notes (soon they will be), by gateway."""
        problems: list[Problem] = []
        notes: list[Problem] = []
        if not numbers.get("obj"):
            return problems, notes
        try:
            rows = NatState(self.bpffs, numbers).stats()
        except BpfError:
            return problems, notes  # its maps are about to be replaced; the next look tells
        for row in rows:
            name, use = str(row["object"]), row["use"]
            assert isinstance(use, dict)
            used, limit = _number(use["sessions"]), _number(row["limit"])
            ref = owner_of(name)
            for counter, (reason, text) in REFUSALS.items():
                count = self._count(name, counter, _number(row[counter]))
                if count:
                    problems.append(Problem(ref, reason, text.format(name=name, used=used, limit=limit, count=count)))
            if limit and PRESSURE * limit <= used:
                notes.append(Problem(ref, "TablePressure", f"{name} has {used} of {limit} sessions that it may have."))
        return problems, notes

    def forget(self) -> None:
        """What was refused was refused under another configuration."""
        self._refused.clear()

    def _count(self, name: str, counter: str, now: int) -> int:
        """How many were refused since it began; 0 where nothing is refused lately."""
        key, at_s = (name, counter), self.clock()
        before = self._before.get(key, now)
        self._before[key] = now
        held = self._refused.get(key)
        if now > before:
            self._refused[key] = _Refused(held.since if held else before, now, at_s + HOLD_S)
        elif held and held.until_s <= at_s:
            del self._refused[key]
        told = self._refused.get(key)
        return told.last - told.since if told else 0


def owner_of(name: str) -> Ref:
    """The user's object that has an object of the engine: those of gateways are `NAME` or `NAME/FAMILY`, others begin
    with their kind."""
    first, _, rest = name.partition("/")
    return Ref(first, rest.partition("/")[0]) if first[:1].isupper() else Ref("NAT46Gateway", first)


def _number(value: object) -> int:
    assert isinstance(value, int)
    return value
