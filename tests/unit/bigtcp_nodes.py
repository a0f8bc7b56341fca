"""Nodes as the agent sees them and policies of super-packets, for tables of both."""

from __future__ import annotations

from typing import Any

from sixgate.api.nodeconfig import NodeConfigSpec
from sixgate.node.model import (
    AddressSeen,
    Device,
    Kernel,
    Observed,
    Pod,
)
from sixgate.node.report import report
from sixgate.node.resolve import resolve

BIG, MORE, LEGACY = 196608, 131072, 65536
TOP = 524280
GLOBAL = (AddressSeen("2001:db8::1", 64),)
BOTH = {"ipv6Size": BIG, "ipv4Size": MORE}


def device(name: str, ifindex: int, **more: Any) -> Device:
    return Device(name, ifindex, **{"tso_max": TOP, "kind": "", **more})


def node(*devices: Device, **more: Any) -> Observed:
    return Observed(Kernel("6.18", tcx=True, sys_admin=True), {d.name: d for d in devices}, **more)


def spec(*items: dict[str, Any]) -> NodeConfigSpec:
    whole = [{"owners": [f"BIGTCPPolicy/p{n}"], "include": ["eth*"], **item} for n, item in enumerate(items)]
    return NodeConfigSpec.model_validate({"formatVersion": 1, "bigTcp": whole}).hashed()


def sizes(have: Observed, *items: dict[str, Any]) -> dict[str, tuple[int, int, int, int]]:
    wants = resolve(spec(*items), have, {}).sizes
    return {str(w.key): (w.sizes.gso6, w.sizes.gro6, w.sizes.gso4, w.sizes.gro4) for w in wants}


def message(have: Observed, *items: dict[str, Any]) -> str:
    wanted = spec(*items)
    return " ".join(item.message for item in report(wanted, resolve(wanted, have, {}), have, ()).objects)


POD = Pod("/run/netns/cni-1", 0, {"eth0": device("eth0", 2, kind="veth", lower=7, netnsid=0)})
HOST_END = device("veth7", 7, kind="veth", lower=2, netnsid=0)
LIVE = {**BOTH, "include": ["bond*"], "pods": "Live"}
