"""What every benchmark shares: interleaved measuring, medians with their spread, rows for people and for machines.

A row for machines is `{"metric", "value", "unit", "baseline", "ratio", "goal", "met"}`: `value` and `baseline` are
medians in `unit` (baseline null where nothing is compared), `ratio` is value divided by baseline, `goal` says what is
to be reached (`ratio >= 0.95`), `met` whether it is (null where there is no goal).
"""

from __future__ import annotations

import argparse
import json
import operator
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from e2e.lab.run import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

COMPARE: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le, "==": operator.eq}


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on `value` or on `ratio`: `Goal("ratio", ">=", 0.95)`."""

    on: str
    op: str
    bound: float

    def __str__(self) -> str:
        return f"{self.on} {self.op} {self.bound:g}"

    def met(self, value: float, ratio: float | None) -> bool:
        found = ratio if self.on == "ratio" else value
        if found is None:
            return False
        return COMPARE[self.op](found, self.bound)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure; `samples` and `baseline_samples` are all its measurements, in `unit`."""

    metric: str
    unit: str
    samples: tuple[float, ...]
    baseline_samples: tuple[float, ...] = ()
    goal: Goal | None = None
    note: str = ""

    @property
    def value(self) -> float:
        return statistics.median(self.samples)

    @property
    def baseline(self) -> float | None:
        return statistics.median(self.baseline_samples) if self.baseline_samples else None

    @property
    def ratio(self) -> float | None:
        """Median of the ratios of neighbours in time: a slow minute of the machine slows both."""
        if not self.baseline_samples:
            return None
        if len(self.samples) == len(self.baseline_samples) and all(self.baseline_samples):
            return statistics.median(a / b for a, b in zip(self.samples, self.baseline_samples, strict=True))
        return self.value / self.baseline if self.baseline else None

    @property
    def met(self) -> bool | None:
        return self.goal.met(self.value, self.ratio) if self.goal else None

    def as_json(self) -> dict[str, object]:
        return {
            "metric": self.metric,
            "value": self.value,
            "unit": self.unit,
            "baseline": self.baseline,
            "ratio": self.ratio,
            "goal": str(self.goal) if self.goal else None,
            "met": self.met,
        }


@dataclass(slots=True)
class Report:
    """The rows of one benchmark and what a reader must know to repeat it."""

    title: str
    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    load: float = field(default_factory=lambda: os.getloadavg()[0] / (os.cpu_count() or 1))
    """Processes a core in the minute before it began: beyond 0.75 the machine was not quiet."""
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%d"))

    @property
    def met(self) -> bool:
        return all(row.met is not False for row in self.rows)

    def as_json(self) -> list[dict[str, object]]:
        """Its rows, each with what a reader must know of where and when; the first one also with the remarks."""
        place = {"title": self.title, "date": self.date, "machine": machine(), "load": round(self.load, 2)}
        more = [{"remarks": self.remarks} if self.remarks and number == 0 else {} for number in range(len(self.rows))]
        return [
            row.as_json() | {"spread": spread(row.samples), "n": len(row.samples)} | place | extra
            for row, extra in zip(self.rows, more, strict=True)
        ]


def interleave(measures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, tuple[float, ...]]:
    """Runs every measure once per round, in turning order (A B C, C B A, ...); returns the samples of each by name."""
    samples: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds):
        names = list(measures) if number % 2 == 0 else list(measures)[::-1]
        for name in names:
            samples[name].append(measures[name]())
    return {name: tuple(values) for name, values in samples.items()}


def progress(text: str) -> None:
    """One line on standard error: what is being measured now."""
    sys.stderr.write(f"  {text}\n")
    sys.stderr.flush()


def amount(value: float | None) -> str:
    """A figure in at most four significant digits, with thousands apart."""
    if value is None:
        return "-"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def spread(samples: Sequence[float]) -> str:
    """Lowest and highest measurement, or nothing where all are one."""
    return (
        "" if len(samples) < 2 or min(samples) == max(samples) else f"{amount(min(samples))} to {amount(max(samples))}"
    )


def verdict(met: bool | None) -> str:
    return {True: "met", False: "MISSED", None: ""}[met]


HEADINGS = ("metric", "unit", "median", "spread", "n", "compared with", "ratio", "goal", "")


def cells(row: Row) -> tuple[str, ...]:
    """The row as texts, in the order of HEADINGS."""
    compared = amount(row.baseline)
    if spread(row.baseline_samples):
        compared += f" ({spread(row.baseline_samples)})"
    return (
        row.metric + (f" ({row.note})" if row.note else ""),
        row.unit,
        amount(row.value),
        spread(row.samples),
        str(len(row.samples)),
        compared,
        "-" if row.ratio is None else f"{row.ratio:.3g}",
        str(row.goal or ""),
        verdict(row.met),
    )


def machine() -> str:
    """The machine in one line, as far as figures depend on it."""
    return f"Linux {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"


def print_report(report: Report) -> None:
    """The table for people, on standard output."""
    table = Table(title=report.title, title_justify="left", title_style="bold", pad_edge=False, box=None)
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if number in (2, 4, 6) else "left", overflow="fold")
    for row in report.rows:
        table.add_row(*cells(row))
    console = Console(width=None if sys.stdout.isatty() else 190, highlight=False, markup=False)
    console.print(table)
    for remark in (*report.remarks, machine()):
        console.print(remark)


def write_json(reports: Sequence[Report], path: Path) -> None:
    """All rows of all reports as one JSON list."""
    path.write_text(json.dumps([row for report in reports for row in report.as_json()], indent=1) + "\n")


def command(
    description: str, *, parts: Iterable[str] = (), rounds: int | None = None, seconds: float | None = None
) -> argparse.ArgumentParser:
    """The options that benchmarks share: --json, and --only, --rounds and --seconds where there is something to say."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="write rows for machines to this file")
    if known := tuple(parts):
        add_only(parser, known)
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help="measurements of each kind")
    if seconds is not None:
        parser.add_argument("--seconds", type=float, default=seconds, help="length of one measurement")
    return parser


def main(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], Report]) -> int:
    """A benchmark from its command line to its exit code."""
    args = parser.parse_args()
    return conclude(lambda: run(args), args.json)


def conclude(run: Callable[[], Report], path: Path | None) -> int:
    """Measures, and shows a table for people, rows for machines where `path` is given. 1 where a goal is missed or the
    lab cannot be made."""
    try:
        report = run()
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    print_report(report)
    if path:
        write_json([report], path)
    return 0 if report.met else 1


def report_of(title: str, *measures: Callable[[Report], None]) -> Report:
    """A report with what each of these adds to it."""
    report = Report(title)
    for measure in measures:
        measure(report)
    return report


def run_parts(parts: Mapping[str, Callable[[], None]], only: Iterable[str]) -> None:
    """Runs those parts of a benchmark that are asked for, in the benchmark's order."""
    wanted = frozenset(only)
    for name, measure in parts.items():
        if name in wanted:
            measure()


def add_only(parser: argparse.ArgumentParser, parts: Iterable[str]) -> None:
    """The option `--only`, which gives a tuple of some of `parts`; a word that is none of them is refused."""
    known = tuple(parts)

    def chosen(text: str) -> tuple[str, ...]:
        words = tuple(text.split(","))
        for word in words:
            if word not in known:
                raise argparse.ArgumentTypeError(f"it takes some of {','.join(known)}, found {word!r}")
        return words

    what = f"parts to run, separated by commas, of {','.join(known)}"
    parser.add_argument("--only", type=chosen, default=known, help=what)
