"""Whatever a promise is shown by exists: tests by their files, commands by their make targets and benchmarks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "operations" / "promises.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
ROWS = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| ") and "shown by" not in line]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip())
def test_a_promise_is_shown_by_something_that_exists(row: list[str]) -> None:
    shown = re.findall(r"`([^`]+)`", row[-1])
    assert shown
    for words in shown:
        if words.startswith("tests/"):
            assert (ROOT / words).is_file()
            continue
        target = words.removeprefix("make ")
        bench = ROOT / "bench" / f"{target.removeprefix('bench-')}.py"
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE) or (target.startswith("bench-") and bench.is_file())
