"""What the tables of the balancer and of egress hold of one flow: a few look-ups that change nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sixgate.node import names
from sixgate.node.bpf.layouts import MAPS, SgLbFlag
from sixgate.node.bpf.map import Map
from sixgate.node.lb import layout
from sixgate.node.nat import PROTOCOLS

if TYPE_CHECKING:
    from pathlib import Path

    from sixgate.node.bpf.object import BpfObject
    from sixgate.node.packets import Seen

_ALL_BITS = 32 + 128
_PORT_BITS = 32 + 128 + 16


@dataclass(frozen=True, slots=True)
class EgressWay:
    """Where packets of a pod to a covered destination go."""

    pair: int
    gateway: str
    flags: int  # enum sg_eg_way_flag


def is_vip(root: Path, seen: Seen) -> bool:
    """Whether the balancer asks for this packet."""
    return _get(root, "sg_lb_vip", {"addr": str(seen.target.address)}) is not None


def service_of(root: Path, seen: Seen) -> int | None:
    """The number in sg_st_svcs of the virtual address that the packet is for, where that is in mode NAT."""
    proto, address = PROTOCOLS.get(seen.protocol, 0), str(seen.target.address)
    port = {"addr": address, "port": seen.target.port, "proto": proto}
    found = _get(root, "sg_lb_vip", port) or _get(root, "sg_lb_range", {"prefixlen": _PORT_BITS, **port})
    found = found or _get(root, "sg_lb_vip", {"addr": address})
    return int(found["svc"]) if found is not None and found["flags"] & SgLbFlag.SG_LB_NATTED else None


def egress_way(root: Path, seen: Seen) -> EgressWay | None:
    """None where no policy covers the packet, or no gateway of its pair is alive."""
    pod = _get(root, "sg_eg_pod", str(seen.source.address))
    if pod is None:
        return None
    target = _get(root, "sg_eg_dst", {"prefixlen": _ALL_BITS, "set": pod["set"], "addr": str(seen.target.address)})
    way = _get(root, "sg_eg_way", target["pair"]) if target is not None and target["pair"] else None
    return EgressWay(int(target["pair"]), str(way["gateway"]), int(way["flags"])) if way is not None else None


def egress_objects(root: Path, version: int) -> tuple[int, ...]:
    """Numbers of the stateful objects that pairs of this node are, of one family."""
    path = root / names.map_path("sg_eg_obj")
    if not path.exists():
        return ()
    with Map.from_pin(path, spec=MAPS["sg_eg_obj"]) as table:
        values = [value for _, value in table.items() if isinstance(value, dict)]
    bit = 1 if version == 4 else 2
    return tuple(sorted({int(str(value[f"obj{version}"])) for value in values if int(str(value["families"])) & bit}))


def egress_object(root: Path, pair: int, seen: Seen) -> int | None:
    """The number of the stateful object that a pair is, of the packet's family."""
    found = _get(root, "sg_eg_obj", pair)
    if found is None:
        return None
    version = seen.source.address.version
    return int(found[f"obj{version}"]) if found["families"] & (1 if version == 4 else 2) else None


def copy_balancer(root: Path, loaded: BpfObject, seen: Seen | None) -> None:
    """Give `loaded` what the running balancer remembers of this flow and its client."""
    if seen is None or "sg_lb_flow" not in loaded.maps:
        return
    proto = PROTOCOLS.get(seen.protocol, 0)
    vip = _get(root, "sg_lb_vip", {"addr": str(seen.target.address), "port": seen.target.port, "proto": proto})
    flow = layout.mapped(seen.source.address) + layout.mapped(seen.target.address)
    flow += seen.source.port.to_bytes(2, "big") + seen.target.port.to_bytes(2, "big") + bytes((proto, 0, 0, 0))
    keys = [("sg_lb_flow", flow)]
    if vip is not None and vip["affinity"]:
        with loaded.map("sg_lb_affinity") as table:
            keys.append(
                (
                    "sg_lb_affinity",
                    table.codec.encode_key({"client": str(seen.source.address), "group": vip["affinity"]}),
                )
            )
    for name, key in keys:
        path = root / names.map_path(name)
        if not path.exists():
            continue
        with Map.from_pin(path, spec=MAPS[name]) as running, loaded.map(name) as copy:
            value = running.get_raw(key)
            if value is not None:
                copy.set_raw(key, value)


def _get(root: Path, name: str, key: object) -> Any:
    path = root / names.map_path(name)
    if not path.exists():
        return None
    with Map.from_pin(path, spec=MAPS[name]) as table:
        return table.get(key)
