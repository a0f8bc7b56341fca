"""EndpointSlices and ServiceCIDRs of a real API server, read with the operator's own rights."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest

from e2e.apiserver.cluster import Cluster
from sixgate.controller.store import Store
from sixgate.controller.surroundings import SERVICE_NAME, Surroundings
from sixgate.kube import KubeClient
from sixgate.plan import ServiceKey
from tests.e2e.conftest import StartOperator, gateway

NETWORKING = "/apis/networking.k8s.io/v1/servicecidrs"
PATIENCE_S = 120.0


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of this test; without a namespace controller nobody else would empty it."""
    name = f"shop-{secrets.token_hex(3)}"
    cluster.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    cluster.call("DELETE", slices(name))
    cluster.call("DELETE", f"/api/v1/namespaces/{name}")


def slices(namespace: str) -> str:
    return f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"


def put_slice(
    cluster: Cluster, namespace: str, service: str, *addresses: str, name: str = "", **conditions: Any
) -> str:
    """An EndpointSlice as the endpointslice controller would write it; its path."""
    return put_endpoints(cluster, namespace, service, dict.fromkeys(addresses, conditions), name=name)


def put_endpoints(
    cluster: Cluster, namespace: str, service: str, endpoints: Mapping[str, dict[str, Any]], *, name: str = ""
) -> str:
    """The same with conditions of their own for each address."""
    name = name or f"{service}-1"
    body = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {SERVICE_NAME: service}},
        "addressType": "IPv6" if all(":" in address for address in endpoints) else "IPv4",
        "endpoints": [{"addresses": [a], "nodeName": "n1", "conditions": found} for a, found in endpoints.items()],
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
    }
    path = f"{slices(namespace)}/{name}"
    cluster.call("PATCH", f"{path}?fieldManager=t&force=true", body, content_type="application/apply-patch+yaml")
    return path


def balancer(namespace: str, service: str, name: str = "lb", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "sixgate.io/v1alpha1",
        "kind": "LoadBalancer",
        "metadata": {"name": name},
        "spec": {
            "nodeSelector": {"matchLabels": {"balancer": "yes"}},
            "vips": ["2001:db8:77::1"],
            "ports": [{"name": "http", "port": 80}],
            "service": {"namespace": namespace, "name": service},
            **spec,
        },
    }


Work = Callable[[Store, Surroundings], Awaitable[None]]


def with_surroundings(cluster: Cluster, work: Work) -> None:
    """Runs `work` beside the watches, under the operator's account."""
    account = cluster.operator_account(label="-endpoints")

    async def run() -> None:
        async with await KubeClient.connect(account.path) as client:
            store = Store()
            surroundings = Surroundings(client, store, lambda: None)
            task = asyncio.create_task(surroundings.run())
            try:
                await work(store, surroundings)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


async def until(what: str, check: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not check():
            await asyncio.sleep(0.02)
    assert check(), what


def test_endpoints_of_services_that_are_referred_to_and_of_no_others(cluster: Cluster, namespace: str) -> None:
    web, other = ServiceKey(namespace, "web"), ServiceKey(namespace, "other")
    put_slice(cluster, namespace, "web", "2001:db8:1::1", "2001:db8:1::2")
    put_slice(cluster, namespace, "other", "2001:db8:1::9")

    def addresses(store: Store, service: ServiceKey) -> list[str]:
        return [endpoint.address for endpoint in store.endpoints[service].endpoints]

    async def work(store: Store, surroundings: Surroundings) -> None:
        store.put(await asyncio.to_thread(cluster.apply, balancer(namespace, "web")))
        await until("what is referred to", lambda: store.services == {web})
        assert await surroundings.known()
        assert set(store.endpoints) == {web}
        assert addresses(store, web) == ["2001:db8:1::1", "2001:db8:1::2"]
        (port,) = store.endpoints[web].endpoints[0].ports
        assert (port.name, port.protocol, port.port) == ("http", "TCP", 8080)

        leaving = {"ready": False, "serving": True, "terminating": True}
        path = await asyncio.to_thread(put_slice, cluster, namespace, "web", "2001:db8:1::3", name="web-2", **leaving)
        await until("the second slice", lambda: len(addresses(store, web)) == 3)
        last = store.endpoints[web].endpoints[-1]
        assert (last.ready, last.serving, last.terminating) == (False, True, True)
        await asyncio.to_thread(cluster.call, "DELETE", path)
        await until("its end", lambda: len(addresses(store, web)) == 2)

        store.put(await asyncio.to_thread(cluster.apply, balancer(namespace, "other", "lb2")))
        before = store.endpoints
        assert await surroundings.known()
        assert store.endpoints[web] == before[web]
        assert addresses(store, other) == ["2001:db8:1::9"]
        store.put(await asyncio.to_thread(cluster.apply, balancer(namespace, "nobody", "lb2")))
        assert await surroundings.known()
        assert store.endpoints[ServiceKey(namespace, "nobody")].endpoints == ()
        assert other not in store.endpoints
        assert store.service_cidrs == ("10.96.0.0/16",)

    with_surroundings(cluster, work)


def test_nobody_plans_before_the_endpoints_are_known(cluster: Cluster, namespace: str) -> None:
    """The server is killed: what is referred to cannot be listed, and `known` says so until it can."""
    put_slice(cluster, namespace, "web", "2001:db8:1::1")
    document = cluster.apply(balancer(namespace, "web"))

    async def work(store: Store, surroundings: Surroundings) -> None:
        await until("the first list", lambda: bool(store.service_cidrs))
        cluster.server.kill_apiserver()
        store.put(document)
        assert not await surroundings.known(timeout_s=1)
        cluster.server.start_apiserver()
        assert await surroundings.known(timeout_s=PATIENCE_S)
        assert [e.address for e in store.endpoints[ServiceKey(namespace, "web")].endpoints] == ["2001:db8:1::1"]

    with_surroundings(cluster, work)


def test_addresses_of_services_are_not_a_gateways(cluster: Cluster, operator: StartOperator) -> None:
    """One CIDR is there from the start, another comes and goes."""
    cluster.node("n1", {"gateway": "yes"})
    cluster.apply(gateway("a", "2001:db8:a::/96", "10.96.7.0/24"))
    cluster.apply(gateway("b", "2001:db8:b::/96", "10.200.7.0/24"))
    operator()

    def reason(name: str) -> str:
        return str(cluster.conditions("NAT46Gateway", name).get("Ready", {}).get("reason"))

    cluster.wait("what covers Services", lambda: reason("a") == "CoversCluster")
    assert "Services 10.96.0.0/16" in cluster.conditions("NAT46Gateway", "a")["Ready"]["message"]
    assert reason("b") != "CoversCluster"
    body = {"metadata": {"name": "more"}, "spec": {"cidrs": ["10.200.0.0/16"]}}
    cluster.call("POST", NETWORKING, body)
    try:
        cluster.wait("the new CIDR", lambda: reason("b") == "CoversCluster")
    finally:
        cluster.call("DELETE", f"{NETWORKING}/more")
        # Its controller is not there to let it go.
        if any(item["metadata"]["name"] == "more" for item in cluster.call("GET", NETWORKING)["items"]):
            free = {"metadata": {"finalizers": None}}
            cluster.call("PATCH", f"{NETWORKING}/more", free, content_type="application/merge-patch+json")
    cluster.wait("the end of it", lambda: reason("b") != "CoversCluster")
