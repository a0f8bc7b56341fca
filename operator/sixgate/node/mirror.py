"""Devices, addresses, and the routes that tell where pods are, as the kernel has them: listed once, and from then on
kept up by its events, so that a look costs as much as has changed and not as much as there is.

Events of rtnetlink leave some things out: routes that go with their device, IPv4 routes that go with an address, the
other end of a veth that is moved, aliases of devices that are down, programs that a link of BPF attaches to XDP. What
is known to be left out and matters is asked for again, lost events list everything anew, and whoever uses a mirror has
it read everything now and then.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.node import rtlink
from sixgate.node.netlink import address_seen, device_of, is_bridge

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from sixgate.node.model import AddressSeen, Device
    from sixgate.node.rtlink import AddressMessage, LinkMessage, RouteKey, RouteMessage

# linux/rtnetlink.h
_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE = 16, 17, 20, 21, 24, 25
_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV4_ROUTE = 0x1, 0x10, 0x40
_RTMGRP_IPV6_IFADDR, _RTMGRP_IPV6_ROUTE = 0x100, 0x400
_GROUPS = _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV4_ROUTE | _RTMGRP_IPV6_IFADDR | _RTMGRP_IPV6_ROUTE
_NLM_F_REPLACE = 0x100
_IFF_UP = 0x1
_SO_RCVBUFFORCE = 33
_RECEIVE_BYTES = 4 << 20
_BUFFER_BYTES = 1 << 17
_VERSIONS = {int(socket.AF_INET): 4, int(socket.AF_INET6): 6}


@dataclass(slots=True)
class Mirror:
    """Of the network namespace of the thread that makes it; used by one thread at a time.

    `devices` are by name, `names` by index, `host_routes` index by packed address of hosts directly behind a device,
    `defaults` index by version (4, 6) of the default route with the lowest metric. All are what the last `look` saw;
    `version` is another number after every look that saw a change.
    """

    devices: dict[str, Device] = field(default_factory=dict)
    host_routes: dict[bytes, int] = field(default_factory=dict)
    defaults: dict[int, int] = field(default_factory=dict)
    default_devices: frozenset[int] = frozenset()
    version: int = 0
    names: dict[int, str] = field(default_factory=dict)  # by index
    _socket: socket.socket = field(init=False)
    _links: dict[int, LinkMessage] = field(default_factory=dict)
    _bridges: set[int] = field(default_factory=set)
    _addresses: dict[int, dict[tuple[bytes, int], AddressSeen]] = field(default_factory=dict)
    _routes: dict[bytes, dict[tuple[RouteKey, int], None]] = field(default_factory=dict)  # by destination
    _changed: set[int] = field(default_factory=set)  # devices to be made anew
    _read_links: rtlink.Reader[LinkMessage] = field(default_factory=lambda: rtlink.Reader(rtlink.link_message))
    _read_addresses: rtlink.Reader[AddressMessage] = field(
        default_factory=lambda: rtlink.Reader(rtlink.address_message)
    )
    _read_routes: rtlink.Reader[RouteMessage] = field(default_factory=lambda: rtlink.Reader(rtlink.route_message))
    _stale_routes: bool = False
    _whole: bool = False

    def __post_init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        with contextlib.suppress(OSError):  # needs CAP_NET_ADMIN; without it events are lost earlier, and noticed
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BYTES)
        self._socket.bind((0, _GROUPS))
        self._socket.setblocking(False)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def look(self, *, anew: bool = False) -> frozenset[int]:
        """Takes in what has happened; indexes of devices that are not as they were, or are gone. `anew` believes
        nothing that was seen before. ApplyError where the kernel refuses to tell."""
        if not self._hear() or anew or not self._whole:
            self._whole = False
            self._list()
        elif self._stale_routes:
            self._list_routes()
        changed = frozenset(self._changed)
        self._make(changed)
        return changed

    def touch(self, indexes: Iterable[int]) -> None:
        """Something was done to these devices that causes no event."""
        for index in indexes:
            self._ask(index)

    # -- everything ------------------------------------------------------------------------------------------------

    def _list(self) -> None:
        links, bridges, addresses = self._links, self._bridges, self._addresses
        self._links = {message.index: message for message in rtlink.read_links(self._read_links)}
        self._bridges = {index for index, message in self._links.items() if is_bridge(message)}
        self._addresses = {}
        for message in rtlink.read_addresses(self._read_addresses):
            self._add(message)
        if not self._whole or self._bridges != bridges:
            self._changed |= links.keys() | self._links.keys()
        else:
            self._changed |= _differing(links, self._links) | _differing(addresses, self._addresses)
        self._list_routes()
        self._hear()  # what happened meanwhile, and perhaps is listed already: the last word is the same
        self._whole = True

    def _list_routes(self) -> None:
        self._stale_routes = False
        self._routes.clear()
        for message in rtlink.read_routes(self._read_routes):
            self._routes.setdefault(message.key.destination, {})[message.key, message.device] = None
        self.host_routes = {}
        for destination in self._routes:
            self._decide(destination)
        self._decide(b"")

    # -- events ----------------------------------------------------------------------------------------------------

    def _hear(self) -> bool:
        """False if events were lost."""
        whole = True
        while True:
            try:
                data = self._socket.recv(_BUFFER_BYTES)
            except BlockingIOError:
                return whole
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                whole = False
                continue
            for kind, flags, start, end in rtlink.messages(data):
                self._event(kind, flags, data[start:end])

    def _event(self, kind: int, flags: int, body: bytes) -> None:
        if kind in (_NEWROUTE, _DELROUTE):
            self._route(kind, flags, body)
        elif kind in (_NEWADDR, _DELADDR):
            message = rtlink.address_message(body)
            if message is None:
                return
            self._changed.add(message.index)
            if kind == _NEWADDR:
                self._add(message)
            else:
                self._addresses.get(message.index, {}).pop((message.address, message.prefix_len), None)
                self._stale_routes = True  # IPv4 routes with it as their source go without a word
        elif kind in (_NEWLINK, _DELLINK):
            message_of_link = rtlink.link_message(body)
            if rtlink.of_bridge(body):  # the same device again, as a port of a bridge
                self._ask(message_of_link.index)
            elif kind == _NEWLINK:
                self._put(message_of_link)
            else:
                self._gone(message_of_link.index)

    def _add(self, message: rtlink.AddressMessage) -> None:
        self._addresses.setdefault(message.index, {})[message.address, message.prefix_len] = address_seen(message)

    def _put(self, message: LinkMessage) -> None:
        before = self._links.get(message.index)
        self._links[message.index] = message
        self._changed.add(message.index)
        if before is not None and before.flags & _IFF_UP and not message.flags & _IFF_UP:
            self._stale_routes = True
        if is_bridge(message) and message.index not in self._bridges:
            self._bridges.add(message.index)
            self._changed |= self._links.keys()  # its ports are ports only now
        self._ask_around(before, message)

    def _ask_around(self, before: LinkMessage | None, now: LinkMessage | None) -> None:
        """A bridge or bond takes over sizes of its ports, a VLAN those of the device below it, and nobody says so; nor
        does anybody say that the other end of a veth tells its namespace now, for it has moved to one."""

        def told(message: LinkMessage | None, attribute: int) -> int:
            return message.number(attribute) if message is not None else 0

        masters = {told(message, rtlink.IFLA_MASTER) for message in (before, now)} - {0}
        for master in masters & self._links.keys():
            self._ask(master)
        known = now or before
        if known is not None and told(before, rtlink.IFLA_MTU) not in (0, told(now, rtlink.IFLA_MTU)):
            self._ask_above(known.index)

    def _ask_above(self, index: int) -> None:
        for other, link in list(self._links.items()):
            if link.number(rtlink.IFLA_LINK) == index and link.number(rtlink.IFLA_LINK_NETNSID, -1) < 0:
                self._ask(other)

    def _gone(self, index: int) -> None:
        before = self._links.pop(index, None)
        self._addresses.pop(index, None)
        self._changed.add(index)
        self._forget_routes(index)
        self._ask_around(before, None)
        if index in self._bridges:
            self._bridges.remove(index)
            self._changed |= self._links.keys()

    def _ask(self, index: int) -> None:
        message = rtlink.read_link(index)
        if message is None:
            self._links.pop(index, None)
            self._changed.add(index)
        else:
            self._put(message)

    def _route(self, kind: int, flags: int, body: bytes) -> None:
        message = rtlink.route_message(body)
        if message is None:
            return
        key = message.key
        known = self._routes.setdefault(key.destination, {})
        if kind == _DELROUTE:
            known.pop((key, message.device), None)
        else:
            if flags & _NLM_F_REPLACE:
                for other in [other for other in known if other[0] == key]:
                    del known[other]
            known[key, message.device] = None
        self._decide(key.destination)

    def _forget_routes(self, index: int) -> None:
        """The kernel tells of no IPv4 route that goes with its device."""
        behind = [d for d, found in self.host_routes.items() if found == index]
        shadowed = [d for d, found in self._routes.items() if len(found) > 1]
        for destination in {*behind, *shadowed, b""}:
            known = self._routes.get(destination, {})
            for route in [route for route in known if route[1] == index]:
                del known[route]
            self._decide(destination)

    # -- what comes of it ------------------------------------------------------------------------------------------

    def _decide(self, destination: bytes) -> None:
        self.version += 1
        known = self._routes.get(destination, {})
        if not destination:
            self.default_devices = frozenset(device for _, device in known)
            best: dict[int, tuple[int, int]] = {}
            for key, device in known:
                version = _VERSIONS[key.family]
                best[version] = min(best.get(version, (key.priority, device)), (key.priority, device))
            self.defaults = {version: device for version, (_, device) in best.items()}
        elif known:
            self.host_routes[destination] = min(known, key=lambda route: (route[0].rank, route[1]))[1]
        else:
            self._routes.pop(destination, None)
            self.host_routes.pop(destination, None)

    def _make(self, changed: Iterable[int]) -> None:
        if not self._changed:
            return
        self.version += 1
        for index in changed:
            name = self.names.pop(index, "")
            if name in self.devices and self.devices[name].ifindex == index:
                del self.devices[name]
        for index in changed:
            message = self._links.get(index)
            if message is not None:
                device = device_of(message, list(self._addresses.get(index, {}).values()), self._bridges)
                self.devices[device.name] = device
                self.names[index] = device.name
        self._changed.clear()


def _differing(one: Mapping[int, object], other: Mapping[int, object]) -> set[int]:
    return {index for index in one.keys() | other.keys() if one.get(index) != other.get(index)}
