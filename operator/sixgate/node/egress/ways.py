"""Where each pair's packets go from this node, and which frames of direct ways it takes."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.node.egress.direct import REPLY, Filter, neighbour, pair_mac, pair_macs
from sixgate.node.egress.maps import DIRECT, HERE, MSS_CLAMP, EgressMaps, Frame, Way
from sixgate.node.egress.uplink import path_mtu, tunnel_mtu

if TYPE_CHECKING:
    from sixgate.api.nodeconfig import EgressPolicy
    from sixgate.node.egress.floating import Floating
    from sixgate.node.egress.known import Known
    from sixgate.node.egress.owners import Owners

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Ways:
    """Keeps `sg_eg_way` and `sg_eg_mac` as owners and the kernel's routes have it."""

    maps: EgressMaps
    known: Known
    owners: Owners
    floating: Floating
    _written: dict[int, Way] = field(default_factory=dict)
    _macs: dict[bytes, int] = field(default_factory=dict)
    _filter: Filter = field(default_factory=Filter)

    def begin(self) -> None:
        """From what a former agent left in the map."""
        self._written = self.maps.ways()

    def forget(self) -> None:
        """The map is gone."""
        self._written.clear()

    def drop(self, number: int) -> None:
        self.maps.drop_way(number)
        self._written.pop(number, None)

    def refresh(self, only: frozenset[int] | None = None) -> None:
        """Of all pairs or of these. A pair whose owner is not known keeps the way that it has."""
        for number, known in self.known.pairs.items():
            if only is not None and number not in only:
                continue
            holder = self.owners.holder(number)
            if not known.policy.members and self._written.pop(number, None) is not None:
                self.maps.drop_way(number)
            address = self.known.gateways.get(holder, "")
            if not address:
                continue
            way = self._way(number, known.policy, address, here=holder == self.known.node)
            if self._written.get(number) != way:
                self.maps.set_way(number, way)
                self._written[number] = way
        if only is None:
            for number in self._written.keys() - self.known.pairs.keys():
                self.drop(number)

    def _way(self, number: int, policy: EgressPolicy, address: str, *, here: bool) -> Way:
        flags = (HERE if here else 0) | (MSS_CLAMP if policy.mss_clamp else 0)
        mac = pair_mac(address, number)
        link = neighbour(address) if policy.transport == "Direct" and not here and mac in self._macs else None
        if link is None:
            return Way(address, tunnel_mtu(address), flags, stat=policy.stat)
        return Way(address, path_mtu(address), flags | DIRECT, Frame(mac, link[1], link[0]), policy.stat)

    def take_frames(self) -> None:
        """What frames of direct ways stand for here, and which of them this node's device takes."""
        own = self.known.own_address
        pairs = [number for number, known in self.known.pairs.items() if known.policy.transport == "Direct"]
        self._macs = pair_macs(self.known.gateways.values(), pairs, own)
        self.maps.write_macs(self._macs)
        place = self.floating.holds(own) if own else None
        mine = [mac for mac, number in self._macs.items() if not number & REPLY]
        try:
            self._filter.want(mine, socket.if_nametoindex(place.device) if place is not None else 0)
        except OSError as error:
            log.error("Frames of direct ways should be taken by the device with %s: %s.", own or "no address", error)
