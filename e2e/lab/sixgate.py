"""`sixgate standalone` inside a lab, as a user would start it."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2e.lab.run import LabError, LabRun
from e2e.lab.topology import GATEWAY

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]
SIXGATE = ROOT / ".venv" / "bin" / "sixgate"
NODE = "gw-1"
READY_SECONDS = 120.0  # beside any load


class Sixgate:
    """One gateway process of a lab; its bpffs, state directory and log belong to the lab."""

    def __init__(
        self, lab: LabRun, manifests: Path, *, role: str = GATEWAY, node: str = NODE, more: Sequence[str] = ()
    ) -> None:
        """`more` are further words of its command line."""
        self._lab, self._role, self._node, self._more = lab, role, node, tuple(more)
        self.manifests = manifests
        self.bpffs = lab.add_bpffs() / "sixgate"
        self.state_dir = lab.workdir / "state"
        self.log = lab.workdir / "sixgate.log"
        self.objects = ROOT / "build" / "bpf"
        lab.workdir.chmod(0o711)  # a resolver, which is another user, has its files in `run`
        self._process: subprocess.Popen[str] | None = None

    def _directories(self) -> list[str]:
        return ["--bpffs", str(self.bpffs), "--state-dir", str(self.state_dir)]

    def argv(self) -> list[str]:
        """The command line of the gateway process."""
        words = [str(SIXGATE), "standalone", "--manifests", str(self.manifests), "--node", self._node]
        words += ["--run-dir", str(self._lab.workdir / "run")]
        return [*words, *self._directories(), "--objects", str(self.objects), *self._more]

    def start(self) -> None:
        """Starts the process; it is ready some time later, see `wait_ready`."""
        with self.log.open("a") as log:
            self._process = self._lab.spawn(self._role, self.argv(), stdout=log, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        """Ends the process as kill -9 does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Ends the process in an orderly way; the data plane stays."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=60)

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process; LabError where none was started."""
        if self._process is None:
            raise LabError("sixgate was not started in this lab.")
        return self._process.pid

    def command(self, words: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Another sixgate command on the same node, such as `status` or `down`."""
        return self._lab.run(self._role, [str(SIXGATE), *words, *self._directories()], check=check)

    def status(self) -> dict[str, Any]:
        """What `sixgate status -o json` says; empty while there is nothing to say yet."""
        done = self.command(["status", "-o", "json"], check=False)
        try:
            answer = json.loads(done.stdout)
        except ValueError:
            return {}
        return answer if isinstance(answer, dict) else {}

    def wait_ready(self, revision_not: str = "") -> str:
        """The revision that this very process has applied, other than `revision_not`; LabError with its log if none.

        Read from the file that `sixgate status` reads: starting that command many times a second would be felt.
        """
        deadline = time.monotonic() + READY_SECONDS
        report: dict[str, Any] = {}
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise LabError(f"sixgate standalone ended by itself; its log says:\n{self.log_tail()}")
            report = self._report()
            status = report.get("status", {})
            answering = all(item["state"] == "Ready" for item in report.get("resolvers", []))
            ready = report.get("pid") == self._process.pid and status["ready"] and answering
            if ready and status["appliedRevision"] != revision_not:
                return str(status["appliedRevision"])
            time.sleep(0.02)
        raise LabError(
            f"sixgate is not ready after {READY_SECONDS:g} s; it reports {json.dumps(report)[:600]}, and in its log:\n"
            + self.log_tail()
        )

    def _report(self) -> dict[str, Any]:
        """What the process wrote last; empty before it has."""
        try:
            report = json.loads((self.state_dir / "status.json").read_text())
        except (OSError, ValueError):
            return {}
        return report if isinstance(report, dict) else {}

    def log_tail(self, lines: int = 15) -> str:
        """The end of the process' log."""
        return "\n".join(self.log.read_text().splitlines()[-lines:]) if self.log.exists() else ""
