"""Pods that are born in hundreds while they talk: which source their packets have, how long they wait for their rule,
and what each costs its node's agent."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.egress_lab import Stream, ready_lab
from bench.harness import Goal, Report, Row, progress
from e2e.lab.egress import SOURCE4

if TYPE_CHECKING:
    from e2e.lab.egress import EgressLab

NODE = "n1"
AT_ONCE = 25
WINDOW = 100  # births between two readings of the agent's CPU time
FLAT = 1.5  # how much more the last births may cost than the first ones
_TICKS = os.sysconf("SC_CLK_TCK")


def measure_births(report: Report, count: int, transport: str = "VXLAN") -> None:
    """Pods that send from their first moment, many at a time; their node learns of them when they are there."""
    what = f"{count} pods born under traffic" + ("" if transport == "VXLAN" else f", {transport}")
    with ready_lab(transport=transport) as lab, Stream(lab, "pay", rate=100) as stream:
        latencies: list[float] = []
        guarded: list[float] = []
        costs: dict[int, float] = {}
        spent = _cpu_s(lab)
        for first in range(0, count, AT_ONCE):
            roles = [f"b{number}" for number in range(first, min(first + AT_ONCE, count))]
            for role in roles:
                lab.add_pod(role, NODE, known=False)
                lab.lab.call(role, partial(stream.shout, 10))
            ruled, kept = _told(lab, roles)
            latencies += ruled
            guarded += kept
            for role in roles:
                lab.lab.call(role, partial(stream.shout, 10))
            born = first + len(roles)
            if born % WINDOW == 0:
                now = _cpu_s(lab)
                costs[born], spent = (now - spent) / WINDOW, now
                progress(f"{born} of {count} pods, {1000 * costs[born]:.1f} ms of the agent's CPU for each")
        time.sleep(0.5)
        wrong = sum(number for source, number in stream.sources.items() if source != SOURCE4)
        right = stream.sources[SOURCE4]
    none = Goal("value", "==", 0)
    report.rows.append(
        Row(f"{what}: packets with a wrong source", "", (float(wrong),), goal=none, note=f"{right:,} with the right")
    )
    for name, took in (("rule", latencies), ("rule and program", guarded)):
        took.sort()
        p99 = took[min(len(took) - 1, int(0.99 * len(took)))]
        note = f"p50 {took[len(took) // 2]:.3f} s"
        report.rows.append(Row(f"{what}: from pod to {name}, p99", "s", (p99,), goal=Goal("value", "<=", 1), note=note))
    _add_costs(report, what, costs)


def _add_costs(report: Report, what: str, costs: dict[int, float]) -> None:
    shown = [born for born in (100, 500, 1000) if born in costs]
    for born in shown:
        text = f"{what}: agent's CPU for each of the {WINDOW} up to {born}"
        report.rows.append(Row(text, "ms", (1000 * costs[born],)))
    if len(shown) > 1:
        ratio = costs[shown[-1]] / costs[shown[0]]
        text = f"{what}: agent's CPU for the last ones, of that for the first"
        report.rows.append(Row(text, "", (ratio,), goal=Goal("value", "<=", FLAT)))


def _cpu_s(lab: EgressLab) -> float:
    """Seconds of CPU that the node's agent has taken."""
    fields = Path(f"/proc/{lab.process(NODE).pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _told(lab: EgressLab, roles: list[str]) -> tuple[list[float], list[float]]:
    """The node is told of pods; seconds until each has its rule, and until its device has its program as well."""
    lab.write()
    told = time.monotonic()
    unruled = {lab.pods[role].ipv4 for role in roles}
    unguarded = set(unruled)
    ruled: list[float] = []
    guarded: list[float] = []

    def look() -> bool:
        for missing, took, programmed in ((unruled, ruled, False), (unguarded, guarded, True)):
            found = lab.ruled(NODE, missing, programmed=programmed)
            took.extend([time.monotonic() - told] * len(found))
            missing.difference_update(found)
        return not unguarded

    lab.wait(look, lambda: f"no rule for {unruled}, no program for {unguarded}\n{lab.tail(NODE)}", 20)
    return ruled, guarded
