"""docs/benchmarks.md is rendered from the stored figures, and shows what misses its goal."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench.harness import Goal, Report, Row, write_json
from tools import gen_benchmarks
from tools.gen_benchmarks import load, page, read

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_the_rendered_one() -> None:
    assert gen_benchmarks.PAGE.read_text() == page(load()), "run `python -m tools.gen_benchmarks`"


def test_every_benchmark_that_there_is_has_a_part() -> None:
    called = set(re.findall(r"(\w+)\.run\(", (ROOT / "bench" / "all.py").read_text()))
    assert called == set(gen_benchmarks.BENCHES)
    for name in gen_benchmarks.BENCHES:
        assert (ROOT / "bench" / f"{name}.py").exists()


def test_a_file_of_a_benchmark_is_shown_whole(tmp_path: Path) -> None:
    rows = [
        Row("lost | found", "packets", (0.0,), goal=Goal("value", "==", 0)),
        Row("TCP", "Gbit/s", (1.0, 3.0), (10.0,), Goal("ratio", ">=", 0.95)),
    ]
    write_json([Report("A title", rows, ["a remark"], load=1.5, date="2026-01-02")], tmp_path / "nat-part.json")
    text = page(load(tmp_path))
    assert "2026-01-02" in text
    assert "loaded: 1.50 processes a core" in text
    assert "1 of 2 goals met" in text
    assert "| lost \\| found | packets | 0 |" in text
    assert "| TCP | Gbit/s | 2 | 1 to 3 | 2 | 10 | 0.2 | ratio >= 0.95 | **MISSED** |" in text
    assert "* a remark" in text
    assert text.count("Not yet measured") == len(gen_benchmarks.BENCHES) - 1


def test_quiet_and_loaded_are_told_apart() -> None:
    assert gen_benchmarks.Figures("nat", (), load=0.2).quiet.startswith("quiet")
    assert gen_benchmarks.Figures("nat", (), load=0.9).quiet.startswith("loaded")
    assert gen_benchmarks.Figures("nat", ()).quiet == "load not recorded"


@pytest.mark.parametrize("body", ["{}", "[1]", '[{"metric": "m"}]'])
def test_what_is_no_file_of_rows_is_refused(tmp_path: Path, body: str) -> None:
    (tmp_path / "nat.json").write_text(body)
    with pytest.raises(ValueError, match="should hold rows"):
        read(tmp_path / "nat.json")


def test_a_file_of_no_known_benchmark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "else.json").write_text(json.dumps([]))
    with pytest.raises(ValueError, match=r"else\.json should be named after one of nat64"):
        load(tmp_path)
