"""What the balancer keeps: established flows through removals, floods, and a second balancer; and Maglev's own figures.

    python -m bench.lb_keep

Packets go through the shipped XDP program by BPF_PROG_TEST_RUN, floods through a wrapper that varies their source
(bench/bpf/lb_xdp.bpf.c). Which backend a packet was sent to is read from its outer source, which stands for the id.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bench import apart, harness, lb_ns
from bench.harness import Goal, Report, Row, progress
from e2e.lab.compiled import bpf_object
from sixgate.node.bpf import XdpContext, load_manifest
from sixgate.node.maglev import Maglev
from tests.bpf.balancer import SECOND, TCP, Balancer, Slots
from tests.bpf.harness import OBJECTS

ROOT = Path(__file__).resolve().parent.parent
FLOWS = 10_000
FLOOD = 10_000_000
GOOD = 1_000
SIZE = 65537
SYN, ACK = 2, 16
VIP = lb_ns.VIP4
HOP, MAC = "192.0.2.10", "02:00:00:00:00:10"
REMOVALS = ((3, (1,)), (3, (1, 2, 7)), (10, (1,)), (100, (1,)), (100, (1, 5, 20)), (500, (1,)), (500, (1, 9)))
FIRST_CLIENT = 0x0C000000  # 12.0.0.0; floods come from 11.0.0.0/8


@dataclass(slots=True)
class Found:
    """Figures by name; samples where there are several."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)


def backends(count: int, weights: tuple[int, ...] = (1,)) -> list[tuple[bytes, int]]:
    return [(str(number).encode(), weights[number % len(weights)]) for number in range(count)]


class Edge:
    """A balancer whose backends 1, 2, ... share one next hop."""

    def __init__(self, count: int) -> None:
        self.balancer = Balancer(device="lb0")
        self.context = XdpContext(ingress_ifindex=socket.if_nametoindex("lb0"))
        for number in range(1, count + 1):
            self.balancer.backend(number, HOP, src=f"10.0.{number >> 8}.{number & 255}")
        self.balancer.vip(VIP)

    def table(self, slots: list[tuple[int, int]], *, epoch: int = 1) -> None:
        until = time.monotonic_ns() + 1000 * SECOND
        self.balancer.table(0, Slots(slots, until, 0, epoch))
        self.balancer.vip(VIP, 80, TCP)

    def owner(self, client: int, flags: int) -> int:
        """Id of the backend that gets a packet, -1 where nobody does."""
        sent = lb_ns.frame(False, flags == SYN)
        sent = sent[:26] + struct.pack("!I", FIRST_CLIENT + client) + sent[30:]
        for _ in range(2):  # the first may have to ask for the next hop
            data = self.balancer.loaded.program.test_run(sent, context=self.context).data
            if len(data) == len(sent) + 20:
                return int.from_bytes(data[28:30], "big")
        return -1

    def owners(self, flags: int, clients: range = range(FLOWS)) -> list[int]:
        return [self.owner(client, flags) for client in clients]

    def written(self) -> int:
        """Entries of every table that flows are put down in."""
        maps = self.balancer.maps
        words = (struct.unpack("=8Q", raw) for _, raw in maps["sg_lb_pending"].lookup_batch())
        return (
            len(maps["sg_lb_flow"].keys_raw())
            + len(maps["sg_lb_affinity"].keys_raw())
            + sum(bool(word) for bucket in words for word in bucket)
        )

    def close(self) -> None:
        self.balancer.close()


def removal(maglev: Maglev, found: Found) -> None:
    """One backend of N goes, with flows open on all."""
    for count, weights in REMOVALS:
        given = backends(count, weights)
        gone = random.Random(count).randrange(count)
        before = maglev.build(given, SIZE, 7)
        after = [index + (index >= gone) for index in maglev.build(given[:gone] + given[gone + 1 :], SIZE, 7)]
        edge = Edge(count)
        edge.table([(index + 1, 0) for index in before])
        owners = edge.owners(SYN)
        edge.table([(new + 1, old + 1 if old != new else 0) for old, new in zip(before, after, strict=True)])
        now = edge.owners(ACK)
        found.add("moved", sum(a != b for a, b in zip(owners, now, strict=True)))
        found.add("new on the removed", sum(owner == gone + 1 for owner in edge.owners(SYN, range(FLOWS, FLOWS + 500))))
        edge.close()


def second(maglev: Maglev, found: Found) -> None:
    """Another balancer, which has seen nothing, gets the flows."""
    table = [(index + 1, 0) for index in maglev.build(backends(100), SIZE, 7)]
    one, other = Edge(100), Edge(100)
    for edge in (one, other):
        edge.table(table)
    broken = sum(a != b for a, b in zip(one.owners(SYN), other.owners(ACK), strict=True))
    found.add("broken by a second balancer", broken)
    one.close()
    other.close()


def flood(maglev: Maglev, found: Found, *, drain: bool) -> None:
    """FLOOD SYNs from 16 M forged sources, while GOOD clients connect; FLOWS idle flows are looked at afterwards.

    Every good client's answer comes FLOOD / GOOD forged SYNs after its SYN.
    """
    edge = Edge(100)
    before = maglev.build(backends(100), SIZE, 7)
    edge.table([(index + 1, 0) for index in before])
    idle = edge.owners(SYN)
    tracked = range(FLOWS, FLOWS + 1000)
    if drain:
        after = [index + 1 for index in maglev.build(backends(100)[1:], SIZE, 7)]
        changed = [(new + 1, old + 1 if old != new else 0) for old, new in zip(before, after, strict=True)]
        edge.table(changed)
        idle += edge.owners(SYN, tracked)
        edge.owners(ACK, tracked)
    steady = edge.written()
    which = lb_ns.family(False, syn=True)
    bench = lb_ns.Bench(which, 1 << 24, bpf_object(lb_ns.SOURCE), edge.balancer)
    good = 0
    began = time.perf_counter()
    for client in range(FLOWS + 2000, FLOWS + 2000 + GOOD):
        chosen = edge.owner(client, SYN)
        bench.pour(FLOOD // GOOD)
        good += chosen > 0 and edge.owner(client, ACK) == chosen and edge.owner(client, ACK) == chosen
    name = "in a drain" if drain else "in the steady state"
    found.add(f"flood {name}, Mpps", FLOOD / (time.perf_counter() - began) / 1e6)
    found.add(f"flood {name}, good", 100 * good / GOOD)
    if not drain:
        found.add(f"flood {name}, written", edge.written() - steady)
    now = edge.owners(ACK) + (edge.owners(ACK, tracked) if drain else [])
    found.add(f"flood {name}, kept", sum(a == b for a, b in zip(idle, now, strict=True)))
    found.add(f"flood {name}, of", len(idle))
    bench.close()
    edge.close()


def maglev_figures(maglev: Maglev, found: Found) -> None:
    given = backends(100)
    for _ in range(15):
        began = time.perf_counter()
        before = maglev.build(given, SIZE, 7)
        found.add("build", 1000 * (time.perf_counter() - began))
    for gone in range(0, 100, 5):
        rest = given[:gone] + given[gone + 1 :]
        after = maglev.build(rest, SIZE, 7)
        moved = sum(a != gone and given[a] != rest[b] for a, b in zip(before, after, strict=True))
        found.add("extra", 100 * moved / SIZE)
    for count in (3, 10, 100, 500):
        shares = Counter(maglev.build(backends(count), SIZE, 7))
        found.add("spread", max(shares.values()) * count / SIZE)
    for count, weights in ((3, (1, 2, 7)), (100, tuple(range(1, 101))), (500, (1, 4)), (100, (100, *[1] * 99))):
        some = backends(count, weights)
        shares, total = Counter(maglev.build(some, SIZE, 7)), sum(weight for _, weight in some)
        off = max(abs(shares[index] * total / (SIZE * weight) - 1) for index, (_, weight) in enumerate(some))
        found.add("off", 100 * off)


def measure_here() -> dict[str, list[float]]:
    """Measures in this network namespace, which must be an empty one."""
    for line in lb_ns.LINKS.strip().splitlines():
        subprocess.run(["ip", *line.split()], check=True)
    subprocess.run(["ip", "neigh", "add", HOP, "lladdr", MAC, "dev", "lb0"], check=True)
    Path("/proc/sys/net/ipv4/conf/all/forwarding").write_text("1")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # next hops are remembered per CPU
    found = Found()
    with Maglev(load_manifest(OBJECTS)) as maglev:
        maglev_figures(maglev, found)
        removal(maglev, found)
        second(maglev, found)
        flood(maglev, found, drain=False)
        flood(maglev, found, drain=True)
    return found.values


def measure(report: Report) -> None:
    """Adds the rows; measures in a child process with a network namespace of its own, which ends with it."""
    progress(f"balancer: Maglev, {len(REMOVALS)} removals, two floods of {FLOOD:,} SYNs")
    got: dict[str, list[float]] = apart.ask("bench.lb_keep")
    none = Goal("value", "==", 0)

    def row(metric: str, unit: str, name: str, goal: Goal | None, *, worst: bool = False) -> None:
        samples = tuple(got[name])
        report.rows.append(Row(metric, unit, (max(samples),) if worst else samples, goal=goal))

    row("Maglev, 100 backends in 65,537 slots", "ms", "build", Goal("value", "<=", 50))
    row("Maglev, removing 1 of 100: slots of others that change", "%", "extra", Goal("value", "<=", 0.6))
    row("Maglev, equal weights, 3 to 500 backends: largest share", "of mean", "spread", Goal("value", "<=", 1.02),
        worst=True)  # fmt: skip
    row("Maglev, unequal weights: share off its weight, at most", "%", "off", Goal("value", "<=", 2), worst=True)
    row(f"removing 1 of 3 to 500 backends: of {FLOWS:,} flows moved", "flows", "moved", none, worst=True)
    row("the same: new flows on the removed backend", "flows", "new on the removed", none, worst=True)
    row(f"second balancer, cold table: of {FLOWS:,} flows broken", "flows", "broken by a second balancer", none)
    for when in ("in the steady state", "in a drain"):
        flows = got[f"flood {when}, of"][0]
        what = f"{FLOOD:,} forged SYNs {when}"
        row(f"{what}: established flows kept", f"of {flows:,.0f}", f"flood {when}, kept", Goal("value", "==", flows))
        row(f"{what}: new good flows that succeed", "%", f"flood {when}, good", Goal("value", ">=", 99))
        row(f"{what}: rate, test harness included", "Mpps", f"flood {when}, Mpps", None)
    row("forged SYNs in the steady state: entries written", "entries", "flood in the steady state, written", none)


def main() -> int:
    title = "XDP balancer, what it keeps"
    return apart.main(
        harness.command(f"{title}."), lambda _: harness.report_of(title, measure), lambda _: measure_here()
    )


if __name__ == "__main__":
    sys.exit(main())
