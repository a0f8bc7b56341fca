"""Numbered UDP packets through a lab (stamp.c, compiled on first use), and what became of each of them."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from e2e.lab.compiled import program
from e2e.lab.run import LabError, LabRun

SOURCE = Path(__file__).with_name("stamp.c")


@dataclass(frozen=True, slots=True)
class Tally:
    """What a receiver saw of COUNT numbered packets; `untranslated` came in the sender's family instead of its own."""

    received: int
    lost: int
    duplicated: int
    reordered: int
    untranslated: int
    damaged: int
    missed_by_receiver: int  # frames that the receiver's own socket had no room for; not the gateway's loss


@dataclass(frozen=True, slots=True)
class Sent:
    sent: int
    refused: int  # calls that the device refused for want of room, repeated
    seconds: float


def stamp_program() -> str:
    """Path of the compiled program."""
    return program(SOURCE)


def hardware_address(lab: LabRun, role: str, device: str) -> str:
    """The MAC address of a device of the lab, by its short name."""
    done = lab.run(role, ["ip", "-json", "link", "show", "dev", lab.device(device)])
    return str(json.loads(done.stdout)[0]["address"])


class Receiver:
    """Counts stamped packets at a host's device; use as a context manager around the sending."""

    def __init__(self, lab: LabRun, role: str, family: int, count: int, idle_ms: int = 500) -> None:
        self._lab, self._role = lab, role
        self._argv = [stamp_program(), "recv", lab.device("up"), str(family), str(count), str(idle_ms)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Receiver:
        self._process = self._lab.spawn(self._role, self._argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if self._process.stdout is None or self._process.stdout.readline() != "ready\n":
            raise LabError(f"The packet receiver in {self._role} did not start: {self._process.communicate()[1]}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def result(self, timeout: float = 30) -> Tally:
        """Waits until everything has come or nothing more comes, and returns the count."""
        if self._process is None:
            raise LabError("The packet receiver is not running.")
        self._process.send_signal(signal.SIGUSR1)
        out, err = self._process.communicate(timeout=timeout)
        if self._process.returncode:
            raise LabError(f"The packet receiver in {self._role} failed: {err.strip()}")
        return Tally(**json.loads(out.strip().splitlines()[-1]))


def send_command(
    lab: LabRun, role: str, source: str, destination: str, *, count: int, rate: int = 0, seconds: float = 0
) -> list[str]:
    """Arguments that send `count` packets from a host through the gateway, `rate` packets per second or unpaced."""
    gateway_mac = hardware_address(lab, "gw", role)
    return [
        *(stamp_program(), "send", lab.device("up"), gateway_mac, source, destination),
        *(str(count), str(rate), str(seconds)),
    ]


def send(
    lab: LabRun, role: str, source: str, destination: str, *, count: int, rate: int = 0, seconds: float = 0
) -> Sent:
    """Sends stamped packets and waits until they are sent."""
    argv = send_command(lab, role, source, destination, count=count, rate=rate, seconds=seconds)
    return Sent(**json.loads(lab.run(role, argv, timeout=120).stdout))
