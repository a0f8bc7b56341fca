"""A lab with a stateful gateway for tests: hosts, sockets in them, and objects that may change."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml

from bench.nat_labs import gateway
from e2e.lab import natlab
from e2e.lab.natlab import NatHost
from e2e.lab.run import LabRun
from e2e.lab.sixgate import Sixgate

PORT = 4000
QUIET_S = 0.4


@dataclass
class Stage:
    """One lab with sixgate in its gateway."""

    lab: LabRun
    sixgate: Sixgate
    revision: str = ""
    sockets: list[socket.socket] = field(default_factory=list)

    def apply(self, *objects: dict[str, Any]) -> None:
        """Replaces the objects, and waits until the node has applied them."""
        text = "---\n".join(yaml.safe_dump(item) for item in objects)
        target = self.sixgate.manifests / "lab.yaml"
        if target.exists() and target.read_text() == text:
            return
        written = target.with_name(".written")  # a look in between must not find half of it
        written.write_text(text)
        written.rename(target)
        if self.sixgate.running():
            self.revision = self.sixgate.wait_ready(self.revision)

    def udp(self, host: NatHost, port: int = 0, address: str = "") -> socket.socket:
        """A UDP socket at a host; closed with the stage."""
        return self._socket(host, socket.SOCK_DGRAM, port, address)

    def tcp(self, host: NatHost, port: int = 0, address: str = "") -> socket.socket:
        return self._socket(host, socket.SOCK_STREAM, port, address)

    def _socket(self, host: NatHost, kind: socket.SocketKind, port: int, address: str) -> socket.socket:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET6 if host.family == 6 else socket.AF_INET, kind)
            # Without a port the kernel chooses one, and with this option it may choose one that another socket has.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(port != 0))
            made.bind((address or host.ip, port))
            made.settimeout(20)
            return made

        made = self.lab.call(host.role, make)
        self.sockets.append(made)
        return made

    def listener(self, host: NatHost, port: int) -> socket.socket:
        made = self.tcp(host, port)
        made.listen(16)
        return made

    def close_sockets(self) -> None:
        for each in self.sockets:
            each.close()
        self.sockets.clear()

    def nat(self, *words: str) -> Any:
        """What `sixgate nat WORDS -o json` says."""
        return json.loads(self.sixgate.command(["nat", *words, "-o", "json"]).stdout)

    def stat(self, name: str, of: str = "lab") -> int:
        """One counter of `sixgate nat stats`."""
        row = next(row for row in self.nat("stats")["objects"] if row["object"] == of)
        return int(row["use"][name] if name in row["use"] else row[name])

    def sessions(self, *words: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.nat("list", *words)
        return found

    def message(self) -> str:
        """What the node says of the gateway `lab`."""
        rows = self.sixgate.status()["objects"]
        return str(next(row["message"] for row in rows if row["owner"] == "NAT46Gateway/lab"))


@contextmanager
def staged(
    *objects: dict[str, Any], hosts: tuple[NatHost, ...] = natlab.NAT_HOSTS, more: tuple[str, ...] = ()
) -> Iterator[Stage]:
    """A stage with sixgate ready on `objects`; `more` are further words of its command line."""
    with LabRun() as lab:
        natlab.build(lab, hosts)
        manifests = lab.workdir / "manifests"
        manifests.mkdir()
        stage = Stage(lab, Sixgate(lab, manifests, more=more))
        stage.apply(*objects)
        stage.sixgate.start()
        stage.revision = stage.sixgate.wait_ready()
        try:
            yield stage
        finally:
            stage.close_sockets()


def nat64(name: str = "lab", **stateful: Any) -> dict[str, Any]:
    """A gateway with the lab's prefix and a pool of four addresses; `stateful` goes over it."""
    wanted = {"pools": [{"cidr": "198.51.100.0/30"}], "lifetimes": {"portRest": 0}, **stateful}
    return gateway({"prefix": str(natlab.PREFIX), "stateful": wanted}, name)


def quiet(sock: socket.socket, seconds: float = QUIET_S) -> bool:
    """Whether nothing comes in for a while."""
    sock.settimeout(seconds)
    try:
        sock.recvfrom(65535)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(20)
    return False
