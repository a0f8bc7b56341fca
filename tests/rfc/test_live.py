"""Every named case on the real gateway: shipped programs, real devices, real fragments and ICMP errors on the wire."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import pytest

from tests.rfc.cases import CASES
from tests.rfc.verdict import Observed, compare

if TYPE_CHECKING:
    from tests.rfc.cases.base import Case
    from tests.rfc.live import LiveGateway


def place(case: Case) -> str:
    """MTUs first: they take longest to change."""
    return f"{case.node.mtu4} {case.node.mtu6} {case.node!r}"


# Cases of one node follow each other, so that tables and MTUs change seldom.
ORDERED = tuple(case for _, group in groupby(sorted(CASES, key=place), key=place) for case in group)


def faults_of(case: Case, gateway: LiveGateway) -> list[str]:
    gateway.ensure(case.node)
    seen = gateway.translate(case.packet)
    faults = compare(case.expect, seen)
    if faults:  # a packet that was only late is not a fault
        seen = Observed((*seen.packets, *gateway.late()), seen.reason, seen.passed)
        faults = compare(case.expect, seen)
    return faults


@pytest.mark.parametrize("case", ORDERED, ids=str)
def test_gateway_does_what_the_case_says(case: Case, gateway: LiveGateway) -> None:
    assert faults_of(case, gateway) == []


@pytest.mark.parametrize("case", ORDERED, ids=str)
def test_gateway_with_xdp_does_the_same(case: Case, xdp_gateway: LiveGateway) -> None:
    assert faults_of(case, xdp_gateway) == []


def test_xdp_does_work_of_its_own(xdp_gateway: LiveGateway) -> None:
    """Without this, XDP that passes everything on to tc would look as good."""
    simple = [case for case in ORDERED if case.id in ("5.5-udp-1", "4.5-udp-1")]
    for case in simple:
        xdp_gateway.ensure(case.node)
        xdp_gateway.translate(case.packet)  # the first packet of a hop resolves its neighbour
        before = xdp_gateway.reasons()
        assert faults_of(case, xdp_gateway) == []
        moved = {name for name, count in xdp_gateway.reasons().items() if count != before.get(name, 0)}
        assert moved <= {"OK_64", "OK_46"}, f"{case.id} was left to tc"
    assert len(simple) == 2
