"""Many numbered UDP flows through a gateway that hides their sources (flows.c), and who a server takes each for."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.lab.compiled import program
from e2e.lab.run import LabError
from e2e.lab.stamp import hardware_address

if TYPE_CHECKING:
    from e2e.lab.run import LabRun

SOURCE = Path(__file__).with_name("flows.c")


@dataclass(frozen=True, slots=True)
class Seen:
    """`sources` holds 8 bytes per flow, address and port of its last packet's source; zero for one not seen."""

    flows: int
    packets: int
    moved: int  # times that a flow had another source than before
    sources: bytes

    def differ(self, later: Seen) -> int:
        """Flows that have another source in `later`, or were not seen there."""
        if self.sources == later.sources:
            return 0
        pairs = range(0, len(self.sources), 8)
        return sum(self.sources[at : at + 8] != later.sources[at : at + 8] for at in pairs)


def send_command(  # noqa: PLR0917 - words of a command line
    lab: LabRun, role: str, source: str, destination: str, count: int, rate: int, rounds: int = 1, first: int = 0
) -> list[str]:
    """Arguments that send one packet of each flow, `rounds` times, for ever where that is 0."""
    mac = hardware_address(lab, "gw", role)
    words = [program(SOURCE), "send", lab.device("up"), mac, source, destination]
    return [*words, *map(str, (first, count, rate, rounds))]


class FlowReceiver:
    """Watches a host's device; use as a context manager around the sending."""

    def __init__(self, lab: LabRun, role: str, count: int, idle_ms: int = 500) -> None:
        self._lab, self._role = lab, role
        self._file = lab.workdir / "flows.bin"
        self._argv = [program(SOURCE), "recv", lab.device("up"), str(count), str(self._file), str(idle_ms)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> FlowReceiver:
        self._process = self._lab.spawn(self._role, self._argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if self._process.stdout is None or self._process.stdout.readline() != "ready\n":
            raise LabError(f"The receiver of flows in {self._role} did not start: {self._process.communicate()[1]}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def result(self, timeout: float = 60) -> Seen:
        """Waits until nothing more comes."""
        if self._process is None:
            raise LabError("The receiver of flows is not running.")
        self._process.send_signal(signal.SIGUSR1)
        out, err = self._process.communicate(timeout=timeout)
        if self._process.returncode:
            raise LabError(f"The receiver of flows in {self._role} failed: {err.strip()}")
        told = json.loads(out.strip().splitlines()[-1])
        return Seen(told["flows"], told["packets"], told["moved"], self._file.read_bytes())
