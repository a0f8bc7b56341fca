"""Figures of DNS64 against the same resolver without it, on loopback.

    python -m bench.dns64 [--json FILE] [--rounds N] [--times N] [--forged N] [--fuzzed N]

"Alone" is the same unbound with the same configuration but for the modules of DNS64, answering AAAA records that
exist. Load comes from dnsperf, single questions from this process.
"""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import dns64_attack, harness
from bench.dns64_lab import HEADERS_BYTES, PLAIN, STRANGER, SYNTHESISING, Client, Lab, dnsperf, enter_lab
from bench.harness import Goal, Report, Row, progress
from e2e.lab.run import LabError

ROOT = Path(__file__).resolve().parents[1]
NAMES = 2000
SINGLE = 1000
KILLS = 5
US_PER_MS, US_PER_S = 1000, 1_000_000


def conformance() -> Row:
    """The tests of every row, on a resolver of their own."""
    progress("rows of RFC 6147, 7050 and 8880")
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(ROOT / "tests" / "dns64" / "test_dns64_answers.py"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    passed, failed = (
        int(found[1]) if (found := re.search(rf"(\d+) {word}", done.stdout)) else 0 for word in ("passed", "failed")
    )
    if not passed:
        raise LabError(f"The tests should run, and said: {done.stdout[-500:]}")
    return Row(
        "rows not as the RFCs expect", "rows", (float(failed),), goal=Goal("value", "==", 0), note=f"{passed} are"
    )


def throughput(lab: Lab, rounds: int, times: int) -> list[Row]:
    progress("throughput")
    made = lab.names("made", [f"v{number}.load.example AAAA" for number in range(NAMES)])
    native = lab.names("native", [f"n{number}.load.example AAAA" for number in range(NAMES)])
    for address, questions in ((SYNTHESISING, made), (PLAIN, native)):
        for _ in range(2):  # the second time, all of them are in the cache
            dnsperf(address, questions, outstanding=20)
    spent: dict[str, list[float]] = {SYNTHESISING: [], PLAIN: []}

    def loaded(address: str, questions: Path) -> float:
        """Answers per second; the processor time of each goes to `spent`."""
        before = lab.processor_s(address)
        figures = dnsperf(address, questions, times=times)
        spent[address].append((lab.processor_s(address) - before) / figures["answered"] * US_PER_S)
        return figures["rate"]

    cached = harness.interleave(
        {"made": lambda: loaded(SYNTHESISING, made), "alone": lambda: loaded(PLAIN, native)}, rounds
    )
    count = 0

    def fresh(address: str, kind: str) -> float:
        nonlocal count
        count += 1
        names = lab.names("fresh", [f"{kind}{number}.fresh{count}.example AAAA" for number in range(NAMES)])
        return dnsperf(address, names, outstanding=50)["rate"]

    missed = harness.interleave(
        {"made": lambda: fresh(SYNTHESISING, "v"), "alone": lambda: fresh(PLAIN, "n")}, min(rounds, 5)
    )
    return [
        Row("synthesised AAAA, cached", "1/s", cached["made"], cached["alone"], Goal("ratio", ">=", 0.9)),
        Row("processor time of each", "us", tuple(spent[SYNTHESISING]), tuple(spent[PLAIN])),
        Row("synthesised AAAA, first time (two questions upstream for one)", "1/s", missed["made"], missed["alone"]),
    ]


def latency(rounds: int) -> list[Row]:
    """p99 of single questions, in turns: every question at one resolver has a neighbour at the other."""
    progress("latency")
    first: dict[str, list[float]] = {"made": [], "alone": []}
    again: dict[str, list[float]] = {"made": [], "alone": []}
    with Client(SYNTHESISING) as made, Client(PLAIN) as alone:
        for turn in range(rounds):
            took: dict[tuple[str, str], list[float]] = {}
            for number in range(SINGLE):
                for when in ("first", "again"):
                    took.setdefault(("made", when), []).append(made.ask(f"v{number}.single{turn}.example")[0])
                    took.setdefault(("alone", when), []).append(alone.ask(f"n{number}.single{turn}.example")[0])
            for who in ("made", "alone"):
                for when, into in (("first", first), ("again", again)):
                    into[who].append(statistics.quantiles(took[(who, when)], n=100)[98] / US_PER_MS)
    rows = []
    for what, taken in (("cached", again), ("first time", first)):
        added = tuple(a - b for a, b in zip(taken["made"], taken["alone"], strict=True))
        rows.append(Row(f"p99 of a synthesised AAAA, {what}", "ms", tuple(taken["made"]), tuple(taken["alone"])))
        rows.append(Row(f"added p99, {what}", "ms", added, goal=Goal("value", "<=", 1)))
    return rows


def amplification(lab: Lab) -> list[Row]:
    progress("amplification")
    questions = lab.names("amplified", [f"v{number}.load.example AAAA" for number in range(NAMES)])
    sizes = dnsperf(SYNTHESISING, questions, outstanding=20)
    ratio = (sizes["reply"] + HEADERS_BYTES) / (sizes["request"] + HEADERS_BYTES)
    command = [
        "dnsperf",
        "-f",
        "inet6",
        "-a",
        STRANGER,
        "-s",
        SYNTHESISING,
        "-d",
        str(questions),
        "-n",
        "1",
        "-t",
        "0.2",
    ]
    done = subprocess.run([*command, "-l", "2"], capture_output=True, text=True, check=False)
    completed = re.search(r"Queries completed: +(\d+)", done.stdout)
    if completed is None:
        raise LabError(f"dnsperf should tell what was completed, and said: {done.stdout[-300:]} {done.stderr[-300:]}")
    return [
        Row(
            "octets out per octet in, client",
            "ratio",
            (ratio,),
            goal=Goal("value", "<=", 1.5),
            note="one address, with IPv6 and UDP headers",
        ),
        Row("replies to strangers", "replies", (float(completed[1]),), goal=Goal("value", "==", 0)),
    ]


def restart(lab: Lab) -> Row:
    progress("restart")
    times = []
    for _ in range(KILLS):
        time.sleep(1.1)  # a life that is not that of a process which fails at once
        before = lab.wait(SYNTHESISING, lambda status: status.state == "Ready")
        os.kill(before.pid, signal.SIGKILL)
        begun = time.monotonic()
        with Client(SYNTHESISING, timeout_s=0.02) as client:
            while True:
                try:
                    client.ask("v1.load.example")
                    break
                except OSError:
                    if time.monotonic() - begun > 10:
                        raise LabError("The resolver does not come back.") from None
        times.append(time.monotonic() - begun)
    return Row("killed, until it answers again", "s", tuple(times), goal=Goal("value", "<=", 1))


def run(*, rounds: int = 25, times: int = 15, forged: int = 1_000_000, fuzzed: int = 1_000_000) -> Report:
    """All figures, from a thread that moves into a network namespace of its own and ends there."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_measure, rounds, times, forged, fuzzed).result()


def _measure(rounds: int, times: int, forged: int, fuzzed: int) -> Report:
    report = Report("DNS64 against the same resolver without it")
    report.rows.append(conformance())
    enter_lab()
    with Lab() as lab:
        report.rows += throughput(lab, rounds, times)
        report.rows += latency(min(rounds, 9))
        report.rows += amplification(lab)
        report.rows.append(restart(lab))
        progress("forged replies")
        sent, accepted = dns64_attack.forge(forged)
        note = f"of {sent:,}, the ports known"
        report.rows.append(
            Row("forged replies accepted", "replies", (float(accepted),), goal=Goal("value", "==", 0), note=note)
        )
        progress("broken messages")
        sent, crashes = dns64_attack.fuzz(lab, fuzzed, max(fuzzed // 20, 1))
        note = f"after {sent:,} broken messages"
        report.rows.append(Row("crashes", "crashes", (float(crashes),), goal=Goal("value", "==", 0), note=note))
    report.remarks.append("The load generator, both resolvers and the scripted server share the CPUs.")
    return report


def main() -> int:
    parser = harness.command("Measure DNS64.", rounds=25)
    parser.add_argument("--times", type=int, default=15, help="how often each asks for every name")
    parser.add_argument("--forged", type=int, default=1_000_000, help="forged replies to send")
    parser.add_argument("--fuzzed", type=int, default=1_000_000, help="broken messages to send")
    return harness.main(
        parser, lambda args: run(rounds=args.rounds, times=args.times, forged=args.forged, fuzzed=args.fuzzed)
    )


if __name__ == "__main__":
    sys.exit(main())
