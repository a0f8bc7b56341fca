"""DNS64 in a cluster: the operator's ConfigMap, a resolver that runs from it, and what the object says of it."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import yaml
from dns.exception import DNSException

from e2e.apiserver.cluster import NAMESPACE, ROOT, Cluster, Refused
from e2e.apiserver.resolver_pod import POD_PORT, ResolverPod
from tests.e2e.conftest import StartOperator, gateway

CONFIG_MAP = f"/api/v1/namespaces/{NAMESPACE}/configmaps/sixgate-dns64"
SERVICES = f"/api/v1/namespaces/{NAMESPACE}/services"
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
UPSTREAM, UPSTREAM_PORT = "192.0.2.53", 5300
LABEL = "sixgate.io/dns64"


def dns64(name: str, **changes: Any) -> dict[str, Any]:
    """A gateway whose resolver asks the upstream of the tests."""
    spec = {
        "upstreams": [{"address": UPSTREAM, "port": UPSTREAM_PORT}],
        "clientCIDRs": ["::1/128", "127.0.0.0/8", "10.96.0.0/16"],
        "validateDNSSEC": False,
    }
    return gateway(name, dns64=spec | changes)


@pytest.fixture(autouse=True)
def no_config_map(cluster: Cluster) -> None:
    """Before each test, when the operator of the last one has ended: one that lives makes it again at once."""
    with suppress(Refused):
        cluster.call("DELETE", CONFIG_MAP)


@pytest.fixture
def name(cluster: Cluster) -> Iterator[str]:
    """A gateway's name that no other test has: the directory of its resolver is named by it."""
    name = f"gw-{secrets.token_hex(4)}"
    yield name
    for path in (f"{SERVICES}/sixgate-dns64-{name}", f"{SLICES}/sixgate-dns64-{name}"):
        with suppress(Refused):
            cluster.call("DELETE", path)


def stored(cluster: Cluster) -> dict[str, Any]:
    """The ConfigMap; empty where there is none."""
    try:
        return cluster.call("GET", CONFIG_MAP)
    except Refused as refused:
        if refused.status != 404:
            raise
        return {}


def files(cluster: Cluster) -> dict[str, str]:
    data: dict[str, str] = stored(cluster).get("data", {})
    return data


def make_service(cluster: Cluster, name: str) -> str:
    """The Service as the chart has it, for the gateway `name`; its ClusterIP."""
    documents = yaml.safe_load_all((ROOT / "deploy" / "dns64.yaml").read_text())
    (shipped,) = (item for item in documents if item["kind"] == "Service")
    shipped["metadata"] |= {"name": f"sixgate-dns64-{name}", "labels": {LABEL: name}}
    address: str = cluster.call("POST", SERVICES, shipped)["spec"]["clusterIP"]
    return address


def put_pods(cluster: Cluster, name: str, *ready: bool) -> None:
    """The EndpointSlice that the controller would keep: the labels of the Service are on it, too."""
    service = f"sixgate-dns64-{name}"
    body = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": service, "labels": {LABEL: name, "kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": [f"10.244.0.{number}"], "conditions": {"ready": is_ready}}
            for number, is_ready in enumerate(ready, 1)
        ],
        "ports": [{"name": "dns", "protocol": "UDP", "port": POD_PORT}],
    }
    path = f"{SLICES}/{service}?fieldManager=t&force=true"
    cluster.call("PATCH", path, body, content_type="application/apply-patch+yaml")


def says(cluster: Cluster, name: str, kind: str, status: str, text: str) -> None:
    """Waits for one condition of the gateway; the agents say that all is programmed."""

    last: dict[str, Any] = {}

    def found() -> bool:
        cluster.report()
        last.update(cluster.conditions("NAT46Gateway", name).get(kind, {}))
        return last.get("status") == status and text in last["message"]

    try:
        cluster.wait(f"{kind}={status}, {text}", found)
    except AssertionError as error:
        raise AssertionError(f"{error}: {last}") from error


def test_the_object_says_how_its_resolver_is(cluster: Cluster, operator: StartOperator, name: str) -> None:
    cluster.node("n1", {"gateway": "yes"})
    cluster.apply(dns64(name))
    operator()
    says(cluster, name, "Ready", "False", f"no Service of the namespace {NAMESPACE} has the label {LABEL}={name}")
    says(cluster, name, "Degraded", "True", "nobody answers")
    address = make_service(cluster, name)
    says(cluster, name, "Ready", "False", "it has no pod")
    put_pods(cluster, name, False, False)
    says(cluster, name, "Degraded", "True", "none of its 2 pods is ready")
    put_pods(cluster, name, True, False)
    says(cluster, name, "Ready", "True", f"answers at {address}, 1 of 2 pods are ready")
    says(cluster, name, "Degraded", "False", "")
    assert cluster.conditions("NAT46Gateway", name)["Programmed"]["status"] == "True"
    put_pods(cluster, name, False, False)
    says(cluster, name, "Ready", "False", "none of its 2 pods is ready")


def test_the_config_map_follows_the_objects(cluster: Cluster, operator: StartOperator, name: str) -> None:
    cluster.node("n1", {"gateway": "yes"})
    cluster.apply(gateway("plain", "2001:db8:aa::/96", "10.9.0.0/24"))
    process = operator()
    process.wait_log("Wrote NodeConfig n1")
    assert stored(cluster) == {}
    cluster.apply(dns64(name))
    cluster.wait("its files", lambda: f"{name}.unbound.conf" in files(cluster))
    assert set(files(cluster)) == {
        f"{name}.{file}" for file in ("unbound.conf", "rules.json", "Corefile", "clients.yaml")
    }
    address = make_service(cluster, name)
    cluster.wait("the address in the snippets", lambda: f'forward . "{address}"' in files(cluster)[f"{name}.Corefile"])
    kubelet, pod = yaml.safe_load_all(files(cluster)[f"{name}.clients.yaml"])
    assert kubelet == {"clusterDNS": [address]}
    assert pod["dnsConfig"]["nameservers"] == [address]
    assert pod["dnsConfig"]["searches"] == ["svc.cluster.local", "cluster.local"]

    version = stored(cluster)["metadata"]["resourceVersion"]
    process.terminate()
    again = operator(name="again")
    again.wait_settled()
    cluster.report()
    assert stored(cluster)["metadata"]["resourceVersion"] == version

    foreign = {"data": {"mine": "x", f"{name}.unbound.conf": "edited by hand"}}
    cluster.call("PATCH", CONFIG_MAP, foreign, content_type="application/merge-patch+json")
    cluster.wait("the edit to be put right", lambda: "sixgate" in files(cluster)[f"{name}.unbound.conf"])
    cluster.delete("NAT46Gateway", name)
    cluster.wait("only what is not ours to be left", lambda: files(cluster) == {"mine": "x"})


def test_a_name_that_is_no_label_has_no_resolver(cluster: Cluster, operator: StartOperator) -> None:
    cluster.node("n1", {"gateway": "yes"})
    cluster.apply(dns64("a.b"))
    operator()
    says(cluster, "a.b", "Ready", "False", "no dot")
    assert stored(cluster) == {}


def test_a_resolver_answers_from_the_config_map(cluster: Cluster, operator: StartOperator, name: str) -> None:
    """Killed, reconfigured, without an object, ended: it answers as long as it should."""
    cluster.node("n1", {"gateway": "yes"})
    cluster.apply(dns64(name))
    operator()
    cluster.wait("its files", lambda: f"{name}.unbound.conf" in files(cluster))
    with ResolverPod((f"{UPSTREAM}/32",)) as pod:
        pod.upstream(UPSTREAM, UPSTREAM_PORT, v4only__example="203.0.113.20", other__example="198.51.100.7")
        pod.mount({})
        process = pod.resolver(name)
        pod.wait("a word about it", lambda: "has no files of the gateway" in pod.log(name))
        assert pod.ready() == "ok", "an installation that waits for its pods does not wait for a gateway"
        pod.mount(files(cluster))

        def asked(question: str) -> list[str]:
            return pod.ask(question, "AAAA", "::1", POD_PORT)

        def answers() -> bool:
            try:
                return asked("v4only.example") == ["2001:db8:64::cb00:7114"]
            except (OSError, DNSException):
                return False

        pod.wait("an answer", answers)
        pod.wait("its readiness", lambda: pod.ready() == "ok")

        before = files(cluster)
        cluster.apply(dns64(name, excludeIPv4CIDRs=["198.51.100.0/24"]))
        cluster.wait("other files", lambda: files(cluster) != before)
        assert asked("other.example") == ["2001:db8:64::c633:6407"]
        pod.mount(files(cluster))
        pod.wait("the new rules", lambda: asked("other.example") == [])
        assert asked("v4only.example") == ["2001:db8:64::cb00:7114"]

        cluster.delete("NAT46Gateway", name)
        cluster.wait("no files", lambda: files(cluster) == {})
        pod.mount(files(cluster))
        pod.wait("a word about it", lambda: "Going on with what there is" in pod.log(name))
        assert pod.ready() == "ok"
        assert asked("v4only.example") == ["2001:db8:64::cb00:7114"]

        process.send_signal(signal.SIGTERM)
        pod.wait("the end to be told", lambda: "being ended" in pod.ready())
        assert asked("v4only.example") == ["2001:db8:64::cb00:7114"]
        assert process.wait(60) == 0
