"""Benchmarks that measure in a child process with a network namespace of its own, which ends with it.

The child is the same module with `--here`; what it finds comes back as JSON on its standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from bench import harness
from e2e.lab.run import LabError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.harness import Report

ROOT = Path(__file__).resolve().parent.parent
HERE = "--here"
Samples: TypeAlias = Mapping[str, Mapping[str, Sequence[float]]]


def ask(module: str, *words: str, mount: bool = False) -> Any:
    """What the child finds. `mount`: also with mounts of its own. LabError where it fails; its words are then told."""
    spaces = ("--net", "--mount") if mount else ("--net",)
    command = ["unshare", *spaces, sys.executable, "-m", module, HERE, *words]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}"}
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    if done.returncode:
        raise LabError(f"{module} should measure in a namespace of its own, and ended with code {done.returncode}.")
    return json.loads(done.stdout)


def ask_rounds(module: str, rounds: int) -> Samples:
    """What `measure_here` of a module finds in so many rounds, by way and name."""
    found: Samples = ask(module, "--rounds", str(rounds))
    return found


def main(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], Report],
    measure_here: Callable[[argparse.Namespace], object],
) -> int:
    """The whole of such a benchmark, child or not."""
    parser.add_argument(HERE, action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        json.dump(measure_here(args), sys.stdout)
        return 0
    return harness.conclude(lambda: run(args), args.json)


def main_of_rounds(
    title: str, rounds: int, measure: Callable[[Report, int], None], measure_here: Callable[[int], Samples]
) -> int:
    """The same for one that measures in rounds, and has no other question."""
    return main(
        harness.command(f"{title}.", rounds=rounds),
        lambda args: harness.report_of(title, lambda report: measure(report, args.rounds)),
        lambda args: measure_here(args.rounds),
    )
