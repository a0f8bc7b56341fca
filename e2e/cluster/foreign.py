"""A cluster that is there already, by its KUBECONFIG: what of the run needs no access to its nodes."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from e2e.apiserver.binaries import Binaries, locate_cluster
from e2e.apiserver.server import LOOPBACK, ApiServer, Place
from e2e.cluster.cluster import Cluster

if TYPE_CHECKING:
    from e2e.lab.run import LabRun


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
