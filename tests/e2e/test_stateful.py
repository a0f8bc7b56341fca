"""A stateful gateway in a cluster, against a real API server: shares of the pool, routes of all others, conditions."""

from __future__ import annotations

from typing import Any

from e2e.apiserver.cluster import Cluster
from tests.e2e.conftest import StartOperator, gateway

LABEL = {"gateway": "yes"}
PREFIX = "64:ff9b:1::/96"


def stateful(name: str = "gw", cidr: str = "198.51.100.0/29", **more: Any) -> dict[str, Any]:
    return gateway(name, stateless=None, prefix=PREFIX, stateful={"pools": [{"cidr": cidr}], **more})


def routes(cluster: Cluster, node: str) -> list[tuple[str, str]]:
    found = cluster.list("NodeConfig").get(node, {}).get("spec", {}).get("routes", ())
    return [(route["destination"], route["via"]) for route in found]


def owned(cluster: Cluster, node: str) -> set[str]:
    tables = cluster.list("NodeConfig")[node]["spec"]["tables"]
    return {entry["key"] for table in tables if table["map"] == "sg_st_own" for entry in table["entries"]}


def ready(cluster: Cluster, name: str = "gw") -> tuple[str, str, str]:
    found = cluster.conditions("NAT46Gateway", name).get("Ready", {})
    return found.get("status", ""), found.get("reason", ""), found.get("message", "")


def test_gateway_nodes_share_the_pool_and_the_others_follow_their_death(
    cluster: Cluster, operator: StartOperator
) -> None:
    for name in ("n1", "n2"):
        cluster.node(name, LABEL)
    for name in ("n3", "n4", "n5"):
        cluster.node(name)
    cluster.apply(stateful())
    operator()
    nodes = {"n1", "n2", "n3", "n4", "n5"}
    cluster.wait("NodeConfigs of all", lambda: set(cluster.list("NodeConfig")) == nodes)
    assert owned(cluster, "n1") | owned(cluster, "n2") == {f"198.51.100.{last}" for last in range(8)}
    assert not owned(cluster, "n1") & owned(cluster, "n2")
    ways = {name: routes(cluster, name) for name in ("n3", "n4", "n5")}
    assert all(way in ([(PREFIX, "2001:db8::1")], [(PREFIX, "2001:db8::2")]) for way in ways.values())
    cluster.report()
    cluster.wait("Ready", lambda: ready(cluster)[0] == "True")
    dead, via = ("n1", "2001:db8::2") if ways["n3"][0][1].endswith("::1") else ("n2", "2001:db8::1")
    down = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": ""}
    cluster.patch("Node", dead, {"status": {"conditions": [down]}}, "status")
    cluster.wait("another way", lambda: all(routes(cluster, name) == [(PREFIX, via)] for name in ("n3", "n4", "n5")))
    assert len(owned(cluster, dead)) == 4, "its data plane may well go on"


def test_conditions_of_stateful_gateways(cluster: Cluster, operator: StartOperator) -> None:
    cluster.node("n1", LABEL)
    cluster.apply(stateful())
    operator()
    cluster.wait("a NodeConfig", lambda: "n1" in cluster.list("NodeConfig"))
    cluster.apply(
        {
            **stateful("second", "198.51.100.4/31"),
            "spec": {**stateful("second", "198.51.100.4/31")["spec"], "prefix": "64:ff9b:2::/96"},
        }
    )
    status = cluster.wait("a verdict", lambda: ready(cluster, "second")[1] and ready(cluster, "second"))
    assert status[1] == "Conflicted"
    assert "but NAT46Gateway/gw is older and has 198.51.100.0/29 ports 1024 to 65535" in status[2]
    cluster.apply(
        {
            **stateful("huge", "10.0.0.0/16"),
            "spec": {**stateful("huge", "10.0.0.0/16")["spec"], "prefix": "64:ff9b:3::/96"},
        }
    )
    cluster.wait("a verdict", lambda: ready(cluster, "huge")[1] == "TooMuchState")
    full = "gw had no free port for 7 new flows, which were refused; add addresses to spec.stateful.pools."
    cluster.report("n1", state="Degraded", message=full)
    cluster.wait("Degraded", lambda: ready(cluster)[:2] == ("False", "Degraded"))
    assert full in ready(cluster)[2]
    cluster.report("n1")
    cluster.wait("Ready again", lambda: ready(cluster)[0] == "True")
