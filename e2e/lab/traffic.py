"""Real traffic through a lab: what a person at a host would type, and its outcome as values."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from e2e.lab.run import LabError, LabRun

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.lab.topology import Host

HTTP_PORT = 8080
IPERF_PORT = 5201
START_SECONDS = 60.0  # beside any load


@dataclass(frozen=True, slots=True)
class Ping:
    sent: int
    received: int
    average_ms: float | None  # None where nothing came back


@dataclass(frozen=True, slots=True)
class Throughput:
    bits_per_second: float  # of payload, as the receiver counted it


@dataclass(frozen=True, slots=True)
class Download:
    status: int
    size_bytes: int
    sha256: str
    seconds: float


def url_host(address: str) -> str:
    """The address as a URL spells it."""
    return f"[{address}]" if ":" in address else address


def wait_listening(lab: LabRun, role: str, port: int, process: subprocess.Popen[str]) -> None:
    """Returns once something listens on a TCP port in the namespace; LabError where the process ends first."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise LabError(f"The server on port {port} in {role} ended at once with exit code {process.returncode}.")
        if lab.run(role, ["ss", "-Hltn", f"sport = :{port}"]).stdout.strip():
            return
        time.sleep(0.02)
    raise LabError(f"Nothing listens on port {port} in {role} after {START_SECONDS:g} s.")


@contextmanager
def http_server(lab: LabRun, host: Host, directory: Path, python: str) -> Iterator[str]:
    """Serves a directory on the host's one address; yields the URL's path root `:8080/`, gone afterwards."""
    argv = [python, "-m", "http.server", "--bind", host.address, "--directory", str(directory), str(HTTP_PORT)]
    process = lab.spawn(host.role, argv, stderr=subprocess.DEVNULL)
    try:
        wait_listening(lab, host.role, HTTP_PORT, process)
        yield f":{HTTP_PORT}/"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def iperf_server(lab: LabRun, role: str) -> Iterator[None]:
    """An iperf3 server on every address of the host."""
    process = lab.spawn(role, ["iperf3", "--server", "--port", str(IPERF_PORT)])
    try:
        wait_listening(lab, role, IPERF_PORT, process)
        yield
    finally:
        process.terminate()
        process.wait()


def iperf(lab: LabRun, role: str, address: str, *, seconds: float, reverse: bool = False) -> Throughput:
    """One TCP flow from a host to an iperf3 server, or from the server where `reverse` is set."""
    argv = ["iperf3", "--client", address, "--port", str(IPERF_PORT), "--time", str(seconds), "--json"]
    done = lab.run(role, [*argv, *(["--reverse"] if reverse else [])], check=False, timeout=seconds + 30)
    try:
        report = json.loads(done.stdout)
        return Throughput(report["end"]["sum_received"]["bits_per_second"])
    except (ValueError, KeyError) as error:
        raise LabError(
            f"iperf3 from {role} to {address} gave no result: {(done.stdout or done.stderr).strip()[-300:]}"
        ) from error


def ping(lab: LabRun, role: str, address: str, *, count: int = 5, size: int = 56, interval: float = 0.05) -> Ping:
    """ICMP echo requests of `size` payload bytes; packets that are too big are fragmented by nobody but the host."""
    argv = ["ping", "-n", "-c", str(count), "-i", str(interval), "-s", str(size), "-W", "5", address]
    text = lab.run(role, argv, check=False).stdout
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", text)
    times = re.search(r"= [\d.]+/([\d.]+)/", text)
    if counts is None:
        raise LabError(f"ping from {role} to {address} could not be read: {text.strip()}")
    return Ping(int(counts[1]), int(counts[2]), float(times[1]) if times else None)


def traceroute(lab: LabRun, role: str, address: str) -> tuple[str, ...]:
    """Addresses of the hops up to the destination, `*` for a hop that does not answer."""
    argv = ["traceroute", "-n", "-q", "1", "-w", "5", "-m", "6", address]
    lines = lab.run(role, argv).stdout.splitlines()[1:]
    return tuple(line.split()[1] for line in lines if len(line.split()) > 1)


def curl(lab: LabRun, role: str, url: str, output: Path) -> Download:
    """Fetches a URL with curl into a file and hashes what arrived."""
    form = "%{http_code} %{size_download} %{time_total}"
    argv = [
        "curl",
        "--silent",
        "--show-error",
        "--noproxy",
        "*",
        "--max-time",
        "50",
        "--output",
        str(output),
        "-w",
        form,
        url,
    ]
    status, size, seconds = lab.run(role, argv).stdout.split()
    return Download(int(status), int(size), file_sha256(output), float(seconds))


def file_sha256(path: Path) -> str:
    """Hex digest of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
