"""`sixgate cluster`, which is `kubectl sixgate`, against a real API server."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from e2e.apiserver.cluster import NAMESPACE, Cluster
from tests.e2e.conftest import StartOperator, gateway

LABEL = {"gateway": "yes"}


def ask(cluster: Cluster, *words: str) -> subprocess.CompletedProcess[str]:
    """As an administrator with a kubeconfig."""
    command = [sys.executable, "-m", "sixgate", "cluster", *words, "--kubeconfig", str(cluster.server.admin().path)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=180)


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
    done = ask(cluster, "status", "--wait", "--timeout", "120")
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


def test_watching_prints_every_state_and_ends_by_sigint(cluster: Cluster, operator: StartOperator) -> None:
    cluster.node("n1", LABEL)
    cluster.apply(gateway())
    operator()
    cluster.wait("a NodeConfig", lambda: cluster.list("NodeConfig"))
    command = [sys.executable, "-m", "sixgate", "cluster", "nodes", "--watch", "-o", "json"]
    command += ["--kubeconfig", str(cluster.server.admin().path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        limit = threading.Timer(180, process.kill)  # reading ends then
        limit.start()
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            assert any('"state": "Silent"' in line for line in lines)
            cluster.report()
            assert any('"state": "Ready"' in line for line in lines)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=180)
        finally:
            limit.cancel()
            process.kill()
    assert (process.returncode, said) == (0, "")


def test_more_nodes_than_one_page(cluster: Cluster) -> None:
    for number in range(1005):
        body = {"apiVersion": "sixgate.io/v1alpha1", "kind": "NodeConfig", "metadata": {"name": f"n{number}"},
                "spec": {"formatVersion": 1, "revision": "r1"}}  # fmt: skip
        cluster.call("POST", "/apis/sixgate.io/v1alpha1/nodeconfigs", body)
    status = told(cluster, "status")
    assert status["nodes"]["total"] == 1005
    assert "And 985 more nodes are not ready." in status["complaints"]


SECRETS = {
    "made-up": ("Opaque", {"password": "correct-horse-battery-staple"}),
    "tls": (
        "kubernetes.io/tls",
        {"tls.crt": "not-a-certificate-8472", "tls.key": "-----BEGIN PRIVATE KEY-----\nMC4CAQAw"},
    ),
    "pull": (
        "kubernetes.io/dockerconfigjson",
        {".dockerconfigjson": '{"auths": {"r.example": {"auth": "dTpwdWxsLW1l"}}}'},
    ),
}
PLANTED = "planted-in-the-open-2931"


def plant(cluster: Cluster, namespace: str) -> list[str]:
    """Secrets of every kind, a Pod with a value among its variables, a ConfigMap that should not have one: paths."""
    found = []

    def put(plural: str, body: dict[str, Any]) -> None:
        base = f"/api/v1/namespaces/{namespace}/{plural}"
        cluster.call("POST", base, {"apiVersion": "v1", **body})
        found.append(f"{base}/{body['metadata']['name']}")

    for number, (kind, values) in enumerate(SECRETS.values()):
        meta = {"name": f"dumped-{number}"}
        put("secrets", {"kind": "Secret", "type": kind, "metadata": meta, "stringData": values})
    env = [{"name": "TOKEN", "value": PLANTED}]
    spec = {"containers": [{"name": "one", "image": "one", "env": env}], "automountServiceAccountToken": False}
    noted = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps({"spec": spec})}
    put("pods", {"kind": "Pod", "metadata": {"name": "dumped", "annotations": noted}, "spec": spec})
    put("configmaps", {"kind": "ConfigMap", "metadata": {"name": "dumped"}, "data": {"note": f"password={PLANTED}"}})
    return found


def test_a_sysdump_holds_objects_and_no_secret(cluster: Cluster, operator: StartOperator, tmp_path: Path) -> None:
    cluster.node("n1", LABEL)
    cluster.apply(gateway())
    operator()
    cluster.wait("a NodeConfig", lambda: cluster.list("NodeConfig"))
    target = tmp_path / "report.tar.gz"
    planted: list[str] = []
    try:
        for namespace in (NAMESPACE, "default"):
            planted += plant(cluster, namespace)
        done = ask(cluster, "sysdump", "-o", str(target), "--namespace", NAMESPACE)
    finally:
        for path in planted:
            cluster.call("DELETE", f"{path}?gracePeriodSeconds=0")
    assert done.returncode == 0, done.stderr
    with tarfile.open(target) as archive:
        members = [(member.name.removeprefix("report/"), archive.extractfile(member)) for member in archive]
        files = {name: file.read().decode() for name, file in members if file is not None}
    assert json.loads(files["objects/NAT46Gateway.json"])[0]["metadata"]["name"] == "gw"
    assert json.loads(files["objects/NodeConfig.json"])[0]["metadata"]["name"] == "n1"
    assert json.loads(files["cluster/nodes.json"])[0]["metadata"]["name"] == "n1"
    assert json.loads(files["cluster/version.json"])["gitVersion"].startswith("v")
    assert {"namespace/pods.json", "namespace/events.json", "namespace/configmaps.json"} <= set(files)
    values = [value for _, kept in SECRETS.values() for value in kept.values()]
    hidden = [PLANTED, "pull-me", *values, *(base64.b64encode(value.encode()).decode() for value in values)]
    everything = "\n".join((*files, *files.values()))
    assert [value for value in hidden if value in everything or json.dumps(value)[1:-1] in everything] == []
    assert "secrets.json" not in everything
    (noted,) = (c for c in json.loads(files["namespace/configmaps.json"]) if c["metadata"]["name"] == "dumped")
    assert noted["data"] == {"note": "password=[redacted]"}
    (pod,) = (p for p in json.loads(files["namespace/pods.json"]) if p["metadata"]["name"] == "dumped")
    assert pod["spec"]["containers"][0]["env"] == [{"name": "TOKEN", "value": "[redacted]"}]


def test_kubectl_completes_names_of_objects(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """kubectl itself asks the program beside its plugin, which asks the API server."""
    cluster.apply(gateway())
    cluster.apply(gateway("second", "2001:db8:65::/96", "198.51.100.0/25"))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    found = cluster.server.kubectl("__complete", "sixgate", "nat", "").stdout.splitlines()
    assert [line for line in found if line in {"gw", "second"}] == ["gw", "second"]
    assert cluster.server.kubectl("__complete", "sixgate", "nat", "se").stdout.splitlines()[0] == "second"
    assert cluster.server.kubectl("__complete", "sixgate", "stat").stdout.startswith("status\t")
