"""What a node tells Prometheus: verdicts and traffic from the maps, sizes and hooks from its last report.

Counters are read from the pinned maps at every scrape. Tables with millions of entries are not counted by walking
them: what keeps state counts it itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.metrics import Family, Timing
from sixgate.node.inspect import read_reasons, read_traffic
from sixgate.node.lb.metrics import BalancerMetrics
from sixgate.node.state_metrics import egress_families, nat_families
from sixgate.node.statedir import StateDir
from sixgate.node.verdicts import verdict_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sixgate.api.nodeconfig import NodeConfigSpec, NodeConfigStatus
    from sixgate.metrics import Metric
    from sixgate.node.inspect import Count


@dataclass(slots=True)
class Meter:
    """What a NodeAgent counts of itself."""

    took: Timing = field(
        default_factory=lambda: Timing(
            "sixgate_node_reconcile_seconds", "Time to compare this node with its NodeConfig and to mend it."
        )
    )
    failed: int = 0
    missed: int = 0  # actions

    def applied(self, seconds: float, ready: bool) -> None:
        self.took.observe(seconds)
        self.failed += not ready


def object_counters(spec: NodeConfigSpec) -> dict[str, dict[str, str]]:
    """Names of per-object counters: map, index, object. The owners of sg_nat stand in the order of its `gw`."""
    found: dict[str, dict[str, str]] = {}
    for table in spec.tables:
        if table.map != "sg_nat" or not table.entries:
            continue
        value = table.entries[0].value
        gateways = value.get("gw") if isinstance(value, dict) else None
        for owner, gateway in zip(table.owners, gateways if isinstance(gateways, list) else (), strict=False):
            if isinstance(gateway, dict):
                found.setdefault("sg_nat_stats", {})[str(gateway.get("stat", 0))] = owner
    return found


def node_families(
    bpffs: Path, spec: NodeConfigSpec | None, status: NodeConfigStatus, meter: Meter
) -> Iterator[Family | Timing]:
    """Everything of one node. BpfError where a map that is there cannot be read."""
    yield meter.took
    text = "Looks at this node that ended with something not as its NodeConfig says."
    yield Family("counter", "sixgate_node_reconcile_failures", text, (), (((), meter.failed),))
    text = "Things done for pods' devices that no event told of, so that only the look at everything found them."
    yield Family("counter", "sixgate_node_missed_changes", text, (), (((), meter.missed),))
    text = "Whether this node has all that its NodeConfig says."
    yield Family("gauge", "sixgate_node_ready", text, (), (((), float(status.ready)),))
    yield from _verdicts(read_reasons(bpffs))
    yield from _traffic(read_traffic(bpffs, object_counters(spec) if spec is not None else {}))
    yield from _objects(status)
    yield from _devices(status)


def counted(bpffs: Path) -> Iterator[Family]:
    """Packets and bytes by verdict and reason, of the pins below `bpffs`."""
    yield from _verdicts(read_reasons(bpffs))


def _verdicts(counters: Mapping[str, Count]) -> Iterator[Family]:
    rows = [((*verdict_of(reason),), count) for reason, count in counters.items()]
    labels = ("verdict", "reason")
    text = "Packets by what the data plane did with them and why; those of a super-packet count one each."
    yield Family("counter", "sixgate_packets", text, labels, tuple((row, c.packets) for row, c in rows))
    text = "Bytes of layer 3 by what the data plane did with them and why."
    yield Family("counter", "sixgate_bytes", text, labels, tuple((row, c.bytes) for row, c in rows))


def _traffic(traffic: Mapping[str, Mapping[str, Count]]) -> Iterator[Family]:
    rows = [
        ((*owner.split("/", 1), way), count) for owner, both in sorted(traffic.items()) for way, count in both.items()
    ]
    labels = ("kind", "name", "direction")
    text = "Packets that an object has translated."
    yield Family("counter", "sixgate_object_packets", text, labels, tuple((row, c.packets) for row, c in rows))
    text = "Bytes of layer 3 that an object has translated, as they came in."
    yield Family("counter", "sixgate_object_bytes", text, labels, tuple((row, c.bytes) for row, c in rows))


def _objects(status: NodeConfigStatus) -> Iterator[Family]:
    rows = tuple(((*item.owner.split("/", 1), item.state), 1.0) for item in status.objects)
    text = "What became of each object on this node; the sample of its state is 1."
    yield Family("gauge", "sixgate_object_state", text, ("kind", "name", "state"), rows)


def _devices(status: NodeConfigStatus) -> Iterator[Family]:
    hooks = tuple(
        ((device.name, hook, how), 1.0) for device in status.devices for hook, how in sorted(device.hooks.items())
    )
    text = "Hooks of devices that a program of ours is attached to, and how."
    yield Family("gauge", "sixgate_hook_attached", text, ("device", "hook", "mechanism"), hooks)
    sizes = tuple(
        ((row.device, family, limit), float(size))
        for row in status.big_tcp
        for family, limit, size in (
            ("ipv6", "wanted", row.ipv6_wanted),
            ("ipv6", "gso", row.ipv6_gso),
            ("ipv6", "gro", row.ipv6_gro),
            ("ipv4", "wanted", row.ipv4_wanted),
            ("ipv4", "gso", row.ipv4_gso),
            ("ipv4", "gro", row.ipv4_gro),
        )
    )
    text = "Largest TCP super-packets of devices that a BIGTCPPolicy selects, wanted and effective."
    yield Family("gauge", "sixgate_bigtcp_size_bytes", text, ("device", "family", "limit"), sizes)


@dataclass(slots=True)
class NodeMetrics:
    """A source of metrics that follows a NodeAgent."""

    bpffs: Path
    meter: Meter
    spec: NodeConfigSpec | None = None
    status: NodeConfigStatus | None = None
    state_dir: Path | None = None  # knows the names of stateful objects
    balancer: BalancerMetrics | None = None

    def __call__(self) -> Iterator[Metric]:
        if self.status is None:
            yield self.meter.took
            return
        yield from node_families(self.bpffs, self.spec, self.status, self.meter)
        if self.state_dir is not None:
            yield from nat_families(self.bpffs, StateDir(self.state_dir).numbers())
        if self.balancer is not None:
            yield from self.balancer()
        if self.spec is not None:
            yield from egress_families(self.bpffs, self.spec, self.status.egress)
