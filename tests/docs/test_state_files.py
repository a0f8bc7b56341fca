"""Files of the state directory stand in the contracts: whoever looks after a node finds there what they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r'^_?[A-Z_]+ = "([a-z-]+\.json|ask\.sock|lock)"', re.MULTILINE)
SOURCES = [file for part in ("node", "standalone") for file in (ROOT / "operator" / "sixgate" / part).rglob("*.py")]
FILES = sorted({name for file in SOURCES for name in NAMED.findall(file.read_text())})


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_in_the_contracts(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs" / "design" / "contracts.md").read_text()


def test_there_are_such_files() -> None:
    assert {"state.json", "sizes.json", "lock"} <= set(FILES)
