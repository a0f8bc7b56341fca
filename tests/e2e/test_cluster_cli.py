"""`sixgate cluster`, which is `kubectl sixgate`, against a real API server."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from e2e.apiserver.cluster import NAMESPACE, Cluster
from tests.e2e.conftest import StartOperator, gateway

LABEL = {"gateway": "yes"}


def ask(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    """As an administrator with a kubeconfig."""
    command = [sys.executable, "-m", "sixgate", "cluster", *words, "--kubeconfig", str(cluster.server.admin().path)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def told(cluster: Cluster, *words: str) -> Any:
    return json.loads(ask(cluster, *words, "-o", "json").stdout)


def test_an_installation_from_nothing_to_ready(cluster: Cluster, operator: StartOperator) -> None:
    empty = ask(cluster, "status")
    assert empty.returncode == 1
    assert "A replica of the operator should hold the lease; it is held by nobody" in empty.stdout
    for name in ("n1", "n2"):
        cluster.node(name, LABEL)
    cluster.apply(gateway())
    operator()
    cluster.wait("NodeConfigs of both", lambda: set(cluster.list("NodeConfig")) == {"n1", "n2"})
    silent = told(cluster, "status")
    assert (silent["ready"], silent["nodes"]["silent"]) == (False, 2)
    assert any(line.startswith("Node n1: The agent of this node should report") for line in silent["complaints"])
    cluster.report()
    done = ask(cluster, "status", "--wait", "--timeout", "20")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sixgate is ready" in done.stdout
    assert "2 ready" in done.stdout
    assert "NAT46Gateway     1 of 1 ready" in done.stdout


def test_what_is_wrong_is_said_with_its_reason(cluster: Cluster, operator: StartOperator) -> None:
    cluster.node("n1", LABEL)
    cluster.apply(gateway())
    cluster.apply(gateway("late"))  # the same prefix and ranges as the older one
    operator()
    cluster.wait("a NodeConfig", lambda: cluster.list("NodeConfig"))
    cluster.report("n1", state="Degraded", message="eth0 refuses the program: No such device.")
    cluster.wait("the conflict", lambda: "Conflicted" in cluster.conditions("NAT46Gateway", "late"))
    cluster.wait("gw degraded", lambda: cluster.conditions("NAT46Gateway", "gw")["Ready"]["status"] == "False")
    done = ask(cluster, "status")
    assert done.returncode == 1
    assert "Node n1: eth0 refuses the program: No such device." in done.stdout
    listed = ask(cluster, "gateways", "late")
    assert listed.returncode == 1
    assert "NAT46Gateway/late" in listed.stdout
    assert [item["metadata"]["name"] for item in told(cluster, "nat", "late")] == ["late"]
    rows = told(cluster, "nodes")
    assert [(row["name"], row["state"]) for row in rows] == [("n1", "Degraded")]


def test_a_node_that_has_not_caught_up_is_behind(cluster: Cluster, operator: StartOperator) -> None:
    cluster.node("n1", LABEL)
    cluster.apply(gateway())
    operator()
    cluster.wait("a NodeConfig", lambda: cluster.list("NodeConfig"))
    cluster.report()
    cluster.patch("NAT46Gateway", "gw", {"spec": {"stateless": {"ipv4CIDRs": ["192.0.2.0/25"]}}})
    cluster.wait("a new revision", lambda: cluster.get("NodeConfig", "n1")["metadata"]["generation"] == 2)  # type: ignore[index]
    assert [row["state"] for row in told(cluster, "nodes")] == ["Behind"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("lb", "nowhere"), "There should be a LoadBalancer named nowhere; there is none."),
        (("status", "--context", "nowhere"), "Credentials must be readable from"),
    ],
)
def test_mistakes_get_a_sentence(cluster: Cluster, words: tuple[str, ...], sentence: str) -> None:
    done = ask(cluster, *words)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_more_nodes_than_one_page(cluster: Cluster) -> None:
    for number in range(1005):
        body = {"apiVersion": "sixgate.io/v1alpha1", "kind": "NodeConfig", "metadata": {"name": f"n{number}"},
                "spec": {"formatVersion": 1, "revision": "r1"}}  # fmt: skip
        cluster.call("POST", "/apis/sixgate.io/v1alpha1/nodeconfigs", body)
    status = told(cluster, "status")
    assert status["nodes"]["total"] == 1005
    assert "And 985 more nodes are not ready." in status["complaints"]


def test_a_sysdump_holds_objects_and_no_secret(cluster: Cluster, operator: StartOperator, tmp_path: Path) -> None:
    secret = "dG9wLXNlY3JldC10b2tlbi12YWx1ZXM="
    cluster.node("n1", LABEL)
    cluster.apply(gateway())
    operator()
    cluster.wait("a NodeConfig", lambda: cluster.list("NodeConfig"))
    target = tmp_path / "report.tar.gz"
    kept = {
        "secrets": {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "dumped"}, "data": {"t": secret}},
        "configmaps": {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "dumped"},
            "data": {"note": f"password={secret}"},
        },
    }
    for plural, body in kept.items():
        cluster.call("POST", f"/api/v1/namespaces/{NAMESPACE}/{plural}", body)
    try:
        done = ask(cluster, "sysdump", "-o", str(target), "--namespace", NAMESPACE)
    finally:
        for plural in kept:
            cluster.call("DELETE", f"/api/v1/namespaces/{NAMESPACE}/{plural}/dumped")
    assert done.returncode == 0, done.stderr
    with tarfile.open(target) as found:
        members = [(member.name.removeprefix("report/"), found.extractfile(member)) for member in found]
        files = {name: file.read().decode() for name, file in members if file is not None}
    assert json.loads(files["objects/NAT46Gateway.json"])[0]["metadata"]["name"] == "gw"
    assert json.loads(files["objects/NodeConfig.json"])[0]["metadata"]["name"] == "n1"
    assert json.loads(files["cluster/nodes.json"])[0]["metadata"]["name"] == "n1"
    assert json.loads(files["cluster/version.json"])["gitVersion"].startswith("v")
    assert {"namespace/pods.json", "namespace/events.json", "namespace/configmaps.json"} <= set(files)
    assert not any(secret in text or "secrets.json" in name for name, text in files.items())
    (noted,) = (c for c in json.loads(files["namespace/configmaps.json"]) if c["metadata"]["name"] == "dumped")
    assert noted["data"] == {"note": "password=[redacted]"}


def test_kubectl_completes_names_of_objects(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """kubectl itself asks the program beside its plugin, which asks the API server."""
    cluster.apply(gateway())
    cluster.apply(gateway("second", "2001:db8:65::/96", "198.51.100.0/25"))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    found = cluster.server.kubectl("__complete", "sixgate", "nat", "").stdout.splitlines()
    assert [line for line in found if line in {"gw", "second"}] == ["gw", "second"]
    assert cluster.server.kubectl("__complete", "sixgate", "nat", "se").stdout.splitlines()[0] == "second"
    assert cluster.server.kubectl("__complete", "sixgate", "stat").stdout.startswith("status\t")
