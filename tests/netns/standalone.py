"""A standalone gateway as a process in the namespace of a test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sixgate.node.bpf import info

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.netns.conftest import Namespace

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120.0
GATEWAY: dict[str, Any] = {
    "apiVersion": "sixgate.io/v1alpha1",
    "kind": "NAT46Gateway",
    "metadata": {"name": "lab"},
    "spec": {
        "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "gw-1"}},
        "prefix": "2001:db8:64::/96",
        "stateless": {"ipv4CIDRs": ["198.51.100.0/24"]},
    },
}


class Gateway:
    """One standalone gateway in the namespace of the test."""

    def __init__(self, ns: Namespace, bpffs: Path, directory: Path) -> None:
        self.ns = ns
        self.manifests = directory / "manifests"
        self.manifests.mkdir()
        self.bpffs, self.state, self.log = bpffs / "sixgate", directory / "state", directory / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def words(self, *words: str) -> list[str]:
        directories = ["--bpffs", str(self.bpffs), "--state-dir", str(self.state)]
        return [sys.executable, "-m", "sixgate", *words, *directories]

    def write(self, name: str = "lab.yaml", **spec: Any) -> None:
        body = {**GATEWAY, "spec": {**GATEWAY["spec"], **spec}}
        self.text(yaml.safe_dump(body), name)

    def text(self, text: str, name: str = "lab.yaml") -> None:
        target = self.manifests / name
        target.with_suffix(".tmp").write_text(text)
        target.with_suffix(".tmp").replace(target)

    def standalone(self, *more: str) -> list[str]:
        return self.words("standalone", "--manifests", str(self.manifests), "--node", "gw-1", *more)

    def start(self, *more: str) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.standalone(*more), stderr=log, stdout=log, env=environment())

    def end(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=PATIENCE_S)

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, capture_output=True, text=True, check=False, env=environment())

    def status(self) -> dict[str, Any]:
        done = self.call(*self.words("status", "-o", "json"))
        return dict(json.loads(done.stdout)) if done.stdout else {}

    def wait(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Status as soon as `holds` says yes; the log where it never does."""
        deadline = time.monotonic() + PATIENCE_S
        status: dict[str, Any] = {}
        while time.monotonic() < deadline:
            # Before the first report there is nothing to ask for, and asking takes processor time from what is awaited.
            if (self.state / "status.json").exists():
                status = self.status()
                if status and holds(status):
                    return status
            time.sleep(0.05)
        raise AssertionError(f"{status}\n{self.log.read_text()}")

    def attached(self, device: str = "e0") -> list[info.Attached]:
        return info.query_attached(self.ns.ifindex(device), "tc-ingress")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "operator")}


def ready(status: dict[str, Any]) -> bool:
    return bool(status["ready"] and status["appliedRevision"])
