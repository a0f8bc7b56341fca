"""What bench/nat.py and bench/lb_nat.py measure alike: packets per second both ways, and new connections, through
gateways in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from bench import harness
from bench.harness import Report, Row, progress
from bench.nat_labs import NatPath, conns_server, ready_for_packets

Measures: TypeAlias = Mapping[str, Callable[[], float]]


@dataclass(frozen=True, slots=True)
class Ways:
    """Gateways that are compared: `make` builds their labs by name, `rows` says what is made of a metric, its unit and
    the samples of each; `seconds` is how long one measurement takes."""

    make: Callable[[ExitStack, float], dict[str, NatPath]]
    rows: Callable[[str, str, Mapping[str, tuple[float, ...]]], list[Row]]
    rounds: int
    seconds: float

    def in_turns(self, report: Report, metric: str, unit: str, measures: Measures) -> None:
        """Adds the rows of one metric."""
        progress(f"{metric}: {self.rounds} rounds of {self.seconds:g} s through {', '.join(measures)}")
        report.rows += self.rows(metric, unit, harness.interleave(measures, self.rounds))

    def packets(self, report: Report, what: str, far: str) -> None:
        """Packets per second of one flow, from the client to the far end and back."""
        with ExitStack() as stack:
            paths = self.make(stack, self.seconds)
            for path in paths.values():
                ready_for_packets(path)
            for way, reverse in ((f"client to {far}", False), (f"{far} to client", True)):
                measures = {name: partial(path.packets, reverse=reverse) for name, path in paths.items()}
                self.in_turns(report, f"{what}, {way}", "kpps", measures)

    def connections(self, report: Report) -> None:
        """New TCP connections per second."""
        with ExitStack() as stack:
            paths = self.make(stack, self.seconds)
            for path in paths.values():
                stack.enter_context(conns_server(path.lab, path.server))
            measures = {name: path.connections for name, path in paths.items()}
            self.in_turns(report, "New TCP connections", "thousand/s", measures)
