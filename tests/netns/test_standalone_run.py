"""`sixgate standalone` as a process: a directory of files, changes, mistakes, kill -9, down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sixgate.node.bpf import info
from tests.netns.conftest import Namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


@pytest.fixture
def gateway(netns: Namespace, bpffs: Path, tmp_path: Path) -> Iterator[Gateway]:
    netns.veth("e0", "e1", "192.0.2.1/24", "2001:db8::1/64")
    made = Gateway(netns, bpffs, tmp_path)
    yield made
    if made.process is not None and made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def test_a_day_of_a_gateway(gateway: Gateway) -> None:
    gateway.write()
    gateway.start()
    status = gateway.wait(ready)
    assert status["process"] == {"pid": gateway.process.pid if gateway.process else 0, "running": True}
    assert [(row["device"], row["hook"], row["mechanism"], row["program"]) for row in status["hooks"]] == [
        ("e0", "tc-ingress", "tcx", "sg_uplink_tc"),
        ("sg-slow1", "tc-ingress", "tcx", "sg_slow_tc"),
    ]
    assert status["objects"][0]["owner"] == "NAT46Gateway/lab"
    assert "SG_DROP_TTL" in status["counters"]
    assert set(status["traffic"]["NAT46Gateway/lab"]) == {"to4", "to6"}

    gateway.write(prefix="2001:db8:65::/96")
    changed = gateway.wait(lambda now: ready(now) and now["appliedRevision"] != status["appliedRevision"])

    gateway.text("kind: [\n")
    broken = gateway.wait(lambda now: bool(now["problems"]))
    assert broken["appliedRevision"] == changed["appliedRevision"]
    assert (broken["problems"][0]["file"], broken["problems"][0]["line"]) == ("lab.yaml", 2)
    assert len(gateway.attached()) == 1

    assert gateway.end(signal.SIGTERM) == 0
    assert len(gateway.attached()) == 1
    dead = gateway.status()
    assert dead["process"]["running"] is False
    assert dead["objects"][0]["state"] == "Programmed"

    gateway.start()  # the file is broken still: what ran before goes on
    again = gateway.wait(lambda now: bool(now["process"]["running"]) and bool(now["problems"]))
    assert again["appliedRevision"] == changed["appliedRevision"]
    assert len(gateway.attached()) == 1
    gateway.write()
    gateway.wait(lambda now: ready(now) and now["appliedRevision"] == status["appliedRevision"])

    refused = gateway.call(*gateway.words("down"))
    assert refused.returncode == 1
    assert "stop it first" in refused.stderr
    gateway.end(signal.SIGTERM)
    assert gateway.call(*gateway.words("down")).returncode == 0
    assert gateway.attached() == []
    assert not gateway.bpffs.exists()
    assert not gateway.state.exists()


def test_kill_9_at_any_time(gateway: Gateway) -> None:
    """Killed while it starts and while it changes; in the end all is as if nothing had happened."""
    gateway.write()
    gateway.start()
    gateway.wait(ready)
    (link,) = [seen.link_id for seen in gateway.attached()]
    gateway.end(signal.SIGKILL)
    for step in range(6):
        gateway.write(prefix=f"2001:db8:{step + 1:x}::/96")
        gateway.start()
        time.sleep(0.15 * step)  # spreads the moments; what is asserted holds at every one
        gateway.end(signal.SIGKILL)
        assert [seen.link_id for seen in gateway.attached()] == [link]
    gateway.write()
    gateway.start()
    gateway.wait(ready)
    assert [seen.link_id for seen in gateway.attached()] == [link]
    pins = sorted(path.name for path in (gateway.bpffs / "inner").iterdir())
    assert len(pins) == 1


def test_a_device_is_attached_as_soon_as_it_appears(gateway: Gateway) -> None:
    gateway.write()
    gateway.start()
    gateway.wait(ready)
    gateway.ns.veth("e2", "e3", "203.0.113.1/24")
    gateway.wait(lambda now: "e2" in [row["device"] for row in now["hooks"]])
    gateway.ns.ip("link del e2")
    gateway.wait(lambda now: "e2" not in [row["device"] for row in now["hooks"]])
    gateway.ns.veth("e2", "e3", "203.0.113.1/24")
    gateway.wait(lambda now: "e2" in [row["device"] for row in now["hooks"]])
    gateway.ns.ip("link del sg-slow0")
    gateway.wait(lambda now: ready(now) and "sg-slow1" in [row["device"] for row in now["hooks"]])


def test_once_and_down_on_exit(gateway: Gateway) -> None:
    gateway.write()
    done = gateway.call(*gateway.standalone("--once"))
    assert (done.returncode, done.stdout) == (0, "NAT46Gateway/lab: Programmed\n")
    gateway.write(prefix="2001:db8::/95")
    bad = gateway.call(*gateway.standalone("--once"))
    assert bad.returncode == 2
    assert "lab.yaml:" in bad.stderr
    assert "spec.prefix" in bad.stderr
    assert len(gateway.attached()) == 1
    gateway.write()
    gateway.start("--down-on-exit", "--log-format", "json")
    gateway.wait(ready)
    assert gateway.end(signal.SIGINT) == 0
    assert gateway.attached() == []
    lines = [json.loads(line) for line in gateway.log.read_text().splitlines()]
    assert {"message", "level", "logger", "timestamp"} <= set(lines[0])


def test_the_three_capabilities_are_enough(gateway: Gateway) -> None:
    """CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, as a container has them: no SYS_ADMIN, no ids."""
    gateway.write(acceleration="BestEffort")
    few = ["setpriv", "--bounding-set=-all,+bpf,+net_admin,+perfmon", "--inh-caps=-all"]
    for prefix in ("2001:db8:64::/96", "2001:db8:65::/96"):
        gateway.write(prefix=prefix, acceleration="BestEffort")
        done = gateway.call(*few, *gateway.standalone("--once"))
        assert (done.returncode, done.stdout) == (0, "NAT46Gateway/lab: Programmed\n"), done.stderr
    assert len(gateway.attached()) == 1
    assert gateway.call(*few, *gateway.words("status")).returncode == 0
    down = gateway.call(*few, *gateway.words("down"))
    assert down.returncode == 0, down.stderr
    assert gateway.attached() == []


def test_without_permission(gateway: Gateway) -> None:
    gateway.write()
    words = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *gateway.standalone("--once")]
    done = gateway.call(*words)
    assert done.returncode == 3
    assert "CAP_BPF" in done.stderr
    assert done.stderr.count("\n") == 1
