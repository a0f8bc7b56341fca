"""What the balancer must know of its node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sixgate.node import devices
from sixgate.node.lb import layout
from sixgate.node.model import SCOPE_LINK

if TYPE_CHECKING:
    from sixgate.node.model import Observed
    from sixgate.node.numbers import Numbers


@dataclass(frozen=True, slots=True)
class Env:
    """What the node is: outer sources by family, empty where it has no address of that family; `local` are addresses
    (16 bytes) that it has by somebody else's hand."""

    source4: str = ""
    source6: str = ""
    local: frozenset[bytes] = frozenset()
    services: tuple[tuple[str, int], ...] = ()  # numbers in sg_st_svcs of virtual addresses in mode NAT, by name


def environment(have: Observed, numbers: Numbers) -> Env:
    """What the balancer must know of this node's devices, and of the numbers that it handed out."""
    default = devices.device_table(have).get(0, {})
    seen = (
        address
        for device in have.devices.values()
        for address in device.addresses
        if not (address.ours or address.floating) and address.scope != SCOPE_LINK
    )
    return Env(
        source4=str(default.get("addr4", "")),
        source6=str(default.get("addr6", "")),
        local=frozenset(layout.mapped(address.address) for address in seen),
        services=_services(numbers),
    )


def _services(numbers: Numbers) -> tuple[tuple[str, int], ...]:
    given = numbers["svc"].given if "svc" in numbers else {}
    return tuple(sorted((name, first) for name, (first, _) in given.items() if name.startswith("LoadBalancer/")))
