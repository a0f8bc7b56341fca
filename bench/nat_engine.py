"""The engine of stateful NAT at full size: a flood of 10^7 SYNs, every port of an address, a million sessions.

    python -m bench.nat_engine [--json FILE] [--packets N] [--sessions N]

Packets go through the shipped tc program by BPF_PROG_TEST_RUN in a network namespace that ends with the process. The
exit code is 0 when every goal is met, 1 otherwise.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import harness
from bench.harness import Goal, Report, Row, progress
from sixgate.node.bpf.layouts import SgStFlag
from tests.bpf.frames import ACK, SYN, embed, tcp, udp
from tests.bpf.nat_flood import Flood
from tests.bpf.nat_lab import BLOCKS, Domain, NatLab, Pool

if TYPE_CHECKING:
    from collections.abc import Callable

REMOTE, BASE = "203.0.113.5", "2001:db8:1::"
REMOTE6 = embed(REMOTE)
PORTS = 64512
PER_SESSION = ("sg_st_fwd", "sg_st_map", "sg_st_find", "sg_st_sess", "sg_st_sids", "sg_st_mids")
ROUNDS = 7


def measure_flood(report: Report, packets: int = 10_000_000, sessions: int = 10_000) -> None:
    """Spoofed SYNs against idle established sessions and new connections that come in between."""
    progress(f"{packets:,} spoofed SYNs against {sessions:,} sessions")
    domain = Domain(pools=(Pool(n=2),), max_sessions=65536, half_size=16384)
    with NatLab((domain,), ids=81920) as lab, Flood(lab, tcp(BASE, 1024, REMOTE6, 80, SYN)) as flood:
        established = [_connect(lab, f"2001:db8:2::{i + 1:x}", lambda: None) for i in range(sessions)]
        tries, good, spent = 1000, 0, []
        gap = min(8192, packets // tries // 2)
        for i in range(tries):
            spent.append(float(flood.random(packets // tries - gap)))
            # An answer takes its time: up to half as many SYNs as there are places come before it does.
            good += _connect(lab, f"2001:db8:3::{i + 1:x}", lambda: flood.random(gap)) is not None
        alive = sum(
            lab.send(tcp(REMOTE, 80, each[0], each[1], ACK)).reason == "SG_OK_46" for each in established if each
        )
    text = f"SYN flood of {packets:,}: established sessions that survive"
    report.rows.append(Row(text, "sessions", (float(alive),), goal=Goal("value", ">=", sessions)))
    text = f"SYN flood of {packets:,}: new good connections that succeed"
    report.rows.append(Row(text, "%", (100.0 * good / tries,), goal=Goal("value", ">=", 99.0)))
    report.rows.append(Row("SYN flood: one SYN, session and port made, another given up", "ns", tuple(spent[::100])))


def _connect(lab: NatLab, client: str, meanwhile: Callable[[], object]) -> tuple[str, int] | None:
    syn = lab.send(tcp(client, 3000, REMOTE6, 80, SYN)).out
    meanwhile()
    answer = lab.send(tcp(REMOTE, 80, syn.src, syn.sport, SYN | ACK))
    return (syn.src, syn.sport) if answer.reason == "SG_OK_46" and answer.out.dst == client else None


def measure_ports(report: Report) -> None:
    """One pool address, one destination, 64,512 ports."""
    progress(f"{PORTS:,} ports of one address")
    domain = Domain(pools=(Pool(n=1),), max_sessions=131072)
    with NatLab((domain,), ids=66048) as lab, Flood(lab, udp(BASE, 1024, REMOTE6, 80)) as flood:
        for share, least in ((0.95, 100.0), (0.99, 99.99), (1.0, 0.0)):
            done = lab.use()["maps"]
            asked = int(PORTS * share) - done
            flood.each(done, asked, ports=4032)
            text = f"Ports: allocations that succeed up to {share:.0%} use"
            goal = Goal("value", ">=", least) if least else None
            report.rows.append(Row(text, "%", (100.0 * (lab.use()["maps"] - done) / asked,), goal=goal))
        sent = lab.loaded.metrics()["SG_OK_64"].packets
        passed = sum(count.packets for name, count in lab.loaded.metrics().items() if name.startswith("SG_PASS"))
        spent = flood.each(PORTS, 10_000, ports=4032)
        after = lab.loaded.metrics()
        left = after["SG_OK_64"].packets - sent - passed
        left += sum(count.packets for name, count in after.items() if name.startswith("SG_PASS"))
    text = "Ports: packets that leave, or leave untranslated, when all are taken (of 10,000)"
    report.rows.append(Row(text, "packets", (float(left),), goal=Goal("value", "<=", 0.0)))
    text = "Ports: refusing a packet when all are taken"
    report.rows.append(Row(text, "ns", (float(spent),), goal=Goal("value", "<=", 1000.0)))


def measure_new(report: Report, sessions: int = 200_000) -> None:
    """What a new session costs, without and with address-dependent filtering, as egress has it."""
    ids = (sessions + 511) // 512 * 512
    kinds = (
        ("datagram", 0, udp(BASE, 1024, REMOTE6, 80)),
        ("datagram, address-dependent filtering", SgStFlag.SG_ST_ADF, udp(BASE, 1024, REMOTE6, 80)),
        ("SYN, address-dependent filtering", SgStFlag.SG_ST_ADF, tcp(BASE, 1024, REMOTE6, 80, SYN)),
    )
    for name, more, packet in kinds:
        progress(f"{sessions:,} new sessions: {name}")
        flags = Domain().flags | more
        domain = Domain(pools=(Pool("192.0.2.0", n=32),), max_sessions=ids, flags=flags, half_size=ids)
        spent = []
        for _ in range(3):
            with NatLab((domain,), ids=ids) as lab, Flood(lab, packet) as flood:
                spent.append(float(flood.each(0, sessions, ports=1000)))
                have = lab.use()["sessions"]
        if have != sessions:
            raise RuntimeError(f"{have:,} sessions were made, not {sessions:,}.")
        report.rows.append(Row(f"A new session: {name}", "ns", tuple(spent)))


def measure_million(report: Report, sessions: int = 1_000_000) -> None:
    """Memory, nanoseconds per packet and the sweeper at a million sessions."""
    progress(f"{sessions:,} sessions")
    ids = (sessions + 511 + 32768) // 512 * 512
    domain = Domain(pools=(Pool("192.0.2.0", n=32),), max_sessions=ids)
    with (
        NatLab((domain,), ids=ids) as lab,
        Flood(lab, udp(BASE, 1024, REMOTE6, 80)) as flood,
        Flood(lab, udp(BASE, 1024, REMOTE6, 80), floor=True) as floor,
    ):
        made = flood.each(0, sessions, ports=1000)
        have = lab.use()["sessions"]
        report.rows.append(Row("Sessions made", "sessions", (float(have),), goal=Goal("value", ">=", sessions)))
        report.rows.append(Row("A new UDP session, mapping and port with it", "ns", (float(made),)))
        locked = sum(_locked(lab.map(name).fd) for name in PER_SESSION)
        blocks = _locked(lab.map("sg_st_port").fd) / (32 * 3 * BLOCKS * 64)
        report.rows.append(
            Row(
                "Memory of a session, all its entries",
                "bytes",
                (locked / ids + blocks,),
                goal=Goal("value", "<=", 384.0),
            )
        )
        stride = 7919
        got = harness.interleave(
            {
                "few": lambda: float(flood.each(0, 1000, ports=1000, packets=500_000, stride=7)),
                "many": lambda: float(flood.each(0, sessions, ports=1000, packets=1_000_000, stride=stride)),
                "floor": lambda: float(floor.each(0, 1000, ports=1000, packets=500_000, stride=7)),
            },
            ROUNDS,
        )
        mpps = {name: tuple(1000.0 / value for value in values) for name, values in got.items()}
        text = f"pps with {sessions:,} sessions against 1,000 sessions, BPF_PROG_TEST_RUN"
        report.rows.append(Row(text, "Mpps", mpps["many"], mpps["few"], Goal("ratio", ">=", 0.8)))
        net = tuple(many - floor_ns for many, floor_ns in zip(got["few"], got["floor"], strict=True))
        text = "An established packet, 1,000 sessions, beyond a change of family"
        report.rows.append(Row(text, "ns", net))
        net = tuple(many - floor_ns for many, floor_ns in zip(got["many"], got["floor"], strict=True))
        report.rows.append(Row(f"The same with {sessions:,} sessions", "ns", net))
        report.rows.append(_sweep(lab, sessions))
    report.remarks.append(
        "Mpps and ns: BPF_PROG_TEST_RUN of the tc program on 70-byte UDP packets, sessions visited in an order that "
        "caches do not foresee; Mpps include what puts the packet back, ns are beyond the same with a change of family."
    )


def _sweep(lab: NatLab, sessions: int) -> Row:
    """Share of one core that the sweeper takes, from its own clock, over two passes."""
    shares = []
    for _ in range(3):
        before = lab.record("sg_st_sweep", 0)
        time.sleep(8)
        after = lab.record("sg_st_sweep", 0)
        wall = after["ran_ns"] - before["ran_ns"]
        shares.append(100.0 * (after["spent_ns"] - before["spent_ns"]) / wall if wall else 100.0)
    return Row(f"Sweeping {sessions:,} sessions", "% of a core", tuple(shares), goal=Goal("value", "<=", 1.0))


def _locked(fd: int) -> int:
    """Bytes of kernel memory that a map holds."""
    found = re.search(r"^memlock:\s*(\d+)", Path(f"/proc/self/fdinfo/{fd}").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def measure(report: Report, packets: int = 10_000_000, sessions: int = 1_000_000) -> None:
    """All rows; about two minutes."""
    measure_flood(report, packets)
    measure_ports(report)
    measure_new(report)
    measure_million(report, sessions)


def run(packets: int, sessions: int) -> Report:
    return harness.report_of("Stateful NAT: the engine", lambda report: measure(report, packets, sessions))


def main() -> int:
    parser = harness.command("Measure the engine of stateful NAT.")
    parser.add_argument("--packets", type=int, default=10_000_000, help="SYNs of the flood")
    parser.add_argument("--sessions", type=int, default=1_000_000, help="sessions of the large table")
    return harness.main(parser, lambda args: run(args.packets, args.sessions))


if __name__ == "__main__":
    sys.exit(main())
