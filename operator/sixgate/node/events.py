"""Tells that something changed in the kernel's network configuration, without saying what."""

from __future__ import annotations

import errno
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

RTPROT_SIXGATE = 83  # marks our routes; unused in iproute2's rt_protos
RTPROT_FLOATING = 84  # marks addresses that egress puts on and takes off
_NLMSG_HEADER = struct.Struct("=IHHII")
_RTM_NEWROUTE, _RTM_DELROUTE = 24, 25
_RTMGRP_LINK, _RTMGRP_TC, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV4_ROUTE = 0x1, 0x8, 0x10, 0x40
_RTMGRP_IPV6_IFADDR, _RTMGRP_IPV6_ROUTE = 0x100, 0x400
_RTNLGRP_IPV4_NETCONF, _RTNLGRP_IPV6_NETCONF = 24, 25  # group numbers: sysctls such as forwarding
_GROUPS = (
    _RTMGRP_LINK
    | _RTMGRP_TC
    | _RTMGRP_IPV4_IFADDR
    | _RTMGRP_IPV4_ROUTE
    | _RTMGRP_IPV6_IFADDR
    | _RTMGRP_IPV6_ROUTE
    | 1 << (_RTNLGRP_IPV4_NETCONF - 1)
    | 1 << (_RTNLGRP_IPV6_NETCONF - 1)
)


class KernelEvents:
    """A netlink socket that hears of links, addresses, qdiscs, and of the routes that matter here: default routes
    and our own (a router's full table changes all the time); with `pods` also routes to single hosts."""

    def __init__(self, *, pods: bool = False) -> None:
        self._pods = pods
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, _GROUPS))
        self._socket.setblocking(False)

    def __enter__(self) -> KernelEvents:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> bool:
        """Read all that is waiting; True if any of it matters."""
        matters = False
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return matters
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                matters = True  # messages were lost: look at everything
                continue
            matters = concerns_us(data, pods=self._pods) or matters


def concerns_us(data: bytes, *, pods: bool = False) -> bool:
    """True if a datagram of netlink messages holds one that can change what a node wants or has."""
    offset = 0
    while offset + _NLMSG_HEADER.size <= len(data):
        length, kind = _NLMSG_HEADER.unpack_from(data, offset)[:2]
        if length < _NLMSG_HEADER.size:
            return True
        if kind not in (_RTM_NEWROUTE, _RTM_DELROUTE):
            return True
        # struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
        body = offset + _NLMSG_HEADER.size
        if len(data) < body + 8 or data[body + 1] == 0 or data[body + 5] == RTPROT_SIXGATE:
            return True
        if pods and data[body + 1] in (32, 128):
            return True
        offset += (length + 3) & ~3
    return False
