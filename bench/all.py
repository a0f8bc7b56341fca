"""Runs every benchmark and keeps their figures, one file each.

python -m bench.all [--figures docs/benchmarks] [--json FILE] [--vectors FILE]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import bigtcp, dns64, egress, harness, lb, nat, nat64, observe, operator, soak
from e2e.conformance import DEFAULT_VECTORS
from e2e.lab.run import LabError


def main() -> int:
    parser = argparse.ArgumentParser(description="Run every benchmark.")
    parser.add_argument("--figures", type=Path, help="write the rows of each benchmark to a file in this directory")
    parser.add_argument("--json", type=Path, help="write rows for machines to this file")
    parser.add_argument("--vectors", type=Path, default=DEFAULT_VECTORS, help="recorded RFC 7915 cases")
    args = parser.parse_args()
    try:
        reports = {"nat64": nat64.run(args.vectors), "nat": nat.run(), "bigtcp": bigtcp.run(), "dns64": dns64.run()}
        reports |= {"operator": operator.run(), "lb": lb.run(), "egress": egress.run(), "observe": observe.run()}
        reports["soak"] = soak.run()
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for name, report in reports.items():
        harness.print_report(report)
        if args.figures:
            harness.write_json([report], args.figures / f"{name}.json")
    if args.json:
        harness.write_json(list(reports.values()), args.json)
    return 0 if all(report.met for report in reports.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
