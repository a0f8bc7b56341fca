"""Mode NAT of the balancer against nft's DNAT with masquerade: packets and connections, in turns, one lab of the same
shape for each.

Client, gateway and backend are namespaces of one machine: one core sends, translates and receives packets.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from bench import harness
from bench.harness import Report, Row, progress
from bench.nat_labs import NatPath, conns_server, kernel_path, ready_for_packets, start
from e2e.lab import natlab
from e2e.lab.natlab import CLIENT4, SERVER4, SERVER6, VIP4, NatHost
from e2e.lab.run import LabRun
from e2e.lab.sixgate import NODE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

WAYS = {"IPv4 backend": SERVER4, "IPv6 backend": SERVER6}


def balancer(server: NatHost) -> dict[str, Any]:
    """All ports of the lab's IPv4 VIP, in front of one server."""
    return {
        "apiVersion": "sixgate.io/v1alpha1",
        "kind": "LoadBalancer",
        "metadata": {"name": "lab"},
        "spec": {
            "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": NODE}},
            "vips": [VIP4],
            "allPorts": True,
            "backends": [{"address": server.ip}],
            "forwarding": {"mode": "NAT"},
        },
    }


def balanced_path(lab: LabRun, seconds: float, server: NatHost) -> NatPath:
    natlab.build(lab, (CLIENT4, server))
    start(lab, balancer(server))
    return NatPath(lab, CLIENT4, server, VIP4, seconds).learn()


def _paths(stack: ExitStack, seconds: float) -> dict[str, NatPath]:
    made = {name: balanced_path(stack.enter_context(LabRun()), seconds, host) for name, host in WAYS.items()}
    return {**made, "nft": kernel_path(stack.enter_context(LabRun()), seconds)}


def measure(report: Report, rounds: int = 5, seconds: float = 1.0) -> None:
    """Adds the rows; the issue names no goal for this mode."""
    with ExitStack() as stack:
        paths = _paths(stack, seconds)
        for path in paths.values():
            ready_for_packets(path)
        for what, reverse in (("client to backend", False), ("backend to client", True)):
            progress(f"mode NAT, UDP packets, {what}: {rounds} rounds of {seconds:g} s through {', '.join(paths)}")
            measures = {name: partial(path.packets, reverse=reverse) for name, path in paths.items()}
            report.rows += _rows(f"UDP packets, {what}", "kpps", measures, rounds)
    with ExitStack() as stack:
        paths = _paths(stack, seconds)
        for path in paths.values():
            stack.enter_context(conns_server(path.lab, path.server))
        progress(f"mode NAT, connections: {rounds} rounds of {seconds:g} s through {', '.join(paths)}")
        report.rows += _rows("new TCP connections", "thousand/s", {n: p.connections for n, p in paths.items()}, rounds)
    report.remarks.append(
        "Mode NAT: compared with nft's DNAT and masquerade; 44-byte packets of one flow, and connections that are "
        "reset as soon as they stand, 64 at once. No goal is set for it."
    )


def _rows(what: str, unit: str, measures: Mapping[str, Callable[[], float]], rounds: int) -> list[Row]:
    got = harness.interleave(measures, rounds)
    return [Row(f"mode NAT, {name}, {what}, against nft", unit, got[name], got["nft"]) for name in WAYS]
