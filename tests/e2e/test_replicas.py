"""Two replicas: one writes, the other takes over when it is told, and when it is not."""

from __future__ import annotations

from e2e.apiserver.cluster import NAMESPACE, Cluster, Json
from tests.e2e.conftest import StartOperator, gateway

LABEL = {"gateway": "yes"}
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/sixgate-operator"


def lease(cluster: Cluster) -> Json:
    spec: Json = cluster.call("GET", LEASE)["spec"]
    return spec


def test_one_writes_and_the_other_takes_over_after_kill_and_after_sigterm(
    cluster: Cluster, operator: StartOperator
) -> None:
    cluster.node("n1", LABEL)
    cluster.apply(gateway())
    first = operator(name="first")
    first.wait_log("Wrote NodeConfig n1")
    second = operator(name="second", wait=False)
    third = operator(name="third", wait=False)
    assert lease(cluster)["holderIdentity"] == "first"
    first.kill()
    cluster.patch("NAT46Gateway", "gw", {"spec": {"stateless": {"ipv4CIDRs": ["192.0.2.0/25"]}}})
    cluster.wait("generation 2", lambda: (cluster.get("NodeConfig", "n1") or {})["metadata"]["generation"] == 2)
    holder = lease(cluster)["holderIdentity"]
    leader, follower = (second, third) if holder == "second" else (third, second)
    assert lease(cluster)["leaseTransitions"] == 1
    assert "Wrote" not in follower.log()
    assert leader.terminate() == 0
    assert lease(cluster)["holderIdentity"] != holder, "it is released, and does not run out"
    follower.wait_log("holds the lease")
    cluster.patch("NAT46Gateway", "gw", {"spec": {"stateless": {"ipv4CIDRs": ["192.0.2.0/26"]}}})
    cluster.wait("generation 3", lambda: (cluster.get("NodeConfig", "n1") or {})["metadata"]["generation"] == 3)
    follower.wait_log("Wrote NodeConfig n1")
    assert follower.terminate() == 0
    assert lease(cluster)["holderIdentity"] == ""


def test_a_leader_that_loses_its_lease_stops_writing(cluster: Cluster, operator: StartOperator) -> None:
    cluster.node("n1", LABEL)
    process = operator()
    thief = {"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 3600}}
    cluster.call("PATCH", LEASE, thief, content_type="application/merge-patch+json")
    lost = process.wait_log("lost the lease")
    cluster.apply(gateway())
    cluster.call("DELETE", LEASE)
    held = process.wait_log("holds the lease", since=lost)
    process.wait_log("Wrote NodeConfig n1", since=held)
    assert "Wrote" not in process.log()[lost:held]
