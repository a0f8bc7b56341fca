"""Runs every benchmark and writes the page of their figures.

python -m bench.all [--render docs/benchmarks.md] [--json FILE] [--vectors FILE]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from bench import bigtcp, dns64, egress, harness, lb, nat, nat64, observe, operator
from e2e.conformance import DEFAULT_VECTORS
from e2e.lab.run import LabError


def main() -> int:
    parser = argparse.ArgumentParser(description="Run every benchmark.")
    parser.add_argument("--render", type=Path, help="write the figures as a page to this file")
    parser.add_argument("--json", type=Path, help="write rows for machines to this file")
    parser.add_argument("--vectors", type=Path, default=DEFAULT_VECTORS, help="recorded RFC 7915 cases")
    args = parser.parse_args()
    try:
        reports = [nat64.run(args.vectors), nat.run(), bigtcp.run(), dns64.run(), operator.run(), lb.run()]
        reports += [egress.run(), observe.run()]
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for report in reports:
        harness.print_report(report)
    if args.render:
        args.render.write_text(harness.markdown(reports, time.strftime("%Y-%m-%d")))
    if args.json:
        harness.write_json(reports, args.json)
    return 0 if all(report.met for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
