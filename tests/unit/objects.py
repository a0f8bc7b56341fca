"""Short ways to write objects, nodes and snapshots for tests of plan and render."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sixgate.api import UserObject, parse_object
from sixgate.plan import NodeInfo, PlanResult, Snapshot, plan

DIGESTS = {
    name: "sha256:" + digit * 64
    for name, digit in zip(("sg_tc", "sg_slow", "sg_xdp", "sg_maglev"), "abcd", strict=True)
}


def make(kind: str, name: str, spec: dict[str, Any], *, age: int = 0, generation: int = 1) -> UserObject:
    """A valid object of a user; a higher `age` makes it older."""
    created = f"2026-01-01T00:{59 - age:02}:00Z"
    raw = {
        "apiVersion": "sixgate.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "creationTimestamp": created, "generation": generation},
        "spec": spec,
    }
    parsed = parse_object(raw)
    assert isinstance(parsed, UserObject), parsed
    return parsed


def on(*names: str) -> dict[str, Any]:
    """A selector of nodes by name."""
    return {"matchExpressions": [{"key": "name", "operator": "In", "values": list(names)}]}


def gateway(name: str, nodes: Iterable[str] = ("a",), *, age: int = 0, **spec: Any) -> UserObject:
    """A stateless gateway; `prefix`, `ipv4CIDRs`, `mappings` and more by name, of spec or of stateless."""
    top = {"prefix", "devices", "acceleration", "icmpRateLimit", "services", "dns64", "stateful"}
    outer = {key: value for key, value in spec.items() if key in top}
    inner = {key: value for key, value in spec.items() if key not in top}
    if inner:
        outer["stateless"] = inner
    return make("NAT46Gateway", name, {"nodeSelector": on(*nodes), **outer}, age=age)


def nodes(*names: str) -> tuple[NodeInfo, ...]:
    return tuple(NodeInfo(name, {"name": name}) for name in names)


def planned(*objects: UserObject, on_nodes: Iterable[str] = ("a", "b", "c"), **more: Any) -> PlanResult:
    return plan(Snapshot(objects=objects, nodes=nodes(*on_nodes), digests=more.get("digests", DIGESTS)))
