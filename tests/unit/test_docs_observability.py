"""docs/observability.md speaks of metrics, commands and values that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from sixgate.cli import build
from sixgate.cli.cluster.commands import build as build_cluster
from tests.unit.test_dashboards import defined

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "observability.md").read_text()
CODE = re.findall(r"`([^`]+)`", PAGE)


@pytest.mark.parametrize("name", sorted({c for c in CODE if c.startswith("sixgate_")}))
def test_a_metric_exists(name: str) -> None:
    assert any(re.fullmatch(pattern, name.removesuffix("_total")) for pattern in defined())


@pytest.mark.parametrize("line", sorted({c for c in CODE if re.match(r"(kubectl )?sixgate [a-z]", c)}))
def test_a_command_and_its_options_exist(line: str) -> None:
    cluster = line.startswith("kubectl ")
    words = line.removeprefix("kubectl ").split()[1:]
    command = get_command(build_cluster() if cluster else build())
    found = command.commands[words[0]]  # type: ignore[attr-defined]
    options = {option for parameter in found.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("path", sorted({c for c in CODE if c.startswith("prometheus.")}))
def test_a_value_of_the_chart_exists(path: str) -> None:
    values = yaml.safe_load((ROOT / "charts" / "sixgate" / "values.yaml").read_text())
    for part in path.split("."):
        values = values[part]
    assert values in (True, False)
