"""What the kernel's routing would do with a packet, in sentences."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

if TYPE_CHECKING:
    from types import TracebackType

_UNREACHABLE = {6: "black hole", 7: "unreachable", 8: "prohibited"}
_LOCAL = 2


@dataclass(frozen=True, slots=True)
class Hop:
    """Where a packet goes next. `device` and `address`, the next hop, are empty where it goes nowhere or stays here."""

    sentence: str
    device: str = ""
    address: str = ""
    here: bool = False


class RouteLookup:
    """Questions to the routing tables of this network namespace."""

    def __init__(self) -> None:
        self._ip = IPRoute()

    def __enter__(self) -> RouteLookup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ip.close()

    def device_towards(self, address: str) -> str:
        """Name of the device that leads to `address`; empty where none does or it is our own."""
        found = self._ask(address)
        if isinstance(found, str) or found["type"] == _LOCAL:
            return ""
        return self._name(found)

    def explain(self, address: str) -> Hop:
        """How a packet to `address` leaves."""
        found = self._ask(address)
        if isinstance(found, str):
            return Hop(f"The kernel has no way to {address}: {found}.")
        if found["type"] == _LOCAL:
            return Hop(f"{address} is an address of this host, which takes the packet itself.", here=True)
        if found["type"] in _UNREACHABLE:
            return Hop(f"The route to {address} is {_UNREACHABLE[found['type']]}: the kernel drops the packet.")
        via = found.get_attr("RTA_GATEWAY") or (found.get_attr("RTA_VIA") or {}).get("addr")
        device = self._name(found)
        hop = str(ip_address(via)) if via else address
        how = "by way of" if via else "straight to"
        return Hop(f"It leaves through {device} {how} {hop}{self._neighbour(hop, found)}.", device, hop)

    def _ask(self, address: str) -> Any:
        """A route message, or the kernel's words of refusal."""
        family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
        try:
            answers = tuple(self._ip.route("get", dst=address, family=family))
        except NetlinkError as error:
            return str(error.args[1]).lower()
        return answers[0] if answers else "no answer"

    def _name(self, route: Any) -> str:
        links = tuple(self._ip.get_links(route.get_attr("RTA_OIF")))
        return str(links[0].get_attr("IFLA_IFNAME")) if links else "a device that is gone"

    def _neighbour(self, hop: str, route: Any) -> str:
        """The link address of the next hop, where the kernel knows it already."""
        family = socket.AF_INET6 if ip_address(hop).version == 6 else socket.AF_INET
        for entry in self._ip.get_neighbours(family=family, ifindex=route.get_attr("RTA_OIF")):
            if entry.get_attr("NDA_DST") == hop and entry.get_attr("NDA_LLADDR"):
                return f" ({entry.get_attr('NDA_LLADDR')})"
        return ", whose link address the kernel has still to ask for"
