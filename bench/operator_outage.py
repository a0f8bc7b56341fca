"""Outages of the API server while a node with a real agent and kernel forwards numbered packets.

The node is one network namespace: `e1` sends IPv6 into the gateway's uplink `e0`, IPv4 leaves by `o0` and is counted
behind it at `o1`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.harness import Goal, Report, Row, progress
from e2e.apiserver.cluster import Cluster, OperatorProcess
from e2e.lab.stamp import Sent, Tally, stamp_program

if TYPE_CHECKING:
    from types import TracebackType

    from e2e.apiserver.kernel_node import KernelNode
    from e2e.apiserver.proxy import Pipe

RATE = 1000  # packets per second
MOST = 1_000_000
IDLE_MS = 5000  # the counter gives up when nothing has come for that long
SOURCE, DESTINATION = "2001:db8:1::10.0.1.5", "2001:db8:1::203.0.113.9"
LINK_DOWN_S = 0.3
CONTROL_S = 1.5


def prepare(node: KernelNode) -> None:
    """The IPv4 side of the node, a neighbour that answers nothing but is known, and forwarding."""
    node.ip("link", "add", "o0", "type", "veth", "peer", "name", "o1")
    node.ip("addr", "add", "198.18.0.1/24", "dev", "o0")
    for device in ("o0", "o1"):
        node.ip("link", "set", device, "up")
    mac = _mac(node, "o1")
    node.ip("neigh", "add", "198.18.0.2", "lladdr", mac, "dev", "o0", "nud", "permanent")
    node.ip("route", "add", "203.0.113.0/24", "via", "198.18.0.2", "dev", "o0")
    for name in ("all", "default", "e0", "o0"):
        for key in (f"net.ipv4.conf.{name}.forwarding=1", f"net.ipv4.conf.{name}.rp_filter=0",
                    f"net.ipv6.conf.{name}.forwarding=1"):  # fmt: skip
            subprocess.run(node.inside("sysctl", "-qw", key), check=True)


def _mac(node: KernelNode, device: str) -> str:
    done = subprocess.run(node.inside("ip", "-json", "link", "show", "dev", device), check=True, capture_output=True)
    return str(json.loads(done.stdout)[0]["address"])


@dataclass(slots=True)
class Stream:
    """Numbered packets through `node` for as long as a `with` block lasts; `lost` is known after it."""

    node: KernelNode
    sent: int = field(default=0, init=False)
    tally: Tally | None = field(default=None, init=False)
    _stack: ExitStack = field(default_factory=ExitStack, init=False)
    _sender: subprocess.Popen[str] = field(init=False)
    _receiver: subprocess.Popen[str] = field(init=False)

    def __enter__(self) -> Stream:
        with ExitStack() as stack:
            self._receiver = self._start(stack, "recv", "o1", "4", str(MOST), str(IDLE_MS))
            assert self._receiver.stdout is not None
            if self._receiver.stdout.readline() != "ready\n":
                raise RuntimeError("The packet counter must start, and it did not.")
            self._sender = self._start(
                stack, "send", "e1", _mac(self.node, "e0"), SOURCE, DESTINATION, str(MOST), str(RATE), "0"
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        with self._stack:
            if kind is None:
                self._sender.send_signal(signal.SIGTERM)
                self.sent = Sent(**json.loads(self._sender.communicate(timeout=30)[0])).sent
                time.sleep(0.5)  # what is on its way
                self._receiver.send_signal(signal.SIGTERM)
                self.tally = Tally(**json.loads(self._receiver.communicate(timeout=30)[0].splitlines()[-1]))

    def _start(self, stack: ExitStack, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(self.node.inside(stamp_program(), *words), stdout=subprocess.PIPE, text=True)
        stack.callback(process.wait)
        stack.callback(process.kill)
        return process

    @property
    def lost(self) -> int:
        assert self.tally is not None
        return self.sent - (self.tally.received - self.tally.duplicated)


def lost_rows(name: str, stream: Stream) -> Row:
    return Row(f"{name}: packets lost on the way through the node", "packets", (float(stream.lost),),
               goal=Goal("value", "==", 0), note=f"of {stream.sent:,}")  # fmt: skip


def negative_control(node: KernelNode) -> Row:
    """A link that is down for a moment must be seen by the counter."""
    with Stream(node) as stream:
        time.sleep(CONTROL_S)
        node.ip("link", "set", "o1", "down")
        time.sleep(LINK_DOWN_S)
        node.ip("link", "set", "o1", "up")
        time.sleep(CONTROL_S)
    tally = stream.tally
    if tally is None or not tally.received:
        raise RuntimeError(f"The node must carry packets before anything is measured; it carried {tally}.")
    return Row(f"control: link down for {LINK_DOWN_S:g} s, packets lost", "packets", (float(stream.lost),),
               goal=Goal("value", ">=", 1), note=f"of {stream.sent:,}")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Site:
    """An operator behind `pipe` and one node of its cluster, settled."""

    cluster: Cluster
    operator: OperatorProcess
    node: KernelNode
    pipe: Pipe


def measure(report: Report, site: Site, outages_s: tuple[int, ...], hole_s: int) -> None:
    cluster = site.cluster
    report.rows.append(negative_control(site.node))

    def killed(seconds: int) -> None:
        cluster.server.kill_apiserver()
        time.sleep(seconds)
        cluster.server.start_apiserver()

    def holed(seconds: int) -> None:
        for pipe in (site.pipe, site.node.pipe):
            pipe.swallow()
        time.sleep(seconds)
        for pipe in (site.pipe, site.node.pipe):
            pipe.heal()

    for seconds in outages_s:
        _outage(report, site, f"API server killed for {seconds} s", lambda s=seconds: killed(s), 3)  # type: ignore[misc]
    _outage(report, site, f"black hole for {hole_s} s", lambda: holed(hole_s), 75)


def _outage(report: Report, site: Site, name: str, work: Callable[[], None], bound_s: int) -> None:
    progress(name)
    with Stream(site.node) as stream:
        work()
        written, applied = change(site)
    if not site.operator.running or site.node.process is None or site.node.process.poll() is not None:
        raise RuntimeError(f"Operator and agent must outlive this: {name}.")
    goal = Goal("value", "<=", bound_s)
    report.rows += [
        lost_rows(name, stream),
        Row(f"{name}: change after its end in the NodeConfig", "s", (written,), goal=goal),
        Row(f"{name}: change after its end in the kernel", "s", (applied,), goal=goal),
    ]


def change(site: Site) -> tuple[float, float]:
    """Seconds from a change made now to the NodeConfig that it causes, and to the table of the kernel."""
    cluster, table = site.cluster, site.node.table_id()
    generation = int((cluster.get("NodeConfig", "n0") or {})["metadata"]["generation"])
    found = cluster.get("NAT46Gateway", "gw1") or {}
    started = time.monotonic()
    clamp = not found["spec"]["stateless"].get("mssClamp", False)
    cluster.patch("NAT46Gateway", "gw1", {"spec": {"stateless": {"mssClamp": clamp}}})
    cluster.wait(
        "the change", lambda: (cluster.get("NodeConfig", "n0") or {})["metadata"]["generation"] > generation, 120
    )
    written = time.monotonic() - started
    site.node.wait_other_table(table, 120)
    return written, time.monotonic() - started
