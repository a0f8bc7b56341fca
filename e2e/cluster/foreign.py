"""A cluster that is there already, by its KUBECONFIG: what of the run needs no access to its nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from e2e.apiserver.binaries import Binaries, locate_cluster
from e2e.apiserver.server import LOOPBACK, ApiServer, Place
from e2e.cluster.cluster import Cluster, ClusterError
from e2e.cluster.node import ROOT

if TYPE_CHECKING:
    from e2e.cluster.proofs import Scene
    from e2e.lab.run import LabRun

STEPS = 7


@dataclass(slots=True)
class Server:
    """What `Cluster` needs of an API server: kubectl, and an environment for helm."""

    binaries: Binaries
    place: Place = LOOPBACK

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def kubectl(self, *args: str, stdin: str | None = None, **_: Any) -> subprocess.CompletedProcess[str]:
        command = [str(self.binaries.kubectl), *args]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


def cluster() -> Cluster:
    """The cluster of $KUBECONFIG; nothing of it is made or removed."""
    binaries = locate_cluster()
    server = cast("ApiServer", Server(binaries.api))
    return Cluster(cast("LabRun", None), server, binaries, {})


def whole(scene: Scene) -> str:
    """`KUBECONFIG=... IMAGE=... make e2e` in a process of its own, against the cluster of `scene`; it must have all."""
    rows = scene.cluster.lab.workdir / "existing.json"
    command = scene.cluster.command([sys.executable, "-m", "e2e.cluster", "--json", str(rows)])
    environment = {**scene.cluster.server.environment(), "IMAGE": scene.release.image, "HOME": os.environ["HOME"]}
    done = subprocess.run(command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=400, check=False)  # fmt: skip
    found = json.loads(rows.read_text()) if rows.exists() else []
    steps = {row["metric"]: row["met"] for row in found if row["unit"] == "proved"}  # figures: those of the outer run
    if len(steps) < STEPS or not all(steps.values()):
        raise ClusterError(f"{STEPS} steps must go right, and there was {steps}: {done.stderr[-1200:]}")
    return ", ".join(steps)
