"""Traffic that shows that what is declared is done."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from e2e.cluster import hosts, plan, world
from e2e.cluster.cluster import ClusterError
from e2e.cluster.hosts import PORT

if TYPE_CHECKING:
    from e2e.cluster.cluster import Cluster
    from e2e.cluster.hosts import Pod
    from e2e.cluster.release import Release

GATEWAY, POOL = "mapped", "pool"


@dataclass(slots=True)
class Scene:
    """Everything that the steps share; `pods` by name."""

    cluster: Cluster
    release: Release
    pods: dict[str, Pod]
    prefix: str = plan.NAT64_PREFIX  # what the load goes through
    bare: dict[str, frozenset[str]] = field(default_factory=dict)  # addresses of each node before the installation


def gateway(nodes: str = "gateway") -> dict[str, Any]:
    """Stateless, with an explicit mapping for 64 pods of n3, on the uplink alone: two pods with mappings would talk to
    each other through the gateway."""
    return {
        "apiVersion": "sixgate.io/v1alpha1", "kind": "NAT46Gateway", "metadata": {"name": GATEWAY},
        "spec": {"nodeSelector": {"matchLabels": {"sixgate.io/nat64": nodes}}, "prefix": plan.NAT64_PREFIX,
                 "devices": ["eth0"],
                 "stateless": {"mappings": [{"ipv4": "198.51.100.128/26", "ipv6": "fd00:10:244:3::/122"}]}},
    }  # fmt: skip


def stateful() -> dict[str, Any]:
    """Nothing but a prefix and a pool."""
    return {
        "apiVersion": "sixgate.io/v1alpha1", "kind": "NAT46Gateway", "metadata": {"name": POOL},
        "spec": {"nodeSelector": {"matchLabels": {"sixgate.io/stateful": "yes"}}, "prefix": plan.STATEFUL_PREFIX,
                 "stateful": {"pools": [{"cidr": plan.STATEFUL_POOL}]}},
    }  # fmt: skip


def nat64_stateful(scene: Scene) -> str:
    """IPv6-only pods of every node, those of the gateway itself among them, reach the IPv4-only host by a pool."""
    cluster = scene.cluster
    cluster.kubectl("label", "node", "n1", "sixgate.io/stateful=yes", "--overwrite")
    world.route_gateway(cluster.lab, cluster.nodes["n1"].node, plan.STATEFUL_PREFIX, plan.STATEFUL_POOL)
    cluster.apply(stateful())
    scene.release.wait_object("nat46gateway", POOL, 0)
    told = []
    for name in ("v6", "v6local"):
        seen = scene.pods[name].ask(plan.translated(plan.OUT4, plan.STATEFUL_PREFIX))
        if not seen.startswith(plan.STATEFUL_POOL.rsplit(".", 1)[0]):
            raise ClusterError(f"The server must see {plan.STATEFUL_POOL} of {name}, and it saw {seen or 'nobody'}.")
        told.append(f"pod {scene.pods[name].addresses[0]} is {seen}")
    scene.prefix = plan.STATEFUL_PREFIX
    return ", ".join(told)


def nat64(scene: Scene) -> str:
    """An IPv6-only pod reaches an IPv4-only host outside, through a node that neither of them is on."""
    cluster = scene.cluster
    for name in ("n1", "n2"):
        cluster.kubectl("label", "node", name, "sixgate.io/nat64=gateway", "--overwrite")
    cluster.apply(gateway())
    scene.release.wait_object("nat46gateway", GATEWAY, 2)
    world.route_gateway(cluster.lab, cluster.nodes["n1"].node)
    pod = scene.pods["v6"]
    if any("." in address for address in pod.addresses):
        raise ClusterError(f"Pod {pod.name} must have no IPv4 address, and it has {pod.addresses}.")
    direct = pod.ask(plan.OUT4)
    if direct:
        raise ClusterError(f"Without the gateway an IPv6-only pod must not reach {plan.OUT4}, and it did.")
    seen = pod.ask(plan.translated(plan.OUT4))
    if not seen.startswith("198.51.100."):
        raise ClusterError(f"The server must see an address of {plan.GATEWAY_POOL}, and it saw {seen or 'nobody'}.")
    return f"pod {pod.addresses[0]} on n3 is {seen} to {plan.OUT4}, through n1"


def traced(scene: Scene) -> str:
    """The same packet explained, from the pod's node to where it leaves the cluster."""
    pod = scene.pods["v6"]
    words = [
        "--from",
        f"[{pod.addresses[0]}]:4000",
        "--to",
        f"[{plan.translated(plan.OUT4, plan.STATEFUL_PREFIX)}]:{PORT}",
    ]
    done = scene.cluster.sixgate("trace", *words, "-o", "json")
    try:
        told = json.loads(done.stdout)
    except ValueError:
        raise ClusterError(f"A trace must be told, and kubectl sixgate says: {done.stderr or done.stdout}") from None
    nodes = [row["node"] for row in told["nodes"]]
    last = told["nodes"][-1]["steps"][-1:] or [{"object": ""}]
    if nodes[0] != "n3" or len(nodes) != 2 or told["dropped"] or last[0]["object"] != f"NAT46Gateway/{POOL}":
        raise ClusterError(f"n3 must send it to n1, which translates it; the trace is {json.dumps(told)[:1500]}")
    return f"{' → '.join(nodes)}: {told['end']}"


def nat46(scene: Scene) -> str:
    """The other way: the IPv4-only host opens a connection to the IPv6-only pod."""
    pod = scene.pods["v6"]
    mapped = f"198.51.100.{128 + int(pod.addresses[0].rsplit(':', maxsplit=1)[1], 16)}"
    seen = " ".join(hosts.ask_outside(scene.cluster, "out4", "ask", mapped, str(PORT)))
    if seen != plan.translated(plan.OUT4):
        raise ClusterError(f"The pod must see {plan.translated(plan.OUT4)}, and it saw {seen or 'nobody'}.")
    return f"{plan.OUT4} reaches pod {pod.addresses[0]} as {mapped}"


def big_tcp_sizes(scene: Scene) -> dict[str, tuple[int, int]]:
    """What a pod's device sends and merges at most (IPv6), and its other end at the node, bytes, by where."""
    found = {}
    for name in ("v6", "both"):
        pod = scene.pods[name]
        running, pid = pod.on_node(), pod.pid()
        for where, prefix in (("pod", ["nsenter", "-t", pid, "-n"]), ("node", [])):
            device = "eth0" if where == "pod" else _other_end(running, pid)
            told = running.run(*prefix, "ip", "-d", "-o", "link", "show", device).stdout.split()
            values = [int(told[told.index(key) + 1]) for key in ("gso_max_size", "gro_max_size")]
            found[f"{where} {name}"] = (values[0], values[1])
    return found


def _other_end(running: Any, pid: str) -> str:
    """Name at the node of the other end of a pod's eth0."""
    index = running.run("nsenter", "-t", pid, "-n", "cat", "/sys/class/net/eth0/iflink", check=False).stdout.strip()
    told = running.run("nsenter", "-t", pid, "-n", "ip", "-o", "link", "show", "eth0").stdout
    index = told.split("@if")[1].split(":")[0] if "@if" in told else index
    for line in running.run("ip", "-o", "link").stdout.splitlines():
        if line.startswith(f"{index}:"):
            return str(line.split(":")[1].strip().split("@")[0])
    raise ClusterError("A pod's device must have an end at the node, and none was found.")


def largest_packet(scene: Scene) -> int:
    """Bytes of the largest packet between two pods of one node, as the sender's device carries it."""
    host = next(address for address in scene.pods["both2"].addresses if ":" in address)
    return int(scene.pods["both"].python("watch", host, str(PORT), "--seconds", "3"))
