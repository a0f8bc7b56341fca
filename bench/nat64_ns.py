"""Nanoseconds per packet of the XDP translator, beside the least that any translator must do.

    python -m bench.nat64_ns [--json FILE] [--rounds N]

BPF_PROG_TEST_RUN of the shipped object on 64-byte UDP packets whose next hop is known. A program that changes the
size of its packet runs behind a wrapper that puts the packet back and calls it (bench/bpf/wrap_xdp.bpf.c); what the
wrapper costs is measured in the same run and taken off:

    net = measured - (wrapper calling nothing - nothing) - (floor moving 20 bytes - floor moving 0 bytes)

The floor moves the head by 20 bytes, copies the link header and transmits. One-armed, the translator transmits on the
device it received from, as the floor does; two-armed, it redirects to another one.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import apart, harness
from bench.harness import Goal, Report, Row, progress
from e2e.lab.compiled import bpf_object
from sixgate.node.bpf import BpfObject, Map, Program, TestResult, XdpContext
from tests.bpf.harness import OBJECTS, XDP_REDIRECT, XDP_TX, Loaded

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "bench" / "bpf" / "wrap_xdp.bpf.c"
REPEAT = 500_000
GOAL = Goal("ratio", "<=", 2.5)
GATEWAY = {
    "prefix": "2001:db8:64::",
    "mask": "ffff:ffff:ffff:ffff:ffff:ffff::",
    "prefix_len": 96,
    "flags": 1,
    "low_mtu": 1280,
}
RANGE = {"addr": 0xC6336400, "mask": 0xFFFFFF00, "gw": 0}
LINKS = """
link add v6 type veth peer name p6
link add v4 type veth peer name p4
link set v6 up
link set p6 up
link set v4 up
link set p4 up
addr add 2001:db8:64::c633:6401/120 dev v6 nodad
addr add 203.0.113.1/24 dev v4
neigh add 2001:db8:64::c633:6402 lladdr 02:00:00:00:00:02 dev v6
neigh add 203.0.113.2 lladdr 02:00:00:00:00:04 dev v4
"""


@dataclass(frozen=True, slots=True)
class Way:
    """One direction: the 64-byte frame, the device it is received on, and what the head moves by."""

    name: str
    frame: bytes
    near: str
    far: str
    grow: int


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frames() -> tuple[bytes, bytes]:
    """UDP from 198.51.100.2 under the prefix to 203.0.113.2, and back in IPv4; link header first, 64 bytes each."""
    link = bytes.fromhex("020000000001020000000002")
    client = socket.inet_pton(socket.AF_INET6, "2001:db8:64::c633:6402")
    server = socket.inet_pton(socket.AF_INET6, "2001:db8:64::cb00:7102")
    to4 = link + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, 10, 17, 64) + client + server
    to4 += struct.pack("!HHHH", 1000, 2000, 10, 0x1234) + bytes(2)
    v4 = struct.pack("!BBHHHBBH", 0x45, 0, 50, 1, 0, 64, 17, 0)
    v4 += socket.inet_aton("203.0.113.2") + socket.inet_aton("198.51.100.2")
    v4 = v4[:10] + struct.pack("!H", checksum(v4)) + v4[12:]
    to6 = link + b"\x08\x00" + v4 + struct.pack("!HHHH", 1000, 2000, 30, 0x1234) + bytes(22)
    return to4, to6


def wrapped(path: Path, frame: bytes, grow: int) -> BpfObject:
    """The wrapper's object, loaded for this frame."""
    words = list(struct.unpack("=8Q", frame))
    made = BpfObject.open(path)
    made.set_constants({"sg_original": {"len": len(frame), "words": words}, "sg_grow": grow})
    made.load()
    return made


def timed(program: Program, frame: bytes, context: XdpContext | None = None) -> tuple[float, TestResult]:
    """Nanoseconds of this thread's processor time per run, and the last result. The kernel's own figure is whole
    nanoseconds, which is more than a hundredth of what is measured here."""
    started = time.thread_time_ns()
    result = program.test_run(frame, repeat=REPEAT, context=context)
    return (time.thread_time_ns() - started) / REPEAT, result


class Bench:
    """Everything that is measured of one way; closes with the process."""

    def __init__(self, way: Way, wrapper: Path, gateway: Loaded) -> None:
        self.way, self.gateway = way, gateway
        self.moving, self.still = wrapped(wrapper, way.frame, way.grow), wrapped(wrapper, way.frame, 0)

    def nanoseconds(self, target: Program, wrapper: BpfObject, device: str) -> float:
        jump: Map = wrapper.map("sg_target")
        jump.set(0, target.fd)
        context = XdpContext(ingress_ifindex=socket.if_nametoindex(device))
        return timed(wrapper.program("sg_wrap"), self.way.frame, context)[0]

    def translate(self, device: str, verdict: int) -> float:
        """Fails where the packet was not translated: a figure of something else must not be printed."""
        jump: Map = self.moving.map("sg_target")
        jump.set(0, self.gateway.program.fd)
        context = XdpContext(ingress_ifindex=socket.if_nametoindex(device))
        wrap = self.moving.program("sg_wrap")
        wrap.test_run(self.way.frame, repeat=3, context=context)
        duration_ns, result = timed(wrap, self.way.frame, context)
        if result.retval not in (verdict, 2) or len(result.data) != len(self.way.frame) + self.way.grow:
            raise RuntimeError(f"The packet of way {self.way.name} ended with verdict {result.retval}, not {verdict}.")
        return duration_ns

    def direct(self) -> float:
        nothing = self.moving.program("sg_nothing")
        return timed(nothing, self.way.frame)[0]

    def samples(self, rounds: int) -> dict[str, tuple[float, ...]]:
        """Net nanoseconds by name: floor, one-armed, two-armed."""
        moving, still, near = self.moving, self.still, self.way.near
        raw = harness.interleave(
            {
                "direct": self.direct,
                "nothing": partial(self.nanoseconds, moving.program("sg_nothing"), moving, near),
                "still": partial(self.nanoseconds, still.program("sg_floor"), still, near),
                "floor": partial(self.nanoseconds, moving.program("sg_floor"), moving, near),
                "one": partial(self.translate, self.way.far, XDP_TX),
                "two": partial(self.translate, near, XDP_REDIRECT),
            },
            rounds,
        )
        own = [
            n - d + f - s for n, d, f, s in zip(raw["nothing"], raw["direct"], raw["floor"], raw["still"], strict=True)
        ]
        return {
            name: tuple(value - cost for value, cost in zip(raw[name], own, strict=True))
            for name in ("floor", "one", "two")
        }


def prepare() -> tuple[tuple[Way, Way], Path]:
    """Devices, routes and the wrapper in this network namespace, which must be an empty one: both ways, its object."""
    for line in LINKS.strip().splitlines():
        subprocess.run(["ip", *line.split()], check=True)
    for family in ("ipv4", "ipv6"):
        Path(f"/proc/sys/net/{family}/conf/all/forwarding").write_text("1")
    to4, to6 = frames()
    return (Way("6 to 4", to4, "v6", "v4", -20), Way("4 to 6", to6, "v4", "v6", 20)), bpf_object(SOURCE)


def load_gateway(objects: Path = OBJECTS) -> Loaded:
    """The translator, configured for the frames of both ways."""
    config = {"features": 1, "l2_len": 14, "slow_dev": 1, "icmp_rate": 1, "icmp_burst": 1}
    gateway = Loaded("sg_xdp", constants={"sg_cfg": config}, objects=objects)
    gateway.swap("sg_nat", 0, {0: {"n_gw": 1, "n_range": 1, "version": 1, "range": [RANGE], "gw": [GATEWAY]}})
    devices = {device: socket.if_nametoindex(device) for device in ("v6", "v4")}
    gateway.fill("sg_tx", [(index, index) for index in devices.values()])
    return gateway


def measure_here(rounds: int) -> dict[str, dict[str, tuple[float, ...]]]:
    """Measures in this network namespace, which must be an empty one."""
    ways, wrapper = prepare()
    gateway = load_gateway()
    return {way.name: Bench(way, wrapper, gateway).samples(rounds) for way in ways}


def measure(report: Report, rounds: int = 9) -> None:
    """Adds the rows; measures in a child process with a network namespace of its own, which ends with it."""
    progress(f"XDP, nanoseconds per packet: {rounds} rounds of {REPEAT:,} packets")
    found = apart.ask_rounds("bench.nat64_ns", rounds)
    for way, samples in found.items():
        floor = tuple(samples["floor"])
        for arms, goal in (("one", GOAL), ("two", None)):
            name = f"XDP {way}, 64-byte UDP, {arms}-armed, against moving the head and transmitting"
            report.rows.append(Row(name, "ns", tuple(samples[arms]), floor, goal))
    report.remarks.append(
        "XDP nanoseconds: BPF_PROG_TEST_RUN, one pair of addresses, net of the wrapper that restores the packet. "
        "Two-armed adds the look-up of the other device, which the floor does not have."
    )


if __name__ == "__main__":
    sys.exit(apart.main_of_rounds("XDP translator, nanoseconds per packet", 9, measure, measure_here))
