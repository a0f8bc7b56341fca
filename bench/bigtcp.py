"""BIG TCP: what a BIGTCPPolicy brings on every path, that it costs nothing anywhere, and how fast a node is set.

    python -m bench.bigtcp [--json FILE] [--rounds N] [--seconds S] [--only paths,gateway,egress,dsr,...]

One lab per question; sizes are switched off and on between measurements that take turns. "On" is what a policy makes
of the devices of each namespace. The exit code is 0 when every goal is
met, 1 otherwise.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench import harness
from bench.bigtcp_labs import BIG, LEGACY, POLICY, SizedLab, policed_gateway
from bench.bigtcp_scale import DEVICES, reconcile_many
from bench.bigtcp_ways import measure_dsr, measure_egress
from bench.harness import Goal, Report, Row, progress
from bench.nat64_labs import CLIENT, plain_path, sixgate_path
from e2e.lab import topology, traffic
from e2e.lab.run import LabRun

if TYPE_CHECKING:
    from collections.abc import Callable

PARTS = ("paths", "gateway", "egress", "dsr", "latency", "scale")
NEVER_WORSE, HOP, GATEWAY_GOAL = Goal("ratio", ">=", 0.95), Goal("ratio", ">=", 1.2), Goal("ratio", ">=", 1.2)
MEAN_GOAL = Goal("value", ">=", 100)
MAX_SECONDS, MESSAGE_BYTES = Goal("value", "<=", 2), 80_000
NONE = Goal("value", "==", 0)


def _off_on(lab: SizedLab, measure: Callable[[], float], rounds: int) -> dict[str, tuple[float, ...]]:
    def under(size: int) -> float:
        lab.policy(size)
        return measure()

    return harness.interleave({"off": partial(under, LEGACY), "on": partial(under, BIG)}, rounds)


def measure_paths(report: Report, rounds: int, seconds: float) -> None:
    """Two hosts side by side, and with a forwarding kernel between them; both families."""
    for hops, name in ((0, "host to host"), (1, "through a forwarding kernel")):
        with LabRun() as run:
            lab = SizedLab(run, hops)
            for family in (6, 4):
                with traffic.iperf_server(run, "b"):
                    progress(f"IPv{family} {name}: {rounds} rounds of {seconds:g} s, off and on")
                    got = _off_on(lab, partial(lab.gbits, family, seconds), rounds)
                    goal = HOP if hops else NEVER_WORSE
                    report.rows.append(Row(f"IPv{family} {name}", "Gbit/s", got["on"], got["off"], goal))
                    lab.policy(BIG)
                    mean = lab.mean_kilobytes(family, seconds)
                    metric = f"IPv{family} {name}: mean packet when on"
                    report.rows.append(Row(metric, "KB", (mean,), goal=MEAN_GOAL))
    report.remarks.append(f"Paths: one iperf3 flow, veth, MTU 1500; on is {BIG} bytes for both families.")


def measure_gateway(report: Report, rounds: int, seconds: float) -> None:
    """NAT64 with a policy on the gateway, against plain IPv6 forwarding of 64 KB by the kernel, and against itself
    without the policy."""
    with ExitStack() as stack:
        labs = [stack.enter_context(LabRun()) for _ in range(4)]
        paths = {
            "plain": plain_path(labs[0], seconds),
            "off": sixgate_path(labs[1], seconds, acceleration="Disabled"),
            "on": policed_gateway(labs[2], seconds),
            "transmitting": policed_gateway(labs[3], seconds, peers=False),
        }
        for lab in labs:
            stack.enter_context(traffic.iperf_server(lab, "server4"))
        for metric, reverse in (("NAT64 6 to 4", False), ("NAT64 4 to 6", True)):
            progress(f"{metric}: {rounds} rounds of {seconds:g} s")
            got = harness.interleave({n: partial(p.tcp_bits, reverse=reverse) for n, p in paths.items()}, rounds)
            note = "against 64 KB forwarded by the kernel"
            report.rows.append(Row(f"{metric}, BIG TCP", "Gbit/s", got["on"], got["plain"], GATEWAY_GOAL, note))
            for kind, note in (("on", "hosts as pods"), ("transmitting", "hosts that are transmitted to")):
                report.rows.append(Row(f"{metric}, policy", "Gbit/s", got[kind], got["off"], NEVER_WORSE, note))
    report.remarks.append(f"Gateway: lab of bench-nat64, {CLIENT.role} to server4 through {topology.GATEWAY}.")


def measure_latency(report: Report, rounds: int, seconds: float) -> None:
    """A request and an answer of 80 kB each, one after the other."""
    with LabRun() as run:
        lab = SizedLab(run, 0)
        for family in (6, 4):
            progress(f"IPv{family} requests of {MESSAGE_BYTES} bytes")
            got = _off_on(lab, partial(lab.p99_us, family, MESSAGE_BYTES, seconds), rounds)
            report.rows.append(Row(f"IPv{family} request/response of 80 kB, p99", "us", got["on"], got["off"]))


def measure_scale(report: Report, rounds: int) -> None:
    """A node with many devices: set, looked at again, and given back."""
    progress(f"{DEVICES} devices, {rounds} times")
    runs = [reconcile_many(Path(tempfile.gettempdir())) for _ in range(rounds)]
    report.rows += [
        Row(f"{DEVICES} devices set", "s", tuple(run.set_seconds for run in runs), goal=MAX_SECONDS),
        Row(f"{DEVICES} devices, second look", "s", tuple(run.again_seconds for run in runs)),
        Row("netlink writes of the second look", "messages", tuple(float(run.again_writes) for run in runs), goal=NONE),
        Row(f"{DEVICES} devices given back", "s", tuple(run.back_seconds for run in runs), goal=MAX_SECONDS),
    ]


def run(*, rounds: int = 7, seconds: float = 1.0, only: tuple[str, ...] = PARTS) -> Report:
    """All figures, or those of some parts; LabError where a lab cannot be made."""
    report = Report("BIG TCP")
    parts = {
        "paths": partial(measure_paths, report, rounds, seconds),
        "gateway": partial(measure_gateway, report, rounds, seconds),
        "egress": partial(measure_egress, report, min(rounds, 5), seconds),
        "dsr": partial(measure_dsr, report, min(rounds, 5), seconds),
        "latency": partial(measure_latency, report, rounds, seconds),
        "scale": partial(measure_scale, report, min(rounds, 3)),
    }
    harness.run_parts(parts, only)
    report.remarks.append(f"The policy: {POLICY['spec']['devices']}, pods {POLICY['spec']['pods']}.")
    return report


def main() -> int:
    parser = harness.command("Benchmark BIG TCP.", parts=PARTS, rounds=7, seconds=1.0)
    return harness.main(parser, lambda args: run(rounds=args.rounds, seconds=args.seconds, only=args.only))


if __name__ == "__main__":
    sys.exit(main())
