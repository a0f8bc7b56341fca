"""A node says of an object which addresses it has for it."""

from __future__ import annotations

from sixgate.api.nodeconfig import EgressReport, ItemResult
from sixgate.node.egress.report import with_owned


def test_the_owner_and_nobody_else_names_the_addresses() -> None:
    items = (
        ItemResult(owner="EgressGateway/payments", state="Programmed"),
        ItemResult(owner="EgressGateway/other", state="Programmed"),
        ItemResult(owner="EgressGateway/broken", state="Degraded", message="The kernel refused it."),
    )
    reports = (
        EgressReport(object="payments", pair=1, ipv4="198.51.100.1", ipv6="2001:db8::1", owner="g1", here=True),
        EgressReport(object="other", pair=2, ipv4="198.51.100.2", owner="g2"),
        EgressReport(object="broken", pair=3, ipv4="198.51.100.3", owner="g1", here=True),
    )
    told = [item.message for item in with_owned(items, reports)]
    assert told == ["has 198.51.100.1, 2001:db8::1", "", "The kernel refused it."]
    assert with_owned(items, ()) == items
