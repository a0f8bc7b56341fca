"""docs/install.md and the chart's README say what is so: keys, targets, files, links."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.chart.conftest import CHART, ROOT

PAGES = {page: (ROOT / page).read_text() for page in ("docs/install.md", "charts/sixgate/README.md", "README.md")}
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())


def known(key: str) -> bool:
    found: Any = VALUES
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            return False
        found = found[part]
    return True


@pytest.mark.parametrize("page", PAGES)
def test_keys_that_are_set_exist(page: str) -> None:
    keys = re.findall(r"--set ([A-Za-z0-9.]+)=", PAGES[page])
    assert keys
    assert [key for key in keys if not known(key)] == []


def test_keys_that_are_told_of_exist() -> None:
    groups = "|".join(key for key in VALUES if isinstance(VALUES[key], dict))
    keys = re.findall(rf"`((?:{groups})\.[A-Za-z0-9.]+)(?:=[a-z]+)?`", PAGES["docs/install.md"])
    assert keys
    assert [key for key in keys if not known(key)] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_and_files_exist(page: str) -> None:
    folder = (ROOT / page).parent
    for link in re.findall(r"\]\(([^)#:]+)\)", PAGES[page]):
        assert (folder / link).resolve().exists(), link
    for path in re.findall(r"(?:charts|examples|crds|deploy)/[A-Za-z0-9_./-]+[a-z0-9]", PAGES[page]):
        assert (ROOT / path).exists(), path


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z0-9-]+)`?", PAGES["docs/install.md"]):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
