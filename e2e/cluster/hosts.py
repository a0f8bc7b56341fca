"""Who sends and who answers: pods, and hosts outside the cluster; both run traffic.py."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2e.cluster import plan
from e2e.cluster.cluster import ClusterError
from e2e.cluster.release import PYTHON

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from e2e.cluster.cluster import Cluster
    from e2e.cluster.node import RunningNode

SCRIPT = Path(__file__).with_name("traffic.py")
PORT = 7777


def outside(cluster: Cluster, role: str) -> None:
    """Starts the server on a host outside."""
    log = (cluster.lab.workdir / f"{role}.log").open("w")
    cluster.lab.spawn(role, [sys.executable, str(SCRIPT), "serve", str(PORT)], stdout=log, stderr=log)
    path = cluster.lab.workdir / f"{role}.log"
    cluster.wait(f"the server of {role}", lambda: "serving" in path.read_text(), 15)


def ask_outside(cluster: Cluster, role: str, *words: str) -> list[str]:
    """The lines that traffic.py prints on a host outside."""
    return cluster.lab.run(role, [sys.executable, str(SCRIPT), *words], timeout=120).stdout.split()


def name_server(cluster: Cluster, role: str, names: Mapping[str, str]) -> None:
    """An unbound on a host outside that knows the IPv4 addresses of some names, and nothing else."""
    where = cluster.lab.workdir / "unbound"
    where.mkdir()
    (where / "unbound.conf").write_text(
        f'server:\n chroot: ""\n username: ""\n directory: "{where}"\n pidfile: ""\n use-syslog: no\n'
        " interface: ::0\n interface: 0.0.0.0\n access-control: ::/0 allow\n access-control: 0.0.0.0/0 allow\n"
        ' module-config: "iterator"\n local-zone: "." static\n'
        + "".join(f' local-data: "{name}. 60 A {address}"\n' for name, address in names.items())
        + "remote-control:\n control-enable: no\n"
    )
    with (where / "log").open("w") as log:
        cluster.lab.spawn(role, ["unbound", "-d", "-c", str(where / "unbound.conf")], stdout=log, stderr=log)


@dataclass(slots=True)
class Pod:
    """A running pod of ours; `addresses` are those that Kubernetes knows of it."""

    cluster: Cluster
    name: str
    namespace: str
    addresses: list[str] = field(default_factory=list)

    def python(self, *words: str, timeout: float = 60, check: bool = True) -> str:
        """traffic.py inside the pod."""
        command = ["kubectl", "-n", self.namespace, "exec", self.name, "--", PYTHON, "/traffic/traffic.py", *words]
        done = subprocess.run(self._beside(command), env=self.cluster.server.environment(), capture_output=True,
                              text=True, timeout=timeout, check=False)  # fmt: skip
        if check and done.returncode:
            told = done.stderr.strip().splitlines()[-3:]
            raise ClusterError(f"`{' '.join(words)}` must succeed in pod {self.name}, and it said: {' '.join(told)}")
        return done.stdout.strip()

    def ask(self, host: str) -> str:
        """What the server at `host` calls this pod; empty where it does not answer."""
        return self.python("ask", host, str(PORT), check=False).strip()

    def start_load(self, host: str, connections: int, packets: int, seconds: float) -> Running:
        amount = ["--connections", str(connections), "--packets", str(packets), "--seconds", str(seconds)]
        words = [str(SCRIPT), "load", host, str(PORT), *amount]
        # From the pod's network namespace, and not by `kubectl exec`, which ends when the API server does.
        command = self.on_node().command(["nsenter", "-t", self.pid(), "-n", "--", sys.executable, *words])
        environment = self.cluster.lab.environment()
        return Running(subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE))  # fmt: skip

    def on_node(self) -> RunningNode:
        return self.cluster.nodes[self.cluster.find("pod", self.name, self.namespace)["spec"]["nodeName"]]

    def pid(self) -> str:
        """Process of the pod's container, in the node's numbers."""
        status = self.cluster.find("pod", self.name, self.namespace)["status"]
        wanted = status["containerStatuses"][0]["containerID"].removeprefix("containerd://")
        for line in self.on_node().run("ctr", "-n", "k8s.io", "tasks", "list").stdout.splitlines():
            words = line.split()
            if words[:1] == [wanted]:
                return words[1]
        raise ClusterError(f"Pod {self.name} must have a running container, and containerd knows none.")

    def _beside(self, command: list[str]) -> list[str]:
        return self.cluster.command([str(self.cluster.server.binaries.kubectl), *command[1:]])


@dataclass(slots=True)
class Running:
    """Traffic under way."""

    process: subprocess.Popen[str]

    def result(self, timeout: float = 180) -> dict[str, Any]:
        """Ends it, and says what became of its packets and connections."""
        out, err = self.process.communicate(timeout=timeout)
        if self.process.returncode:
            raise ClusterError(f"The traffic must run to its end, and it said: {err.strip()[-500:]}")
        found: dict[str, Any] = json.loads(out)
        return found


def pods(
    cluster: Cluster, image: str, wanted: dict[str, tuple[str, str]], resolvers: Sequence[str] = ()
) -> dict[str, Pod]:
    """Pods that serve, by name: (node, namespace). Those of the namespace V6ONLY have no IPv4, and ask `resolvers`."""
    script = SCRIPT.read_text()
    documents: list[dict[str, Any]] = []
    for namespace in sorted({namespace for _, namespace in wanted.values()}):
        if namespace != "default":
            documents.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        documents.append({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "traffic", "namespace": namespace},
            "data": {"traffic.py": script},
        })  # fmt: skip
    cluster.apply(*documents)
    for namespace in {namespace for _, namespace in wanted.values()}:
        cluster.wait(f"the service account of {namespace}", lambda n=namespace: cluster.find("sa", "default", n))  # type: ignore[misc]
    for name, (node, namespace) in wanted.items():
        document = _pod(name, node, namespace, image)
        if resolvers and namespace == plan.V6ONLY:
            document["spec"] |= {"dnsPolicy": "None", "dnsConfig": {"nameservers": list(resolvers)}}
        cluster.apply(document)
    found = {}
    for name, (_, namespace) in wanted.items():
        cluster.wait(f"pod {name}", lambda name=name, ns=namespace: cluster.pod_ready(name, ns), 60)  # type: ignore[misc]
        status = cluster.find("pod", name, namespace)["status"]
        found[name] = Pod(cluster, name, namespace, [item["ip"] for item in status["podIPs"]])
    return found


def node_pods(cluster: Cluster, image: str, service: str, nodes: Sequence[str]) -> None:
    """A Service, and a pod behind it on each of some nodes, with the node's network."""
    documents = [_pod(f"{service}-{node}", node, "default", image) for node in nodes]
    for document in documents:
        document["metadata"]["labels"] = {"app": service}
        document["spec"]["hostNetwork"] = True
    cluster.apply({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": service, "namespace": "default"},
        "spec": {"selector": {"app": service}, "ports": [{"name": "traffic", "port": PORT}],
                 "ipFamilyPolicy": "RequireDualStack"},
    }, *documents)  # fmt: skip
    for document in documents:
        name = document["metadata"]["name"]
        cluster.wait(f"pod {name}", lambda name=name: cluster.pod_ready(name), 60)  # type: ignore[misc]


def _pod(name: str, node: str, namespace: str, image: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 0, "tolerations": [{"operator": "Exists"}],
            "enableServiceLinks": False,
            "containers": [{
                "name": "traffic", "image": image, "imagePullPolicy": "Never",
                "command": [PYTHON, "/traffic/traffic.py", "serve", str(PORT)],
                "securityContext": {"runAsUser": 0, "capabilities": {"add": ["NET_RAW"]}},
                "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
                "volumeMounts": [{"name": "traffic", "mountPath": "/traffic"}],
            }],
            "volumes": [{"name": "traffic", "configMap": {"name": "traffic"}}],
        },
    }  # fmt: skip
