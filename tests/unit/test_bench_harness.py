"""Rows of benchmarks: medians, ratios of neighbours in time, goals, and the two ways they are shown."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from bench import harness
from bench.harness import Goal, Report, Row, cells, interleave, write_json
from e2e.lab.run import LabError

if TYPE_CHECKING:
    from pathlib import Path


def test_the_ratio_is_the_median_of_the_ratios_of_neighbours() -> None:
    row = Row("m", "u", (10.0, 50.0, 30.0), (10.0, 100.0, 10.0))
    assert (row.value, row.baseline, row.ratio) == (30.0, 10.0, 1.0)


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal("ratio", ">=", 0.95), True),
        (Goal("ratio", ">=", 2.1), False),
        (Goal("value", "<=", 19.0), False),
        (Goal("value", "<=", 20.0), True),
        (Goal("value", "==", 20.0), True),
    ],
    ids=str,
)
def test_a_goal_is_met_or_not(goal: Goal, met: bool) -> None:
    assert Row("m", "u", (20.0,), (10.0,), goal).met is met


def test_a_goal_on_a_ratio_without_baseline_is_not_met() -> None:
    assert Row("m", "u", (20.0,), goal=Goal("ratio", ">=", 1.0)).met is False


def test_a_report_is_met_when_no_row_misses() -> None:
    free, missed = Row("m", "u", (1.0,)), Row("m", "u", (1.0,), goal=Goal("value", "==", 0))
    assert Report("t", [free]).met
    assert not Report("t", [free, missed]).met


def test_measures_take_turns() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    samples = interleave({"a": lambda: measure("a"), "b": lambda: measure("b")}, 3)
    assert "".join(order) == "abbaab"
    assert samples == {"a": (1.0, 4.0, 5.0), "b": (2.0, 3.0, 6.0)}


def test_rows_for_machines_have_the_promised_fields(tmp_path: Path) -> None:
    row = Row("m", "kpps", (20.0, 40.0), (10.0, 10.0), Goal("ratio", ">=", 2))
    write_json([Report("t", [row])], tmp_path / "rows.json")
    (found,) = json.loads((tmp_path / "rows.json").read_text())
    promised = {
        "metric": "m",
        "value": 30.0,
        "unit": "kpps",
        "baseline": 10.0,
        "ratio": 3.0,
        "goal": "ratio >= 2",
        "met": True,
    }
    assert {key: found[key] for key in promised} == promised
    assert (found["spread"], found["n"], found["title"]) == ("20 to 40", 2, "t")
    assert set(found) - set(promised) == {"spread", "n", "title", "date", "machine", "load"}


def test_a_missed_goal_is_marked_for_people() -> None:
    row = Row("m", "Gbit/s", (1.0, 3.0), (10.0,), Goal("ratio", ">=", 0.95))
    assert cells(row)[-1] == "MISSED"


@pytest.mark.parametrize("name", ["bigtcp", "egress", "lb", "nat", "nat64", "observe", "operator"])
def test_an_unknown_part_is_refused_with_the_known_ones(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"bench.{name}")
    monkeypatch.setattr(sys, "argv", [f"bench.{name}", "--only", "nothing-of-the-kind"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert f"it takes some of {','.join(module.PARTS)}, found 'nothing-of-the-kind'" in told


def test_chosen_parts_are_a_tuple_and_all_of_them_by_default() -> None:
    parser = argparse.ArgumentParser()
    harness.add_only(parser, ("a", "b", "c"))
    assert parser.parse_args([]).only == ("a", "b", "c")
    assert parser.parse_args(["--only", "c,a"]).only == ("c", "a")


@pytest.mark.parametrize(("goal", "code"), [(0, 0), (1, 1)], ids=["met", "missed"])
def test_a_benchmark_ends_with_its_verdict_and_its_rows(tmp_path: Path, goal: float, code: int) -> None:
    row = Row("m", "u", (0.0,), goal=Goal("value", "==", goal))
    assert harness.conclude(lambda: Report("t", [row]), tmp_path / "rows.json") == code
    assert json.loads((tmp_path / "rows.json").read_text())[0]["met"] is not bool(code)


def test_a_lab_that_cannot_be_made_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> Report:
        raise LabError("The lab needs a thing.")

    assert harness.conclude(run, tmp_path / "rows.json") == 1
    assert capsys.readouterr().err == "The lab needs a thing.\n"
    assert not (tmp_path / "rows.json").exists()


def test_parts_run_in_their_own_order() -> None:
    done: list[str] = []
    parts = {name: partial(done.append, name) for name in "abc"}
    harness.run_parts(parts, ("c", "a"))
    assert done == ["a", "c"]
