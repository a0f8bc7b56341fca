"""From kubectl to the kernel: API server, operator, agent in a network namespace, BPF tables."""

from __future__ import annotations

from e2e.apiserver.cluster import Cluster
from e2e.apiserver.kernel_node import KernelNode
from tests.e2e.conftest import StartOperator, digests, gateway


def test_an_object_is_programmed_changed_and_taken_away(
    cluster: Cluster, operator: StartOperator, node: KernelNode
) -> None:
    operator(digests=digests())
    cluster.apply(gateway())
    cluster.server.kubectl("wait", "--for=condition=Ready", "--timeout=120s", "n46/gw")
    first = node.table_id()
    assert first
    status = (cluster.get("NodeConfig", "n1") or {})["status"]
    assert status["kernel"]
    assert {row["name"] for row in status["devices"]} >= {"e0"}
    cluster.patch("NAT46Gateway", "gw", {"spec": {"stateless": {"ipv4CIDRs": ["198.51.100.0/24"]}}})
    assert node.wait_other_table(first)
    cluster.delete("NAT46Gateway", "gw")
    cluster.wait("nothing in the kernel", lambda: node.table_id() == 0)


def test_a_node_goes_on_and_restarts_without_api_server(
    cluster: Cluster, operator: StartOperator, node: KernelNode
) -> None:
    operator(digests=digests())
    cluster.apply(gateway())
    cluster.server.kubectl("wait", "--for=condition=Ready", "--timeout=120s", "n46/gw")
    table = node.table_id()
    node.pipe.swallow()
    node.kill()
    assert node.table_id() == table, "the data plane does not need the agent"
    node.start()
    cluster.wait("started from the last good one", lambda: "last good NodeConfig" in node.log())
    node.pipe.heal()
    cluster.patch("NAT46Gateway", "gw", {"spec": {"stateless": {"ipv4CIDRs": ["198.51.100.0/24"]}}})
    assert node.wait_other_table(table)


def test_an_unknown_digest_is_refused_and_what_runs_goes_on(
    cluster: Cluster, operator: StartOperator, node: KernelNode
) -> None:
    first = operator(digests=digests())
    cluster.apply(gateway())
    cluster.server.kubectl("wait", "--for=condition=Ready", "--timeout=120s", "n46/gw")
    table = node.table_id()
    assert first.terminate() == 0
    operator(digests=dict.fromkeys(digests(), f"sha256:{'e' * 64}"), name="newer")
    refused = cluster.wait(
        "the refusal in the status",
        lambda: (c := cluster.conditions("NAT46Gateway", "gw")["Ready"])["status"] == "False" and c,
    )
    assert f"sha256:{'e' * 64}" in refused["message"]
    assert node.table_id() == table
