"""Runs tools/lb_fuzz.c: bent packets through one program, by BPF_PROG_TEST_RUN."""

from __future__ import annotations

import json
import struct
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.lab.compiled import program

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bpf.harness import Loaded

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tools" / "lb_fuzz.c"


@dataclass(frozen=True, slots=True)
class Result:
    """Packets by what became of them; `uncounted` drops have no reason in sg_metrics. `said` is what the tool said."""

    sent: int
    dropped: int
    passed: int
    wrong: int
    uncounted: int
    said: str

    def counted(self, drops: int) -> Result:
        """With `drops` of the dropped ones in sg_metrics."""
        return replace(self, uncounted=self.dropped - drops)

    def __add__(self, other: Result) -> Result:
        return Result(
            self.sent + other.sent,
            self.dropped + other.dropped,
            self.passed + other.passed,
            self.wrong + other.wrong,
            self.uncounted + other.uncounted,
            self.said + other.said,
        )


def run_tool(
    loaded: Loaded,
    hook: str,
    ifindex: int,
    frames: Sequence[bytes],
    *,
    packets: int,
    seed: int,
    scratch: Path,
    more: Sequence[str] = (),
) -> Result:
    """`packets` packets bent from `frames`; all drops are uncounted yet. RuntimeError where the tool fails."""
    corpus = scratch / "corpus"
    corpus.write_bytes(b"".join(struct.pack("!H", len(each)) + each for each in frames))
    fd = loaded.program.fd
    words = [program(SOURCE, "bpf"), str(fd), hook, str(ifindex), str(corpus), str(packets), str(seed), *more]
    done = subprocess.run(words, capture_output=True, text=True, pass_fds=(fd,), check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stderr)
    told = json.loads(done.stdout)
    return Result(told["sent"], told["dropped"], told["passed"], told["wrong"], told["dropped"], done.stderr)


def drops(loaded: Loaded) -> int:
    """Packets that were dropped for a reason."""
    return sum(count.packets for name, count in loaded.metrics().items() if name.startswith("SG_DROP_"))
