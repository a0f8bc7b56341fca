"""The API server goes away and comes back, crashed or silent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from e2e.apiserver.proxy import Pipe
from tests.e2e.conftest import StartOperator, gateway

if TYPE_CHECKING:
    from e2e.apiserver.cluster import Cluster

LABEL = {"gateway": "yes"}


def generation(cluster: Cluster) -> int:
    return int((cluster.get("NodeConfig", "n1") or {"metadata": {"generation": 0}})["metadata"]["generation"])


def test_a_killed_api_server_comes_back_and_the_operator_goes_on(cluster: Cluster, operator: StartOperator) -> None:
    cluster.node("n1", LABEL)
    cluster.apply(gateway())
    process = operator()
    process.wait_log("Wrote NodeConfig n1")
    cluster.server.kill_apiserver()
    time.sleep(5)
    assert process.running
    cluster.server.start_apiserver()
    cluster.patch("NAT46Gateway", "gw", {"spec": {"stateless": {"ipv4CIDRs": ["192.0.2.0/25"]}}})
    cluster.wait("generation 2", lambda: generation(cluster) == 2)
    assert process.running
    assert "Traceback" not in process.log()


def test_a_silent_connection_is_noticed_by_the_audit(cluster: Cluster, operator: StartOperator) -> None:
    """kopf's watch hangs for 70 s on a connection that died silently; the comparison does not wait for it."""
    cluster.node("n1", LABEL)
    cluster.apply(gateway())
    with Pipe(cluster.server.port) as pipe:
        process = operator("--audit-seconds", "1", url=pipe.url)
        process.wait_log("Wrote NodeConfig n1")
        pipe.swallow()
        cluster.patch("NAT46Gateway", "gw", {"spec": {"stateless": {"ipv4CIDRs": ["192.0.2.0/25"]}}})
        time.sleep(3)
        assert generation(cluster) == 1
        pipe.heal()
        cluster.wait("generation 2", lambda: generation(cluster) == 2)
        assert process.running


def test_an_operator_that_starts_before_the_api_server_waits_for_it(cluster: Cluster, operator: StartOperator) -> None:
    cluster.node("n1", LABEL)
    cluster.apply(gateway())
    cluster.operator_account(label="-early")
    process = operator(name="early", wait=False)
    process.kill()  # it has its token now
    cluster.server.kill_apiserver()
    process.start()
    process.wait_log("The first list must succeed")
    cluster.server.start_apiserver()
    process.wait_log("Wrote NodeConfig n1")


def test_a_crd_that_is_taken_away_ends_the_process_and_a_new_one_waits(
    cluster: Cluster, operator: StartOperator
) -> None:
    """kopf's watch of the kind dies for good: only a new process helps, and only an exit code brings one."""
    cluster.node("n1", LABEL)
    cluster.apply(gateway())
    process = operator("--audit-seconds", "1")
    process.wait_log("Wrote NodeConfig n1")
    cluster.server.kubectl("delete", "crd", "bigtcppolicies.sixgate.io")
    try:
        cluster.wait("the process ended", lambda: not process.running)
        assert process.process is not None
        assert process.process.returncode == 1
        second = operator(name="second", wait=False)
        second.wait_log("Are the CRDs installed?")
    finally:
        cluster.install()
    second.wait_log("holds the lease")
