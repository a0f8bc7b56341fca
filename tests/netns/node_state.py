"""What a node's kernel has of a NodeConfig, and what an agent does about it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sixgate.node.bpf import info
from sixgate.node.netlink import Netlink
from sixgate.node.observe import open_raw

if TYPE_CHECKING:
    from collections.abc import Callable

    from sixgate.node.actions import Action
    from tests.netns.conftest import Namespace, Node


def programs_on(node: Node, device: str = "e0") -> list[int]:
    """Ids of every program on tc ingress of a device, by tcx and by our clsact filter."""
    ifindex = node.ns.ifindex(device)
    with Netlink() as netlink:
        filters = netlink.filters(ifindex).get("tc-ingress", ())
    return [seen.prog_id for seen in (*info.query_attached(ifindex, "tc-ingress"), *filters)]


def table(node: Node, name: str = "sg_tab") -> dict[int, int]:
    with open_raw(node.root / "maps" / name) as found:
        return {int.from_bytes(k, "little"): int.from_bytes(v, "little") for k, v in found.lookup_batch()}


def inner(node: Node) -> list[int]:
    """Contents of the table in slot 0, found by its pin."""
    with open_raw(node.root / "maps" / "sg_out") as outer:
        held = outer.get_raw(bytes(4))
    for name in node.pins("inner"):
        with open_raw(node.root / "inner" / name) as found:
            if found.info.id.to_bytes(4, "little") == held:
                return [int.from_bytes(value, "little") for _, value in sorted(found.lookup_batch())]
    raise AssertionError("the table in slot 0 is not pinned")


def state(node: Node) -> dict[str, Any]:
    """Everything that a NodeConfig decides, as the kernel has it."""
    return {
        "maps": [name for folder in ("maps", "maps-new") for name in node.pins(folder)],
        # Without the key, which holds the index of a device that is made anew.
        "programs": [name.rpartition(":")[0] for name in node.pins("progs")],
        "attached": len(programs_on(node)),
        "tab": table(node),
        "inner": (inner(node), len(node.pins("inner"))),
        "links": [(link["ifname"], link["mtu"], link.get("ifalias")) for link in _links(node.ns)],
        "addresses": [a["local"] for link in _links(node.ns) for a in link["addr_info"] if a["scope"] == "global"],
        "route": node.ns.run("ip", "-6", "route", "show", "fd98::/64").strip(),
        "forwarding": forwarding("e0"),
    }


def _links(ns: Namespace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ns.run("ip", "-j", "addr", "show"))
    return sorted(found, key=lambda link: str(link["ifname"]))


def devices(node: Node) -> list[tuple[Any, ...]]:
    """What of each device does not change by itself, as its operational state does."""
    return [(link["ifname"], link["mtu"], link["group"], link.get("xdp"), link["qdisc"]) for link in _links(node.ns)]


def forwarding(device: str) -> str:
    with open(f"/proc/sys/net/ipv4/conf/{device}/forwarding") as file:
        return file.read().strip()


def counting(actions: list[str]) -> Callable[[Callable[[Action], None]], Callable[[Action], None]]:
    """Wraps the interpreter so that it notes what it does."""

    def around(run: Callable[[Action], None]) -> Callable[[Action], None]:
        def noted(action: Action) -> None:
            actions.append(str(action))
            run(action)

        return noted

    return around
