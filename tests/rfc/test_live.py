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

# Cases of one node follow each other, so that tables and MTUs change seldom.
ORDERED = tuple(
    case
    for _, group in groupby(sorted(CASES, key=lambda c: repr(c.node)), key=lambda c: repr(c.node))
    for case in group
)


@pytest.mark.parametrize("case", ORDERED, ids=str)
def test_gateway_does_what_the_case_says(case: Case, gateway: LiveGateway) -> None:
    gateway.ensure(case.node)
    seen = gateway.translate(case.packet)
    faults = compare(case.expect, seen)
    if faults:  # a packet that was only late is not a fault
        seen = Observed((*seen.packets, *gateway.late()), seen.reason, seen.passed)
        faults = compare(case.expect, seen)
    assert faults == []
