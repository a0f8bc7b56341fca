"""The compliance page: every case belongs to a requirement, every requirement has a test, and the page says what was
seen."""

from __future__ import annotations

import pytest

from tests.rfc.cases import CASES
from tests.rfc.requirements import SECTIONS, Requirement
from tests.rfc.stateful import STATEFUL
from tools.gen_compliance import LIVE, _row, render

ALL = [row for section in (*SECTIONS, STATEFUL) for row in section.rows]


def test_every_case_belongs_to_a_requirement() -> None:
    assert {case.clause for case in CASES} - {row.id for row in ALL} == set()


@pytest.mark.parametrize("row", ALL, ids=lambda row: row.id)
def test_every_requirement_has_a_test_or_a_reason(row: Requirement) -> None:
    assert row.out_of_scope or row.tests or any(case.clause == row.id for case in CASES)


def test_a_failed_case_makes_its_requirement_unmet() -> None:
    row = next(each for each in ALL if each.id == "7915-4.1-FLOW")
    (case,) = (each for each in CASES if each.clause == row.id)
    assert _row(row, {f"{LIVE}[{case.id}]": "passed"}).met == "yes"
    assert _row(row, {f"{LIVE}[{case.id}]": "failed"}).met == "**no**"
    assert _row(row, {}).met == "not tested"


def test_the_page_counts_what_is_met() -> None:
    page, rows = render({f"{LIVE}[{case.id}]": "passed" for case in CASES})
    untested = [row.requirement.id for row in rows if row.met == "not tested"]
    assert set(untested) == {row.id for row in ALL if row.tests}
    assert f"{sum(row.met == 'yes' for row in rows)} of " in page
