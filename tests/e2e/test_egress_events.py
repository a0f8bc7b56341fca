"""What becomes of an egress address is told by Events on its object, from what the nodes' agents report."""

from __future__ import annotations

from typing import Any

from e2e.apiserver.cluster import Cluster
from e2e.lab.egress import SOURCE4, SOURCE6, egress_gateway
from tests.e2e.conftest import StartOperator, digests

LABEL = {"sixgate.io/egress": "true"}
BOTH = f"{SOURCE4} and {SOURCE6}"


def claim(cluster: Cluster, node: str, epoch: int, reason: str = "", **more: str) -> None:
    """A gateway's agent reports that it has the pair, or (epoch 0) that it has none."""
    row: dict[str, Any] = {"object": "payments", "pair": 1, "ipv4": SOURCE4, "ipv6": SOURCE6, "owner": node}
    row |= {"here": epoch > 0, "epoch": epoch, "reason": reason, **more}
    cluster.patch("NodeConfig", node, {"status": {"egress": [row]}}, "status")


def owner(cluster: Cluster) -> str:
    found = (cluster.get("EgressGateway", "payments") or {}).get("status", {}).get("addresses") or [{}]
    return str(found[0].get("node", ""))


def told(cluster: Cluster) -> list[tuple[str, str, str]]:
    items = cluster.call("GET", "/apis/events.k8s.io/v1/namespaces/default/events")["items"]
    mine = [item for item in items if item["regarding"]["name"] == "payments" and item["reason"].startswith("Egress")]
    return [(item["type"], item["reason"], item["note"]) for item in mine]


def test_every_change_of_owner_is_an_event_of_the_object(cluster: Cluster, operator: StartOperator) -> None:
    for name in ("g1", "g2"):
        cluster.node(name, LABEL)
    cluster.apply(egress_gateway())
    process = operator(digests=digests())
    cluster.wait("both NodeConfigs", lambda: len(cluster.list("NodeConfig")) == 2)
    cluster.report()
    claim(cluster, "g1", 1)
    cluster.wait("the first owner", lambda: owner(cluster) == "g1")
    assert told(cluster) == []

    claim(cluster, "g2", 2, "g1 is silent, and nobody answers for it")
    cluster.wait("the takeover", lambda: owner(cluster) == "g2")
    failover = ("Warning", "EgressFailover", f"{BOTH} went from g1 to g2: g1 is silent, and nobody answers for it.")
    cluster.wait("its event", lambda: told(cluster) == [failover])

    claim(cluster, "g1", 3, "g2 has released it")
    cluster.wait("the planned move", lambda: owner(cluster) == "g1")
    moved = ("Normal", "EgressMoved", f"{BOTH} went from g2 to g1: g2 has released it.")
    cluster.wait("its event", lambda: sorted(told(cluster)) == sorted([failover, moved]))
    shown = cluster.server.kubectl("events", "--for=egressgateway/payments", "--all-namespaces").stdout
    assert "EgressFailover" in shown
    assert "EgressMoved" in shown
    assert process.running


def test_what_is_not_copied_is_a_condition_and_an_event(cluster: Cluster, operator: StartOperator) -> None:
    for name in ("g1", "g2"):
        cluster.node(name, LABEL)
    cluster.apply(egress_gateway())
    process = operator(digests=digests())
    cluster.wait("both NodeConfigs", lambda: len(cluster.list("NodeConfig")) == 2)
    cluster.report()

    def state() -> tuple[str, str]:
        found = cluster.conditions("EgressGateway", "payments").get("Copied", {})
        return str(found.get("status", "")), str(found.get("reason", ""))

    cluster.wait("nobody to copy from", lambda: state() == ("Unknown", "NoOwner"))
    claim(cluster, "g1", 1, standby="g2")
    cluster.wait("copies", lambda: state() == ("True", "Copied"))
    why = "g2 has no copies: the connection failed (refused)."
    claim(cluster, "g1", 1, standby="g2", uncopied=why, uncopiedReason="StandbyUnreachable")
    cluster.wait("no copies", lambda: state() == ("False", "StandbyUnreachable"))
    note = f"Connections through g1 ({SOURCE4}, {SOURCE6}) should be copied to another gateway, so that they outlive it"
    assert cluster.conditions("EgressGateway", "payments")["Copied"]["message"] == f"{note}: {why}"

    def warned() -> bool:
        items = cluster.call("GET", "/apis/events.k8s.io/v1/namespaces/default/events")["items"]
        mine = [item for item in items if item["regarding"]["name"] == "payments"]
        return [i["note"] for i in mine if i["reason"] == "StandbyUnreachable"] == [f"{note}: {why}"]

    cluster.wait("its event", warned)
    assert process.running
