"""Starts and stops a cluster of real nodes in namespaces under random names; several can run beside each other.

with Cluster.start(nodes=3) as cluster:
    cluster.kubectl("get", "nodes")
    cluster.nodes["n1"].run("ctr", "-n", "k8s.io", "images", "list")
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from e2e.apiserver.binaries import ClusterBinaries, locate_cluster
from e2e.apiserver.server import ApiServer, Place
from e2e.cluster import images, node, plan, world
from e2e.lab.reaper import TOKEN_VARIABLE
from e2e.lab.run import LabRun

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

T = TypeVar("T")
DEBIAN = {"containerd": "containerd", "runc": "runc", "/usr/lib/cni/bridge": "containernetworking-plugins"}
NODE_GRACE_S = 20


class ClusterError(Exception):
    """Something of the cluster did not happen; the text says what was expected and what was found."""


@dataclass(slots=True)
class Cluster:
    """A running cluster. `nodes` by name; `seconds` says how long parts of the start took."""

    lab: LabRun
    server: ApiServer
    binaries: ClusterBinaries
    nodes: dict[str, node.RunningNode]
    seconds: dict[str, float] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def start(cls, nodes: int = 3, archives: Sequence[Path] = ()) -> Cluster:
        """Until every node is Ready. `archives` are images that each node imports before its kubelet starts."""
        binaries = locate_cluster()
        pause = images.pause(node.PAUSE)
        planned = [plan.Node(number) for number in range(1, nodes + 1)]
        began = time.monotonic()
        with ExitStack() as stack:
            lab = stack.enter_context(LabRun())
            world.build(lab, planned)
            server = stack.enter_context(_control_plane(lab, binaries))
            cluster = cls(lab, server, binaries, {})
            cluster.seconds["apiserver"] = time.monotonic() - began
            for planned_node in planned:
                cluster.nodes[planned_node.name] = node.start(
                    lab, server, planned_node, binaries.kubernetes, [pause, *archives]
                )
            for name in cluster.nodes:
                cluster.wait(f"node {name} to be Ready", partial(cluster.node_ready, name), 120)
            cluster.wait("the default service account", lambda: cluster.find("serviceaccount", "default"))
            cluster.seconds["ready"] = time.monotonic() - began
            cluster._stack = stack.pop_all()
        return cluster

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends and removes everything that `start` made."""
        self._stack.close()

    # -- the API -----------------------------------------------------------------------------------------------------

    @property
    def kubeconfig(self) -> Path:
        return Path(self.server.environment()["KUBECONFIG"])

    def command(self, argv: Sequence[str]) -> list[str]:
        """Runs `argv` where the API server can be reached."""
        return self.server.place.command(argv)

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """What kubectl prints as admin; ClusterError with its complaint where it fails and `check` is set."""
        done = self.server.kubectl(*arguments, stdin=stdin, check=False)
        if check and done.returncode:
            raise ClusterError(f"`kubectl {' '.join(arguments)}` must succeed, and it said: {done.stderr.strip()}")
        return done.stdout if done.returncode == 0 else done.stdout + done.stderr

    def sixgate(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`kubectl sixgate` as admin, with the same kubectl in its PATH."""
        environment = self.server.environment()
        environment["PATH"] = f"{self.server.binaries.kubectl.parent}:{environment['PATH']}"
        command = self.command([sys.executable, "-m", "sixgate", "cluster", *arguments])
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def helm(self, *arguments: str, major: int = 3, check: bool = True) -> subprocess.CompletedProcess[str]:
        """helm of a major version as admin."""
        command = self.command([str(self.binaries.helm[major]), *arguments])
        done = subprocess.run(command, env=self.server.environment(), capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise ClusterError(f"`helm {' '.join(arguments)}` must succeed, and it said: {done.stderr.strip()}")
        return done

    def apply(self, *documents: Mapping[str, Any]) -> None:
        """kubectl apply --server-side of some objects."""
        self.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump_all(documents))

    def find(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """One object, empty where there is none."""
        told = self.kubectl("-n", namespace, "get", kind, name, "--ignore-not-found", "-o", "json", check=False)
        return json.loads(told) if told.startswith("{") else {}

    def items(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        told = self.kubectl("get", kind, "-o", "json", *arguments)
        found: list[dict[str, Any]] = json.loads(told)["items"]
        return found

    def condition(self, found: Mapping[str, Any], kind: str) -> dict[str, Any]:
        """One condition of an object's status, empty where it has none."""
        conditions = found.get("status", {}).get("conditions", ())
        return next((c for c in conditions if c["type"] == kind), {})

    def node_ready(self, name: str) -> bool:
        return bool(self.condition(self.find("node", name), "Ready").get("status") == "True")

    def pod_ready(self, name: str, namespace: str = "default") -> bool:
        return bool(self.condition(self.find("pod", name, namespace), "Ready").get("status") == "True")

    def wait(self, what: str, check: Callable[[], T], timeout_s: float = 60.0, pause_s: float = 0.2) -> T:
        """The first true value of `check`; ClusterError saying `what` was waited for."""
        deadline = time.monotonic() + timeout_s
        while True:
            value = check()
            if value:
                return value
            if time.monotonic() > deadline:
                raise ClusterError(f"{what} was waited for, {timeout_s:.0f} s, and did not come.")
            time.sleep(pause_s)

    # -- nodes -------------------------------------------------------------------------------------------------------

    def import_image(self, archive: Path) -> None:
        """Gives an image to every node, at the same time."""
        started = [
            subprocess.Popen(
                running.command(["ctr", "-n", "k8s.io", "images", "import", str(archive)]),
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
            for running in self.nodes.values()
        ]  # fmt: skip
        told = [process.communicate()[0] for process in started]
        if any(process.returncode for process in started):
            raise ClusterError(f"Every node must take the image {archive}, and one said: {told}")


def _control_plane(lab: LabRun, binaries: ClusterBinaries) -> ApiServer:
    install_debian()
    netns = lab.netns(world.UNDER)
    place = Place(
        netns=netns,
        address=plan.ROUTER6,
        alternative_names=f"IP:127.0.0.1,IP:{plan.ROUTER6},IP:{plan.ROUTER4},IP:fd00:10:96::1,IP:10.96.0.1,"
        "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc",
        flags=(
            "--bind-address=::", f"--advertise-address={plan.ROUTER6}", f"--service-cluster-ip-range={plan.SERVICES}",
            f"--kubelet-client-certificate={lab.workdir}/control/pki/kubelet-client.crt",
            f"--kubelet-client-key={lab.workdir}/control/pki/kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP", "--allow-privileged=true", "--profiling=false",
        ),
        environment=((TOKEN_VARIABLE, lab.token),),
        ports=(6443, 2379, 2380),
    )  # fmt: skip
    (lab.workdir / "control").mkdir()
    server = _Server.start(binaries=binaries.api, place=place, directory=lab.workdir / "control")
    manager = server.user("controller-manager", "/CN=system:kube-controller-manager").path
    scheduler = server.user("scheduler", "/CN=system:kube-scheduler").path
    ca_crt, ca_key = server.pki.pair("ca")
    server.run_beside("controller-manager", [
        str(binaries.kubernetes / "kube-controller-manager"), "--kubeconfig", str(manager),
        "--service-account-private-key-file", str(server.pki.sa_key), "--root-ca-file", str(ca_crt),
        "--use-service-account-credentials", "--cluster-signing-cert-file", str(ca_crt),
        "--cluster-signing-key-file", str(ca_key), "--leader-elect=false", "--allocate-node-cidrs=false",
        f"--node-monitor-grace-period={NODE_GRACE_S}s", "--node-monitor-period=2s"])  # fmt: skip
    server.run_beside("scheduler", [
        str(binaries.kubernetes / "kube-scheduler"), "--kubeconfig", str(scheduler), "--leader-elect=false",
        "--authentication-kubeconfig", str(scheduler), "--authorization-kubeconfig", str(scheduler)])  # fmt: skip
    return server


class _Server(ApiServer):
    """The API server needs a certificate for kubelets before it starts."""

    __slots__ = ()

    def start_etcd(self) -> None:
        self.pki.issue("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client")
        super().start_etcd()


def install_debian() -> None:
    """containerd, runc and CNI plugins, where one is missing; nothing of them is started."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [
        package
        for thing, package in DEBIAN.items()
        if not (Path(thing).exists() if thing.startswith("/") else _on_path(thing, path))
    ]
    if missing:
        subprocess.run([str(node.ROOT / "tools" / "bootstrap.sh"), "--cluster"], check=True)


def _on_path(program: str, path: str) -> bool:
    return any(os.access(Path(directory, program), os.X_OK) for directory in path.split(":"))
