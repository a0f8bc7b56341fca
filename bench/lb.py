"""The XDP balancer: nanoseconds per packet, live frames, what it keeps, its control plane, and kill -9 under
traffic.

    python -m bench.lb [--json FILE] [--rounds N] [--only nanoseconds,live,nat,keep,control,survive]

The exit code is 0 when every goal is met, 1 otherwise.
"""

from __future__ import annotations

import sys
from functools import partial

from bench import harness, lb_control, lb_keep, lb_live, lb_nat, lb_ns, lb_survive
from bench.harness import Report

PARTS = ("nanoseconds", "live", "nat", "keep", "control", "survive")


def run(*, rounds: int = 7, only: tuple[str, ...] = PARTS) -> Report:
    """All rows of this benchmark."""
    report = Report("XDP load balancer")
    parts = {
        "nanoseconds": partial(lb_ns.measure, report, rounds),
        "live": partial(lb_live.measure, report, rounds),
        "nat": partial(lb_nat.measure, report, min(rounds, 5)),
        "keep": partial(lb_keep.measure, report),
        "control": partial(lb_control.measure, report),
        "survive": partial(lb_survive.measure, report),
    }
    harness.run_parts(parts, only)
    return report


def main() -> int:
    parser = harness.command("Measure the balancer.", parts=PARTS, rounds=7)
    return harness.main(parser, lambda args: run(rounds=args.rounds, only=args.only))


if __name__ == "__main__":
    sys.exit(main())
