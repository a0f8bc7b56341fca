"""A cluster as sixgate's control plane sees it: real API server, Nodes without machines, our CRDs and rights."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from e2e.apiserver.server import ApiServer, Kubeconfig, _die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

ROOT = Path(__file__).parents[2]
NAMESPACE = "sixgate-system"
API = "/apis/sixgate.io/v1alpha1"
CORE = "/api/v1"
Json = dict[str, Any]
T = TypeVar("T")

DIGESTS = {name: f"sha256:{number:064x}" for number, name in enumerate(("sg_tc", "sg_slow", "sg_xdp"), 1)}


def path_of(kind: str, name: str = "") -> str:
    """URL path of a kind that the control plane works with, all of them cluster-scoped."""
    if kind == "Node":
        root, plural = CORE, "nodes"
    else:
        root, plural = API, "bigtcppolicies" if kind == "BIGTCPPolicy" else f"{kind.lower()}s"
    return f"{root}/{plural}" + (f"/{name}" if name else "")


def user_kinds() -> tuple[str, ...]:
    """Kinds of the user, as the installed CRDs name them."""
    kinds = (yaml.safe_load(path.read_text())["spec"]["names"]["kind"] for path in (ROOT / "crds").glob("*.yaml"))
    return tuple(sorted(kind for kind in kinds if kind != "NodeConfig"))


class Refused(Exception):
    """The API server said no."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


@dataclass(slots=True)
class Cluster:
    server: ApiServer

    def install(self, crds: Path = ROOT / "crds") -> None:
        """CRDs and everything of deploy/, as a user would."""
        self.server.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(crds))
        self.server.kubectl("wait", "--for=condition=Established", "--timeout=120s", "-f", str(crds))
        for _ in range(2):  # the namespace and what is in it come in one go
            done = self.server.kubectl("apply", "--server-side", "-f", str(ROOT / "deploy"), check=False)
        if done.returncode:
            raise RuntimeError(f"deploy/ must be accepted, and it was not: {done.stderr}")

    def call(self, method: str, path: str, body: Any = None, *, user: Kubeconfig | None = None,
             content_type: str = "application/json") -> Json:  # fmt: skip
        status, answer = self.server.request(method, path, body, user=user, content_type=content_type)
        if status >= 300:
            raise Refused(status, str(answer.get("message")))
        found: Json = answer
        return found

    def apply(self, document: Json, *, manager: str = "user", user: Kubeconfig | None = None) -> Json:
        """Server-side apply of a whole object."""
        path = path_of(document["kind"], document["metadata"]["name"])
        return self.call("PATCH", f"{path}?fieldManager={manager}&force=true", document, user=user,
                         content_type="application/apply-patch+yaml")  # fmt: skip

    def patch(self, kind: str, name: str, body: Json, subresource: str = "") -> Json:
        path = path_of(kind, name) + (f"/{subresource}" if subresource else "")
        return self.call("PATCH", path, body, content_type="application/merge-patch+json")

    def get(self, kind: str, name: str) -> Json | None:
        try:
            return self.call("GET", path_of(kind, name))
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    def list(self, kind: str) -> dict[str, Json]:
        return {item["metadata"]["name"]: item for item in self.call("GET", path_of(kind))["items"]}

    def delete(self, kind: str, name: str) -> None:
        self.call("DELETE", path_of(kind, name))

    def node(self, name: str, labels: Mapping[str, str] | None = None) -> Json:
        """A Node object with an address and no machine behind it."""
        number = int(re.sub(r"\D", "", name) or "0") % 65535
        node = self.call("POST", path_of("Node"), {
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
        })  # fmt: skip
        ready = {"type": "Ready", "status": "True", "reason": "Simulated", "message": ""}
        status = {"conditions": [ready], "addresses": [{"type": "InternalIP", "address": f"2001:db8::{number:x}"}]}
        return self.patch("Node", node["metadata"]["name"], {"status": status}, "status")

    def clean(self) -> None:
        """Everything that tests made: users' objects, NodeConfigs, Nodes, the lease, events."""
        for kind in (*user_kinds(), "NodeConfig", "Node"):
            self.call("DELETE", path_of(kind))
        self.call("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases")
        self.call("DELETE", "/apis/events.k8s.io/v1/namespaces/default/events")

    def conditions(self, kind: str, name: str) -> dict[str, Json]:
        """Conditions by type; empty for an object that has none or is gone."""
        found = self.get(kind, name) or {}
        return {c["type"]: c for c in found.get("status", {}).get("conditions", ())}

    def report(self, *nodes: str, state: str = "Programmed", message: str = "") -> None:
        """Play the agents: every NodeConfig (or those of `nodes`) says that it is applied."""
        for name, config in self.list("NodeConfig").items():
            if not nodes or name in nodes:
                self.report_one(name, config, state=state, message=message)

    def report_one(
        self, name: str, config: Json | None = None, *, state: str = "Programmed", message: str = ""
    ) -> None:
        """The same for one node, whose NodeConfig may be handed over."""
        config = config or self.call("GET", path_of("NodeConfig", name))
        spec = config["spec"]
        owners = {owner for part in ("objects", "tables", "links", "addresses", "routes", "sysctls")
                  for item in spec.get(part, ()) for owner in item.get("owners", ())}  # fmt: skip
        status = {
            "appliedRevision": spec["revision"], "ready": state == "Programmed", "message": message,
            "observedGeneration": config["metadata"]["generation"],
            "objects": [{"owner": o, "state": state, "reason": "", "message": message} for o in sorted(owners)],
        }  # fmt: skip
        self.patch("NodeConfig", name, {"status": status}, "status")

    def wait(self, what: str, check: Callable[[], T], timeout_s: float = 120.0) -> T:
        """The first true value of `check`; AssertionError saying `what` was waited for."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = check()
            if found:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {timeout_s:.0f} s, the last value was {found!r}")
            time.sleep(0.02)

    def operator_account(self, *, server: str = "", label: str = "") -> Kubeconfig:
        return self.server.service_account(NAMESPACE, "sixgate-operator", server=server, label=label)

    def agent_account(self, node: str) -> Kubeconfig:
        """A token as the kubelet of `node` would issue it: bound to the Node object."""
        uid = self.call("GET", path_of("Node", node))["metadata"]["uid"]
        bound = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}
        return self.server.service_account(NAMESPACE, "sixgate-agent", bound=bound, label=f"-{node}")

    def writes(self) -> int:
        """Requests that changed something since the API server started, without leases and events."""
        status, text = self.server.request("GET", "/metrics", raw=True)
        if status != 200:
            raise Refused(status, "metrics")
        total = 0.0
        for line in text.splitlines():
            found = re.match(r"apiserver_request_total\{(.*)\} ([0-9.e+]+)$", line)
            if not found or 'group="sixgate.io"' not in found[1]:
                continue
            if re.search(r'verb="(POST|PUT|PATCH|APPLY|DELETE)"', found[1]):
                total += float(found[2])
        return int(total)


def manifest(directory: Path, digests: Mapping[str, str] = DIGESTS) -> Path:
    """A directory with a manifest of BPF objects that nobody will load."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "manifest.json").write_text(json.dumps({"objects": dict(digests)}))
    return directory


@dataclass(slots=True)
class OperatorProcess:
    """`sixgate operator` in a process of its own, as its service account; killed at the end of a `with`."""

    kubeconfig: Kubeconfig
    directory: Path
    options: Sequence[str] = ()
    name: str = "operator"
    digests: Mapping[str, str] = field(default_factory=lambda: DIGESTS)
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __enter__(self) -> OperatorProcess:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.kill()

    @property
    def log_path(self) -> Path:
        return self.directory / f"{self.name}.log"

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def start(self) -> None:
        objects = manifest(self.directory / f"objects-{self.name}", self.digests)
        command = [
            sys.executable, "-c", "import typer; from sixgate.cli.operator import operator; typer.run(operator)",
            "--kubeconfig", str(self.kubeconfig.path), "--objects", str(objects),
            "--identity", self.name, *self.options,
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "operator"), "PYTHONDONTWRITEBYTECODE": "1"}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - it only calls setsid and prctl
            )

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def terminate(self, timeout_s: float = 60.0) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def wait_log(self, pattern: str, timeout_s: float = 120.0, since: int = 0) -> int:
        """Until the log matches `pattern` after its character `since`; returns where the match ends."""
        deadline = time.monotonic() + timeout_s
        while not (found := re.compile(pattern).search(self.log(), since)):
            if not self.running or time.monotonic() > deadline:
                raise AssertionError(
                    f"{pattern!r} must be logged within {timeout_s:.0f} s; the log is:\n{self.log()[-4000:]}"
                )
            time.sleep(0.02)
        return found.end()

    def wait_settled(self, since: int = 0) -> int:
        """Until everything that is wanted is written."""
        return self.wait_log(r"\b0 left\.|Nothing to write", since=since)
