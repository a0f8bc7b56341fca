"""Labs of bench/bigtcp.py: two hosts, with or without a forwarding kernel between them, sized by policies."""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from bench.nat64_labs import HOSTS, Path, sixgate_path
from e2e.lab import topology, traffic
from e2e.lab.run import LabError
from e2e.lab.sixgate import NODE, ROOT
from sixgate.api import UserObject, parse_object
from sixgate.node.agent import NodeAgent
from sixgate.node.bpf.manifest import load_manifest
from sixgate.node.options import NodeOptions
from sixgate.node.selftest import Counter
from sixgate.plan import NodeInfo, Snapshot, plan
from sixgate.render import Renderer

if TYPE_CHECKING:
    from collections.abc import Callable

    from e2e.lab.run import LabRun
    from sixgate.api.nodeconfig import NodeConfigStatus

T = TypeVar("T")
BIG, LEGACY = 196608, 65536
OBJECTS = ROOT / "build" / "bpf"
WARM_MESSAGES = 50
POLICY: dict[str, Any] = {
    "apiVersion": "sixgate.io/v1alpha1",
    "kind": "BIGTCPPolicy",
    "metadata": {"name": "bench"},
    "spec": {"nodeSelector": {"matchLabels": {"n": "1"}}, "devices": {"include": ["*"]}, "pods": "Off"},
}


class SizedLab:
    """Hosts `a` and `b`, joined by a veth or (`hops` 1) by `r`, whose kernel forwards; one policy for each of them."""

    def __init__(self, lab: LabRun, hops: int) -> None:
        self.lab = lab
        # The one in the middle first: its neighbours see whether it takes large packets.
        self.roles = ("r", "a", "b") if hops else ("a", "b")
        for role in self.roles:
            lab.add_netns(role)
        if hops:
            lab.add_veth("a", "up", "r", "a")
            lab.add_veth("r", "b", "b", "up")
            for key in ("ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"):
                lab.sysctl("r", f"net/{key}", "1")
            self._address("r", "a", "fd00:a::9/64", "192.0.2.9/24")
            self._address("r", "b", "fd00:b::9/64", "198.51.100.9/24")
        else:
            lab.add_veth("a", "up", "b", "up")
        self._address("a", "up", "fd00:a::1/64", "192.0.2.1/24")
        self.to = {6: "fd00:b::2", 4: "198.51.100.2"} if hops else {6: "fd00:a::2", 4: "192.0.2.2"}
        self._address("b", "up", f"{self.to[6]}/64", f"{self.to[4]}/24")
        if hops:
            lab.ip("a", "route add default via 192.0.2.9", "route add ::/0 via fd00:a::9")
            lab.ip("b", "route add default via 198.51.100.9", "route add ::/0 via fd00:b::9")
        root = lab.add_bpffs()
        self._agents = {
            role: NodeAgent(NodeOptions(bpffs=root / role, state_dir=lab.workdir / f"state-{role}", objects=OBJECTS))
            for role in self.roles
        }
        self._size = 0

    def _address(self, role: str, device: str, *addresses: str) -> None:
        name = self.lab.device(device)
        self.lab.ip(role, *(f"addr add {a} dev {name}" + (" nodad" if ":" in a else "") for a in addresses))

    def policy(self, size: int) -> None:
        """The same as `apply`, unless that was the last size."""
        if size != self._size:
            self.apply(size)

    def apply(self, size: int, **more: Any) -> dict[str, NodeConfigStatus]:
        """Apply the policy with this size, and more fields of its spec, in every namespace; reports by role. LabError
        unless each is ready."""
        spec = {**POLICY["spec"], "ipv6": {"maxSize": size}, "ipv4": {"maxSize": size}, **more}
        found = {}
        item = parse_object({**POLICY, "spec": spec})
        if not isinstance(item, UserObject):
            raise LabError(str(item[0]))
        snapshot = Snapshot((item,), (NodeInfo("n", {"n": "1"}),), digests=load_manifest(OBJECTS).digests)
        document = Renderer().render(plan(snapshot).nodes["n"])
        for role, agent in self._agents.items():
            status = self.lab.call(role, lambda agent=agent: agent.apply(document))  # type: ignore[misc]
            if not status.ready:
                raise LabError(f"The policy is not ready in {role}: {status.message}")
            found[role] = status
        self._size = size
        return found

    def gbits(self, family: int, seconds: float) -> float:
        return traffic.iperf(self.lab, "a", self.to[family], seconds=seconds).bits_per_second / 1e9

    def mean_kilobytes(self, family: int, seconds: float) -> float:
        """Mean size of packets with data that arrive at the receiver."""
        return mean_kilobytes(self.lab, "b", "up", family, lambda: self.gbits(family, seconds))

    def p99_us(self, family: int, size: int, seconds: float) -> float:
        """99th percentile of the time from a request of `size` bytes to the last byte of an equal answer."""
        kind = socket.AF_INET6 if family == 6 else socket.AF_INET
        server = self.lab.call("b", lambda: socket.create_server((self.to[family], 0), family=kind))
        client = self.lab.call("a", lambda: socket.socket(kind, socket.SOCK_STREAM))
        thread = threading.Thread(target=_answer, args=(server, size))
        thread.start()
        times: list[float] = []
        with server, client:
            client.connect(server.getsockname()[:2])
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            message, end = bytes(size), time.monotonic() + seconds
            while time.monotonic() < end or len(times) < 2 * WARM_MESSAGES:
                begin = time.perf_counter()
                client.sendall(message)
                _read(client, size)
                times.append((time.perf_counter() - begin) * 1e6)
        thread.join()
        return statistics.quantiles(times[WARM_MESSAGES:], n=100)[98]


def mean_kilobytes(lab: LabRun, role: str, device: str, family: int, work: Callable[[], object]) -> float:
    """Mean size of packets with data that arrive at a device during `work`, as a BPF program there sees them."""
    counter = Counter(OBJECTS)
    try:
        with counter.on(_Place(lab, role), lab.device(device)):
            counter.clear()
            work()
            packets, total, _, _ = counter.read(family)
    finally:
        counter.close()
    return total / packets / 1000 if packets else 0.0


class _Place:
    """A namespace of a lab, for `Counter.on`."""

    def __init__(self, lab: LabRun, role: str) -> None:
        self._lab, self._role = lab, role

    def do(self, function: Callable[[], T]) -> T:
        return self._lab.call(self._role, function)


def _answer(server: socket.socket, size: int) -> None:
    connection, _ = server.accept()
    with connection, contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        message = bytes(size)
        while _read(connection, size):
            connection.sendall(message)


def _read(connection: socket.socket, size: int) -> bool:
    """Whether `size` bytes came before the end."""
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        got = connection.recv_into(view)
        if not got:
            return False
        view = view[got:]
    return True


def policed_gateway(lab: LabRun, seconds: float, *, peers: bool = True) -> Path:
    """The gateway of bench-nat64 with a policy for its devices and, as pods, for the hosts; LabError where it is not
    applied. Unless `peers` is set, hosts are not handed packets past what stands on the gateway's ends: a clsact qdisc,
    as other networking software adds one."""
    path = sixgate_path(lab, seconds, acceleration="Disabled")
    for host in () if peers else HOSTS:
        lab.run(topology.GATEWAY, ["tc", "qdisc", "add", "dev", lab.device(host.role), "clsact"])
    spec = {
        "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": NODE}},
        "ipv6": {"maxSize": BIG},
        "ipv4": {"maxSize": BIG},
        "devices": {"include": ["*"]},
        "pods": "Live",
    }
    (lab.workdir / "manifests" / "policy.yaml").write_text(yaml.safe_dump({**POLICY, "spec": spec}))
    for _ in range(100):
        report = json.loads((lab.workdir / "state" / "status.json").read_text())
        if report["status"]["bigTcp"]:
            return path
        time.sleep(0.1)
    raise LabError(f"The gateway does not apply the policy: {report['status']['message']}")
