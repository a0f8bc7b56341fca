"""What sixgate has on a node, asked of the kernel and of the disk; and what its processes cost."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TYPE_CHECKING

from e2e.cluster.node import ROOT

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from e2e.cluster.cluster import Cluster
    from e2e.cluster.node import RunningNode

PINS, STATE = "/sys/fs/bpf/sixgate", "/var/lib/sixgate"
HOOKS = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from sixgate.node.bpf import info
found = []
for name in os.listdir("/sys/class/net"):
    index = int(open(f"/sys/class/net/{name}/ifindex").read())
    for hook in ("tc-ingress", "tc-egress"):
        found += [f"{seen.prog_id} on {hook} of {name}" for seen in info.query_tcx(index, hook)[0]]
print(json.dumps(found))
"""
PROTOCOL = "83"  # of routes and addresses that sixgate adds


def addresses(running: RunningNode) -> frozenset[str]:
    """What the node has on its uplink and its loopback."""
    told = [running.run("ip", "-o", "address", "show", "dev", name).stdout for name in ("lo", "eth0")]
    lines = [line.split() for text in told for line in text.splitlines()]
    return frozenset(f"{words[3]} on {words[1]}" for words in lines)


def left(running: RunningNode, bare: Collection[str]) -> list[str]:
    """A line for everything of sixgate that is on the node; `bare` are the addresses that it had without."""
    found = [f"pin {path}" for path in running.run("find", PINS, check=False).stdout.split()]
    found += [f"file {path}" for path in running.run("find", STATE, "-mindepth", "1", check=False).stdout.split()]
    asked = running.run(sys.executable, "-c", HOOKS, str(ROOT / "operator")).stdout
    found += [f"program {item}" for item in json.loads(asked)]
    for line in running.run("ip", "-o", "link").stdout.splitlines():
        name = line.split(":")[1].strip().split("@")[0]
        if name.startswith("sg-"):
            found.append(f"device {name}")
        if "xdp" in line:
            found.append(f"XDP program on {name}")
    for family in ("-4", "-6"):
        routes = running.run("ip", family, "route", "show", "table", "all", "proto", PROTOCOL, check=False).stdout
        found += [f"route {line.strip()}" for line in routes.splitlines() if line.strip()]
        rules = running.run("ip", family, "rule", "show").stdout.splitlines()
        found += [
            f"rule {line}" for line in rules if not line.endswith(("lookup local", "lookup main", "lookup default"))
        ]
    found += [f"address {address}" for address in sorted(addresses(running).difference(bare))]
    sizes = running.run("ip", "-d", "-o", "link", "show", "eth0").stdout.split()
    for key in ("gso_max_size", "gro_max_size"):
        if sizes[sizes.index(key) + 1] != "65536":
            found.append(f"{key} {sizes[sizes.index(key) + 1]} of eth0")
    return found


def left_anywhere(cluster: Cluster, bare: Mapping[str, Collection[str]]) -> list[str]:
    return [f"{name}: {line}" for name, running in cluster.nodes.items() for line in left(running, bare[name])]


def pids(running: RunningNode, word: str) -> list[str]:
    """Processes `sixgate WORD` in the node's numbers."""
    return running.run("pgrep", "-f", f"bin/sixgate {word}", check=False).stdout.split()


def rss_mib(cluster: Cluster, word: str) -> list[float]:
    """Resident memory of every such process of the cluster."""
    found = []
    for running in cluster.nodes.values():
        for pid in pids(running, word):
            for line in running.run("cat", f"/proc/{pid}/status").stdout.splitlines():
                if line.startswith("VmRSS"):
                    found.append(int(line.split()[1]) / 1024)
    return found


def cpu_percent(cluster: Cluster, word: str, seconds: float) -> list[float]:
    """Share of one core that every such process used meanwhile."""
    before = _ticks(cluster, word)
    began = time.monotonic()
    time.sleep(seconds)
    spent = time.monotonic() - began
    after = _ticks(cluster, word)
    hz = os.sysconf("SC_CLK_TCK")
    return [100 * (after[key] - value) / hz / spent for key, value in before.items() if key in after]


def _ticks(cluster: Cluster, word: str) -> dict[tuple[str, str], int]:
    found = {}
    for name, running in cluster.nodes.items():
        for pid in pids(running, word):
            fields = running.run("cat", f"/proc/{pid}/stat").stdout.rsplit(")", 1)[1].split()
            found[name, pid] = int(fields[11]) + int(fields[12])
    return found
