"""Generated pages tell of everything: each metric, each reason, each command; and what they advise exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.test_dashboards import defined
from tools import doc_metrics, doc_reasons, gen_docs

ROOT = Path(__file__).resolve().parents[2]
DROPPED = [name for name in doc_reasons.drop_reasons() if name.startswith("SG_DROP_")]


def test_no_metric_is_missing() -> None:
    assert doc_metrics.unresolved() == ()
    told = {metric.name.removesuffix("_total") for metric in doc_metrics.metrics()}
    named = [name for name in defined() if "[" not in name and not name.endswith("_")]
    assert len(named) > 20
    assert [name for name in named if name not in told] == []


def test_metrics_have_texts_and_one_meaning() -> None:
    found = doc_metrics.metrics()
    assert all(metric.text.endswith(".") for metric in found)
    assert len({metric.name for metric in found}) == len(found)


@pytest.mark.parametrize("reason", sorted({*doc_reasons.condition_reasons(), *doc_reasons.CONDITIONS}))
def test_a_reason_of_a_condition_is_known_and_advised(reason: str) -> None:
    assert reason in doc_reasons.condition_reasons(), "no code gives this reason: remove it from tools/doc_advice.yaml"
    assert reason in doc_reasons.CONDITIONS, "say in tools/doc_advice.yaml what it means and what to do"


@pytest.mark.parametrize("name", sorted({*DROPPED, *(f"SG_DROP_{name}" for name in doc_reasons.DROPS)}))
def test_a_reason_of_a_drop_is_known_and_advised(name: str) -> None:
    assert name in DROPPED, "the data plane has no such reason: remove it from tools/doc_advice.yaml"
    assert name.removeprefix("SG_DROP_") in doc_reasons.DROPS, "say in tools/doc_advice.yaml what to do"


def test_every_reason_of_the_header_is_on_the_page() -> None:
    header = (ROOT / "bpf_src" / "include" / "sg" / "drop.h").read_text()
    names = re.findall(r"^\t(SG_(?:PASS|OK|SLOW|DROP)_\w+)", header, re.MULTILINE)
    page = gen_docs.reasons_page()
    assert len(names) > 60
    assert [name for name in names if f"`{name}`" not in page] == []


@pytest.mark.parametrize("advice", sorted({*doc_reasons.CONDITIONS.values(), *doc_reasons.DROPS.values()}))
def test_a_field_in_an_advice_exists(advice: str) -> None:
    pages = "".join(
        path.read_text() for path in (ROOT / "docs" / "reference").glob("*.md") if path.name != "reasons.md"
    )
    for field in re.findall(r"`(spec\.[A-Za-z0-9.]+)`", advice):
        assert f"`{field}`" in pages, field
    for word in re.findall(r"`([a-z]+(?:[A-Z][A-Za-z]*)+)(?:: \w+)?`", advice):
        assert re.search(rf"\.{word}`", pages), word


def test_reasons_are_found_where_they_are_given() -> None:
    found = doc_reasons.condition_reasons()
    assert found["Conflicted"] == ("node", "operator")
    assert found["HookOccupied"] == ("node",)
    assert found["BrokenFile"] == ("files",)
