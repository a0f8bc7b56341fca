"""The model against every named case: both are derived from the RFCs, each in its own way, and must agree."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.rfc.cases import CASES
from tests.rfc.model import translate
from tests.rfc.oracle import verify_packet
from tests.rfc.verdict import Drop, Observed, Out, Pass, Verdict, compare

if TYPE_CHECKING:
    from tests.rfc.cases.base import Case


def observed(verdict: Verdict) -> Observed:
    """The verdict as if a gateway had behaved so."""
    if isinstance(verdict, Pass):
        return Observed(passed=True)
    if isinstance(verdict, Drop):
        return Observed(tuple(out.data for out in [verdict.answer] if out), verdict.reason)
    return Observed(tuple(out.data for out in verdict.packets))


def outs(verdict: Verdict) -> tuple[Out, ...]:
    if isinstance(verdict, Pass):
        return ()
    if isinstance(verdict, Drop):
        return tuple(out for out in [verdict.answer] if out)
    return verdict.packets


@pytest.mark.parametrize("case", CASES, ids=str)
def test_model_agrees_with_the_case(case: Case) -> None:
    outcome = translate(case.node, case.packet)
    for verdict in case.expect:
        assert compare(outcome, observed(verdict)) == [], "the model does not allow what the case expects"
    assert compare(case.expect, observed(outcome[0])) == [], "the case does not allow what the model does"
    assert type(outcome[0]) in {type(v) for v in case.expect}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_packets_of_the_case_are_faultless(case: Case) -> None:
    right = case.clause != "7915-5-CSUMFAIL"  # those stay wrong by intent
    for verdict in case.expect:
        for out in outs(verdict):
            assert verify_packet(out.data, l4=right) == []


def test_case_names_are_unique() -> None:
    assert [name for name, count in Counter(c.id for c in CASES).items() if count > 1] == []
