"""Starts one node: certificates, configuration files, and process 1 (node_init.py) in namespaces of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from e2e.cluster import node_init, plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from e2e.apiserver.server import ApiServer
    from e2e.lab.run import LabRun

ROOT = Path(__file__).parents[2]
PAUSE = "e2e.local/pause:1"
CONTAINERD = """\
version = 2
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "/etc/cni/net.d"
"""


@dataclass(slots=True)
class RunningNode:
    """A node and its process 1 as seen from outside."""

    node: plan.Node
    directory: Path
    process: subprocess.Popen[str]

    def init_pid(self) -> int:
        """Process 1 of the node in this machine's numbers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        if not children:
            raise RuntimeError(f"Node {self.node.name} must be running, and it is not: {self.log('init')}")
        return int(children[0])

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` on the node, in all its namespaces."""
        return ["nsenter", "-t", str(self.init_pid()), "-m", "-p", "-u", "-i", "-n", "-C", "--", *argv]

    def run(self, *argv: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self.command(argv), capture_output=True, text=True, timeout=timeout, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(argv)} must succeed on {self.node.name}, and it said: {done.stderr.strip()}")
        return done

    def log(self, name: str, characters: int = 2000) -> str:
        path = self.directory / f"{name}.log"
        return path.read_text(errors="replace")[-characters:] if path.exists() else ""

    def kill(self) -> None:
        """As if its power were cut: every process of the node ends at once."""
        subprocess.run(["kill", "-KILL", str(self.init_pid())], check=True)
        self.process.wait()


def start(lab: LabRun, server: ApiServer, node: plan.Node, programs: Path, images: Sequence[Path]) -> RunningNode:
    """Starts the node's processes and returns at once; wait for its Ready condition."""
    directory = lab.workdir / node.name
    for name in node_init.KEPT.values():
        (directory / name).mkdir(parents=True, exist_ok=True)
    _write_network(directory, node)
    (directory / "containerd.toml").write_text(CONTAINERD.format(pause=PAUSE, cni=directory / "cni-bin"))
    names = f"extendedKeyUsage=clientAuth,serverAuth\nsubjectAltName=DNS:{node.name},IP:{node.ipv6},IP:{node.ipv4}"
    kubelet = server.user(node.name, f"/O=system:nodes/CN=system:node:{node.name}", names)
    proxy = server.user(f"{node.name}-proxy", "/CN=system:kube-proxy")
    (directory / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet(server, node, directory)))
    (directory / "init.json").write_text(json.dumps({
        "name": node.name, "directory": str(directory), "images": [str(image) for image in images],
        "programs": {
            "kubelet": [
                str(programs / "kubelet"), "--config", str(directory / "kubelet.yaml"), "--kubeconfig",
                str(kubelet.path), "--hostname-override", node.name, "--node-ip", f"{node.ipv6},{node.ipv4}",
                "--container-runtime-endpoint", "unix:///run/containerd/containerd.sock",
                "--root-dir", "/var/lib/kubelet"],
            "kube-proxy": [
                str(programs / "kube-proxy"), "--kubeconfig", str(proxy.path), "--hostname-override", node.name,
                "--proxy-mode", "nftables", "--cluster-cidr", plan.POD_CIDRS, "--conntrack-max-per-core", "0",
                "--conntrack-tcp-timeout-established", "0", "--conntrack-tcp-timeout-close-wait", "0"],
        },
    }))  # fmt: skip
    _announce(server, node)
    return RunningNode(node, directory, _launch(lab, node, directory))


def restart(lab: LabRun, running: RunningNode) -> None:
    """Boots a killed node again: same disk, empty memory, nothing left of its network but the cable."""
    for line in lab.run(running.node.name, ["ip", "-o", "link"]).stdout.splitlines():
        name = line.split(":")[1].strip().split("@", 1)[0]
        if name not in {"lo", "eth0"}:
            lab.run(running.node.name, ["ip", "link", "delete", name], check=False)
    lab.run(running.node.name, ["nft", "flush", "ruleset"])
    running.process = _launch(lab, running.node, running.directory)


def _launch(lab: LabRun, node: plan.Node, directory: Path) -> subprocess.Popen[str]:
    """Into the node's cgroups first: what `unshare` makes is then the root that the node sees."""
    cgroups = lab.add_cgroup(node.name) if not _cgroups(lab, node) else _cgroups(lab, node)
    moves = "".join(f"echo $$ > {path}/cgroup.procs; " for path in cgroups)
    (directory / "up").unlink(missing_ok=True)
    with (directory / "init.log").open("a") as log:
        return lab.spawn(
            node.name,
            ["sh", "-c", moves + 'exec "$@"', "sh", "unshare", "--mount", "--pid", "--fork", "--uts", "--ipc",
             "--cgroup", "--kill-child", sys.executable, "-m", "e2e.cluster.node_init", str(directory / "init.json")],
            stdout=log, stderr=log, env={"PYTHONPATH": str(ROOT)},
        )  # fmt: skip


def _cgroups(lab: LabRun, node: plan.Node) -> list[Path]:
    return sorted(Path("/sys/fs/cgroup").glob(f"**/sg-{lab.token}-{node.name}"))


def _announce(server: ApiServer, node: plan.Node) -> None:
    """The Node object first, with its pod CIDRs: routes to pods are static."""
    body = {
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node.name, "labels": {"kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux"}},
        "spec": {"podCIDR": node.pods6, "podCIDRs": [node.pods6, node.pods4]},
    }  # fmt: skip
    status, answer = server.request("POST", "/api/v1/nodes", body)
    if status not in {201, 409}:
        raise RuntimeError(f"Node {node.name} must be accepted, and the server said {status}: {answer}")


def _write_network(directory: Path, node: plan.Node) -> None:
    (directory / "resolv.conf").write_text(f"nameserver {plan.DNS}\n")
    binaries = directory / "cni-bin"
    binaries.mkdir(exist_ok=True)
    for name in ("bridge", "host-local", "portmap", "loopback"):
        if not (binaries / name).exists():
            (binaries / name).symlink_to(f"/usr/lib/cni/{name}")
    shutil.copy(ROOT / "e2e" / "cluster" / "cni_v6only.py", binaries / "v6only")
    (binaries / "v6only").chmod(0o755)
    ranges = [[{"subnet": node.pods6}], [{"subnet": node.pods4}]]
    routes = [{"dst": "::/0"}, {"dst": "0.0.0.0/0"}]
    (directory / "etc-cni" / "net.d").mkdir(exist_ok=True)
    (directory / "etc-cni" / "net.d" / "10-pods.conflist").write_text(json.dumps({
        "cniVersion": "0.4.0", "name": "pods",
        "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipMasq": False,
             "ipam": {"type": "host-local", "ranges": ranges, "routes": routes}},
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": "v6only", "namespace": plan.V6ONLY},
        ],
    }))  # fmt: skip


def _kubelet(server: ApiServer, node: plan.Node, directory: Path) -> dict[str, Any]:
    crt, key = server.pki.pair(node.name)
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "failCgroupV1": False, "cgroupDriver": "cgroupfs", "failSwapOn": False,
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True},
                           "x509": {"clientCAFile": str(server.pki.ca)}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(crt), "tlsPrivateKeyFile": str(key),
        "clusterDomain": "cluster.local", "clusterDNS": [plan.DNS], "resolvConf": str(directory / "resolv.conf"),
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
                         "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100, "cpuManagerPolicy": "none",
        "nodeStatusUpdateFrequency": "4s", "syncFrequency": "5s",
        "shutdownGracePeriod": "0s", "registryPullQPS": 0,
    }  # fmt: skip
