"""Dashboards and alerts of the chart: generated, well-formed, and about metrics that there are."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from tools import gen_dashboards

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "charts" / "sixgate" / "files" / "alerts.yaml"
# Labels and functions of PromQL stand in expressions, too; what begins with these is a metric of ours.
_METRIC = re.compile(r"\bsixgate_[a-z0-9_]+")
_SUFFIX = re.compile(r"_(?:total|bucket|sum|count)$")


@cache
def defined() -> frozenset[str]:
    """Names of families as the sources write them; {holes} of f-strings match anything."""
    found: set[str] = set()
    for path in (ROOT / "operator" / "sixgate").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and _METRIC.fullmatch(node.value):
                found.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "[a-z0-9_]+" for p in node.values]
                if str(parts[0]).startswith("sixgate_"):
                    found.add("".join(map(str, parts)))
    return frozenset(found)


def queries() -> dict[str, str]:
    found = {rule["alert"]: rule["expr"] for g in yaml.safe_load(ALERTS.read_text())["groups"] for rule in g["rules"]}
    for title, panels in gen_dashboards.DASHBOARDS.values():
        found |= {f"{title}: {item.title} {at}": q for item in panels for at, (q, _) in enumerate(item.queries)}
    return found


@pytest.mark.parametrize("name", sorted(gen_dashboards.texts()))
def test_a_dashboard_is_the_generated_one(name: str) -> None:
    assert (gen_dashboards.TARGET / name).read_text() == gen_dashboards.texts()[name], "run `make generate`"
    assert json.loads(gen_dashboards.texts()[name])["panels"]


def test_no_dashboard_is_left_over() -> None:
    assert {path.name for path in gen_dashboards.TARGET.iterdir()} == set(gen_dashboards.texts())


@pytest.mark.parametrize("name", sorted(queries()))
def test_a_query_is_about_metrics_that_there_are(name: str) -> None:
    asked = {_SUFFIX.sub("", metric) for metric in _METRIC.findall(queries()[name])}
    known = defined()
    assert all(any(re.fullmatch(pattern, metric) for pattern in known) for metric in asked), asked


def test_promtool_accepts_the_alerts() -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
