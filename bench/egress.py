"""Egress: cost of the way through a gateway, and what pods notice when gateways move, die or are edited.

    python -m bench.egress [--json FILE] [--only cost,failover,takeover,move,births,spoof,restart,scale,
                                            operator]
                           [--pods N] [--trials N]
                           [--quiet-seconds N] [--rounds N] [--seconds S]

Nodes are network namespaces on one segment; each runs `sixgate standalone`. Two parts run only if asked for:
`--only takeover-scale` copies 10^5 and 10^6 connections to a standby, and `--only quiet --quiet-seconds 1800` is the
long run that looks for false failovers, which nothing else does. The exit code is 0 when every goal is met, 1
otherwise.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from bench import harness
from bench.egress_births import AT_ONCE, measure_births
from bench.egress_copies import measure_copies
from bench.egress_cost import measure_cost
from bench.egress_lab import Connections, Stream, ready_lab
from bench.egress_pods import NONE, measure_operator, measure_spoof
from bench.egress_takeover import measure_takeover
from bench.harness import Goal, Report, Row, progress
from sixgate.api.nodeconfig import EgressPair, EgressPods, EgressPolicy, LabelTerm
from sixgate.node.egress.tables import Pod, contents

if TYPE_CHECKING:
    from collections.abc import Callable

    from e2e.lab.egress import EgressLab

USUAL = ("cost", "failover", "takeover", "move", "births", "spoof", "restart", "scale", "operator")
PARTS = (*USUAL, "takeover-scale", "quiet")
MAX_MOVE_CONNECTIONS = 1000


def measure_failover(report: Report, trials: int, transport: str = "VXLAN") -> None:
    """The owner's cable is pulled under 1,000 packets a second."""
    outages = []
    what = "outage when a gateway is cut" + ("" if transport == "VXLAN" else f", {transport}")
    with ready_lab(transport=transport) as lab, Stream(lab, "pay") as stream:
        for number in range(trials):
            owner = lab.owner("n1")
            stream.clear()
            lab.cut(owner)
            lab.wait(lambda owner=owner: lab.owner("n1") not in ("", owner), lambda: lab.tail("n1"), 10)
            time.sleep(0.4)
            outages.append(stream.longest_gap_ms())
            lab.cut(owner, up=True)
            time.sleep(1.2)
            progress(f"cut {number + 1} of {trials}: {outages[-1]:.0f} ms")
    report.rows.append(Row(f"{what}: p50", "ms", tuple(outages), goal=Goal("value", "<=", 300)))
    report.rows.append(Row(f"{what}: max", "ms", (max(outages),), goal=Goal("value", "<=", 999)))


def measure_move(report: Report) -> None:
    """The owner is cordoned while 1,000 connections talk."""
    with ready_lab() as lab:
        progress(f"planned move with {MAX_MOVE_CONNECTIONS} connections")
        with Connections(lab, "pay", MAX_MOVE_CONNECTIONS) as connections:
            old = lab.wait_settled()
            connections.start()
            time.sleep(1)
            lab.cordoned = {old}
            lab.write()
            lab.wait(lambda: lab.owner("n1") not in ("", old), lambda: lab.tail(old), 20)
            time.sleep(3)
            connections.stop()
        report.rows.append(Row("planned move: connections broken", "", (float(connections.broken),), goal=NONE))
        stall = (connections.longest_stall_s,)
        report.rows.append(Row("planned move: longest stall", "s", stall, goal=Goal("value", "<=", 1)))


def measure_restart(report: Report) -> None:
    """Every agent is killed and started again under 1,000 packets a second; there is no API server all the while."""
    with ready_lab() as lab, Stream(lab, "pay", echo=True) as stream:
        progress("agents killed and started again")
        time.sleep(1)
        owner = lab.owner("n1")
        stream.clear()
        for _ in range(2):
            for node in lab.nodes:
                lab.kill(node)
            time.sleep(1)
            lab.start()
            time.sleep(1)
        lost = stream.lost()
        stayed = lab.wait_owner("n1") == owner
    report.rows.append(Row("agents killed and restarted: packets lost", "", (float(lost),), goal=NONE))
    report.rows.append(Row("agents killed and restarted: addresses moved", "", (float(not stayed),), goal=NONE))


def measure_scale(report: Report) -> None:
    """10,000 pods on 100 nodes, 100 policies: what one node computes and holds."""
    progress("10,000 pods and 100 policies")
    rule = EgressPods(namespaces=(LabelTerm(key="team", operator="Exists"),))
    policies = tuple(
        EgressPolicy(
            name=f"p{number}",
            stat=number + 1,
            pods=(rule,),
            destinations=(f"203.{number}.0.0/16",),
            pairs=tuple(EgressPair(id=4 * number + k + 1, ipv4="198.51.100.1") for k in range(2)),
        )
        for number in range(100)
    )
    worst, took = 0, []
    for node in range(100):
        pods = [Pod("pay", f"pod-{node}-{n}", {}, (f"10.{node}.0.{n + 1}",)) for n in range(100)]
        start = time.perf_counter()
        made = contents(policies, pods, {"pay": {"team": "a"}}, {pod.addresses[0]: 3 for pod in pods})
        took.append(time.perf_counter() - start)
        worst = max(worst, len(made.pods) + len(made.destinations))
    bound = 100 + 101 * 100  # every pod a set of its own, and the union
    report.rows.append(
        Row("10,000 pods x 100 policies: entries on a node", "", (float(worst),), goal=Goal("value", "<=", bound))
    )
    report.rows.append(
        Row("10,000 pods x 100 policies: a node's tables", "s", tuple(took), goal=Goal("value", "<=", 1))
    )


def _busy(stop: float) -> None:
    while time.monotonic() < stop:
        pass


def measure_quiet(report: Report, seconds: float) -> None:
    """Twice as many busy processes as CPUs; nothing may move."""
    with ready_lab() as lab:
        progress(f"{seconds:g} s under CPU load")
        before = _epochs(lab)
        stop = time.monotonic() + seconds
        burners = [multiprocessing.Process(target=_busy, args=(stop,)) for _ in range(2 * multiprocessing.cpu_count())]
        for burner in burners:
            burner.start()
        for burner in burners:
            burner.join()
        time.sleep(1)
        moved = sum(_epochs(lab)[node] != epoch for node, epoch in before.items())
    report.rows.append(Row(f"false failovers in {seconds:g} s under load", "", (float(moved),), goal=NONE))


def _epochs(lab: EgressLab) -> dict[str, int]:
    return {node: max(row["epoch"] for row in lab.reports(node)) for node in lab.gateways}


def _both(measure: Callable[[int, str], None], count: int, short: int) -> None:
    """By the tunnel, and in a shorter form without one."""
    measure(count, "VXLAN")
    measure(short, "Direct")


def run(  # noqa: PLR0917 - one argument per question
    only: tuple[str, ...] = USUAL,
    rounds: int = 9,
    seconds: float = 1.0,
    trials: int = 20,
    pods: int = 1000,
    quiet_seconds: float = 1800.0,
) -> Report:
    report = Report("Egress")
    parts: dict[str, Callable[[], None]] = {
        "cost": partial(measure_cost, report, rounds, seconds),
        "failover": partial(_both, partial(measure_failover, report), trials, max(1, trials // 4)),
        "takeover": partial(measure_takeover, report, rounds),
        "takeover-scale": partial(measure_copies, report, rounds),
        "move": partial(measure_move, report),
        "births": partial(_both, partial(measure_births, report), pods, max(AT_ONCE, pods // 5)),
        "spoof": partial(measure_spoof, report),
        "restart": partial(measure_restart, report),
        "scale": partial(measure_scale, report),
        "operator": partial(measure_operator, report),
        "quiet": partial(measure_quiet, report, quiet_seconds),
    }
    harness.run_parts(parts, only)
    report.remarks.append("Nodes are namespaces of one machine; agents, traffic and load share its CPUs.")
    return report


def main() -> int:
    parser = harness.command("Benchmark of egress.", parts=PARTS, rounds=9, seconds=1.0)
    parser.set_defaults(only=USUAL)
    parser.add_argument("--trials", type=int, default=20, help="how often a gateway is cut")
    parser.add_argument("--pods", type=int, default=1000, help="how many are born")
    parser.add_argument("--quiet-seconds", type=float, default=1800.0, help="length of the long run")
    return harness.main(
        parser,
        lambda args: run(args.only, args.rounds, args.seconds, args.trials, args.pods, args.quiet_seconds),
    )


if __name__ == "__main__":
    sys.exit(main())
