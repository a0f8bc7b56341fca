"""An agent learns of its own pods from a real API server, with the rights that ship."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from e2e.apiserver.cluster import Cluster
from sixgate.kube import KubeClient
from sixgate.node.egress.pods import KubePods, Population

if TYPE_CHECKING:
    from e2e.apiserver import Kubeconfig

SPACE = "egress-pods"


def pod(cluster: Cluster, name: str, node: str, address: str) -> None:
    """A Pod on a node, as its kubelet reports it."""
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "none"}]},
    }
    path = f"/api/v1/namespaces/{SPACE}/pods"
    cluster.call("POST", path, body)
    status = {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}}
    cluster.call("PATCH", f"{path}/{name}/status", status, content_type="application/merge-patch+json")


async def until(agent: Kubeconfig, node: str, wanted: set[str], change: Any) -> Population:
    """Populations until the pods of the node are the wanted ones; `change` is called after the first."""

    async def connect() -> KubeClient:
        return await KubeClient.connect(agent.path, agent="sixgate-test")

    source = KubePods(node, connect).populations()
    try:
        async with asyncio.timeout(120):
            async for population in source:
                if change is not None:
                    await asyncio.to_thread(change)
                    change = None
                if {found.addresses[0] for found in population.pods.values() if found.addresses} == wanted:
                    return population
    finally:
        await source.aclose()  # type: ignore[attr-defined]
    raise AssertionError("the watch ended")


def test_an_agent_hears_of_its_own_pods_and_of_namespaces_only(cluster: Cluster) -> None:
    for name in ("n1", "n2"):
        cluster.node(name)
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE, "labels": {"team": "payments"}}}
    cluster.call("POST", "/api/v1/namespaces", space)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    cluster.call("POST", f"/api/v1/namespaces/{SPACE}/serviceaccounts", account)
    pod(cluster, "mine", "n1", "10.1.0.2")
    pod(cluster, "theirs", "n2", "10.2.0.2")

    def one_more() -> None:
        pod(cluster, "later", "n1", "10.1.0.3")

    agent = cluster.agent_account("n1")
    found = asyncio.run(until(agent, "n1", {"10.1.0.2", "10.1.0.3"}, one_more))
    assert {each.name for each in found.pods.values()} == {"mine", "later"}
    assert found.namespaces[SPACE]["team"] == "payments"
    assert found.pods[SPACE, "mine"].labels == {"app": "mine"}
