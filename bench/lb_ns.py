"""Nanoseconds per packet of the XDP balancer, beside the least that any balancer must do.

    python -m bench.lb_ns [--json FILE] [--rounds N]

BPF_PROG_TEST_RUN of the shipped object on 64-byte frames (74 bytes in IPv6: the least with TCP) whose next hop is
known. The kernel does not restore a packet between repeats, so a wrapper does (bench/bpf/lb_xdp.bpf.c), gives it one
of N sources, and calls the program. What the same loop and the same wrapper take with a program that does nothing is
the harness; it is measured in the same run and taken off, of the floor as of the balancer:

    net = measured - wrapper with a program that returns at once - undoing a move of the head
    undoing = (wrapper with a program that moves the head - wrapper with one that returns at once) / 2

A program that moves the head moves it once, and the wrapper once more: half of that is the wrapper's. Moving the head
itself, the floor's and the balancer's, counts. Some 20 ns of the harness are the kernel's loop: the row of the harness
says how many, for who would rather count them.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import apart, harness
from bench.harness import Goal, Report, Row, progress
from e2e.lab.compiled import bpf_object
from sixgate.node.bpf import BpfObject, Program, XdpContext, load_manifest
from sixgate.node.maglev import Maglev
from tests.bpf.balancer import TCP, Balancer, Slots
from tests.bpf.harness import OBJECTS, XDP_PASS, XDP_TX

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "bench" / "bpf" / "lb_xdp.bpf.c"
REPEAT = 400_000
BACKENDS = 100
SIZE = 65537
FLOWS = {"1 flow": 1, "64 k flows": 1 << 16, "1 M flows": 1 << 20, "16 M sources, all SYN": 1 << 24}
GOALS = {"1 flow": 35, "64 k flows": 40, "1 M flows": 45, "16 M sources, all SYN": 45}
FLOOR_GOAL, V6_GOAL = Goal("ratio", "<=", 2.0), Goal("ratio", "<=", 1.2)
LINKS = """
link add lb0 type veth peer name lb1
link set lb0 up
link set lb1 up
addr add 192.0.2.1/16 dev lb0
addr add 2001:db8::1/64 dev lb0 nodad
"""
MAC = "02:00:00:00:00:09"
VIP4, VIP6 = "203.0.113.1", "2001:db8:a::1"


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    frame: bytes
    addr_off: int
    grow: int
    floor: str


def frame(v6: bool, syn: bool) -> bytes:
    """TCP to the VIP, link header first."""
    tcp = struct.pack("!HHIIBBHHH", 4000, 80, 1, 1, 0x50, 2 if syn else 16, 512, 0, 0)
    link = bytes.fromhex("020000000001020000000002")
    if v6:
        source, vip = (socket.inet_pton(socket.AF_INET6, each) for each in ("2001:db8:c::1", VIP6))
        return link + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, 20, 6, 64) + source + vip + tcp
    header = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0, 64, 6, 0) + bytes([11, 0, 0, 1]) + socket.inet_aton(VIP4)
    return (link + b"\x08\x00" + header + tcp).ljust(64, b"\0")


def family(v6: bool, syn: bool = False) -> Family:
    if v6:
        return Family("IPv6 in IPv6", frame(v6, syn), 34, 40, "sg_lb_floor6")
    return Family("IPv4 in IPv4", frame(v6, syn), 26, 20, "sg_lb_floor4")


def addresses(v6: bool) -> list[str]:
    return [f"2001:db8::1:{i:x}" if v6 else f"192.0.{3 + i // 200}.{1 + i % 200}" for i in range(BACKENDS)]


def balancer() -> Balancer:
    """VIPs of both families with TCP port 80 and BACKENDS backends each, next hops known."""
    made = Balancer(device="lb0")
    with Maglev(load_manifest(OBJECTS)) as maglev:
        for v6 in (False, True):
            base = 1 + v6 * BACKENDS
            hosts = addresses(v6)
            for number, host in enumerate(hosts):
                made.backend(base + number, host)
                subprocess.run(["ip", "neigh", "add", host, "lladdr", MAC, "dev", "lb0"], check=True)
            slots = maglev.build([(host.encode(), 1) for host in hosts], SIZE, 7)
            made.table(int(v6), Slots([(base + index, 0) for index in slots]))
            made.vip(VIP6 if v6 else VIP4)
            made.vip(VIP6 if v6 else VIP4, 80, TCP, table=int(v6))
    return made


def floor_tables(wrapper: BpfObject) -> None:
    """The floor's VIPs, ring and backends."""
    with Maglev(load_manifest(OBJECTS)) as maglev:
        slots = maglev.build([(str(i).encode(), 1) for i in range(BACKENDS)], SIZE, 7)
    wrapper.map("floor_ring").update_batch((struct.pack("=I", i), struct.pack("=I", r)) for i, r in enumerate(slots))
    ring = struct.pack("=II", 0, 500)
    for packed in (bytes(12) + socket.inet_aton(VIP4), socket.inet_pton(socket.AF_INET6, VIP6)):
        wrapper.map("floor_vip").set_raw(packed + struct.pack("!H", 80) + struct.pack("=HI", 6, 0), ring)
    mac = bytes.fromhex(MAC.replace(":", ""))
    for index in range(BACKENDS):
        real = bytes(12) + bytes([192, 0, 2, index]) + mac + mac + bytes(4)
        wrapper.map("floor_real").set_raw(struct.pack("=I", index), real)


class Bench:
    """One family with one number of flows; everything that is measured of it."""

    def __init__(self, which: Family, flows: int, wrapper: Path, made: Balancer) -> None:
        self.which, self.made = which, made
        self.context = XdpContext(ingress_ifindex=socket.if_nametoindex("lb0"))
        self.wrapper = BpfObject.open(wrapper)
        head = struct.unpack("=2Q", which.frame[:16])
        self.wrapper.set_constants(
            {
                "sg_wrap_cfg": {
                    "len": len(which.frame), "mask": flows - 1, "addr_off": which.addr_off, "head": list(head)
                },
                "sg_grow": which.grow,
            }
        )  # fmt: skip
        self.wrapper.load()
        floor_tables(self.wrapper)

    def through(self, target: Program, verdict: int = XDP_TX, repeat: int = REPEAT) -> float:
        """Fails where the program did not balance: a figure of something else must not be printed."""
        self.wrapper.map("sg_target").set(0, target.fd)
        result = self.wrapper.program("sg_lb_wrap").test_run(self.which.frame, repeat=repeat, context=self.context)
        if result.retval not in (verdict, XDP_PASS):
            raise RuntimeError(f"{self.which.name}: the packet ended with verdict {result.retval}, not {verdict}.")
        return float(result.duration_ns)

    def balanced(self) -> float:
        """A packet in some hundred thousand asks for a next hop anew and goes to tc; more would be another figure."""
        before = self.made.stats()["packets"]
        cost = self.through(self.made.loaded.program)
        if self.made.stats()["packets"] - before < REPEAT * 0.99:
            raise RuntimeError(f"{self.which.name}: fewer packets were balanced than sent.")
        return cost

    def warm(self) -> None:
        """Every backend's next hop is asked for."""
        self.wrapper.map("sg_target").set(0, self.made.loaded.program.fd)
        for _ in range(3):
            self.wrapper.program("sg_lb_wrap").test_run(self.which.frame, repeat=4096, context=self.context)

    def pour(self, count: int) -> None:
        """`count` packets through the balancer."""
        self.through(self.made.loaded.program, repeat=count)

    def close(self) -> None:
        self.wrapper.close()

    def measures(self) -> dict[str, Callable[[], float]]:
        program = self.wrapper.program
        return {
            "nothing": partial(self.through, program("sg_nothing")),
            "move": partial(self.through, program("sg_lb_move")),
            "floor": partial(self.through, program(self.which.floor)),
            "balanced": self.balanced,
        }

    def samples(self, rounds: int) -> dict[str, tuple[float, ...]]:
        """Net nanoseconds by name: floor, balanced; and those of the harness."""
        self.warm()
        raw = harness.interleave(self.measures(), rounds)
        own = [(move + nothing) / 2 for move, nothing in zip(raw["move"], raw["nothing"], strict=True)]
        net = {name: tuple(v - c for v, c in zip(raw[name], own, strict=True)) for name in ("floor", "balanced")}
        self.close()
        return net | {"harness": tuple(own)}


def measure_here(rounds: int) -> dict[str, dict[str, tuple[float, ...]]]:
    """Measures in this network namespace, which must be an empty one."""
    for line in LINKS.strip().splitlines():
        subprocess.run(["ip", *line.split()], check=True)
    for name in ("ipv4", "ipv6"):
        Path(f"/proc/sys/net/{name}/conf/all/forwarding").write_text("1")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # next hops are remembered per CPU
    os.setpriority(os.PRIO_PROCESS, 0, -20)  # what other processes do would be measured, too
    wrapper, made = bpf_object(SOURCE), balancer()
    found: dict[str, dict[str, tuple[float, ...]]] = {}
    for v6 in (False, True):
        for name, flows in FLOWS.items():
            which = family(v6, "SYN" in name)
            found[f"{which.name}, {name}"] = Bench(which, flows, wrapper, made).samples(rounds)
    return found


def measure(report: Report, rounds: int = 7) -> None:
    """Adds the rows; measures in a child process with a network namespace of its own, which ends with it."""
    progress(f"XDP balancer, nanoseconds per packet: {rounds} rounds of {REPEAT:,} packets")
    found = apart.ask_rounds("bench.lb_ns", rounds)
    for name, bound in GOALS.items():
        four, six = found[f"IPv4 in IPv4, {name}"], found[f"IPv6 in IPv6, {name}"]
        report.rows += [
            Row(f"XDP IPv4 in IPv4, {name}", "ns", tuple(four["balanced"]), goal=Goal("value", "<=", bound)),
            Row(
                f"XDP IPv4 in IPv4, {name}, against the floor",
                "ns",
                tuple(four["balanced"]),
                tuple(four["floor"]),
                FLOOR_GOAL,
            ),
            Row(
                f"XDP IPv6 in IPv6, {name}, against IPv4",
                "ns",
                tuple(six["balanced"]),
                tuple(four["balanced"]),
                V6_GOAL,
            ),
            Row(f"XDP IPv6 in IPv6, {name}, against the floor", "ns", tuple(six["balanced"]), tuple(six["floor"])),
        ]
    some = found[f"IPv4 in IPv4, {next(iter(GOALS))}"]["harness"]
    report.rows.append(Row("XDP: what the harness takes, not in the figures above", "ns", tuple(some)))
    report.remarks.append(
        f"XDP nanoseconds: BPF_PROG_TEST_RUN, 64-byte frames, {BACKENDS} backends in {SIZE:,} slots, net of what the "
        "kernel's loop takes and the wrapper that restores the packet and varies its source. The floor is a bare "
        "balancer: VIP by hash, ring, backend, two counters, IPIP."
    )


if __name__ == "__main__":
    sys.exit(apart.main_of_rounds("XDP balancer, nanoseconds per packet", 7, measure, measure_here))
