"""One run of a lab: namespaces, devices, processes and files under random names, all of it removed at the end.

    with LabRun() as lab:
        lab.add_netns("client6"); lab.add_netns("gw")
        lab.add_veth("client6", "up", "gw", "client6")
        lab.run("client6", ["ping", "-c1", "2001:db8::1"])

Nothing is made before it is announced to the reaper (reaper.py), which outlives this process: an interruption at any
instruction, kill -9 included, leaves the machine as it was.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from e2e.lab.netns import call_in_netns
from e2e.lab.reaper import TOKEN_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType, TracebackType

T = TypeVar("T")
REAPER = Path(__file__).with_name("reaper.py")


class LabError(Exception):
    """The lab cannot be made, or a command in it failed; the text says which and what it printed."""


def stop_on_signal(number: int, _frame: FrameType | None) -> None:
    """Turns SIGTERM and SIGHUP into an orderly exit, as SIGINT is one already."""
    raise SystemExit(128 + number)


class LabRun:
    """Owner of everything that one lab makes; use as a context manager, from the main thread."""

    def __init__(self) -> None:
        # Long enough that no two labs of a machine ever share it: by it the reaper knows whose processes it ends.
        self.token = secrets.token_hex(6)
        self._suffix = self.token[:4]  # of devices, whose names have 15 characters and a namespace of their own
        self._reaper: subprocess.Popen[str] | None = None
        self._previous_handlers: dict[int, object] = {}
        self._netns: dict[str, str] = {}
        self.workdir = Path()

    # -- life cycle ------------------------------------------------------------------------------------------------

    def __enter__(self) -> LabRun:
        for number in (signal.SIGTERM, signal.SIGHUP):
            self._previous_handlers[number] = signal.signal(number, stop_on_signal)
        self._reaper = subprocess.Popen(
            [sys.executable, str(REAPER)], stdin=subprocess.PIPE, text=True, start_new_session=True, bufsize=1
        )
        try:
            self._announce("token", self.token)
            self.workdir = Path(tempfile.gettempdir(), f"sixgate-lab-{self.token}")
            self._announce("dir", str(self.workdir))
            self.workdir.mkdir(mode=0o700)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Removes everything; a second Ctrl-C meanwhile is noted and takes effect afterwards."""
        interrupted = False
        while self._reaper is not None:
            try:
                if self._reaper.stdin is not None and not self._reaper.stdin.closed:
                    self._reaper.stdin.close()
                self._reaper.wait()
                self._reaper = None
            except (KeyboardInterrupt, SystemExit):
                interrupted = True
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # it is what signal.signal returned
        self._previous_handlers = {}
        if interrupted:
            raise KeyboardInterrupt

    def _announce(self, kind: str, name: str) -> None:
        if self._reaper is None or self._reaper.stdin is None:
            raise LabError("This lab is not open; use it in a `with` statement.")
        self._reaper.stdin.write(f"{kind} {name}\n")
        self._reaper.stdin.flush()

    # -- things ----------------------------------------------------------------------------------------------------

    def add_netns(self, role: str) -> str:
        """Makes a namespace for `role` and returns its random name; loopback is up, duplicate address detection off."""
        name = f"sg-{self.token}-{role}"
        self._announce("netns", name)
        self._ip(["netns", "add", name])
        self._netns[role] = name
        self._ip(["-n", name, "link", "set", "lo", "up"])
        for key in ("accept_dad", "accept_ra", "router_solicitations"):
            for scope in ("all", "default"):
                self.sysctl(role, f"net/ipv6/conf/{scope}/{key}", "0")
        # What the kernel limits it also counts for the whole machine: errors for one lab would be missing in another.
        self.sysctl(role, "net/ipv4/icmp_ratemask", "0")
        self.sysctl(role, "net/ipv6/icmp/ratemask", "\n")
        return name

    def netns(self, role: str) -> str:
        """The namespace's name as `ip netns` shows it."""
        return self._netns[role]

    def roles(self) -> tuple[str, ...]:
        return tuple(self._netns)

    def device(self, name: str) -> str:
        """The random name under which the lab makes the device `name`."""
        return f"{name}-{self._suffix}"

    def add_veth(self, role: str, name: str, peer_role: str, peer_name: str, mtu: int = 1500) -> None:
        """Joins two namespaces; both ends are born inside them, so the machine's own namespace never sees them."""
        left, right = self.device(name), self.device(peer_name)
        self._ip(
            [
                "link",
                "add",
                left,
                "mtu",
                str(mtu),
                "netns",
                self.netns(role),
                "type",
                "veth",
                "peer",
                "name",
                right,
                "mtu",
                str(mtu),
                "netns",
                self.netns(peer_role),
            ]
        )
        self._ip(["-n", self.netns(role), "link", "set", left, "up"])
        self._ip(["-n", self.netns(peer_role), "link", "set", right, "up"])

    def add_cgroup(self, role: str) -> list[Path]:
        """Makes a cgroup of `role` in every hierarchy and returns their directories; one with cgroup v2."""
        root = Path("/sys/fs/cgroup")
        unified = (root / "cgroup.controllers").exists()
        made = []
        for hierarchy in [root] if unified else sorted(p for p in root.iterdir() if p.is_dir() and not p.is_symlink()):
            path = hierarchy / f"sg-{self.token}-{role}"
            self._announce("cgroup", str(path))
            path.mkdir()
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (path / name).exists() and not unified:
                    (path / name).write_text((hierarchy / name).read_text())
            made.append(path)
        return made

    def add_bpffs(self) -> Path:
        """Mounts a bpffs of this run's own and returns its path; the machine's /sys/fs/bpf stays untouched."""
        path = self.workdir / "bpf"
        path.mkdir()
        self._announce("mount", str(path))
        done = subprocess.run(["mount", "-t", "bpf", "bpf", str(path)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"A bpffs cannot be mounted at {path}: {done.stderr.strip()}.")
        return path

    # -- commands --------------------------------------------------------------------------------------------------

    def ip(self, role: str, *commands: str) -> None:
        """Runs `ip` commands inside a namespace, one per string, words split at blanks."""
        text = "".join(command + "\n" for command in commands)
        self._ip(["-n", self.netns(role), "-batch", "-"], text)

    def _ip(self, arguments: Sequence[str], text: str | None = None) -> None:
        done = subprocess.run(["ip", *arguments], input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"`ip {' '.join(arguments)}` failed: {done.stderr.strip()}\n{text or ''}")

    def sysctl(self, role: str, key: str, value: str) -> None:
        """Writes one file under /proc/sys as that namespace sees it."""
        self.call(role, lambda: Path("/proc/sys", key).write_text(value))

    def call(self, role: str, function: Callable[[], T]) -> T:
        """Runs a function on a thread inside the namespace: sockets it makes stay there, this process does not."""
        return call_in_netns(self.netns(role), function)

    def command(self, role: str, argv: Sequence[str]) -> list[str]:
        """The command that runs `argv` inside the namespace; unlike `ip netns exec` it leaves /sys alone."""
        return ["nsenter", f"--net=/run/netns/{self.netns(role)}", "--", *argv]

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Environment of every process of this run: the reaper knows them by it."""
        return {**os.environ, "LC_ALL": "C", **(extra or {}), TOKEN_VARIABLE: self.token}

    def run(
        self,
        role: str,
        argv: Sequence[str],
        *,
        check: bool = True,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end inside a namespace; LabError with its output where it fails and `check` is set."""
        try:
            done = subprocess.run(
                self.command(role, argv),
                env=self.environment(env),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"`{' '.join(argv)}` in {role} did not end within {timeout:g} s.") from error
        if check and done.returncode:
            raise LabError(
                f"`{' '.join(argv)}` in {role} failed with exit code {done.returncode}: "
                + (done.stderr or done.stdout).strip()
            )
        return done

    def spawn(
        self,
        role: str,
        argv: Sequence[str],
        *,
        stdout: int | IO[str] = subprocess.DEVNULL,
        stderr: int | IO[str] = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Starts a process inside a namespace, in a session of its own, so that Ctrl-C reaches this process only."""
        return subprocess.Popen(
            self.command(role, argv),
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
