"""Direct ways to gateways: frames with link addresses that stand for pairs, no tunnel.

A pair has an address of 48 bits at every gateway, made from the gateway's address and the pair's number. Requests are
sent to it and replies come from it, so a frame says by itself which pair it is of. Asked of and told to the kernel by
plain netlink messages: owners of pairs change in the event loop, which must not wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import ipaddress
import logging
import os
import socket
import struct
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

log = logging.getLogger(__name__)

PREFIX = bytes.fromhex("065347")  # sg_eg_is_mac() of lib/egress_home.h
REPLY = 0x800000  # SG_EG_REPLY
_NEWNEIGH, _DELNEIGH, _GETNEIGH, _NEWROUTE, _GETROUTE = 28, 29, 30, 24, 26
_REQUEST, _ACK, _DUMP, _EXCL, _CREATE = 1, 4, 0x300, 0x200, 0x400
_ERROR, _DONE = 2, 3
_BRIDGE, _PERMANENT, _SELF, _NDA_LLADDR = 7, 0x80, 2, 2
_DST, _OIF, _GATEWAY, _VIA, _ENCAP = 1, 4, 5, 18, 22
_UNICAST = 1
_GET_MAC, _ETHERNET = 0x8927, 1  # SIOCGIFHWADDR, ARPHRD_ETHER
_IFREQ_BYTES, _MESSAGE_BYTES = 40, 65536


def pair_mac(gateway: str, pair: int) -> bytes:
    """The address of a pair at the gateway with this address."""
    return PREFIX + hashlib.sha256(f"{ipaddress.ip_address(gateway)} {pair}".encode()).digest()[:3]


def pair_macs(gateways: Iterable[str], pairs: Iterable[int], own: str) -> dict[bytes, int]:
    """What each address stands for on the node with the address `own`: its own pairs, and replies from other gateways.
    Two that fall on one address have none: their packets go through the tunnel."""
    found = [
        (pair_mac(gateway, pair), pair if gateway == own else pair | REPLY)
        for gateway in sorted(set(gateways))
        for pair in sorted(set(pairs))
    ]
    times = Counter(mac for mac, _ in found)
    return {mac: number for mac, number in found if times[mac] == 1}


def neighbour(gateway: str) -> tuple[int, bytes] | None:
    """Index and address of the Ethernet device that a gateway is to be reached through without a router; None where
    there is one, or something stranger."""
    address = ipaddress.ip_address(gateway)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = struct.pack("=8BI", family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0) + _attribute(_DST, address.packed)
    try:
        (reply,) = _ask(_GETROUTE, 0, body)
    except (OSError, ValueError):
        return None
    attributes = dict(_attributes(reply[12:]))
    if reply[7] != _UNICAST or attributes.keys() & {_GATEWAY, _VIA, _ENCAP} or _OIF not in attributes:
        return None
    index = int.from_bytes(attributes[_OIF], "little" if struct.pack("=H", 1)[0] else "big")
    mac = _device_mac(index)
    return (index, mac) if mac else None


def _device_mac(index: int) -> bytes:
    """Empty where the device is gone or has no Ethernet header."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
            request = struct.pack(f"{_IFREQ_BYTES}s", socket.if_indextoname(index).encode())
            answer = fcntl.ioctl(handle, _GET_MAC, request)
    except OSError:
        return b""
    (kind,) = struct.unpack_from("=H", answer, 16)
    return answer[18:24] if kind == _ETHERNET else b""


@dataclass(slots=True)
class Filter:
    """The addresses that this node's devices take frames for, besides their own."""

    wanted: frozenset[tuple[int, bytes]] = frozenset()

    def want(self, macs: Iterable[bytes], index: int) -> None:
        """These addresses at the device with this index, and no others of this kind anywhere."""
        wanted = frozenset((index, mac) for mac in macs) if index else frozenset()
        if wanted != self.wanted:
            clear(keep=wanted)
        for each in sorted(wanted):
            with contextlib.suppress(FileExistsError):
                _change(_NEWNEIGH, _EXCL | _CREATE, *each)
        self.wanted = wanted


def clear(keep: frozenset[tuple[int, bytes]] = frozenset()) -> None:
    """Take addresses of pairs off all devices, but those in `keep`."""
    for index, mac in _filtered():
        if (index, mac) not in keep:
            with contextlib.suppress(OSError):
                _change(_DELNEIGH, 0, index, mac)


def _filtered() -> Iterator[tuple[int, bytes]]:
    for message in _ask(_GETNEIGH, _DUMP, struct.pack("=BBHiHBB", _BRIDGE, 0, 0, 0, 0, 0, 0)):
        index, flags = struct.unpack_from("=4xi2xB", message)
        mac = dict(_attributes(message[12:])).get(_NDA_LLADDR, b"")
        if flags & _SELF and mac.startswith(PREFIX):
            yield index, mac


def _change(kind: int, flags: int, index: int, mac: bytes) -> None:
    body = struct.pack("=BBHiHBB", _BRIDGE, 0, 0, index, _PERMANENT, _SELF, 0) + _attribute(_NDA_LLADDR, mac)
    _ask(kind, flags | _ACK, body)


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        yield kind, data[4:length]
        data = data[max(4, (length + 3) & ~3) :]


def _ask(kind: int, flags: int, body: bytes) -> list[bytes]:
    """Bodies of the answers to one request; OSError as the kernel says it."""
    found: list[bytes] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as link:
        link.bind((0, 0))
        link.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | flags, 1, 0) + body)
        while True:
            data = link.recv(_MESSAGE_BYTES)
            while data:
                length, got = struct.unpack_from("=IH", data)
                message, data = data[16:length], data[(length + 3) & ~3 :]
                if got == _DONE:
                    return found
                if got == _ERROR:
                    (code,) = struct.unpack_from("=i", message)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return found
                found.append(message)
            if not flags & _DUMP and found:
                return found
