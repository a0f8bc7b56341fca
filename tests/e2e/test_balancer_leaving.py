"""Pods that end behind a LoadBalancer in mode NAT: real connections, a real API server, and the deadline.

far (client, pods) ── e1 ── e0 ── the node          One link: packets come back where they came from.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from e2e.apiserver.cluster import Cluster
from e2e.apiserver.kernel_node import KernelNode
from e2e.lab.netns import call_in_netns
from tests.e2e.conftest import StartOperator, digests
from tests.e2e.test_balancer import LEAVING, READY, Eyes
from tests.e2e.test_endpoints import balancer, namespace, put_endpoints

__all__ = ["namespace"]

PORT = 8080
ANSWER_S = 60.0  # beside any load
SILENCE_S = 2.0
ADDRESSES = {
    4: {"net": "192.0.2.{}/24", "gateway": "192.0.2.1", "vip": "203.0.113.80", "b1": "192.0.2.11", "b2": "192.0.2.12"},
    6: {
        "net": "2001:db8:ffff::{}/64",
        "gateway": "2001:db8:ffff::1",
        "vip": "2001:db8:77::1",
        "b1": "2001:db8:ffff::11",
        "b2": "2001:db8:ffff::12",
    },
}


class Far:
    """A namespace with the client and the pods, each a server that says its name to every line."""

    def __init__(self, node: KernelNode, family: int, stack: ExitStack) -> None:
        self.family, self.at, self.stack = family, ADDRESSES[family], stack
        self.netns = f"sgf-{secrets.token_hex(4)}"
        subprocess.run(["ip", "netns", "add", self.netns], check=True)
        stack.callback(subprocess.run, ["ip", "netns", "del", self.netns], check=True)
        node.ip("link", "set", "e1", "netns", self.netns)
        nodad = [] if family == 4 else ["nodad"]
        for words in (["link", "set", "lo", "up"], ["link", "set", "e1", "up"]):
            subprocess.run(["ip", "-n", self.netns, *words], check=True)
        for number in ("10", "11", "12"):
            words = ["addr", "add", self.at["net"].format(number), "dev", "e1", *nodad]
            subprocess.run(["ip", "-n", self.netns, *words], check=True)
        words = ["route", "add", "default", "via", self.at["gateway"]]
        subprocess.run(["ip", "-n", self.netns, *words], check=True)
        # A wire carries whole checksums, and a card polls.
        entering = ["nsenter", f"--net=/run/netns/{self.netns}"]
        subprocess.run([*entering, "ethtool", "-K", "e1", "tx", "off", "gro", "on"], check=True)
        forwarding = f"/proc/sys/net/ipv{family}/conf/all/forwarding"
        subprocess.run(node.inside("sh", "-c", f"echo 1 >{forwarding}"), check=True)
        for name in ("b1", "b2"):
            self.serve(name)

    def make(self) -> socket.socket:
        """A TCP socket there."""
        kind = socket.AF_INET if self.family == 4 else socket.AF_INET6
        return self.stack.enter_context(call_in_netns(self.netns, lambda: socket.socket(kind, socket.SOCK_STREAM)))

    def serve(self, name: str) -> None:
        listener = self.make()
        listener.bind((self.at[name], PORT))
        listener.listen(64)
        self.stack.callback(listener.shutdown, socket.SHUT_RDWR)
        threading.Thread(target=_accept, args=(listener, name.encode()), daemon=True).start()

    def connect(self) -> socket.socket:
        made = self.make()
        made.settimeout(ANSWER_S)
        made.connect((self.at["vip"], 80))
        return made

    def lines(self, count: int) -> dict[str, list[socket.socket]]:
        """So many connections by the pod that has them."""
        found: dict[str, list[socket.socket]] = {}
        for _ in range(count):
            line = self.connect()
            found.setdefault(ask(line), []).append(line)
        return found


def _accept(listener: socket.socket, name: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            threading.Thread(target=_answer, args=(listener.accept()[0], name), daemon=True).start()


def _answer(line: socket.socket, name: bytes) -> None:
    with contextlib.suppress(OSError), line:
        while line.recv(64):
            line.sendall(name)


def ask(line: socket.socket, timeout_s: float = ANSWER_S) -> str:
    """Who answers; empty where nobody does in time."""
    line.settimeout(timeout_s)
    try:
        line.sendall(b"x")
        return line.recv(64).decode()
    except TimeoutError:
        return ""


@pytest.fixture(params=[4, 6])
def far(request: pytest.FixtureRequest, node: KernelNode) -> Iterator[Far]:
    with ExitStack() as stack:
        yield Far(node, request.param, stack)


def test_pods_that_end_keep_their_connections_until_the_deadline(
    cluster: Cluster, operator: StartOperator, node: KernelNode, far: Far, namespace: str
) -> None:
    seen, b1, b2 = Eyes(cluster, node), far.at["b1"], far.at["b2"]

    def put(**conditions: dict[str, Any]) -> None:
        endpoints = {far.at[name]: condition for name, condition in conditions.items()}
        put_endpoints(cluster, namespace, "web", endpoints)

    def declare(drain_s: int) -> None:
        spec: dict[str, Any] = {"vips": [far.at["vip"]], "forwarding": {"mode": "NAT"}, "drainSeconds": drain_s}
        cluster.apply(balancer(namespace, "web", **spec))

    operator(digests=digests())
    put(b1=READY, b2=READY)
    declare(600)
    seen.follows({b1: "Active", b2: "Active"}, {b1, b2}, set())
    old = far.lines(24)
    assert set(old) == {"b1", "b2"}

    put(b1=LEAVING, b2=READY)
    seen.follows({b1: "Terminating", b2: "Active"}, {b2}, {b1})
    assert set(far.lines(12)) == {"b2"}, "no new connection"
    assert {name: {ask(line) for line in lines} for name, lines in old.items()} == {"b1": {"b1"}, "b2": {"b2"}}

    cluster.delete("LoadBalancer", "lb")
    cluster.wait("nothing in the kernel", lambda: seen.row() is None)

    # The deadline
    put(b1=READY, b2=READY)
    declare(3)
    seen.follows({b1: "Active", b2: "Active"}, {b1, b2}, set())
    old = far.lines(24)
    assert set(old) == {"b1", "b2"}
    put(b1=LEAVING, b2=READY)
    seen.follows({b1: "Terminating", b2: "Active"}, {b2}, set())
    assert seen.wanted()[b1] == "Terminating", "the pod is still there"
    ended = old["b1"][:2]
    cluster.wait("silence of the pod that ended", lambda: not any(ask(line, SILENCE_S) for line in ended))
    assert {ask(line) for line in old["b2"]} == {"b2"}
    assert set(far.lines(6)) == {"b2"}
