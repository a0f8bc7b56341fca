"""How the copying of connections to the next gateway goes with 10^5 and 10^6 of them.

The owner's engine is filled by the program that takes sessions of other gateways, run by hand; from there on everything
is as with packets: bits, walks, records over TCP, and the standby's engine.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from bench import harness
from bench.egress_cost import CONNECTIONS_S, connections, servers
from bench.egress_lab import sent_copies
from bench.harness import Goal, Report, Row, progress
from e2e.lab.egress import SERVER4, EgressLab, egress_gateway
from e2e.lab.egress_records import record
from e2e.lab.run import LabError, LabRun
from sixgate.node.bpf.layouts import MAPS
from sixgate.node.bpf.map import Map
from sixgate.node.egress.copytables import CopyTables
from sixgate.node.egress.copywire import MAX_RECORDS
from sixgate.node.egress.sessions import pinned_program

if TYPE_CHECKING:
    from typing import Any

SIZES = (100_000, 1_000_000)
PAIRS = 16  # that have them; each address has 64,512 ports
PORTS = 250  # of one pod
BIRTHS = (1_000, 10_000)  # a second
BIRTHS_S = 3.0
WATCHED_S = 10.0
WALKS = 20
CROWD_LABEL = {"matchLabels": {"team": "crowd"}}
TAKES_S = 120.0
BATCH_S = 0.002


@dataclass(slots=True)
class Crowd:
    """A lab whose first gateway owns everything: `pairs` without pods, the last one for births, and the pod's own."""

    lab: EgressLab
    sessions: int = 0
    _near: dict[int, int] = field(default_factory=dict)

    def pairs(self) -> list[dict[str, Any]]:
        rows = [row for row in self.lab.reports("g1") if row["object"] == "crowd"]
        return sorted(rows, key=lambda row: str(row["ipv4"]))

    def settled(self) -> bool:
        """Whether the first gateway owns all of it."""
        rows = self.lab.reports("g1")
        return len(rows) == PAIRS + 2 and all(row["here"] for row in rows)

    def records(self, obj: int, pair: dict[str, Any], first: int, count: int) -> Iterator[bytes]:
        """Of one pair: pods of its own, each with PORTS connections."""
        block = int(str(pair["ipv4"]).rsplit(".", 1)[1])
        for number in range(first, first + count):
            pod, port = divmod(number, PORTS)
            near = f"10.{block}.{pod // 250}.{pod % 250 + 1}"
            yield record(obj, near=near, near_port=5000 + port, to=pair["ipv4"], to_port=1024 + number % 64512, left=0)

    def fill(self, sessions: int) -> None:
        """While the owner's agent is away, which works with the same tables."""
        self.lab.kill("g1")
        tables = self.tables("g1")
        try:
            each = (sessions - self.sessions) // PAIRS
            for pair in self.pairs()[:PAIRS]:
                number = tables.objects(pair["pair"])[4]
                made = self.records(number, pair, self.sessions // PAIRS, each)
                while batch := b"".join(islice(made, MAX_RECORDS)):
                    if tables.put(batch).refused:
                        raise LabError("The owner's engine does not take all sessions.")
        finally:
            tables.close()
        self.sessions += each * PAIRS
        self.lab.start("g1")
        self.lab.wait(self.settled, lambda: f"g1 does not own everything\n{self.lab.tail('g1')}")

    def tables(self, node: str) -> CopyTables:
        tables = CopyTables(self.bpffs(node))
        tables.open()
        return tables

    def bpffs(self, node: str) -> Path:
        return Path(self.lab.directories(node)[1])

    @contextlib.contextmanager
    def counter(self, node: str, pairs: list[dict[str, Any]]) -> Iterator[Callable[[], int]]:
        """How many sessions of these pairs a gateway has, by its engine."""
        maps = self.bpffs(node) / "maps"
        with (
            Map.from_pin(maps / "sg_eg_obj", spec=MAPS["sg_eg_obj"]) as objects,
            Map.from_pin(maps / "sg_st_use", spec=MAPS["sg_st_use"]) as use,
        ):
            rows = [objects.get(pair["pair"]) for pair in pairs]
            numbers = [int(str(row["obj4"])) for row in rows if isinstance(row, dict)]

            def count() -> int:
                found = (use.get(number) for number in numbers)
                return sum(int(str(row["sessions"])) for row in found if isinstance(row, dict))

            yield count

    def cpu_s(self, node: str) -> float:
        """CPU seconds of a gateway's agent, what the kernel did for it included."""
        stat = Path(f"/proc/{self.lab.process(node).pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mb(self, node: str) -> float:
        status = Path(f"/proc/{self.lab.process(node).pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(found[1]) / 1024 if found else 0.0


@contextlib.contextmanager
def crowd(*gateways: str) -> Iterator[Crowd]:
    """All gateways but the first are cordoned: they own nothing, and are standbys all the same."""
    with LabRun() as run:
        lab = EgressLab(run)
        sources = [{"ipv4": f"198.51.100.{100 + number}"} for number in range(PAIRS + 1)]
        pods = [{"namespaceSelector": CROWD_LABEL, "allPods": True}]
        nat = {"maxSessions": SIZES[-1] + (1 << 16)}
        spec = {"addresses": sources, "pods": pods, "nat": nat, "destinationCIDRs": ["203.0.113.0/24"]}
        lab.objects = {
            "payments": egress_gateway(nat={"maxSessions": 1 << 17}),
            "crowd": egress_gateway("crowd", **spec),
        }
        lab.add_node("n1")
        for name in gateways:
            lab.add_node(name, gateway=True)
        lab.cordoned = set(gateways[1:])
        lab.add_pod("pay", "n1")
        made = Crowd(lab)
        lab.start("n1", "g1")
        lab.wait(made.settled, lambda: f"g1 does not own everything\n{lab.tail('g1')}")
        lab.start(*gateways[1:]) if gateways[1:] else None
        lab.wait_pods("n1", 1)
        lab.wait_settled()
        yield made


def measure_copies(report: Report, rounds: int) -> None:
    with crowd("g1", "g2") as many:
        many.lab.wait_copied()
        empty = {node: many.memory_mb(node) for node in ("g1", "g2")}
        for size in SIZES:
            _to_empty(report, many, size)
            if size != SIZES[-1]:
                continue
            _steady(report, many)
            for rate in BIRTHS:
                _births(report, many, rate)
            for node, who in (("g1", "owner"), ("g2", "standby")):
                more = (max(0.0, many.memory_mb(node) - empty[node]),)
                goal = Goal("value", "<=", 32)
                report.rows.append(Row(f"{size:,} copies: memory of the {who}'s agent, more", "MiB", more, goal=goal))
            _rate(report, many, rounds)
            _walk(report, many)
    report.remarks.append(
        f"Copies: sessions of {PAIRS} addresses, each with a port of its own, were made in the owner's engine by hand; "
        "lateness is from the making of a session to the standby's having it."
    )


def _to_empty(report: Report, many: Crowd, size: int) -> None:
    """The standby begins anew, with nothing."""
    lab = many.lab
    lab.kill("g2")
    lab.command("g2", ["down"])
    progress(f"{size:,} sessions are made")
    many.fill(size)
    progress(f"{size:,} sessions are copied")
    wire = sent_copies(lab, "g1")
    lab.start("g2")
    with many.counter("g2", many.pairs()[:PAIRS]) as there:
        bytes_before, cpu = wire(), {"g1": many.cpu_s("g1"), "g2": many.cpu_s("g2")}
        start = time.monotonic()
        first = 0.0
        while (count := there()) < size:
            now = time.monotonic()
            if not count:
                bytes_before, cpu = wire(), {node: many.cpu_s(node) for node in cpu}
            elif not first:
                first = now
            if now - start > TAKES_S:
                raise LabError(f"The standby has {count} of {size}.\n{lab.tail('g1')}\n{lab.tail('g2')}")
            time.sleep(0.01)
        took = time.monotonic() - (first or start)
        lab.wait_copied()
        spent = {node: many.cpu_s(node) - before for node, before in cpu.items()}
        on_wire = wire() - bytes_before
    text = f"{size:,} copies to an empty standby"
    report.rows.append(Row(f"{text}: first to last", "s", (took,), goal=Goal("value", "<=", 60 * size / SIZES[-1])))
    report.rows.append(
        Row(f"{text}: bytes on the wire for each", "B", (on_wire / size,), goal=Goal("value", "<=", 110))
    )
    for node, who in (("g1", "owner"), ("g2", "standby")):
        each = (spent[node] / size * 100_000,)
        report.rows.append(Row(f"{text}: CPU of the {who}, for 100,000", "s", each, goal=Goal("value", "<=", 1)))


def _steady(report: Report, many: Crowd) -> None:
    progress(f"{many.sessions:,} copies, nothing happens")
    wire = sent_copies(many.lab, "g1")
    time.sleep(2)
    before, sent, start = {node: many.cpu_s(node) for node in ("g1", "g2")}, wire(), time.monotonic()
    time.sleep(WATCHED_S)
    took = time.monotonic() - start
    for node, who in (("g1", "owner"), ("g2", "standby")):
        share = ((many.cpu_s(node) - before[node]) / took,)
        text = f"{many.sessions:,} copies, nothing happens: CPU of the {who}'s agent"
        report.rows.append(Row(text, "cores", share, goal=Goal("value", "<=", 0.15)))
    rate = ((wire() - sent) / took / 1e6,)
    report.rows.append(Row(f"{many.sessions:,} copies, nothing happens: on the wire", "MB/s", rate))


def _births(report: Report, many: Crowd, rate: int) -> None:
    """Sessions are made one by one at the owner, as handed over by another gateway."""
    progress(f"{rate:,} births a second among {many.sessions:,}")
    pair = many.pairs()[PAIRS]
    tables = many.tables("g1")
    number = tables.objects(pair["pair"])[4]
    tables.close()
    with many.counter("g2", [pair]) as there, pinned_program(many.bpffs("g1"), "sg_import", "sg_import_tc") as program:
        base = there()
        born: list[float] = []
        late: list[float] = []
        start = time.monotonic()
        for data in many.records(number, pair, base, round(rate * BIRTHS_S)):
            due = start + len(born) / rate
            while (now := time.monotonic()) < due:
                _arrived(there() - base, born, late)
                time.sleep(min(BATCH_S, max(0.0, due - now)))
            program.test_run(bytes(12) + b"\x08\x00" + data)
            born.append(time.monotonic())
            if len(born) % 50 == 0:
                _arrived(there() - base, born, late)
        while len(late) < len(born) and time.monotonic() < start + TAKES_S:
            _arrived(there() - base, born, late)
            time.sleep(BATCH_S)
        took = born[-1] - start
    if len(late) < len(born):
        raise LabError(f"{len(born) - len(late)} of {len(born)} births are not copied.\n{many.lab.tail('g1')}")
    late.sort()
    p99 = (late[len(late) * 99 // 100] * 1000,)
    text = f"{rate:,} births a second ({len(born) / took:,.0f}) among {many.sessions:,}: on the standby after, p99"
    report.rows.append(Row(text, "ms", p99, goal=Goal("value", "<=", 300)))


def _arrived(count: int, born: list[float], late: list[float]) -> None:
    now = time.monotonic()
    late.extend(now - at for at in born[len(late) : count])


def _walk(report: Report, many: Crowd) -> None:
    """By hand, once the agent is away; the bits are as it left them."""
    many.lab.kill("g1")
    tables = many.tables("g1")
    took = []
    try:
        at = 0
        while at < tables.words:
            _, at = tables.collect(at, tables.words, whole=False, slack=60)
        for _ in range(WALKS):
            start = time.perf_counter()
            tables.collect(0, tables.words, whole=False, slack=60)
            took.append((time.perf_counter() - start) * 1000)
    finally:
        tables.close()
    text = f"{many.sessions:,} sessions: a walk that finds nothing changed"
    report.rows.append(Row(text, "ms", tuple(took), goal=Goal("value", "<=", 5)))


def _rate(report: Report, many: Crowd, rounds: int) -> None:
    """New connections of a pod while a million others are copied, and the same with nobody to copy to."""
    with contextlib.ExitStack() as stack:
        alone = stack.enter_context(crowd("g1"))
        alone.fill(many.sessions)
        labs = {"copied": many.lab, "alone": alone.lab}
        for lab in labs.values():
            stack.enter_context(servers(lab))
        progress(f"connections with {many.sessions:,} copies and without: {rounds} rounds")
        for lab in labs.values():
            connections(lab, SERVER4, CONNECTIONS_S / 2)
        opened = {name: partial(connections, lab, SERVER4, CONNECTIONS_S) for name, lab in labs.items()}
        got = harness.interleave(opened, rounds)
    text = f"new connections beside {many.sessions:,} copies, to none copied"
    report.rows.append(Row(text, "1/s", got["copied"], got["alone"], Goal("ratio", ">=", 0.95)))
