"""Removes what a lab made, however the lab's process ended: normally, by Ctrl-C or by kill -9.

The lab starts this program first, in a session of its own, and writes one line to its standard input before it makes
anything: `token T`, `dir PATH`, `mount PATH`, `netns NAME` or `cgroup PATH`. When the other end closes, for whatever
reason, all that was named is removed in reverse order, and nothing else: processes whose environment carries
`LAB_TOKEN=T` (by pid), namespaces by their exact name, mounts, directories. What could not be removed is named on
standard error, exit code 1.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

TOKEN_VARIABLE = "LAB_TOKEN"
KILL_ROUNDS = 60


def marked_processes(token: str) -> list[int]:
    """Pids of the processes that were started by the run `token`, wherever they are now."""
    wanted = f"{TOKEN_VARIABLE}={token}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue  # it ended meanwhile, or is a kernel thread
    return found


def kill_marked(token: str) -> str:
    """Ends every process of the run: asked first, then forced; returns "" or what is left."""
    for attempt in range(KILL_ROUNDS):
        pids = marked_processes(token)
        if not pids:
            return ""
        for pid in pids:
            try:
                os.kill(pid, signal.SIGTERM if attempt < KILL_ROUNDS // 3 else signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02 if attempt < 10 else 0.1)
    return f"processes {marked_processes(token)} of the lab could not be ended"


def delete_netns(name: str) -> str:
    """Deletes one named namespace, if it exists; returns "" or why it is still there."""
    if not Path("/run/netns", name).exists():
        return ""
    done = subprocess.run(["ip", "netns", "delete", name], capture_output=True, text=True, check=False)
    return "" if not Path("/run/netns", name).exists() else f"namespace {name} stays: {done.stderr.strip()}"


def unmount(path: str) -> str:
    """Unmounts `path`, if something is mounted there; returns "" or why it still is."""
    if not os.path.ismount(path):
        return ""
    done = subprocess.run(["umount", "--lazy", path], capture_output=True, text=True, check=False)
    return "" if not os.path.ismount(path) else f"mount {path} stays: {done.stderr.strip()}"


def remove_dir(path: str) -> str:
    """Removes a directory of the lab, never through a mount; returns "" or why it stays."""
    if any(os.path.ismount(child) for child in (path, *map(str, Path(path).glob("*")))):
        return f"directory {path} stays: something is still mounted inside"
    shutil.rmtree(path, ignore_errors=True)
    return "" if not Path(path).exists() else f"directory {path} cannot be removed"


def remove_cgroup(path: str) -> str:
    """Ends what still runs in a cgroup and removes it with all below; returns "" or why it stays."""
    for _ in range(KILL_ROUNDS):
        if not Path(path).is_dir():
            return ""
        for file in Path(path).rglob("cgroup.procs"):
            with suppress(OSError):
                for pid in file.read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
        for directory in sorted((p for p in Path(path).rglob("*") if p.is_dir()), reverse=True):
            with suppress(OSError):
                directory.rmdir()
        with suppress(OSError):
            Path(path).rmdir()
        time.sleep(0.02)
    return f"cgroup {path} cannot be removed"


REMOVERS = {"cgroup": remove_cgroup, "token": kill_marked, "netns": delete_netns, "mount": unmount, "dir": remove_dir}


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    made = [tuple(line.rstrip("\n").split(" ", 1)) for line in sys.stdin]
    # Processes first: they hold namespaces and mounts. Then the latest thing first.
    made = [item for item in made if item[0] == "token"] + [item for item in reversed(made) if item[0] != "token"]
    problems = [problem for kind, name in made if (problem := REMOVERS[kind](name))]
    for problem in problems:
        sys.stderr.write(problem + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
