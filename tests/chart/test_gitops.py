"""The examples for Argo CD and Flux: the health script against statuses that the operator writes, and their YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lupa
import pytest
import yaml

from sixgate.api.parse import KINDS
from sixgate.plan.status import first_status
from tests.chart.conftest import CHART, ROOT

GITOPS = ROOT / "examples" / "gitops"
SCRIPT = (GITOPS / "argocd" / "health.lua").read_text()


def health(document: dict[str, Any]) -> tuple[str, str]:
    """What Argo CD shows of an object."""
    lua = lupa.LuaRuntime()  # type: ignore[attr-defined]
    lua.globals().obj = lua.table_from(document, recursive=True)
    found = lua.execute(SCRIPT)
    return found["status"], found["message"]


def condition(kind: str, status: str, message: str = "told") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": "Test", "message": message}


def seen(*conditions: dict[str, str], generation: int = 2, observed: int = 2) -> dict[str, Any]:
    return {
        "metadata": {"generation": generation},
        "status": {"observedGeneration": observed, "conditions": list(conditions)},
    }


@pytest.mark.parametrize(
    ("document", "wanted"),
    [
        ({"metadata": {"generation": 1}}, "Progressing"),
        (seen(condition("Ready", "True")), "Healthy"),
        (seen(condition("Ready", "True"), observed=1), "Progressing"),
        (seen(condition("Ready", "Unknown"), condition("Reconciling", "True")), "Progressing"),
        (seen(condition("Ready", "False"), condition("Stalled", "True")), "Degraded"),
        (seen(condition("Ready", "False"), condition("Degraded", "True")), "Degraded"),
        (seen(condition("Ready", "False"), condition("Degraded", "False")), "Progressing"),
        ({"metadata": {"generation": 1, "deletionTimestamp": "2026-01-01T00:00:00Z"}}, "Progressing"),
    ],
)
def test_health(document: dict[str, Any], wanted: str) -> None:
    assert health(document)[0] == wanted


def test_the_message_is_that_of_the_condition() -> None:
    assert health(seen(condition("Ready", "False", "n1: no bpffs"))) == ("Progressing", "n1: no bpffs")


def test_the_first_status_of_an_object_is_progress() -> None:
    """Argo CD takes an object without Ready for healthy where it has no script; kstatus does, too."""
    status = first_status(1, "2026-01-01T00:00:00Z")
    assert health({"metadata": {"generation": 1}, "status": status})[0] == "Progressing"


def test_the_config_map_has_the_script_for_every_kind() -> None:
    (holder,) = yaml.safe_load_all((GITOPS / "argocd" / "argocd-cm.yaml").read_text())
    assert holder["data"] == {f"resource.customizations.health.sixgate.io_{kind}": SCRIPT for kind in KINDS}


@pytest.mark.parametrize("path", sorted(GITOPS.rglob("*.yaml")), ids=lambda path: path.name)
def test_values_in_the_examples_are_those_of_the_chart(path: Path) -> None:
    known = yaml.safe_load((CHART / "values.yaml").read_text())
    for document in yaml.safe_load_all(path.read_text()):
        assert document["apiVersion"]
        assert document["metadata"]["name"]
        spec = document.get("spec") or {}
        values = spec.get("values") or spec.get("source", {}).get("helm", {}).get("valuesObject") or {}
        assert set(values) <= set(known), document["metadata"]["name"]


def test_waves_bring_the_chart_before_the_objects() -> None:
    first, second = yaml.safe_load_all((GITOPS / "argocd" / "application.yaml").read_text())
    waves = [int(item["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"]) for item in (first, second)]
    assert waves[0] < waves[1]
    assert "ServerSideApply=true" in first["spec"]["syncPolicy"]["syncOptions"]
    assert "SkipDryRunOnMissingResource=true" in second["spec"]["syncPolicy"]["syncOptions"]
