"""Pods of DNS64 without a kubelet: a network namespace in which resolver, CoreDNS and an upstream run.

A ClusterIP leads to the resolver as kube-proxy would have it: port 53 of the address to the port of the pod.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import dns.message
import dns.query

from e2e.apiserver.cluster import ROOT
from e2e.apiserver.server import _die_with_parent
from e2e.lab.netns import call_in_netns

if TYPE_CHECKING:
    from types import TracebackType

T = TypeVar("T")
NAMESERVER = ROOT / "e2e" / "lab" / "nameserver.py"
HEALTH = 8053
POD_PORT = 1053
PATIENCE_S = 120.0


@dataclass(slots=True)
class ResolverPod:
    """The namespace and what runs in it; `addresses` are put on its loopback, all of it is removed at the end."""

    addresses: tuple[str, ...]
    directory: Path = field(init=False)
    name: str = field(default_factory=lambda: f"sgd-{secrets.token_hex(4)}", init=False)
    _stack: ExitStack = field(default_factory=ExitStack, init=False)

    def __enter__(self) -> ResolverPod:
        with ExitStack() as stack:
            self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sixgate-pod-")))
            subprocess.run(["ip", "netns", "add", self.name], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "del", self.name], check=True)
            subprocess.run(["ip", "-n", self.name, "link", "set", "lo", "up"], check=True)
            for address in self.addresses:
                subprocess.run(["ip", "-n", self.name, "addr", "add", address, "dev", "lo"], check=True)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    def run(self, *words: str) -> None:
        subprocess.run(["nsenter", f"--net=/run/netns/{self.name}", *words], check=True)

    def cluster_ip(self, address: str) -> None:
        """`address` port 53 is the resolver."""
        rules = "add table ip nat; add chain ip nat out { type nat hook output priority -100; }; "
        rules += f"add rule ip nat out ip daddr {address} udp dport 53 redirect to :{POD_PORT}; "
        rules += f"add rule ip nat out ip daddr {address} tcp dport 53 redirect to :{POD_PORT}"
        self.run("nft", rules)

    def spawn(self, log: str, *words: str) -> subprocess.Popen[bytes]:
        """A process in the namespace, killed at the end; what it says is in the file `log`."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "operator"), "PYTHONDONTWRITEBYTECODE": "1"}
        with (self.directory / log).open("ab") as output:
            process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.name}", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - it only calls setsid and prctl
            )
        self._stack.callback(_end, process)
        return process

    def log(self, name: str) -> str:
        return (self.directory / name).read_text(errors="replace")

    def upstream(self, address: str, port: int, **names: str) -> None:
        """A name server with A records of `names`, whose dots are written `__`."""
        pairs = [f"{name.replace('__', '.')}={ipv4}" for name, ipv4 in names.items()]
        self.spawn("upstream", sys.executable, str(NAMESERVER), f"{address}@{port}", *pairs)

    def mount(self, data: Mapping[str, str]) -> Path:
        """The data of a ConfigMap as the kubelet mounts it: all files at once, by moving one link."""
        mounted = self.directory / "config"
        mounted.mkdir(exist_ok=True)
        version = mounted / f"..{secrets.token_hex(6)}"
        version.mkdir()
        for name, text in data.items():
            (version / name).write_text(text)
        link = mounted / "..data_tmp"
        link.symlink_to(version.name)
        old = (mounted / "..data").resolve() if (mounted / "..data").exists() else None
        link.rename(mounted / "..data")
        if old is not None:
            shutil.rmtree(old)
        return mounted

    def resolver(self, gateway: str) -> subprocess.Popen[bytes]:
        """`sixgate dns64` as the Deployment starts it: another user, an empty /run of its own, and no capability but
        that of reading, which the interpreter of a developer's machine may need."""
        self.directory.chmod(0o755)
        user, kept = "65532", "-all,+dac_read_search"
        return self.spawn(
            gateway, "unshare", "--mount", "--", "sh", "-ec",
            f"mount -t tmpfs none /run; mkdir -p /run/sixgate; chown {user}:{user} /run/sixgate; exec \"$@\"", "sh",
            "setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs",
            f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}", "--",
            sys.executable, "-m", "sixgate", "dns64", "--gateway", gateway,
            "--config", str(self.directory / "config"), "--health", f"[::]:{HEALTH}", "--lameduck", "1",
        )  # fmt: skip

    def inside(self, work: Callable[[], T]) -> T:
        return call_in_netns(self.name, work)

    def ready(self) -> str:
        """What /readyz says: `ok`, a reason, or nothing where nobody listens."""

        def get() -> str:
            try:
                with socket.create_connection(("::1", HEALTH), timeout=2) as connection:
                    connection.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
                    answer = b"".join(iter(lambda: connection.recv(65536), b""))
            except OSError:
                return ""
            return answer.partition(b"\r\n\r\n")[2].decode().strip()

        return self.inside(get)

    def ask(self, name: str, rtype: str, server: str, port: int = 53, timeout_s: float = 20.0) -> list[str]:
        """Data of the records of the type asked for, sorted; OSError or dns errors where there is no answer."""

        def query() -> list[str]:
            answer = dns.query.udp(dns.message.make_query(name, rtype), server, port=port, timeout=timeout_s)
            return sorted(str(item) for found in answer.answer if found.rdtype.name == rtype for item in found)

        return self.inside(query)

    def wait(self, what: str, check: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not check():
            if time.monotonic() > deadline:
                logs = "\n".join(f"{path.name}:\n{self.log(path.name)}" for path in self.directory.glob("[!c]*"))
                raise AssertionError(f"{what}: not within {PATIENCE_S:.0f} s\n{logs}")
            time.sleep(0.05)


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM first, so that a resolver takes its own child with it."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
