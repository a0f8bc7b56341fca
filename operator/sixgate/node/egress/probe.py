"""Asking a segment whether somebody has an address, without claiming it: ARP probe (RFC 5227 2.1.1) and neighbour
solicitation (RFC 4861 7.2.2). And telling it who has it now: gratuitous ARP and unsolicited advertisement."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

PROBE_S = 0.045  # how long an answer may take; a segment answers in less than a millisecond, a busy machine later
TRIES = 3
_ETH_P_ARP = 0x0806
_BROADCAST = b"\xff" * 6
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ICMP6_FILTER = 1
_NS, _NA = 135, 136
_OVERRIDE = 0x20000000
_HOP_LIMIT = 255


def _frame(source: bytes, operation: int, sender: bytes, target: bytes) -> bytes:
    """One ARP frame to everybody. A probe has sender 0.0.0.0: nobody learns anything from it."""
    arp = _ARP.pack(1, 0x0800, 6, 4, operation, source, sender, bytes(6), target)
    return _BROADCAST + source + _ETH_P_ARP.to_bytes(2, "big") + arp


def _filter(only: int) -> bytes:
    """struct icmp6_filter that passes one type."""
    words = [0xFFFFFFFF] * 8
    words[only >> 5] &= ~(1 << (only & 31))
    return struct.pack("=8I", *words)


class Segment:
    """One device's link. Sockets are open while it is; OSError where the device is gone or CAP_NET_RAW is missing."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._arp = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(_ETH_P_ARP))
        self._ndp: socket.socket | None = None
        try:
            self._arp.bind((device, _ETH_P_ARP))
            self._mac: bytes = self._arp.getsockname()[4]
            self._index = socket.if_nametoindex(device)
            with contextlib.suppress(OSError):  # a kernel without IPv6
                self._ndp = self._open_ndp()
        except OSError:
            self.close()
            raise

    def _open_ndp(self) -> socket.socket:
        ndp = socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMPV6)
        ndp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.device.encode())
        ndp.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, _filter(_NA))
        ndp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOP_LIMIT)
        ndp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, _HOP_LIMIT)
        ndp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        ndp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self._index)
        return ndp

    def close(self) -> None:
        self._arp.close()
        if self._ndp is not None:
            self._ndp.close()

    async def alive(self, addresses: Iterable[str]) -> bool:
        """Whether anybody but this host answers for one of the addresses."""
        return bool(await self.answered(addresses, enough=1))

    async def answered(self, addresses: Iterable[str], enough: int) -> frozenset[str]:
        """Those of the addresses that anybody but this host answers for; it may be fewer where `enough` have been."""
        parsed = [ipaddress.ip_address(text) for text in addresses]
        for opened in filter(None, (self._arp, self._ndp)):
            _empty(opened)  # what was said before the question is no answer to it
        asked = {address.packed: address for address in parsed}
        loop = asyncio.get_running_loop()
        found: set[str] = set()
        done = asyncio.Event()

        def heard(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
            found.add(str(address))
            if len(found) >= enough:
                done.set()

        def heard_arp() -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    frame = self._arp.recv(128)
                    sender = _sender(frame, self._mac)
                    if sender in asked:
                        heard(asked[sender])

        def heard_ndp(ndp: socket.socket) -> None:
            with contextlib.suppress(BlockingIOError):
                while True:
                    message = ndp.recv(256)
                    if message[0] == _NA and message[8:24] in asked:
                        heard(asked[message[8:24]])

        loop.add_reader(self._arp, heard_arp)
        if self._ndp is not None:
            loop.add_reader(self._ndp, heard_ndp, self._ndp)
        try:
            for _ in range(TRIES):
                for address in parsed:
                    if str(address) not in found:
                        self._solicit(address)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PROBE_S / TRIES):
                        await done.wait()
                    break
            return frozenset(found)
        finally:
            loop.remove_reader(self._arp)
            if self._ndp is not None:
                loop.remove_reader(self._ndp)

    def _solicit(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
        if isinstance(address, ipaddress.IPv4Address):
            self._arp.send(_frame(self._mac, 1, bytes(4), address.packed))
        elif self._ndp is not None:
            group = socket.inet_pton(socket.AF_INET6, "ff02::1:ff00:0")[:13] + address.packed[13:]
            body = struct.pack("!BBHI", _NS, 0, 0, 0) + address.packed + bytes((1, 1)) + self._mac
            with contextlib.suppress(OSError):  # no link-local address yet
                self._ndp.sendto(body, (socket.inet_ntop(socket.AF_INET6, group), 0, 0, self._index))

    def announce(self, addresses: Iterable[str]) -> None:
        """Everybody on the segment learns that the addresses are here (RFC 5227 3, RFC 4861 7.2.6)."""
        for text in addresses:
            address = ipaddress.ip_address(text)
            if isinstance(address, ipaddress.IPv4Address):
                self._arp.send(_frame(self._mac, 1, address.packed, address.packed))
                self._arp.send(_frame(self._mac, 2, address.packed, address.packed))
            elif self._ndp is not None:
                body = struct.pack("!BBHI", _NA, 0, 0, _OVERRIDE) + address.packed + bytes((2, 1)) + self._mac
                with contextlib.suppress(OSError):
                    self._ndp.sendto(body, ("ff02::1", 0, 0, self._index))


def _empty(opened: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            opened.recv(1)


def _sender(frame: bytes, own: bytes) -> bytes:
    """The IPv4 address that another host says to have: by a reply, or by sending with it; else nothing."""
    if len(frame) < 14 + _ARP.size:
        return b""
    _, _, _, _, _, source, sender, _, _ = _ARP.unpack_from(frame, 14)
    return bytes(sender) if source != own else b""
