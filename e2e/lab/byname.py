"""Reaching an IPv4-only host by its name: name server and web server there, curl with the gateway's resolver."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.lab.run import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.lab.run import LabRun
    from e2e.lab.topology import Host

NAME = "v4only.example"
NAMESERVER = Path(__file__).with_name("nameserver.py")
START_SECONDS = 60.0  # beside any load


@contextmanager
def named_host(lab: LabRun, host: Host, directory: Path) -> Iterator[None]:
    """NAME is an A record of `host`, which serves `directory` at port 80, and the record at port 53."""
    commands = (
        [sys.executable, str(NAMESERVER), host.address, f"{NAME}={host.ipv4}"],
        [sys.executable, "-m", "http.server", "--bind", host.address, "--directory", str(directory), "80"],
    )
    processes = [lab.spawn(host.role, argv, stderr=subprocess.DEVNULL) for argv in commands]
    try:
        _wait_listening(lab, host)
        yield
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def _wait_listening(lab: LabRun, host: Host) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        waiting = lab.run(host.role, ["ss", "-Hlntu", "( sport = :53 or sport = :80 )"]).stdout.splitlines()
        if len(waiting) == 2:
            return
        time.sleep(0.02)
    raise LabError(f"The name server and the web server of {host.role} do not listen after {START_SECONDS:g} s.")


def curl_by_name(lab: LabRun, host: Host, resolver: str, path: str) -> tuple[str, str]:
    """`curl -6 http://NAME/path` at `host`, whose resolver it is: (address that curl used, what it got)."""
    configuration = lab.workdir / "resolv.conf"
    configuration.write_text(f"nameserver {resolver}\n")
    url = f"http://{NAME}/{path}"
    fetch = f"curl -6 --silent --show-error --noproxy '*' --max-time 20 -w '\\n%{{remote_ip}}' {shlex.quote(url)}"
    script = f"mount --bind {shlex.quote(str(configuration))} /etc/resolv.conf && exec {fetch}"
    text, _, address = lab.run(host.role, ["unshare", "--mount", "sh", "-c", script]).stdout.strip().rpartition("\n")
    return address.strip("[]"), text.strip()
