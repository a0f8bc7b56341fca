"""What stateful NAT and egress tell Prometheus, by object. Nothing is counted by walking a table of sessions."""

from __future__ import annotations

from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, cast

from sixgate.metrics import Family
from sixgate.node import names
from sixgate.node.bpf.layouts import MAPS
from sixgate.node.bpf.map import Map
from sixgate.node.nat import NatState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from sixgate.api.nodeconfig import EgressReport, NodeConfigSpec
    from sixgate.node.numbers import Numbers

Row = dict[str, Any]

_NOW: tuple[tuple[str, str, Callable[[Row], int]], ...] = (
    ("sessions", "Sessions, half-open ones included.", lambda row: row["use"]["sessions"]),
    ("half_open_sessions", "Sessions that no answer has been seen of.", lambda row: row["use"]["half"]),
    ("mappings", "Ports of clients that a port of the pool belongs to.", lambda row: row["use"]["maps"]),
    ("max_sessions", "Sessions that the object may have.", lambda row: row["limit"]),
    ("ports", "Ports of all pools of the object, per protocol.", lambda row: row["ports"]),
)
_EVER = (
    ("new_sessions", "Sessions that were made.", "sessions"),
    ("new_mappings", "Mappings that were made.", "maps"),
    ("expired_sessions", "Sessions that ended by time.", "expired"),
    ("half_open_given_up", "Half-open sessions that were given up for newer ones.", "half_out"),
    ("block_overflows", "Port blocks that were given to a client beyond its own.", "overflow"),
    ("hairpins", "Packets from client to client.", "hairpin"),
)
_REFUSED = ("full", "no_port", "client_ports", "client_sessions", "client_rate")
_DROPPED = ("no_state", "filtered")


def nat_families(root: Path, numbers: Numbers) -> Iterator[Family]:
    """Sessions, pressure and refusals of stateful objects below `root`; nothing where there is none."""
    rows = cast("list[Row]", NatState(root, numbers).stats())
    if not rows:
        return
    for name, text, of in _NOW:
        yield _each("gauge", f"sixgate_nat_{name}", text, rows, of)
    for name, text, field in _EVER:
        yield _each("counter", f"sixgate_nat_{name}", text, rows, itemgetter(field))
    yield _split(rows, "sixgate_nat_refused", "New sessions that were refused.", "reason", _REFUSED)
    yield _split(rows, "sixgate_nat_dropped", "Packets that belong to no session and were dropped.", "reason", _DROPPED)
    for unit in ("packets", "bytes"):
        samples = tuple(
            ((row["object"], way), float(row[field][unit]))
            for row in rows
            for way, field in (("from_clients", "out"), ("to_clients", "in"))
        )
        text = f"{unit.capitalize()} of sessions that were translated."
        yield Family("counter", f"sixgate_nat_{unit}", text, ("object", "direction"), samples)
    room = _entries(root, "sg_st_sess")
    text = "Sessions that this node has room for, all objects together."
    yield Family("gauge", "sixgate_nat_table_sessions", text, (), (((), float(room)),))


def _each(kind: Any, name: str, text: str, rows: Sequence[Row], of: Callable[[Row], int]) -> Family:
    return Family(kind, name, text, ("object",), tuple(((row["object"],), float(of(row))) for row in rows))


def _split(rows: Sequence[Row], name: str, text: str, label: str, fields: Sequence[str]) -> Family:
    samples = tuple(((row["object"], field), float(row[field])) for row in rows for field in fields)
    return Family("counter", name, text, ("object", label), samples)


def _entries(root: Path, name: str) -> int:
    with Map.from_pin(root / names.map_path(name), spec=MAPS[name]) as table:
        return table.info.max_entries


def egress_families(root: Path, spec: NodeConfigSpec, reports: Sequence[EgressReport]) -> Iterator[Family]:
    """Traffic and drops by EgressGateway, and whose addresses this node has; nothing where there is none."""
    if not spec.egress:
        return
    path = root / names.map_path("sg_eg_stats")
    if path.exists():
        with Map.from_pin(path, spec=MAPS["sg_eg_stats"]) as table:
            found = [(policy.name, cast("Row", table.sum(policy.stat))) for policy in spec.egress]
        for unit in ("packets", "bytes"):
            rows = tuple(
                ((name, way), float(value[f"{field}_{unit}"]))
                for name, value in found
                for way, field in (("from_pods", "out"), ("to_pods", "in"))
            )
            text = f"{unit.capitalize()} of pods that an EgressGateway selects."
            yield Family("counter", f"sixgate_egress_{unit}", text, ("name", "direction"), rows)
        text = "Packets of such pods that were dropped."
        dropped = tuple(((name,), float(value["dropped"])) for name, value in found)
        yield Family("counter", "sixgate_egress_dropped", text, ("name",), dropped)
    pairs = [((row.object, row.ipv4, row.ipv6), row) for row in reports]
    labels = ("name", "ipv4", "ipv6")
    for name, text, field in (
        ("owned", "Whether this node has a pair of source addresses.", "here"),
        ("pods", "Pods of this node that leave with a pair of source addresses.", "pods"),
        ("sessions", "Connections through this node, as the owner of the pair.", "sessions"),
        ("epoch", "How often a pair has changed hands.", "epoch"),
        ("copies", "Connections of this node's pair that another gateway has, too.", "copies"),
        ("copies_behind_seconds", "Age of what that gateway has.", "behind_seconds"),
    ):
        yield Family(
            "gauge",
            f"sixgate_egress_{name}",
            text,
            labels,
            tuple((key, float(attrgetter(field)(row))) for key, row in pairs),
        )
