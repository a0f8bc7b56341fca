"""The balancer's lab: a client, balancers and backends on one segment, real servers behind virtual addresses.

    client ─┐
    lb      ├── br (a bridge)      203.0.113.0/24 and 2001:db8:5::/64; routes to the virtual addresses lead to `lb`
    b1, b2 ─┘

Backends answer by themselves with the virtual address, which they have on loopback, as a backend of a DSR setup does.
A server says its name and, of a connection that stays, how many lines it was sent.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.lab.run import LabError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from e2e.lab.run import LabRun

VIP4, VIP6 = "192.0.2.80", "2001:db8:80::80"
CLIENT, BALANCER, SECOND = "client", "lb", "lb2"
PORT = 80
NUMBERS = {CLIENT: 10, BALANCER: 1, SECOND: 2}
SERVER = Path(__file__).with_name("named_server.py")


def address(role: str, family: int) -> str:
    """The role's own address; backends are numbered from 11."""
    number = NUMBERS.get(role) or 10 + int(role[1:])
    return f"203.0.113.{number}" if family == 4 else f"2001:db8:5::{number}"


@dataclass
class BalancerLab:
    """`backends` are roles `b1`, `b2`, and so on."""

    lab: LabRun
    backends: tuple[str, ...]
    servers: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def build(self, balancers: Sequence[str] = (BALANCER,)) -> None:
        """Namespaces, devices, addresses and routes; no process yet."""
        lab = self.lab
        lab.add_netns("br")
        lab.ip("br", f"link add {lab.device('br')} type bridge forward_delay 0", f"link set {lab.device('br')} up")
        for role in (CLIENT, *balancers, *self.backends):
            self._host(role)
        up = lab.device("up")
        self.route_to(BALANCER)
        for role in self.backends:
            lab.ip(role, f"addr add {VIP4}/32 dev lo", f"addr add {VIP6}/128 dev lo")
            for key, value in (("arp_ignore", "1"), ("arp_announce", "2"), ("rp_filter", "0")):
                lab.sysctl(role, f"net/ipv4/conf/all/{key}", value)
            lab.sysctl(role, f"net/ipv4/conf/{up}/rp_filter", "0")

    def route_to(self, balancer: str) -> None:
        """The client's way to the virtual addresses."""
        for vip, length, family in ((VIP4, 32, 4), (VIP6, 128, 6)):
            self.lab.ip(CLIENT, f"route replace {vip}/{length} via {address(balancer, family)}")

    def _host(self, role: str) -> None:
        lab, up = self.lab, self.lab.device("up")
        lab.add_netns(role)
        lab.add_veth(role, "up", "br", role)
        lab.ip("br", f"link set {lab.device(role)} master {lab.device('br')}")
        for family, length in ((4, 24), (6, 64)):
            lab.ip(role, f"addr add {address(role, family)}/{length} dev {up}" + (" nodad" if family == 6 else ""))
        # A wire carries whole checksums, and a card polls.
        lab.run(role, ["ethtool", "-K", up, "tx", "off", "tso", "off", "gso", "off", "gro", "on"])
        lab.run("br", ["ethtool", "-K", lab.device(role), "gro", "on"])

    def serve(self, role: str, port: int = PORT) -> None:
        """Starts the backend's server and waits until it listens."""
        self.servers[role] = self.lab.spawn(role, [sys.executable, str(SERVER), role, str(port)])
        deadline = time.monotonic() + 60  # beside any load
        while not self.lab.run(role, ["ss", "-Hltn", f"sport = :{port}"]).stdout.strip():
            if time.monotonic() > deadline:
                raise LabError(f"The server of {role} does not listen on port {port}.")
            time.sleep(0.02)

    def stop(self, role: str) -> None:
        """Ends the backend's server as kill -9 does; its kernel answers new connections with a reset."""
        self.servers[role].kill()
        self.servers[role].wait()

    def ask(self, vip: str = VIP4, port: int = PORT, timeout_s: float = 20.0) -> str:
        """The name of the backend that answers one HTTP request of curl; empty where none does in that time."""
        host = f"[{vip}]" if ":" in vip else vip
        words = ["curl", "-s", "--noproxy", "*", "--max-time", str(timeout_s), f"http://{host}:{port}/"]
        return self.lab.run(CLIENT, words, check=False).stdout.strip()

    def everyone(self, vip: str = VIP4, port: int = PORT, *, but: Sequence[str] = ()) -> set[str]:
        """Who answers: asked until all backends but `but` have, or 240 requests are through. Which backend a request
        gets is chance, and a few may all miss one."""
        told: set[str] = set()
        for _ in range(20):
            told |= set(self.answers(12, vip, port))
            if told >= set(self.backends) - set(but):
                break
        return told

    def answers(self, count: int, vip: str = VIP4, port: int = PORT, *, timeout_s: float = 20.0) -> list[str]:
        """`count` requests, each a connection of its own; empty for one that nobody answers in that time."""
        host = f"[{vip}]" if ":" in vip else vip
        fetch = f"curl -s --noproxy '*' --max-time {timeout_s} 'http://{host}:{port}/' || echo"
        words = ["sh", "-c", f"for i in $(seq {count}); do {fetch}; done"]
        return self.lab.run(CLIENT, words, check=False, timeout=60 + timeout_s * count).stdout.split("\n")[:-1]
