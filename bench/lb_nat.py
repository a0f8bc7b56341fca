"""Mode NAT of the balancer against nft's DNAT with masquerade: packets and connections, in turns, one lab of the same
shape for each.

Client, gateway and backend are namespaces of one machine: one core sends, translates and receives packets.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from bench.harness import Report, Row
from bench.lb_live_nat import NFT_GOAL
from bench.nat_labs import NatPath, kernel_path, start
from bench.nat_ways import Ways
from e2e.lab import natlab
from e2e.lab.natlab import CLIENT4, SERVER4, SERVER6, VIP4, NatHost
from e2e.lab.run import LabRun
from e2e.lab.sixgate import NODE

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    """Adds the rows; the goal is that of live frames."""
    ways = Ways(_paths, _rows, rounds, seconds)
    ways.packets(report, "UDP packets", "backend")
    ways.connections(report)
    report.remarks.append(
        "Mode NAT: compared with nft's DNAT and masquerade; 44-byte packets of one flow, and connections that are "
        "reset as soon as they stand, 64 at once. Packets to and from a backend of the client's family are rewritten "
        "in XDP; of the other family, answers have a short path in tc, packets to the backend have none."
    )


def _rows(metric: str, unit: str, got: Mapping[str, tuple[float, ...]]) -> list[Row]:
    goals = {"IPv4 backend": NFT_GOAL} if "packets" in metric else {}
    return [
        Row(f"mode NAT, {name}, {metric}, against nft", unit, got[name], got["nft"], goals.get(name)) for name in WAYS
    ]
