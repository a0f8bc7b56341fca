"""What `kubectl sixgate` makes of what the API server tells."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sixgate.cli.cluster.model import Installation, NodeRow, OperatorRow, object_row, operator_row
from sixgate.cli.cluster.show import gist

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


def lease(seconds_ago: float, holder: str = "a") -> dict[str, Any]:
    renewed = (NOW - timedelta(seconds=seconds_ago)).isoformat().replace("+00:00", "Z")
    return {"spec": {"holderIdentity": holder, "renewTime": renewed}}


def raw(kind: str = "NAT46Gateway", **body: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": "a", "generation": 2}, **body}


@pytest.mark.parametrize(
    ("found", "leads"),
    [(None, False), (lease(1), True), (lease(60), False), (lease(1, ""), False)],
    ids=["no lease", "renewed", "silent", "given back"],
)
def test_who_leads(found: dict[str, Any] | None, leads: bool) -> None:
    assert operator_row(found, NOW).leads is leads


@pytest.mark.parametrize(
    ("row", "state"),
    [
        (NodeRow("n", True, "r1", "r1", "", ""), "Ready"),
        (NodeRow("n", False, "r1", "r1", "", "No such device."), "Degraded"),
        (NodeRow("n", True, "r2", "r1", "", ""), "Behind"),
        (NodeRow("n", False, "r2", "", "", ""), "Silent"),
    ],
    ids=["ready", "degraded", "behind", "silent"],
)
def test_states_of_a_node(row: NodeRow, state: str) -> None:
    assert row.state == state
    assert bool(row.why) == (state != "Ready")


def test_an_object_that_has_changed_since_is_not_ready() -> None:
    condition = {"type": "Ready", "status": "True", "reason": "AllNodes", "message": "", "observedGeneration": 1}
    row = object_row("NAT46Gateway", raw(status={"conditions": [condition]}))
    assert (row.ready, row.reason) == ("Unknown", "Stale")
    condition["observedGeneration"] = 2
    assert object_row("NAT46Gateway", raw(status={"conditions": [condition]})).ok


def test_an_object_nobody_has_seen_is_unknown() -> None:
    assert object_row("LoadBalancer", raw("LoadBalancer")).ready == "Unknown"


def test_an_installation_is_ready_when_nobody_complains() -> None:
    good = NodeRow("n", True, "r1", "r1", "", "")
    assert Installation(OperatorRow("a", 0.5), (good,), ()).ready
    bad = Installation(OperatorRow("a", 12), (good,), ())
    assert bad.complaints == (
        "A replica of the operator should hold the lease; it was last renewed 12 s ago and is held by a, "
        "so nothing changes.",
    )


@pytest.mark.parametrize(
    ("kind", "spec", "text"),
    [
        ("NAT46Gateway", {"prefix": "64:ff9b::/96", "stateful": {"pools": [{"cidr": "192.0.2.1/32"}]}},
         "64:ff9b::/96, 192.0.2.1/32"),
        ("EgressGateway", {"addresses": [{"ipv4": "192.0.2.1", "ipv6": "2001:db8::1"}, {"ipv4": "192.0.2.2"}]},
         "192.0.2.1, 2001:db8::1, 192.0.2.2"),
        ("BIGTCPPolicy", {"ipv6": {"enabled": True, "maxSize": 196608}, "ipv4": {"enabled": False}}, "ipv6 196608"),
        ("LoadBalancer", {"vips": ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]},
         "192.0.2.1, 192.0.2.2, 192.0.2.3 and 1 more"),
    ],
)  # fmt: skip
def test_the_gist_of_an_object(kind: str, spec: dict[str, Any], text: str) -> None:
    assert gist(object_row(kind, raw(kind, spec=spec))) == text
