"""The stateless gateway against plain IPv6 forwarding and Debian's tayga, and its promises under kill -9.

    python -m bench.nat64 [--json FILE] [--vectors FILE] [--rounds N] [--seconds S] [--only tcp,packets,nanoseconds,...]

Every way leads through three namespaces of the same shape on one machine, and what is compared takes turns. The exit
code is 0 when every goal is met, 1 otherwise.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench import harness, nat64_ns
from bench.harness import Goal, Report, Row, progress
from bench.nat64_labs import plain_path, prepare_packets, sixgate_path, tayga_path
from bench.nat64_restart import KILLS, restart_under_traffic
from e2e import conformance, rfc6052
from e2e.lab import traffic
from e2e.lab.run import LabRun

PARTS = ("tcp", "packets", "nanoseconds", "restart", "vectors")
MUST_GOAL = 50
PLAIN, TAYGA = "plain IPv6 forwarding", "tayga 0.9.2"
PLAIN_GOAL, TAYGA_GOAL = Goal("ratio", ">=", 0.95), Goal("ratio", ">=", 10)


def measure_tcp(report: Report, rounds: int, seconds: float) -> None:
    """TCP both directions, in turns through three labs."""
    with ExitStack() as stack:
        labs = [stack.enter_context(LabRun()) for _ in range(3)]
        paths = {
            "plain": plain_path(labs[0], seconds),
            "sixgate": sixgate_path(labs[1], seconds),
            "tayga": tayga_path(labs[2], seconds),
        }
        for lab in labs:
            stack.enter_context(traffic.iperf_server(lab, "server4"))
        for metric, reverse in (("TCP 6 to 4", False), ("TCP 4 to 6", True)):
            progress(f"{metric}: {rounds} rounds of {seconds:g} s through {', '.join(paths)}")
            got = harness.interleave({n: partial(p.tcp_bits, reverse=reverse) for n, p in paths.items()}, rounds)
            report.rows += [
                Row(f"{metric}, against {PLAIN}", "Gbit/s", got["sixgate"], got["plain"], PLAIN_GOAL),
                Row(f"{metric}, against {TAYGA}", "Gbit/s", got["sixgate"], got["tayga"], TAYGA_GOAL),
            ]
    report.remarks.append("TCP: one iperf3 flow, MTU 1500, offloads on, in tc.")


def measure_packets(report: Report, rounds: int, seconds: float) -> None:
    """Packets per second both directions, in turns through four labs."""
    with ExitStack() as stack:
        labs = [stack.enter_context(LabRun()) for _ in range(4)]
        paths = {
            "plain": plain_path(labs[0], seconds),
            "tc": sixgate_path(labs[1], seconds),
            "XDP": sixgate_path(labs[2], seconds, acceleration="Native"),
            "tayga": tayga_path(labs[3], seconds),
        }
        for lab in labs:
            prepare_packets(lab)
        for metric, reverse in (("UDP 64 bytes, 6 to 4", False), ("UDP 64 bytes, 4 to 6", True)):
            progress(f"{metric}: {rounds} rounds of {seconds:g} s through {', '.join(paths)}")
            got = harness.interleave({n: partial(p.packets, reverse=reverse) for n, p in paths.items()}, rounds)
            report.rows += [
                *(
                    Row(f"{metric}, {w}, against {PLAIN}", "kpps", got[w], got["plain"], PLAIN_GOAL)
                    for w in ("tc", "XDP")
                ),
                Row(f"{metric}, tc, against {TAYGA}", "kpps", got["tc"], got["tayga"]),
            ]
    report.remarks.append(
        "UDP: 64 bytes as IPv6, 44 as IPv4, handed to the gateway as a network card's driver would (XDP frames), "
        "counted by the receiver's device. One core sends, forwards and receives, and sending and receiving cost the "
        "same in all figures; XDP is `acceleration: Native`."
    )


def measure_restart(report: Report) -> None:
    """kill -9 and restart under stamped packets."""
    progress(f"restart: {KILLS} times kill -9 under traffic")
    result = restart_under_traffic()
    none = Goal("value", "<=", 0)
    what = f"kill -9 and restart {result.kills} times under {result.sent:,} packets"
    for name, count in (
        ("lost", result.tally.lost),
        ("untranslated", result.tally.untranslated),
        ("damaged", result.tally.damaged),
    ):
        report.rows.append(Row(f"{what}: {name}", "packets", (float(count),), goal=none))
    report.remarks.append(
        f"Restart: {result.rate:,.0f} packets per second; {result.tally.duplicated} duplicated, "
        f"{result.tally.reordered} reordered. The machine itself dropped {result.machine_drops} at its per-core queues "
        f"and the receiver missed {result.tally.missed_by_receiver}; both count as lost. "
        f"Negative control, nothing translating: all {result.control_untranslated} packets were seen as untranslated."
    )


def measure_vectors(report: Report, vectors: Path) -> None:
    """RFC 6052 2.4 and the recorded RFC 7915 cases."""
    progress("RFC 6052 2.4 vectors")
    differences = rfc6052.run()
    right = sum(not found for found in differences.values())
    report.rows.append(
        Row("RFC 6052 2.4 vectors, both directions", "of 14", (float(right),), goal=Goal("value", "==", 14))
    )
    report.remarks += [f"RFC 6052 {name}: {found[0]}" for name, found in differences.items() if found]
    if not vectors.is_file():
        report.remarks.append(f"RFC 7915 cases: not measured, there are no vectors at {vectors}.")
        return
    progress("RFC 7915 cases")
    cases, plan = conformance.load(vectors)
    outcomes = conformance.replay(cases, plan, lambda _: None)
    for level, goal in (("MUST", Goal("value", ">=", MUST_GOAL)), ("SHOULD", None)):
        mine = [outcome for outcome in outcomes if outcome.case.level == level]
        passed = sum(outcome.passed for outcome in mine)
        report.rows.append(Row(f"RFC 7915 cases of level {level}", f"of {len(mine)}", (float(passed),), goal=goal))
        misses = [outcome.case.name for outcome in mine if not outcome.passed]
        report.remarks.append(f"{level} misses: {', '.join(misses) or 'none'}.")


def run(vectors: Path, *, rounds: int = 7, seconds: float = 1.5, only: tuple[str, ...] = PARTS) -> Report:
    """All rows of this benchmark."""
    report = Report("Stateless NAT46/64 gateway")
    parts = {
        "tcp": partial(measure_tcp, report, rounds, seconds),
        "packets": partial(measure_packets, report, rounds, seconds),
        "nanoseconds": partial(nat64_ns.measure, report),
        "restart": partial(measure_restart, report),
        "vectors": partial(measure_vectors, report, vectors),
    }
    harness.run_parts(parts, only)
    return report


def main() -> int:
    parser = harness.command("Measure the stateless gateway.", parts=PARTS, rounds=7, seconds=1.5)
    parser.add_argument("--vectors", type=Path, default=conformance.DEFAULT_VECTORS, help="recorded RFC 7915 cases")
    return harness.main(
        parser, lambda args: run(args.vectors, rounds=args.rounds, seconds=args.seconds, only=args.only)
    )


if __name__ == "__main__":
    sys.exit(main())
