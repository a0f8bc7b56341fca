"""Process 1 of a node: mounts, containerd, kubelet, kube-proxy. Runs in namespaces of its own, made by `unshare`.

    python -m e2e.cluster.node_init CONFIG.json

Whatever it mounts is seen by nobody else and ends with it, and so does every process of the node.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

CGROUPS = Path("/sys/fs/cgroup")
# The kubelet writes these, which are the machine's and not the node's: plain files stand in for them.
MACHINE_SYSCTLS = {
    "vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}  # fmt: skip
KEPT = {
    "/var/lib/kubelet": "kubelet", "/var/lib/containerd": "containerd", "/var/log": "logs", "/var/lib/cni": "cni",
    "/etc/cni": "etc-cni", "/var/lib/sixgate": "sixgate",
}  # fmt: skip


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def mount_all(own: Path) -> None:
    """The node's view of the machine: own /proc, /sys, cgroups and bpffs, own directories where programs keep state."""
    mount("--make-rprivate", "/")
    mount("-t", "proc", "proc", "/proc")
    unified = (CGROUPS / "cgroup.controllers").exists()
    hierarchies = [] if unified else sorted(path.name for path in CGROUPS.iterdir() if path.is_dir())
    mount("-t", "sysfs", "sysfs", "/sys")
    if unified:
        mount("-t", "cgroup2", "cgroup2", str(CGROUPS))
    else:
        mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(CGROUPS))
        for name in hierarchies:
            (CGROUPS / name).mkdir()
            if name == "unified":
                mount("-t", "cgroup2", "cgroup2", str(CGROUPS / name))
            else:
                mount("-t", "cgroup", "-o", "none,name=systemd" if name == "systemd" else name, "cgroup",
                      str(CGROUPS / name))  # fmt: skip
    mount("-t", "bpf", "bpf", "/sys/fs/bpf")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    for path in ("/run/containerd", "/run/netns"):
        Path(path).mkdir()
    for path, name in KEPT.items():
        Path(path).mkdir(parents=True, exist_ok=True)
        mount("--bind", str(own / name), path)
    for path in ("/var/log/pods", "/var/log/containers"):
        Path(path).mkdir(exist_ok=True)
    mount("--bind", str(own / "resolv.conf"), "/etc/resolv.conf")
    for key, value in MACHINE_SYSCTLS.items():
        stand_in = own / key.replace("/", "_")
        stand_in.write_text(value + "\n")
        mount("--bind", str(stand_in), f"/proc/sys/{key}")
    mount("--make-rshared", "/")


def start(name: str, command: list[str], own: Path) -> subprocess.Popen[bytes]:
    with (own / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def wait_for_containerd() -> None:
    for _ in range(300):
        ask = ["ctr", "version"]
        if (
            Path("/run/containerd/containerd.sock").exists()
            and not subprocess.run(ask, capture_output=True, check=False).returncode
        ):
            return
        time.sleep(0.05)
    raise RuntimeError("containerd must answer within 15 s, and it did not.")


def main() -> int:
    config: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    own = Path(config["directory"])
    subprocess.run(["hostname", config["name"]], check=True)
    mount_all(own)
    start("containerd", ["containerd", "-c", str(own / "containerd.toml")], own)
    wait_for_containerd()
    for archive in config["images"]:
        subprocess.run(["ctr", "-n", "k8s.io", "images", "import", archive], check=True, capture_output=True)
    started = [start(name, command, own) for name, command in config["programs"].items()]
    (own / "up").write_text(" ".join(str(program.pid) for program in started))
    while True:  # process 1 inherits every orphan
        with suppress(ChildProcessError):
            os.wait()
            continue
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
