"""Benchmarks that measure in a child process with a network namespace of its own, which ends with it."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bench import harness
from bench.harness import Report

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
Samples: TypeAlias = Mapping[str, Mapping[str, Sequence[float]]]


def ask(module: str, rounds: int) -> Samples:
    """What `measure_here` of a module finds in `rounds` rounds. CalledProcessError with its words where it fails."""
    command = ["unshare", "--net", sys.executable, "-m", module, "--here", "--rounds", str(rounds)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    found: Samples = json.loads(done.stdout)
    return found


def main(
    title: str, rounds: int, measure: Callable[[Report, int], None], measure_here: Callable[[int], Samples]
) -> int:
    """The command line of such a benchmark: --json, --rounds, and --here for the child."""
    parser = argparse.ArgumentParser(description=f"{title}.")
    parser.add_argument("--json", type=Path, help="write rows for machines to this file")
    parser.add_argument("--rounds", type=int, default=rounds, help="measurements of each kind")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        json.dump(measure_here(args.rounds), sys.stdout)
        return 0
    report = Report(title)
    measure(report, args.rounds)
    return harness.finish(report, args.json)
