"""Nodes as namespaces: pods behind one or more nodes, gateways, and a server, all on one segment.

    pod-a ─┐
    pod-b ─┴─ n1 ─┐
                  ├── lan (a bridge) ── out     server: 203.0.113.9 and 2001:db8:f00d::9
    g1, g2 ───────┘

Nodes are 198.51.100.N and 2001:db8:e::N. Pods have host routes to their devices, as Calico makes them, or are ports of
a bridge `cni0`. The server knows no way to pods: a packet with a pod's address is answered to nobody.
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from e2e.lab.run import LabError, LabRun
from e2e.lab.sixgate import ROOT, SIXGATE
from sixgate.node.bpf.layouts import MAPS, SgReason
from sixgate.node.bpf.map import Map
from sixgate.node.egress.tables import rendezvous

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LAN = "lan"
SERVER = "out"
SERVER4, SERVER6 = "203.0.113.9", "2001:db8:f00d::9"
SOURCE4, SOURCE6 = "198.51.100.77", "2001:db8:e::77"
COVERED = ("203.0.113.0/24", "2001:db8:f00d::/48")
READY_S = 120.0  # beside any load
GATEWAY_LABEL = {"sixgate.io/egress": "true"}


def egress_gateway(name: str = "payments", **spec: Any) -> dict[str, Any]:
    """An EgressGateway for pods of team payments; `spec` replaces parts of it."""
    return {
        "apiVersion": "sixgate.io/v1alpha1",
        "kind": "EgressGateway",
        "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "nodeSelector": {"matchLabels": GATEWAY_LABEL},
            "pods": [{"namespaceSelector": {"matchLabels": {"team": "payments"}}, "allPods": True}],
            "destinationCIDRs": list(COVERED),
            "addresses": [{"ipv4": SOURCE4, "ipv6": SOURCE6}],
            **spec,
        },
    }


@dataclass(slots=True)
class PodSpec:
    """A pod: role of its network namespace, node, namespace and addresses."""

    role: str
    node: str
    namespace: str
    ipv4: str
    ipv6: str
    labels: dict[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.role, "namespace": self.namespace, "labels": self.labels},
            "spec": {"nodeName": self.node},
            "status": {"phase": "Running", "podIPs": [{"ip": self.ipv4}, {"ip": self.ipv6}]},
        }


class EgressLab:
    """Makes the segment; nodes and pods are added by name, `start` runs sixgate on every node."""

    def __init__(self, lab: LabRun, *, mtu: int = 1500, underlay: int = 4) -> None:
        """`underlay` 6: nodes tell IPv6 addresses only, and those that are no gateways have no others."""
        self.lab, self.mtu, self.underlay = lab, mtu, underlay
        self.nodes: dict[str, int] = {}
        self.gateways: set[str] = set()
        self.cordoned: set[str] = set()
        self.pods: dict[str, PodSpec] = {}
        self.spaces: dict[str, dict[str, str]] = {"pay": {"team": "payments"}, "other": {"team": "other"}}
        self.objects: dict[str, dict[str, Any]] = {"payments": egress_gateway()}
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self.manifests, self.cluster = lab.workdir / "manifests", lab.workdir / "cluster"
        self.manifests.mkdir()
        self.cluster.mkdir()
        lab.add_netns(LAN)
        lab.ip(LAN, "link add br0 type bridge", "link set br0 up")
        self._bpffs = lab.add_bpffs()
        self._join(SERVER, 200)
        lab.ip(
            SERVER,
            f"addr add {SERVER4}/32 dev lo",
            f"addr add {SERVER6}/128 dev lo",
        )

    def _join(self, role: str, number: int) -> None:
        """A namespace with a device `up` on the segment."""
        lab = self.lab
        lab.add_netns(role)
        lab.add_veth(role, "up", LAN, role, self.mtu)
        lab.ip(LAN, f"link set {lab.device(role)} master br0")
        lab.ip(
            role,
            f"addr add 198.51.100.{number}/24 dev {lab.device('up')}",
            f"addr add 2001:db8:e::{number}/64 dev {lab.device('up')} nodad",
        )

    def add_node(self, name: str, *, gateway: bool = False) -> None:
        number = len(self.nodes) + 1
        self.nodes[name] = number
        self._join(name, number)
        for key in ("ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"):
            self.lab.sysctl(name, f"net/{key}", "1")
        self.lab.ip(
            name,
            "route add default via 198.51.100.200",
            f"route add ::/0 via 2001:db8:e::200 dev {self.lab.device('up')}",
        )
        if gateway:
            self.gateways.add(name)
        elif self.underlay == 6:
            self.lab.ip(name, f"addr del 198.51.100.{number}/24 dev {self.lab.device('up')}")

    def add_pod(
        self, role: str, node: str, namespace: str = "pay", *, bridge: bool = False, known: bool = True
    ) -> PodSpec:
        """A pod with its device; `known` False leaves it out of what the node is told."""
        lab, number = self.lab, len(self.pods) + 1
        ipv4, ipv6 = (
            f"10.{self.nodes[node]}.{number // 250}.{number % 250 + 2}",
            f"fd00:{self.nodes[node]:x}::{number + 1:x}",
        )
        pod = PodSpec(role, node, namespace, ipv4, ipv6)
        lab.add_netns(role)
        lab.add_veth(role, "eth0", node, role)
        inside, outside = lab.device("eth0"), lab.device(role)
        if bridge:
            self._bridge(node)
            lab.ip(node, f"link set {outside} master cni0")
            lab.ip(role, f"addr add {ipv4}/16 dev {inside}", f"addr add {ipv6}/64 dev {inside} nodad")
            lab.ip(
                role,
                f"route add default via 10.{self.nodes[node]}.255.1",
                f"route add ::/0 via fd00:{self.nodes[node]:x}::ffff dev {inside}",
            )
        else:
            lab.ip(node, f"addr add fe80::1/64 dev {outside} nodad")
            if self.underlay == 6:  # proxy_arp speaks for what there is a route to
                lab.ip(node, f"addr add 169.254.1.1/32 dev {outside}")
            lab.sysctl(node, f"net/ipv4/conf/{outside}/proxy_arp", "1")
            lab.ip(node, f"route add {ipv4}/32 dev {outside}", f"route add {ipv6}/128 dev {outside}")
            lab.ip(
                role,
                f"addr add {ipv4}/32 dev {inside}",
                f"addr add {ipv6}/128 dev {inside} nodad",
                f"route add 169.254.1.1/32 dev {inside}",
                f"route add default via 169.254.1.1 dev {inside}",
                f"route add ::/0 via fe80::1 dev {inside}",
            )
        self.pods[role] = pod
        if known:
            self.write()
        return pod

    def _bridge(self, node: str) -> None:
        found = self.lab.run(node, ["ip", "link", "show", "cni0"], check=False)
        if found.returncode:
            number = self.nodes[node]
            self.lab.ip(
                node,
                "link add cni0 type bridge",
                f"addr add 10.{number}.255.1/16 dev cni0",
                f"addr add fd00:{number:x}::ffff/64 dev cni0 nodad",
                "link set cni0 up",
            )

    # -- what the nodes are told -----------------------------------------------------------------------------------

    def node_address(self, number: int) -> str:
        return f"198.51.100.{number}" if self.underlay == 4 else f"2001:db8:e::{number}"

    def node_document(self, name: str) -> dict[str, Any]:
        number = self.nodes[name]
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": dict(GATEWAY_LABEL) if name in self.gateways else {}},
            "spec": {
                "podCIDRs": [f"10.{number}.0.0/16", f"fd00:{number:x}::/64"],
                **({"unschedulable": True} if name in self.cordoned else {}),
            },
            "status": {"addresses": [{"type": "InternalIP", "address": self.node_address(number)}]},
        }

    def write(self, names: Iterable[str] | None = None) -> None:
        """Objects, nodes, namespaces and the pods called `names` (all if left out), each file replaced whole."""
        self._put(self.cluster / "nodes.json", [self.node_document(name) for name in self.nodes])
        spaces = [{"kind": "Namespace", "metadata": {"name": n, "labels": labels}} for n, labels in self.spaces.items()]
        known = self.pods.values() if names is None else [self.pods[name] for name in names]
        self._put(self.cluster / "pods.json", [*spaces, *(pod.document() for pod in known)])
        if not self.objects:  # an empty file is one that is being written
            (self.manifests / "objects.yaml").unlink(missing_ok=True)
            return
        text = yaml.safe_dump_all(list(self.objects.values()))
        temporary = self.manifests / ".new"
        temporary.write_text(text)
        temporary.replace(self.manifests / "objects.yaml")

    @staticmethod
    def _put(path: Path, items: list[dict[str, Any]]) -> None:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"kind": "List", "items": items}))
        temporary.replace(path)

    # -- sixgate ---------------------------------------------------------------------------------------------------

    def state(self, node: str) -> Path:
        return self.lab.workdir / f"state-{node}"

    def directories(self, node: str) -> list[str]:
        return ["--bpffs", str(self._bpffs / node), "--state-dir", str(self.state(node))]

    def start(self, *names: str) -> None:
        """Runs sixgate on these nodes, on all if none is named, and waits until each has applied its part."""
        self.write()
        chosen = names or tuple(self.nodes)
        for name in chosen:
            words = [str(SIXGATE), "standalone", "--manifests", str(self.manifests), "--node", name, "-v"]
            words += ["--cluster", str(self.cluster), "--run-dir", str(self.lab.workdir / f"run-{name}")]
            words += [*self.directories(name), "--objects", str(ROOT / "build" / "bpf")]
            with self.log(name).open("a") as log:
                self._processes[name] = self.lab.spawn(name, words, stdout=log, stderr=subprocess.STDOUT)
        for name in chosen:
            self.wait_ready(name)

    def log(self, node: str) -> Path:
        return self.lab.workdir / f"{node}.log"

    def process(self, node: str) -> subprocess.Popen[str]:
        return self._processes[node]

    def kill(self, node: str) -> None:
        """Ends a node's agent as kill -9 does."""
        self._processes[node].kill()
        self._processes[node].wait()

    def status(self, node: str) -> dict[str, Any]:
        """What the node's process wrote last; empty before it has."""
        try:
            report = json.loads((self.state(node) / "status.json").read_text())
        except (OSError, ValueError):
            return {}
        return report if isinstance(report, dict) else {}

    def wait_ready(self, node: str) -> None:
        def ready() -> bool:
            report = self.status(node)
            return report.get("pid") == self._processes[node].pid and bool(report["status"]["ready"])

        self.wait(
            ready, lambda: f"{node} is not ready; it reports {json.dumps(self.status(node))[:900]}\n{self.tail(node)}"
        )

    def tail(self, node: str, lines: int = 25) -> str:
        return "\n".join(self.log(node).read_text().splitlines()[-lines:])

    def wait(self, condition: Any, what: Any, seconds: float = READY_S) -> None:
        """Until `condition` holds; LabError with `what` says otherwise."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                return
            time.sleep(0.02)
        raise LabError(what() if callable(what) else what)

    def reports(self, node: str) -> list[dict[str, Any]]:
        found = self.status(node).get("status", {}).get("egress", [])
        return found if isinstance(found, list) else []

    def owner(self, node: str, source: str = SOURCE4) -> str:
        """Who owns the pair with this address as `node` sees it."""
        rows = [row for row in self.reports(node) if source in (row["ipv4"], row["ipv6"])]
        return str(rows[0]["owner"]) if rows else ""

    def wait_owner(self, node: str) -> str:
        """The owner, once `node` knows one."""
        self.wait(lambda: self.owner(node) != "", lambda: f"{node} knows no owner\n{self.tail(node)}")
        return self.owner(node)

    def pinned(self, node: str, name: str) -> bool:
        """Whether the node has a map of that name."""
        return (self._bpffs / node / "maps" / name).exists()

    def wait_settled(self, source: str = SOURCE4) -> str:
        """The owner of a pair, once it is the one that should have it and every node knows."""

        def expected() -> str:
            rows = [row for node in self.nodes for row in self.reports(node) if source in (row["ipv4"], row["ipv6"])]
            able = sorted(self.gateways - self.cordoned) or sorted(self.gateways)
            return max(able, key=lambda name: rendezvous(name, rows[0]["pair"])) if rows else "?"

        def settled() -> bool:
            told = {self.owner(node, source) for node in self.nodes if self.reports(node)}
            return told == {expected()}

        def say() -> str:
            seen = {node: self.owner(node, source) for node in self.nodes}
            return f"{expected()} should own {source}, nodes say {seen}\n" + "\n".join(map(self.tail, self.gateways))

        self.wait(settled, say)
        return expected()

    def cut(self, node: str, *, up: bool = False) -> None:
        """Pulls the node's cable, or puts it back."""
        self.lab.ip(LAN, f"link set {self.lab.device(node)} {'up' if up else 'down'}")

    def standby(self, owner: str) -> str:
        """The gateway that has everything of this one, as that says; empty if none has."""
        rows = [row for row in self.reports(owner) if row["here"] and not row["uncopied"]]
        return str(rows[0]["standby"]) if rows else ""

    def wait_copied(self) -> str:
        """The owner, once it says that another gateway has copies of everything."""
        owner = self.wait_settled()

        self.wait(lambda: self.standby(owner), lambda: f"nothing is copied: {self.reports(owner)}\n{self.tail(owner)}")
        return owner

    def cut_off(self, owner: str) -> None:
        """Pull the owner's cable and wait until another gateway has the address, as n1 sees it."""
        self.cut(owner)
        self.wait(lambda: self.owner("n1") not in ("", owner), lambda: f"nobody takes over\n{self.tail('n1')}")

    def resets(self, *roles: str) -> int:
        """Resets that hosts have sent, and connections that were reset there."""
        found = 0
        for role in roles:
            lines = self.lab.run(role, ["cat", "/proc/net/snmp"]).stdout.splitlines()
            names, values = (line.split() for line in lines if line.startswith("Tcp:"))
            table = dict(zip(names, values, strict=True))
            found += int(table["OutRsts"]) + int(table["EstabResets"])
        return found

    def drops(self, node: str, reason: str) -> int:
        """Packets that a node has counted under one reason."""
        path = self._bpffs / node / "maps" / "sg_metrics"
        with Map.from_pin(path, spec=MAPS["sg_metrics"]) as counters:
            counted = counters.sum(int(SgReason[reason]))
        return int(str(counted["packets"])) if isinstance(counted, dict) else 0

    def has_pod(self, node: str, address: str) -> bool:
        """Whether a node has its rule for a pod's address, and the program that goes by it."""
        return bool(self.ruled(node, [address], programmed=True))

    def ruled(self, node: str, addresses: Iterable[str], *, programmed: bool) -> set[str]:
        """Those of pods' addresses that a node has its rule for, if asked with the program of their device running."""
        maps = self._bpffs / node / "maps"
        with (
            Map.from_pin(maps / "sg_eg_pod", spec=MAPS["sg_eg_pod"]) as pods,
            Map.from_pin(maps / "sg_eg_dev", spec=MAPS["sg_eg_dev"]) as devices,
        ):
            rules = {address: pods.get(address) for address in addresses}
            found = {address: int(str(rule["ifindex"])) for address, rule in rules.items() if isinstance(rule, dict)}
            return {a for a, index in found.items() if not programmed or devices.get(index) is not None}

    def wait_pods(self, node: str, count: int) -> None:
        """Until the node tells of so many selected pods, and no device of a pod that has its rule lacks its program."""
        addresses = [pod.ipv4 for pod in self.pods.values() if pod.node == node]

        def enough() -> bool:
            if sum(int(row["pods"]) for row in self.reports(node)) < count:
                return False
            return self.ruled(node, addresses, programmed=True) == self.ruled(node, addresses, programmed=False)

        self.wait(enough, lambda: f"{node} has {self.reports(node)}, not {count} pods\n{self.tail(node)}")

    def command(self, node: str, words: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.lab.run(node, [str(SIXGATE), *words, *self.directories(node)], check=check)


def settled(lab: LabRun, *gateways: str, underlay: int = 4, sessions: int = 65536, **spec: Any) -> EgressLab:
    """A node n1 with the selected pod `pay`, and these gateways; sixgate runs, and one of them has the addresses."""
    made = EgressLab(lab, underlay=underlay)
    made.objects = {"payments": egress_gateway(nat={"maxSessions": sessions}, **spec)}
    made.add_node("n1")
    for name in gateways:
        made.add_node(name, gateway=True)
    made.add_pod("pay", "n1")
    made.start()
    made.wait_pods("n1", 1)
    made.wait_settled()
    return made
