"""A node with a kernel: a network namespace with one uplink, a bpffs, and `sixgate agent` in it.

The API server listens on the loopback of the outer namespace; a socket made inside passes bytes to it.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.apiserver.cluster import ROOT, Cluster
from e2e.apiserver.proxy import Pipe
from e2e.apiserver.server import _die_with_parent
from e2e.lab.netns import call_in_netns
from sixgate.errors import BpfError
from sixgate.node.bpf import Map

if TYPE_CHECKING:
    from types import TracebackType

MNT_DETACH = 2


def _listener() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


@dataclass(slots=True)
class KernelNode:
    """`name` must be a Node of `cluster`; `objects` a directory of BPF objects with their manifest."""

    cluster: Cluster
    name: str
    objects: Path
    directory: Path = field(init=False)
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    pipe: Pipe = field(init=False)
    _stack: ExitStack = field(default_factory=ExitStack, init=False)
    _netns: str = field(default_factory=lambda: f"sge-{secrets.token_hex(4)}", init=False)
    _config: Path = field(init=False)

    def __enter__(self) -> KernelNode:
        with ExitStack() as stack:
            self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sixgate-node-")))
            self._mount(stack)
            self._make_netns(stack)
            self.pipe = stack.enter_context(Pipe(self.cluster.server.port, call_in_netns(self._netns, _listener)))
            account = self.cluster.agent_account(self.name)
            config = account.path.read_text().replace(account.server, self.pipe.url)
            self._config = self.directory / "kubeconfig"
            self._config.write_text(config)
            stack.callback(self.kill)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()

    @property
    def bpffs(self) -> Path:
        return self.directory / "bpf" / "sixgate"

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def inside(self, *words: str) -> list[str]:
        """A command that runs in the network namespace of this node."""
        return ["nsenter", f"--net=/run/netns/{self._netns}", *words]

    def ip(self, *words: str) -> None:
        subprocess.run(["ip", "-n", self._netns, *words], check=True)

    def start(self, *before: str) -> None:
        """`before` are words of a command that starts the agent in a world of its own."""
        command = self.inside(
            *before, sys.executable, "-m", "sixgate", "agent", "--node", self.name,
            "--objects", str(self.objects), "--kubeconfig", str(self._config), "--bpffs", str(self.bpffs),
            "--state-dir", str(self.directory / "state"),
        )  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "operator"), "PYTHONDONTWRITEBYTECODE": "1"}
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - it only calls setsid and prctl
            )

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def table_id(self) -> int:
        """Id of the translation table that packets meet now: another one as soon as the kernel has another; 0: none."""
        try:
            with Map.from_pin(self.bpffs / "maps" / "sg_nat") as tables:
                found = tables.get(0)
        except BpfError:
            return 0
        return found if isinstance(found, int) else 0

    def wait_other_table(self, than: int, timeout_s: float = 120.0) -> int:
        deadline = time.monotonic() + timeout_s
        while (found := self.table_id()) in {0, than}:
            if time.monotonic() > deadline:
                raise AssertionError(f"The kernel of {self.name} must have another table; the log is:\n{self.log()}")
            time.sleep(0.002)
        return found

    def _mount(self, stack: ExitStack) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        path = os.fsencode(self.directory / "bpf")
        os.mkdir(path)
        if library.mount(b"bpf", path, b"bpf", ctypes.c_ulong(0), b"mode=0700"):
            raise OSError(ctypes.get_errno(), f"A bpffs must be mounted at {path!r}: {os.strerror(ctypes.get_errno())}")
        stack.callback(library.umount2, path, MNT_DETACH)

    def _make_netns(self, stack: ExitStack) -> None:
        subprocess.run(["ip", "netns", "add", self._netns], check=True)
        stack.callback(subprocess.run, ["ip", "netns", "del", self._netns], check=True)
        for line in (
            "link set lo up",
            "link add e0 type veth peer name e1",
            "addr add 192.0.2.1/24 dev e0",
            "addr add 2001:db8:ffff::1/64 dev e0 nodad",
            "link set e0 up",
            "link set e1 up",
        ):
            subprocess.run(["ip", "-n", self._netns, *line.split()], check=True)
