"""The chart on a cluster: install, upgrade, uninstall by Helm, and what there is to see of it."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from e2e.cluster.cluster import ClusterError
from e2e.cluster.node import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from e2e.cluster.cluster import Cluster

CHART = ROOT / "charts" / "sixgate"
NAMESPACE = "sixgate-system"
NAME = "sixgate"
PYTHON = "/opt/sixgate/bin/python"


@dataclass(frozen=True, slots=True)
class Installed:
    """Seconds of an installation: until the last agent was Ready, the last operator, when the job that applies objects
    began and had ended, until Helm was done. The API server tells times in whole seconds."""

    agents: float
    operators: float
    job: tuple[float, float]
    helm: float

    def told(self) -> str:
        began, ended = self.job
        return f"operators Ready at {self.operators:.0f} s, job that applies objects from {began:.0f} to {ended:.0f} s"


def documented() -> list[str]:
    """The words of `helm install` in docs/install.md, after `helm`."""
    text = (ROOT / "docs" / "install.md").read_text()
    found = re.search(rf"^ +helm (install {NAME} charts/sixgate .* --wait)$", text, re.MULTILINE)
    if found is None:
        raise ClusterError("docs/install.md must have a line `helm install sixgate charts/sixgate ... --wait`.")
    return [str(CHART) if word == "charts/sixgate" else word for word in found[1].split()]


@dataclass(slots=True)
class Release:
    """One release; `image` is repository and tag, `major` the Helm to use."""

    cluster: Cluster
    repository: str
    tag: str
    major: int = 3

    @property
    def image(self) -> str:
        return f"{self.repository}:{self.tag}"

    def arguments(self, values: Mapping[str, Any]) -> list[str]:
        chosen = {"image.repository": self.repository, "image.tag": self.tag, **values}
        return [part for key, value in chosen.items() for part in ("--set-json", f"{key}={json.dumps(value)}")]

    def install(self, values: Mapping[str, Any] | None = None) -> Installed:
        """The very command of docs/install.md, with the image to use and further values."""
        began, clock = time.monotonic(), datetime.now(UTC)
        self.cluster.helm(*documented(), "--timeout", "120s", *self.arguments(values or {}), major=self.major)
        spent = time.monotonic() - began
        self.wait_ready()

        def since(times: Iterable[str]) -> float:
            return max((datetime.fromisoformat(text) - clock).total_seconds() for text in times)

        def ready(pods: Iterable[Mapping[str, Any]]) -> float:
            return since(self.cluster.condition(pod, "Ready")["lastTransitionTime"] for pod in pods)

        events = self.cluster.items("events", "-n", NAMESPACE, "--field-selector=involvedObject.name=sixgate-apply")
        # Events outlive what they are of: those of an earlier installation come first.
        job = {
            event["reason"]: event["lastTimestamp"] for event in sorted(events, key=lambda e: e["lastTimestamp"] or "")
        }
        return Installed(
            agents=ready(self.agents().values()),
            operators=ready(self.operators()),
            job=(since([job["SuccessfulCreate"]]), since([job["Completed"]])),
            helm=spent,
        )

    def upgrade(self, values: Mapping[str, Any] | None = None) -> float:
        """`helm upgrade --wait`; seconds."""
        began = time.monotonic()
        self.cluster.helm("upgrade", NAME, str(CHART), "--namespace", NAMESPACE, "--wait", "--timeout", "180s",
                          *self.arguments(values or {}), major=self.major)  # fmt: skip
        self.cluster.kubectl("-n", NAMESPACE, "rollout", "status", "daemonset/sixgate-agent", "--timeout=120s")
        self.cluster.kubectl("-n", NAMESPACE, "rollout", "status", "deployment/sixgate-operator", "--timeout=120s")
        return time.monotonic() - began

    def uninstall(self) -> float:
        """`helm uninstall --wait`, and until no pod of it is left; seconds."""
        began = time.monotonic()
        self.cluster.helm("uninstall", NAME, "--namespace", NAMESPACE, "--wait", "--timeout", "180s", major=self.major)
        self.cluster.wait("no pod of sixgate", lambda: not self.pods(), 90)
        return time.monotonic() - began

    def pods(self) -> list[dict[str, Any]]:
        """All pods of the release; with it the one that `helm test` leaves."""
        return self.cluster.items("pods", "-n", NAMESPACE, "-l", f"app.kubernetes.io/instance={NAME}")

    def refused(self, values: Mapping[str, Any]) -> str:
        """What Helm says to values that it must not take."""
        done = self.cluster.helm("install", "refused", str(CHART), "--namespace", NAMESPACE, "--dry-run=client",
                                 *self.arguments(values), major=self.major, check=False)  # fmt: skip
        if done.returncode == 0:
            raise ClusterError(f"Helm must refuse {dict(values)}, and it did not.")
        return done.stderr

    def agents(self) -> dict[str, dict[str, Any]]:
        """Pods of agents by node."""
        found = self.cluster.items("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=agent")
        return {pod["spec"]["nodeName"]: pod for pod in found if not pod["metadata"].get("deletionTimestamp")}

    def operators(self) -> list[dict[str, Any]]:
        return self.cluster.items("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=operator")

    def node_config_ready(self, name: str) -> bool:
        return bool(self.cluster.find("nodeconfig", name).get("status", {}).get("ready"))

    def wait_ready(self, timeout_s: float = 60) -> None:
        """Every agent Ready, and every NodeConfig applied as it is now."""
        names = [item["metadata"]["name"] for item in self.cluster.items("nodes")]
        self.cluster.wait("an agent Ready on every node", partial(self._all_ready, len(names)), timeout_s)
        for name in names:
            self.cluster.wait(f"NodeConfig {name} to be ready", partial(self.node_config_ready, name), timeout_s)

    def _all_ready(self, wanted: int) -> bool:
        agents = self.agents()
        ready = [pod for pod in agents.values() if self.cluster.condition(pod, "Ready").get("status") == "True"]
        return len(ready) == wanted

    def wait_object(self, kind: str, name: str, nodes: int, timeout_s: float = 30) -> dict[str, Any]:
        """An object that is Ready on so many nodes; 0 for as many as it selects."""

        def look() -> dict[str, Any]:
            found = self.cluster.find(kind, name)
            ready = self.cluster.condition(found, "Ready")
            current = ready.get("observedGeneration") == found.get("metadata", {}).get("generation")
            counted = nodes in {0, found.get("status", {}).get("nodes", {}).get("ready")}
            return found if ready.get("status") == "True" and current and counted else {}

        try:
            return self.cluster.wait(f"{kind}/{name} Ready on {nodes} nodes", look, timeout_s)
        except ClusterError as error:
            found = self.cluster.find(kind, name).get("status")
            raise ClusterError(f"{error} Its status is {json.dumps(found)}.") from error
