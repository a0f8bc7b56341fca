"""What a node agent is told by its command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """Directories and choices of one node agent.

    `tcx` None probes the kernel; False forces clsact filters. `mount_bpffs` mounts a bpffs over the directory that
    holds `bpffs` when none is there. Times in seconds: `resync_s` between two looks without a cause, `settle_s` from
    an event to the look it causes. `netns_dirs` is where the container runtime keeps network namespaces of pods.
    `node` is this node's name, by which egress finds itself among gateways.
    """

    bpffs: Path = Path("/sys/fs/bpf/sixgate")
    state_dir: Path = Path("/var/lib/sixgate")
    objects: Path = Path("/usr/lib/sixgate/bpf")
    tcx: bool | None = None
    mount_bpffs: bool = False
    resync_s: float = 10.0
    settle_s: float = 0.1
    node: str = ""
    netns_dirs: tuple[Path, ...] = (Path("/run/netns"), Path("/run/docker/netns"))
