"""Who has an egress address, as the object's status and Events tell it."""

from __future__ import annotations

from typing import Any

import pytest

from sixgate.api.nodeconfig import NodeConfigStatus
from sixgate.controller.events import notices
from sixgate.errors import Ref
from sixgate.plan import NodeReport, PlanResult, object_status
from sixgate.plan.egress_status import copied, holders

REF = Ref("EgressGateway", "payments")
A = {"ipv4": "198.51.100.10", "ipv6": "2001:db8::10"}
TAKEN = "g1 was silent for 212 ms, and the segment does not know the address"


def row(owner: str, here: bool = False, epoch: int = 1, **more: Any) -> dict[str, Any]:
    return {"object": "payments", "pair": 7, **A, "owner": owner, "here": here, "epoch": epoch, **more}


def node(*rows: dict[str, Any]) -> NodeConfigStatus:
    return NodeConfigStatus.model_validate(
        {"ready": True, "objects": [{"owner": str(REF), "state": "Programmed"}], "egress": rows}
    )


@pytest.mark.parametrize(
    ("reports", "dead", "holder"),
    [
        ({"g1": node(row("g1", True)), "n1": node(row("g1"))}, set(), "g1"),
        ({"g1": node(row("g1", True)), "g2": node(row("g2", True, 2))}, set(), "g2"),  # g1 is dead, its status is not
        ({"g1": node(row("g1", True, 3)), "g2": node(row("g2", True, 2))}, set(), "g1"),
        ({"g1": node(row("g1", True)), "n1": node(row("g1"))}, {"g1"}, ""),
        ({"g1": node(row("g1", True)), "g2": node(row("g2", True, 2))}, {"g1"}, "g2"),
        ({"n1": node(row(""))}, set(), ""),
    ],
)
def test_the_highest_epoch_of_a_living_node_is_the_truth(
    reports: dict[str, NodeConfigStatus], dead: set[str], holder: str
) -> None:
    (found,) = holders("payments", reports.items(), dead)
    assert (found.node, found.ipv4, found.ipv6) == (holder, A["ipv4"], A["ipv6"])
    assert holders("other", reports.items(), dead) == ()


def test_nobody_has_it_and_the_object_says_why() -> None:
    why = "another machine on the segment answers for the address"
    reports = {"g1": node(row("", hindrance=why)), "g2": node(row("", hindrance="gone")), "n1": node(row(""))}
    (found,) = holders("payments", reports.items(), {"g2"})
    assert (found.node, found.reason) == ("", f"g1 says that {why}")
    said = status({"g1": node(row("", hindrance=why))})["conditions"][0]["message"]
    assert f"No living node has 198.51.100.10, 2001:db8::10: g1 says that {why}." in said


def status(reports: dict[str, NodeConfigStatus]) -> dict[str, Any]:
    there = tuple(sorted(reports))
    result = PlanResult({}, (), {REF: there}, {REF: there})
    known = {name: NodeReport("", report) for name, report in reports.items()}
    return object_status(REF, 1, result, problems=(), reports=known, previous=None, now="2026-01-01T00:00:00Z")


def test_the_object_says_who_has_its_addresses_and_counts_no_pods() -> None:
    """What changes with every pod must not be in what the operator writes."""
    few, many = (status({"g1": node(row("g1", True, pods=n, sessions=9 * n))}) for n in (1, 500))
    assert few == many
    assert few["addresses"] == [{**A, "node": "g1", "epoch": 1, "reason": "", "standby": ""}]
    (ready,) = [c for c in few["conditions"] if c["type"] == "Ready"]
    assert "g1 has 198.51.100.10, 2001:db8::10." in ready["message"]


def test_a_gateway_of_another_kind_has_no_such_list() -> None:
    other = Ref("NAT46Gateway", "g")
    made = object_status(
        other, 1, PlanResult({}, (), {}, {}), problems=(), reports={}, previous=None, now="2026-01-01T00:00:00Z"
    )
    assert "addresses" not in made


def told(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[tuple[bool, str, str]]:
    return [(n.warning, n.reason, n.note) for n in notices({"addresses": before}, {"addresses": after})]


def test_events_tell_of_a_failover_once_and_of_nothing_else() -> None:
    one = {**A, "node": "g1", "epoch": 1, "reason": "nobody has it"}
    two = {**A, "node": "g2", "epoch": 2, "reason": TAKEN}
    back = {**A, "node": "g1", "epoch": 3, "reason": "g2 has released it"}
    nobody = {**A, "node": "", "epoch": 2, "reason": ""}
    assert told([], [one]) == []
    assert told([one], [one]) == []
    both = "198.51.100.10 and 2001:db8::10"
    assert told([one], [two]) == [(True, "EgressFailover", f"{both} went from g1 to g2: {TAKEN}.")]
    assert told([two], [back]) == [(False, "EgressMoved", f"{both} went from g2 to g1: g2 has released it.")]
    assert told([two], [nobody]) == [(True, "EgressAddressLost", f"No living node has {both}, which g2 had.")]
    assert told([nobody], [two]) == [(False, "EgressAddressBack", f"g2 has {both}.")]


FAILED = "g2 has no copies: the connection failed (refused)."
BOTH = "198.51.100.10, 2001:db8::10"


@pytest.mark.parametrize(
    ("reports", "status", "reason", "message"),
    [
        (
            {"g1": row("g1", True, standby="g2")},
            "True",
            "Copied",
            f"Connections through g1 ({BOTH}) are copied to g2.",
        ),
        (
            {"g1": row("g1", True, standby="g2", uncopied=FAILED, uncopied_reason="StandbyUnreachable")},
            "False",
            "StandbyUnreachable",
            f"Connections through g1 ({BOTH}) should be copied to another gateway, so that they outlive it: {FAILED}",
        ),
        (
            {"g1": row("g1", True, standby="g2", uncopied="Soon.", uncopied_reason="Copying")},
            "Unknown",
            "Copying",
            f"Connections through g1 ({BOTH}) should be copied to another gateway, so that they outlive it: Soon.",
        ),
        (
            {"g1": row("g1", True, uncopied="Old agents say it in a sentence only.")},
            "False",
            "NotCopied",
            f"Connections through g1 ({BOTH}) should be copied to another gateway, so that they outlive it: "
            "Old agents say it in a sentence only.",
        ),
        (  # a dead owner's report stays as it was
            {"dead": row("dead", True, 1, standby="g1"), "g1": row("g1", True, 2, standby="g2")},
            "True",
            "Copied",
            f"Connections through g1 ({BOTH}) are copied to g2.",
        ),
        ({"g1": row("")}, "Unknown", "NoOwner", "No living node has an address, so there is nothing to copy."),
        (
            {"dead": row("dead", True, standby="g1")},
            "Unknown",
            "NoOwner",
            "No living node has an address, so there is nothing to copy.",
        ),
    ],
)
def test_the_object_says_whether_its_connections_would_outlive_their_gateway(
    reports: dict[str, dict[str, Any]], status: str, reason: str, message: str
) -> None:
    told = [(name, node(report)) for name, report in reports.items()]
    assert copied("payments", told, {"dead"}) == ("Copied", status, reason, message)


def test_one_pair_that_is_not_copied_is_told_beside_others_that_are() -> None:
    other = {"pair": 8, "ipv4": "198.51.100.11", "ipv6": "", "uncopied": FAILED, "uncopied_reason": "NoStandby"}
    rows = (row("g1", True, standby="g2"), {**row("g1", True, standby="g2"), **other})
    kind, state, reason, message = copied("payments", [("g1", node(*rows))], set())
    assert (kind, state, reason) == ("Copied", "False", "NoStandby")
    assert "(198.51.100.11)" in message
    assert "198.51.100.10" not in message


def test_the_condition_stands_on_gateways_only() -> None:
    (found,) = [c for c in status({"g1": node(row("g1", True, standby="g2"))})["conditions"] if c["type"] == "Copied"]
    assert found["status"] == "True"
    other = object_status(
        Ref("NAT46Gateway", "g"),
        1,
        PlanResult({}, (), {}, {}),
        problems=(),
        reports={},
        previous=None,
        now="2026-01-01T00:00:00Z",
    )
    assert "Copied" not in {c["type"] for c in other["conditions"]}
