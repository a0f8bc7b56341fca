"""Devices straight from rtnetlink: a dump of a thousand links takes 30 ms here and a second in pyroute2, and every look
at a node begins with one. It only reads; what is written goes through pyroute2."""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from sixgate.errors import ApplyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

# linux/if_link.h
IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO = 3, 4, 5, 10, 18
IFLA_IFALIAS, IFLA_GROUP, IFLA_EXT_MASK, IFLA_LINK_NETNSID = 20, 27, 29, 37
IFLA_GSO_MAX_SIZE, IFLA_XDP, IFLA_GRO_MAX_SIZE, IFLA_TSO_MAX_SIZE = 41, 43, 58, 59
IFLA_GSO_IPV4_MAX_SIZE, IFLA_GRO_IPV4_MAX_SIZE = 63, 64
IFLA_INFO_KIND = 1
IFLA_XDP_ATTACHED, IFLA_XDP_PROG_ID = 2, 4

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_IFINFO = struct.Struct("=BxHiII")  # struct ifinfomsg
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
_U32 = struct.Struct("=I")
_I32 = struct.Struct("=i")
_FAMILY = struct.Struct("=Bxxx")  # struct netconfmsg, struct rtgenmsg
_GETLINK, _GETADDR, _GETROUTE, _GETNETCONF, _GETNSID, _ERROR, _DONE = 18, 22, 26, 82, 90, 2, 3
_IFADDR = struct.Struct("=BBBBI")  # struct ifaddrmsg
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _IFA_TARGET_NETNSID, _IFA_PROTO = 1, 2, 8, 10, 11
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA = 1, 4, 5, 6, 9, 15, 18
_RTA_METRICS, _RTAX_MTU = 8, 2
_NEXTHOP = struct.Struct("=HBBi")  # struct rtnexthop
_RTN_UNICAST, _RT_SCOPE_UNIVERSE, _RT_TABLE_MAIN = 1, 0, 254
_NETCONFA_IFINDEX, _FORWARDING = 1, 2
_NETNSA_NSID, _NETNSA_FD = 1, 3
_SOL_NETLINK, _GET_STRICT_CHK = 270, 12
_REQUEST, _DUMP, _DUMP_INTERRUPTED = 0x1, 0x300, 0x10
_WITHOUT_STATISTICS = _ATTRIBUTE.pack(_ATTRIBUTE.size + _U32.size, IFLA_EXT_MASK) + _U32.pack(8)
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_BUFFER_BYTES = 1 << 18
_TRIES = 10
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class LinkMessage:
    """One RTM_NEWLINK; `attributes` are the bytes of each, by number."""

    index: int
    flags: int
    hardware: int
    attributes: Mapping[int, bytes]

    def number(self, attribute: int, missing: int = 0) -> int:
        """A u32, `missing` where the kernel did not tell."""
        data = self.attributes.get(attribute)
        return missing if data is None or len(data) < _U32.size else int(_U32.unpack_from(data)[0])

    def text(self, attribute: int) -> str:
        return self.attributes.get(attribute, b"").split(b"\0", 1)[0].decode(errors="surrogateescape")

    def nested(self, attribute: int) -> Mapping[int, bytes]:
        return dict(attributes(self.attributes.get(attribute, b""), 0))

    @property
    def kind(self) -> str:
        return self.nested(IFLA_LINKINFO).get(IFLA_INFO_KIND, b"").split(b"\0", 1)[0].decode()


@dataclass(frozen=True, slots=True)
class AddressMessage:
    """One RTM_NEWADDR; `address` is packed, `protocol` says who made it."""

    index: int
    address: bytes
    prefix_len: int
    scope: int
    flags: int
    protocol: int


@dataclass(frozen=True, slots=True)
class RouteKey:
    """What tells a route from others to the same place; `destination` is packed, empty for a default route."""

    family: int
    destination: bytes
    table: int
    tos: int
    priority: int

    @property
    def rank(self) -> tuple[bool, int, int, int]:
        """The main table's comes first, then the lowest metric."""
        return (self.table != _RT_TABLE_MAIN, self.table, self.priority, self.tos)


@dataclass(frozen=True, slots=True)
class RouteMessage:
    key: RouteKey
    device: int  # index


@dataclass(frozen=True, slots=True)
class MadeRoute:
    """A route in full. `destination` and `via` are packed, empty where there is none; `kind` is the kernel's number."""

    family: int
    destination: bytes
    prefix_len: int
    kind: int
    device: int
    via: bytes
    table: int
    mtu: int


@dataclass(slots=True)
class Reader(Generic[_T]):
    """What `parse` makes of bodies of messages. Bytes that were read the last time mean what they meant then: a listing
    of a thousand devices is parsed as far as it differs from the one before. Only what means something is kept."""

    parse: Callable[[bytes], _T | None]
    _known: dict[bytes, _T] = field(default_factory=dict)

    def read(self, bodies: Iterable[bytes]) -> tuple[_T, ...]:
        before, self._known = self._known, {}
        for body in bodies:
            found = before.get(body)
            if found is None:
                found = self.parse(body)
            if found is not None:
                self._known[body] = found
        return tuple(self._known.values())


def read_links(reader: Reader[LinkMessage] | None = None) -> tuple[LinkMessage, ...]:
    """Every device of the calling thread's network namespace. ApplyError where the kernel refuses."""
    bodies = _dump(_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0) + _WITHOUT_STATISTICS)
    return (reader or Reader(link_message)).read(bodies)


def read_link(index: int) -> LinkMessage | None:
    """One device, None where it is gone."""
    body = _IFINFO.pack(0, 0, index, 0, 0) + _WITHOUT_STATISTICS
    found, _ = _ask(_GETLINK, body, dump=False)
    return link_message(found[0]) if found else None


def forwarding6() -> frozenset[int]:
    """Indexes of devices whose IPv6 packets the kernel forwards; none where it has no IPv6."""
    found = set()
    try:
        bodies = _dump(_GETNETCONF, _FAMILY.pack(socket.AF_INET6))
    except ApplyError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
            return frozenset()
        raise
    for body in bodies:
        told = dict(attributes(body, _FAMILY.size))
        index, forwards = (_I32.unpack(told.get(number, bytes(4)))[0] for number in (_NETCONFA_IFINDEX, _FORWARDING))
        if index > 0 and forwards:
            found.add(index)
    return frozenset(found)


def addresses_in(netnsid: int) -> tuple[tuple[int, bytes], ...]:
    """Index and packed address of every global address in another network namespace, by its number here: the kernel
    tells whoever has CAP_NET_ADMIN over it, without anybody entering. None where it is gone."""
    found = []
    target = _ATTRIBUTE.pack(_ATTRIBUTE.size + _I32.size, _IFA_TARGET_NETNSID) + _I32.pack(netnsid)
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            bodies = _dump(_GETADDR, _IFADDR.pack(family, 0, 0, 0, 0) + target, strict=True)
        except ApplyError:
            continue
        for body in bodies:
            _, _, _, scope, index = _IFADDR.unpack_from(body)
            told = dict(attributes(body, _IFADDR.size))
            address = told.get(_IFA_LOCAL) or told.get(_IFA_ADDRESS)
            if scope == _RT_SCOPE_UNIVERSE and address:
                found.append((index, address))
    return tuple(found)


def read_addresses(reader: Reader[AddressMessage] | None = None) -> tuple[AddressMessage, ...]:
    """Every address of the calling thread's namespace."""
    families = (socket.AF_INET, socket.AF_INET6)
    bodies = (body for family in families for body in _dump(_GETADDR, _IFADDR.pack(family, 0, 0, 0, 0)))
    return (reader or Reader(address_message)).read(bodies)


def address_message(body: bytes) -> AddressMessage | None:
    """None for one without an address."""
    _, length, flags, scope, index = _IFADDR.unpack_from(body)
    told = dict(attributes(body, _IFADDR.size))
    packed = told.get(_IFA_LOCAL) or told.get(_IFA_ADDRESS)
    if not packed:
        return None
    protocol = told.get(_IFA_PROTO, b"\0")[0]
    wide = told.get(_IFA_FLAGS)
    return AddressMessage(index, packed, length, scope, _U32.unpack(wide)[0] if wide else flags, protocol)


def read_routes(reader: Reader[RouteMessage] | None = None) -> tuple[RouteMessage, ...]:
    """Routes of all tables that `route_message` understands."""
    families = (socket.AF_INET, socket.AF_INET6)
    bodies = (body for family in families for body in _dump(_GETROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)))
    return (reader or Reader(route_message)).read(bodies)


def route_message(body: bytes) -> RouteMessage | None:
    """A default route of the main table, or one to a host that is directly behind a device; None for all others, of
    which a router may have a million."""
    family, length, _, tos, table, _, _, kind, _ = _ROUTE.unpack_from(body)
    if kind != _RTN_UNICAST or length not in (0, 32, 128) or (length == 32 and family != socket.AF_INET):
        return None
    told = dict(attributes(body, _ROUTE.size))
    table = int(_U32.unpack(told[_RTA_TABLE])[0]) if _RTA_TABLE in told else table
    priority = int(_U32.unpack(told[_RTA_PRIORITY])[0]) if _RTA_PRIORITY in told else 0
    device = _outgoing(told)
    if not length:
        key = RouteKey(family, b"", table, tos, priority)
        return RouteMessage(key, device) if device and table == _RT_TABLE_MAIN else None
    if _RTA_DST not in told or _RTA_OIF not in told or told.keys() & {_RTA_GATEWAY, _RTA_VIA}:
        return None
    return RouteMessage(RouteKey(family, told[_RTA_DST], table, tos, priority), device)


def routes_of(protocol: int) -> tuple[MadeRoute, ...]:
    """Every route that this protocol has made, in all tables; the kernel leaves the others out."""
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for body in _dump(_GETROUTE, _ROUTE.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0), strict=True):
            _, length, _, _, table, made_by, _, kind, _ = _ROUTE.unpack_from(body)
            told = dict(attributes(body, _ROUTE.size))
            if made_by == protocol:
                wide = told.get(_RTA_TABLE)
                table = int(_U32.unpack(wide)[0]) if wide else table
                metrics = dict(attributes(told.get(_RTA_METRICS, b""), 0))
                mtu = metrics.get(_RTAX_MTU)
                found.append(
                    MadeRoute(
                        family,
                        told.get(_RTA_DST, b""),
                        length,
                        kind,
                        _outgoing(told) if _RTA_OIF in told else 0,
                        told.get(_RTA_VIA, b"")[2:] or told.get(_RTA_GATEWAY, b""),
                        table,
                        int(_U32.unpack(mtu)[0]) if mtu else 0,
                    )
                )
    return tuple(found)


def _outgoing(told: Mapping[int, bytes]) -> int:
    """The device of a route, of its first hop where it has several; 0 without one."""
    if _RTA_OIF in told:
        return int(_U32.unpack(told[_RTA_OIF])[0])
    hops = told.get(_RTA_MULTIPATH, b"")
    return int(_NEXTHOP.unpack_from(hops)[3]) if len(hops) >= _NEXTHOP.size else 0


def netns_id(fd: int) -> int:
    """The number by which devices of this namespace name the network namespace `fd`; -1 where they do not."""
    body = _FAMILY.pack(0) + _ATTRIBUTE.pack(_ATTRIBUTE.size + _U32.size, _NETNSA_FD) + _U32.pack(fd)
    found, _ = _ask(_GETNSID, body, dump=False)
    return int(_I32.unpack(dict(attributes(found[0], _FAMILY.size)).get(_NETNSA_NSID, b"\xff" * 4))[0]) if found else -1


def _dump(kind: int, body: bytes, *, strict: bool = False) -> list[bytes]:
    for _ in range(_TRIES):
        found, whole = _ask(kind, body, dump=True, strict=strict)
        if whole:
            break
    return found


def _ask(request: int, body: bytes, *, dump: bool, strict: bool = False) -> tuple[list[bytes], bool]:
    """Bodies of the answers, and whether nothing changed while they were listed. A dump that is refused raises; a
    single question that is refused has no answer."""
    flags = _REQUEST | _DUMP if dump else _REQUEST
    found: list[bytes] = []
    whole = True
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        if strict:
            netlink.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)
        netlink.send(_HEADER.pack(_HEADER.size + len(body), request, flags, 1, 0) + body)
        while True:
            data = netlink.recv(_BUFFER_BYTES)
            for kind, message_flags, start, end in messages(data):
                whole = whole and not message_flags & _DUMP_INTERRUPTED
                if kind == _DONE:
                    return found, whole
                if kind != _ERROR:
                    found.append(data[start:end])
                elif dump:
                    number = -int(_I32.unpack_from(data, start)[0])
                    raise ApplyError(f"The kernel refused to list devices: {os.strerror(number)}.", number)
            if not dump:
                return found, True


def messages(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Type, flags, and where the body of each message of a datagram begins and ends."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, flags, offset + _HEADER.size, offset + length
        offset += (length + 3) & ~3


def link_message(body: bytes) -> LinkMessage:
    _, hardware, index, flags, _ = _IFINFO.unpack_from(body)
    return LinkMessage(index, flags, hardware, dict(attributes(body, _IFINFO.size)))


def of_bridge(body: bytes) -> bool:
    """Whether a link's message is about it as a port of a bridge, and says only that."""
    return body[0] == socket.AF_BRIDGE


def attributes(data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
