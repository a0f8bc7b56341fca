"""The XDP balancer: nanoseconds per packet, live frames, what it keeps, its control plane, and kill -9 under
traffic.

    python -m bench.lb [--json FILE] [--rounds N] [--only nanoseconds,live,nat,keep,control,survive]

The exit code is 0 when every goal is met, 1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import harness, lb_control, lb_keep, lb_live, lb_nat, lb_ns, lb_survive
from bench.harness import Report
from e2e.lab.run import LabError

PARTS = ("nanoseconds", "live", "nat", "keep", "control", "survive")


def run(*, rounds: int = 7, parts: tuple[str, ...] = PARTS) -> Report:
    """All rows of this benchmark."""
    report = Report("XDP load balancer")
    if "nanoseconds" in parts:
        lb_ns.measure(report, rounds)
    if "live" in parts:
        lb_live.measure(report, rounds)
    if "nat" in parts:
        lb_nat.measure(report, min(rounds, 5))
    if "keep" in parts:
        lb_keep.measure(report)
    if "control" in parts:
        lb_control.measure(report)
    if "survive" in parts:
        lb_survive.measure(report)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the balancer.")
    parser.add_argument("--json", type=Path, help="write rows for machines to this file")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each kind")
    harness.add_only(parser, PARTS)
    args = parser.parse_args()
    try:
        report = run(rounds=args.rounds, parts=args.only)
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return harness.finish(report, args.json)


if __name__ == "__main__":
    sys.exit(main())
