"""The API server with our CRDs and the models take and refuse the same objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.cases_api import BALANCER, CASES, GATEWAY, PLURALS, STATEFUL, Case, changed

if TYPE_CHECKING:
    from e2e.apiserver import ApiServer


def path_of(raw: dict[str, Any], name: str = "") -> str:
    return f"/apis/sixgate.io/v1alpha1/{PLURALS[raw['kind']]}{name}?fieldValidation=Strict"


def test_every_case_is_judged_alike(server: ApiServer) -> None:
    """One test for all: each is one request of a few milliseconds."""
    differing = []
    for case in CASES:
        status, answer = server.request("POST", path_of(case.raw) + "&dryRun=All", case.raw)
        if (status == 201) != _taken(case):
            differing.append(f"{case}: {status} {answer.get('message', '')}")
    assert not differing


def _taken(case: Case) -> bool:
    return not case.says or not case.api


@pytest.mark.parametrize(
    ("raw", "path", "value", "says"),
    [
        (
            GATEWAY,
            "spec",
            {**STATEFUL["spec"], "prefix": "2001:db8:64::/96"},
            "a stateless gateway cannot become a stateful one",
        ),
        (STATEFUL, "spec.stateful.portBlockSize", 256, "portBlockSize cannot change"),
        (BALANCER, "spec.maglev", {"tableSize": 1021}, "tableSize cannot change"),
    ],
)
def test_what_cannot_change_is_refused(
    server: ApiServer, raw: dict[str, Any], path: str, value: object, says: str
) -> None:
    name = "/" + raw["metadata"]["name"]
    try:
        status, made = server.request("POST", path_of(raw), raw)
        assert status == 201, made
        status, answer = server.request("PUT", path_of(raw, name), changed(made, path, value))
        assert status == 422
        assert says in answer["message"]
        status, answer = server.request(
            "PUT", path_of(raw, name), changed(made, "spec.nodeSelector.matchLabels", {"a": "b"})
        )
        assert status == 200, answer
    finally:
        server.request("DELETE", path_of(raw, name))


def test_defaults_are_filled_in(server: ApiServer) -> None:
    status, made = server.request("POST", path_of(BALANCER) + "&dryRun=All", BALANCER)
    assert status == 201
    spec = made["spec"]
    assert (spec["devices"], spec["forwarding"], spec["ports"][0]["protocol"]) == (["auto"], {"mode": "DSR"}, "TCP")
    assert "service" not in spec
