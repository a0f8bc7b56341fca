"""From plan and node reports to conditions, as kstatus and people read them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sixgate.api import NodeConfigStatus
from sixgate.errors import Problem, Ref
from sixgate.plan import NodeInfo, NodeReport, PlanResult, Snapshot, first_status, object_status, plan

T0, T1 = "2026-01-01T00:00:00Z", "2026-01-01T00:00:05Z"
REF = Ref("NAT46Gateway", "g")
OTHER = Ref("NAT46Gateway", "other")


def result(selected: str = "ab", programmed: str | None = None, *problems: Problem) -> PlanResult:
    there = selected if programmed is None else programmed
    return PlanResult({}, problems, {REF: tuple(selected)}, {REF: tuple(there)} if there else {})


def report(state: str = "Programmed", *, applied: str = "r", wanted: str = "r", **more: Any) -> NodeReport:
    item = {"owner": str(REF), "state": state, "message": more.pop("item_message", "")}
    objects = [item] if state else []
    return NodeReport(
        wanted, NodeConfigStatus.model_validate({"appliedRevision": applied, "ready": True, "objects": objects} | more)
    )


def status(
    plan: PlanResult, reports: dict[str, NodeReport] | None = None, previous: Any = None, *problems: Problem
) -> dict[str, Any]:
    return object_status(REF, 7, plan, problems=problems, reports=reports or {}, previous=previous, now=T1)


def said(made: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {condition["type"]: (condition["status"], condition["reason"]) for condition in made["conditions"]}


def message(made: dict[str, Any], kind: str) -> str:
    (found,) = [condition["message"] for condition in made["conditions"] if condition["type"] == kind]
    return str(found)


DONE = ("True", "Programmed")
FINE = {"Ready": DONE, "Programmed": DONE, "Conflicted": ("False", "NoConflict"), "Degraded": ("False", "AsExpected")}


def test_the_first_status_is_unknown_and_has_the_generation() -> None:
    made = first_status(3, T0)
    assert made["observedGeneration"] == 3
    assert said(made) == {"Ready": ("Unknown", "Pending"), "Reconciling": ("True", "Pending")}
    assert all(item["observedGeneration"] == 3 and item["lastTransitionTime"] == T0 for item in made["conditions"])


def test_ready_on_all_nodes() -> None:
    made = status(result(), {"a": report(), "b": report()})
    assert said(made) == FINE
    assert (made["nodes"], made["observedGeneration"]) == ({"desired": 2, "ready": 2}, 7)
    assert message(made, "Ready") == "Programmed on 2 of 2 nodes."


def test_waiting_for_a_node() -> None:
    made = status(result(), {"a": report()})
    assert said(made) == FINE | {
        "Ready": ("Unknown", "Programming"),
        "Programmed": ("False", "Programming"),
        "Reconciling": ("True", "Programming"),
    }
    assert made["nodes"] == {"desired": 2, "ready": 1}
    assert message(made, "Ready") == "Waits for b to program it."


def test_a_node_that_is_not_ready_does_not_count_whatever_it_once_reported() -> None:
    dead = replace(result("abc"), unready=frozenset("bz"))
    reports = {name: report() for name in "abc"}
    made = status(dead, reports, status(result("abc"), reports))
    assert said(made) == FINE | {
        "Ready": ("Unknown", "NodeNotReady"),
        "Programmed": ("False", "NodeNotReady"),
        "Reconciling": ("True", "Programming"),
    }
    assert made["nodes"] == {"desired": 3, "ready": 2}
    assert message(made, "Ready") == "Nodes that are not Ready, and do not count: b."
    assert message(status(dead, {"c": report()}), "Ready").endswith(": b. Waits for a to program it.")
    assert status(result("abc"), reports, made)["nodes"] == {"desired": 3, "ready": 3}


def test_plan_tells_which_nodes_are_not_ready() -> None:
    nodes = (NodeInfo("a"), NodeInfo("b", ready=False))
    assert plan(Snapshot(nodes=nodes)).unready == {"b"}


def test_a_failing_node() -> None:
    made = status(result(), {"a": report(), "b": report("Degraded", item_message="eth0 is missing")})
    assert said(made) == FINE | {
        "Ready": ("False", "Degraded"),
        "Programmed": ("False", "Degraded"),
        "Degraded": ("True", "NodesFailing"),
    }
    assert message(made, "Degraded") == "b: eth0 is missing"


def test_a_node_that_refused_its_document() -> None:
    refused = report(applied="old", ready=False, message="an object of digest sha256:0 is unknown")
    made = status(result("a"), {"a": refused})
    assert said(made)["Degraded"] == ("True", "NodesFailing")
    assert message(made, "Ready") == "a: an object of digest sha256:0 is unknown"


def test_another_objects_change_does_not_unsettle_this_one() -> None:
    """The node's revision moved on and it has not applied it yet; this object was programmed and has not changed."""
    before = status(result("a"), {"a": report()})
    behind = {"a": report(applied="r", wanted="r2")}
    assert status(result("a"), behind, before) == before
    fresh = status(result("a"), behind)
    assert said(fresh)["Ready"] == ("Unknown", "Programming")


def test_a_new_generation_is_not_ready_by_old_reports() -> None:
    before = status(result("a"), {"a": report()})
    made = object_status(REF, 8, result("a"), problems=(), reports={"a": report(wanted="r2")}, previous=before, now=T1)
    assert said(made)["Ready"] == ("Unknown", "Programming")
    assert made["observedGeneration"] == 8


CONFLICT = Problem(REF, "Conflicted", "g wants what other has")


@pytest.mark.parametrize(
    ("problem", "conflicted"),
    [
        (CONFLICT, ("True", "Conflicted")),
        (Problem(REF, "Duplicate", "twice"), ("True", "Duplicate")),
        (Problem(REF, "Invalid", "wrong"), ("False", "NoConflict")),
        (Problem(REF, "RenderFailed", "template"), ("False", "NoConflict")),
    ],
)
def test_a_problem_stalls(problem: Problem, conflicted: tuple[str, str]) -> None:
    made = status(result("a", "", problem))
    assert said(made) == FINE | {
        "Ready": ("False", problem.reason),
        "Programmed": ("False", problem.reason),
        "Conflicted": conflicted,
        "Stalled": ("True", problem.reason),
    }
    assert message(made, "Ready") == problem.message


def test_a_conflict_on_some_nodes_leaves_the_others_counted() -> None:
    made = status(result("ab", "b", CONFLICT), {"b": report()})
    assert made["nodes"] == {"desired": 2, "ready": 1}
    assert message(made, "Programmed") == "Programmed on 1 of 2 nodes."


def test_the_weightiest_problem_is_the_reason() -> None:
    problems = (Problem(REF, "NoNodes", "none"), Problem(REF, "CoversCluster", "later"), CONFLICT)
    made = status(result("a", "", *problems[:1]), None, None, *problems[1:])
    assert said(made)["Ready"] == ("False", "Conflicted")
    assert message(made, "Ready") == "g wants what other has; later; none"


def test_problems_of_others_are_left_out() -> None:
    made = status(
        result("a", "a", Problem(OTHER, "Conflicted", "x")), {"a": report()}, None, Problem(OTHER, "Invalid", "y")
    )
    assert said(made) == FINE


def test_an_object_that_could_not_be_read_has_no_nodes() -> None:
    made = status(PlanResult({}, (), {}, {}), None, None, Problem(REF, "Invalid", "wrong"))
    assert said(made)["Ready"] == ("False", "Invalid")
    assert made["nodes"] == {"desired": 0, "ready": 0}


def test_no_nodes_is_never_ready() -> None:
    made = status(result("", "", Problem(REF, "NoNodes", "none")))
    assert said(made)["Ready"] == ("False", "NoNodes")
    assert said(made)["Programmed"] == ("False", "NoNodes")


def test_times_change_with_the_status_only() -> None:
    first = first_status(7, T0)
    made = status(result("a"), {"a": report()}, first)
    assert {item["type"]: item["lastTransitionTime"] for item in made["conditions"]}["Ready"] == T1
    again = object_status(
        REF, 7, result("a"), problems=(), reports={"a": report()}, previous=made, now="2030-01-01T00:00:00Z"
    )
    assert again == made


@pytest.mark.parametrize(
    "previous", [None, {}, {"conditions": None}, {"conditions": [1, {"type": 5}, {"type": "Ready"}]}]
)
def test_a_strange_former_status_does_no_harm(previous: Any) -> None:
    assert said(status(result("a"), {"a": report()}, previous)) == FINE


def test_long_lists_are_cut() -> None:
    names = [f"node-{number}" for number in range(5000)]
    plan = PlanResult({}, (), {REF: tuple(names)}, {REF: tuple(names)})
    waiting = status(plan)
    assert message(waiting, "Ready") == (
        "Waits for node-0, node-1, node-2, node-3, node-4 and 4995 more nodes to program it."
    )
    failing = status(plan, {name: report("Degraded", item_message="x" * 3000) for name in names})
    assert len(message(failing, "Degraded")) == 4096
