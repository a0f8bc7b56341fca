"""The stateful gateway against the kernel's own DNAT and masquerade, and its promises under kill -9.

    python -m bench.nat [--json FILE] [--rounds N] [--seconds S] [--only tcp,packets,connections,...]

Every way leads through three namespaces of the same shape on one machine, and what is compared takes turns. The exit
code is 0 when every goal is met, 1 otherwise.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from bench import harness, nat_engine, nat_million
from bench.harness import Goal, Report, Row, progress
from bench.nat_labs import kernel_path, nat46_path, nat64_path
from bench.nat_upgrade import kill_under_flows, upgrade_under_flows
from bench.nat_ways import Ways
from e2e.lab import traffic
from e2e.lab.run import LabRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.nat_labs import NatPath

PARTS = ("tcp", "packets", "connections", "restart", "upgrade", "million", "engine")
NONE = Goal("value", "<=", 0)
KERNEL = "nft DNAT and masquerade of IPv4"
AS_KERNEL = Goal("ratio", ">=", 1.0)
WAYS = {"nat64": "NAT64", "nat46": "NAT46"}


def _paths(stack: ExitStack, seconds: float) -> dict[str, NatPath]:
    labs = [stack.enter_context(LabRun()) for _ in range(3)]
    return {
        "kernel": kernel_path(labs[0], seconds),
        "nat64": nat64_path(labs[1], seconds),
        "nat46": nat46_path(labs[2], seconds),
    }


def _rows(metric: str, unit: str, got: Mapping[str, tuple[float, ...]]) -> list[Row]:
    return [
        Row(f"{metric}, {name}, against {KERNEL}", unit, got[way], got["kernel"], AS_KERNEL)
        for way, name in WAYS.items()
    ]


def measure_tcp(report: Report, rounds: int, seconds: float) -> None:
    """TCP both directions, in turns through three labs."""
    with ExitStack() as stack:
        paths = _paths(stack, seconds)
        for path in paths.values():
            stack.enter_context(traffic.iperf_server(path.lab, path.server.role))
        for metric, reverse in (("TCP, client to server", False), ("TCP, server to client", True)):
            progress(f"{metric}: {rounds} rounds of {seconds:g} s through {', '.join(paths)}")
            measures = {name: partial(path.tcp_bits, reverse=reverse) for name, path in paths.items()}
            report.rows += _rows(metric, "Gbit/s", harness.interleave(measures, rounds))
    report.remarks.append("TCP: one iperf3 flow, MTU 1500, offloads on, in tc.")


def measure_packets(report: Report, rounds: int, seconds: float) -> None:
    """Packets per second of one flow both directions, in turns through three labs."""
    Ways(_paths, _rows, rounds, seconds).packets(report, "UDP 64 bytes", "server")
    report.remarks.append(
        "UDP: 64 bytes as IPv6, 44 as IPv4, handed to the gateway as a network card's driver would (XDP frames), "
        "counted by the receiver's device. One core sends, forwards and receives."
    )


def measure_connections(report: Report, rounds: int, seconds: float) -> None:
    """New TCP connections per second, in turns through three labs."""
    Ways(_paths, _rows, rounds, seconds).connections(report)
    report.remarks.append("New connections: opened by one client process, 64 at once, and reset as soon as they stand.")


def measure_restart(report: Report) -> None:
    """kill -9 and restart while 20,000 flows send."""
    progress("restart: kill -9 under flows")
    got = kill_under_flows()
    what = f"kill -9 and restart {got.kills} times under {got.flows:,} flows"
    report.rows += [
        Row(f"{what}: sessions lost", "sessions", (float(got.lost),), goal=NONE),
        Row(f"{what}: flows that changed address or port", "flows", (float(got.moved),), goal=NONE),
    ]
    report.remarks.append(f"Restart: {got.packets:,} packets came through meanwhile.")


def measure_upgrade(report: Report) -> None:
    """Objects whose session is larger, while 500,000 flows are in the tables."""
    progress("upgrade: objects with a larger session, 500,000 flows")
    got = upgrade_under_flows()
    what = f"Upgrade to a larger session with {got.flows:,} flows"
    report.rows += [
        Row(f"{what}: lost", "flows", (float(got.lost),), goal=NONE),
        Row(f"{what}: changed address or port", "flows", (float(got.moved_meanwhile),), goal=NONE),
        Row(f"{what}: carrying the table over, both passes", "s", (got.carrying_s,), goal=Goal("value", "<=", 3)),
    ]


def run(*, rounds: int = 5, seconds: float = 1.0, only: tuple[str, ...] = PARTS) -> Report:
    """All rows of this benchmark."""
    report = Report("Stateful NAT")
    parts = {
        "tcp": partial(measure_tcp, report, rounds, seconds),
        "packets": partial(measure_packets, report, rounds, seconds),
        "connections": partial(measure_connections, report, rounds, seconds),
        "restart": partial(measure_restart, report),
        "upgrade": partial(measure_upgrade, report),
        "million": partial(nat_million.measure, report, rounds, seconds),
        "engine": partial(nat_engine.measure, report),
    }
    harness.run_parts(parts, only)
    return report


def main() -> int:
    parser = harness.command("Measure the stateful gateway.", parts=PARTS, rounds=5, seconds=1.0)
    return harness.main(parser, lambda args: run(rounds=args.rounds, seconds=args.seconds, only=args.only))


if __name__ == "__main__":
    sys.exit(main())
