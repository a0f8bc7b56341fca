"""A lab removes what it made, all of it and nothing else, however its process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e2e.lab.run import LabError, LabRun

ROOT = Path(__file__).resolve().parents[2]

# Makes a little of everything, says what its names are, and then waits or fails.
PROGRAM = """
import subprocess, sys, time
from e2e.lab.run import LabRun

with LabRun() as lab:
    lab.add_netns("a")
    lab.add_netns("b")
    lab.add_veth("a", "up", "b", "down")
    bpffs = lab.add_bpffs()
    process = lab.spawn("a", ["sh", "-c", "trap '' TERM; sleep 1000 & wait; sleep 1000"])
    subprocess.run(["sleep", "0.1"])
    print(lab.token, lab.workdir, flush=True)
    if sys.argv[1] == "fail":
        raise ValueError("on purpose")
    if sys.argv[1] == "wait":
        time.sleep(1000)
"""


def start(ending: str) -> tuple[subprocess.Popen[str], str, Path]:
    """The program above, running; its lab's token and directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, ending],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    token, directory = process.stdout.readline().split()
    return process, token, Path(directory)


def leftovers(token: str, directory: Path) -> list[str]:
    """What of the run still exists: namespaces, directory, mounts, processes that carry its mark."""
    found = [name for name in os.listdir("/run/netns") if name.startswith(f"sg-{token}-")]
    found += [str(directory)] if directory.exists() else []
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if str(directory) in line]
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"LAB_TOKEN={token}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(entry.name)
        except OSError:
            continue
    return found


def wait_gone(token: str, directory: Path) -> list[str]:
    """What is left once everything is gone, or after long enough."""
    for _ in range(300):
        left = leftovers(token, directory)
        if not left:
            break
        time.sleep(0.1)
    return left


@pytest.mark.parametrize("ending", ["normal", "fail"])
def test_nothing_is_left_when_the_block_ends(ending: str) -> None:
    process, token, directory = start(ending)
    assert process.wait(timeout=60) == (1 if ending == "fail" else 0)
    assert leftovers(token, directory) == []


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda number: number.name
)
def test_nothing_is_left_after_a_signal(number: signal.Signals) -> None:
    process, token, directory = start("wait")
    assert leftovers(token, directory)
    process.send_signal(number)
    process.wait(timeout=60)
    assert wait_gone(token, directory) == []


def test_a_second_interruption_does_not_stop_the_removal() -> None:
    process, token, directory = start("wait")
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    process.wait(timeout=60)
    assert wait_gone(token, directory) == []


def test_another_run_is_left_alone() -> None:
    with LabRun() as other:
        other.add_netns("a")
        process, token, directory = start("normal")
        process.wait(timeout=60)
        assert wait_gone(token, directory) == []
        assert Path("/run/netns", other.netns("a")).exists()
        assert other.run("a", ["true"]).returncode == 0


def test_a_failing_command_is_named_with_its_words() -> None:
    with LabRun() as lab:
        lab.add_netns("a")
        with pytest.raises(LabError, match=r"`ls /no-such-directory` in a failed with exit code 2: .*No such file"):
            lab.run("a", ["ls", "/no-such-directory"])
