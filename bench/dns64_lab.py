"""What the DNS64 benchmark measures on: two resolvers and a scripted server on loopback, in a namespace.

The namespace has no name: it goes with the last process in it.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.lab.netns import enter_new_netns
from e2e.lab.resolvers import PoolThread
from e2e.lab.run import LabError
from sixgate.api.nat46gateway import NAT46Gateway
from sixgate.plan.dns64 import dns64_plan
from sixgate.render.dns64 import CONFIGURATION, ResolverHost, render_resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sixgate.dns64.process import ResolverStatus

UPSTREAM, SYNTHESISING, PLAIN, STRANGER = "fd00::1", "fd00::64", "fd00::53", "fd01::1"
READY_S = 15.0
HEADERS_BYTES = 48  # IPv6 and UDP
OWNERS = {SYNTHESISING: "NAT46Gateway/dns64", PLAIN: "NAT46Gateway/plain"}


def enter_lab() -> None:
    """Moves this thread, and what it starts from now on, to a network namespace with nothing but loopback."""
    try:
        enter_new_netns()
    except OSError as error:
        raise LabError(f"{error.strerror}.") from error
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in (UPSTREAM, SYNTHESISING, PLAIN, STRANGER):
        subprocess.run(["ip", "addr", "add", f"{address}/128", "dev", "lo", "nodad"], check=True)


class Lab:
    """`SYNTHESISING` is the resolver of a gateway; `PLAIN` is the same unbound without the modules of DNS64."""

    def __init__(self) -> None:
        self.workdir = Path(tempfile.mkdtemp(prefix="sgb-dns64-"))
        self.workdir.chmod(0o755)  # the resolvers are another user
        self.upstream = subprocess.Popen([sys.executable, "-m", "bench.dns64_upstream", UPSTREAM])
        self._resolvers = PoolThread(self.workdir)
        self.pool = self._resolvers.pool
        self.pool.want({OWNERS[address]: (name, self._files(address, name)) for address, name in _names()})

    def __enter__(self) -> Lab:
        for address in OWNERS:
            self.wait(address, lambda status: status.state == "Ready")
        return self

    def __exit__(self, *_: object) -> None:
        self._resolvers.close()
        self.upstream.kill()
        self.upstream.wait()
        shutil.rmtree(self.workdir)

    def _files(self, address: str, name: str) -> dict[str, str]:
        spec = {
            "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "gw-1"}},
            "prefix": "64:ff9b::/96",
            "stateless": {"mappings": [{"ipv4": "192.0.2.1/32", "ipv6": "2001:db8::1/128"}]},
            "dns64": {
                "upstreams": [{"address": UPSTREAM}],
                "clientCIDRs": ["fd00::/64"],
                "listenAddresses": [address],
                "validateDNSSEC": False,
            },
        }
        body = {"apiVersion": "sixgate.io/v1alpha1", "kind": "NAT46Gateway", "metadata": {"name": name}, "spec": spec}
        plan = dns64_plan(NAT46Gateway.model_validate(body))
        if plan is None:
            raise LabError("The gateway of the benchmark has no DNS64.")
        texts = dict(render_resolver(plan, ResolverHost(str(self.workdir / name))).texts)
        if address == PLAIN:
            texts[CONFIGURATION] = re.sub(r'"python dns64 python ', '"', texts[CONFIGURATION])
            texts[CONFIGURATION] = re.sub(r"(?m)^python:\n(?: +python-script:.*\n)+", "", texts[CONFIGURATION])
        return texts

    def status(self, address: str) -> ResolverStatus | None:
        return next((status for status in self.pool.statuses if status.owner == OWNERS[address]), None)

    def processor_s(self, address: str) -> float:
        """Processor time that the resolver has taken so far."""
        status = self.wait(address, lambda status: status.state == "Ready")
        fields = Path(f"/proc/{status.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait(self, address: str, holds: Callable[[ResolverStatus], bool]) -> ResolverStatus:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            status = self.status(address)
            if status is not None and holds(status):
                return status
            time.sleep(0.002)
        raise LabError(f"The resolver at {address} should be ready and is {self.status(address)}.")

    def names(self, file: str, lines: Sequence[str]) -> Path:
        path = self.workdir / file
        path.write_text("".join(f"{line}\n" for line in lines))
        return path


def _names() -> list[tuple[str, str]]:
    return [(address, owner.partition("/")[2]) for address, owner in OWNERS.items()]


def dnsperf(address: str, questions: Path, *, times: int = 1, outstanding: int = 100) -> dict[str, float]:
    """Figures of one run of dnsperf that asks every question `times` times.

    `rate` per second, `answered`, `lost`, and `request` and `reply`, mean octets of DNS.
    """
    words = ["dnsperf", "-f", "inet6", "-s", address, "-d", str(questions), "-c", "4", "-q", str(outstanding)]
    words += ["-n", str(times)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    patterns = {
        "rate": r"Queries per second: +([0-9.]+)",
        "answered": r"Queries completed: +([0-9]+)",
        "lost": r"Queries lost: +([0-9]+)",
        "request": r"request ([0-9]+)",
        "reply": r"response ([0-9]+)",
    }
    found = {name: re.search(pattern, done.stdout) for name, pattern in patterns.items()}
    missing = [name for name, match in found.items() if match is None]
    if missing:
        raise LabError(f"dnsperf should tell {missing[0]}, and said: {done.stdout[-300:]} {done.stderr[-300:]}")
    return {name: float(match[1]) for name, match in found.items() if match is not None}


def question(name: str, number: int, rtype: int = 28) -> bytes:
    """A question for `name`, with the message id `number`."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return number.to_bytes(2) + b"\1\0\0\1\0\0\0\0\0\0" + labels + b"\0" + rtype.to_bytes(2) + b"\0\1"


class Client:
    """Asks one question at a time."""

    def __init__(self, address: str, timeout_s: float = 5.0) -> None:
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._socket.settimeout(timeout_s)
        self._socket.connect((address, 53))
        self._number = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, name: str, rtype: int = 28) -> tuple[float, bytes]:
        """Microseconds until the answer, and the answer."""
        self._number = (self._number + 1) & 0xFFFF
        wire = question(name, self._number, rtype)
        begun = time.perf_counter_ns()
        self._socket.send(wire)
        while True:
            reply = self._socket.recv(4096)
            if reply[:2] == wire[:2]:
                return (time.perf_counter_ns() - begun) / 1000, reply
