"""What netfilter and IPsec do with IPv6 packets that this node forwards: a program that redirects them passes both by.

Base chains of nftables (iptables of today among them) are asked from nfnetlink; tables of the older ip6tables stand in
a file of /proc. Any IPsec policy counts, of whatever family. What hooks into netfilter in other ways (a BPF netfilter
link) is not seen.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sixgate.errors import ApplyError
from sixgate.node.rtlink import attributes, messages

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_NFGENMSG = struct.Struct("=BBH")
_BE32 = struct.Struct(">I")
_NETLINK_XFRM, _NETLINK_NETFILTER = 6, 12
_SUBSYSTEM, _GET_CHAIN = 10, 4  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETCHAIN
_REQUEST, _DUMP, _ERROR, _DONE = 0x1, 0x300, 2, 3
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _HOOK_NUMBER = 1, 3, 4, 1  # NFTA_CHAIN_*, NFTA_HOOK_HOOKNUM
_CHAIN_CHANGES = frozenset({_SUBSYSTEM << 8 | 3, _SUBSYSTEM << 8 | 5})  # NFT_MSG_NEWCHAIN, NFT_MSG_DELCHAIN
_GROUP_NFTABLES = 1 << 6  # NFNLGRP_NFTABLES, 7, as a bit
_GET_POLICY, _POLICY_ID_BYTES = 0x15, 64  # XFRM_MSG_GETPOLICY, struct xfrm_userpolicy_id
_FAMILIES = {1: "inet", socket.AF_INET6: "ip6"}  # NFPROTO_INET, NFPROTO_IPV6
_HOOKS = frozenset({0, 2, 4})  # NF_INET_PRE_ROUTING, FORWARD, POST_ROUTING: where a forwarded packet comes past
_LEGACY = Path("/proc/thread-self/net/ip6_tables_names")
_ABSENT = frozenset({errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EINVAL, errno.ENOENT})


def forward_rules6() -> tuple[str, ...]:
    """Names of chains and tables that see forwarded IPv6 packets in the calling thread's network namespace, sorted.
    ApplyError where the kernel refuses to tell."""
    try:
        tables = _LEGACY.read_text().split()
    except OSError:  # the kernel has none
        tables = []
    ipsec = ["IPsec policies"] if _dump(_NETLINK_XFRM, _GET_POLICY, bytes(_POLICY_ID_BYTES)) else []
    return tuple(sorted({*(f"ip6tables {name}" for name in tables), *_chains(), *ipsec}))


class RuleEvents:
    """A netlink socket that hears of chains of nftables that come and go. Rules and sets change all the time and do not
    matter; tables of the older ip6tables are not announced by the kernel. Silent where it has no netfilter."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
            self._socket.bind((0, _GROUP_NFTABLES))
            self._socket.setblocking(False)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise

    def __enter__(self) -> RuleEvents:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()

    def fileno(self) -> int:
        """-1 where there is nothing to hear."""
        return -1 if self._socket is None else self._socket.fileno()

    def drain(self) -> bool:
        """Read all that is waiting; True if any of it matters."""
        matters = False
        while self._socket is not None:
            try:
                data = self._socket.recv(1 << 18)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                matters = True  # messages were lost: look at everything
                continue
            matters = matters or any(kind in _CHAIN_CHANGES for kind, *_ in messages(data))
        return matters


def _chains() -> Iterator[str]:
    for body in _dump(_NETLINK_NETFILTER, _SUBSYSTEM << 8 | _GET_CHAIN, _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0)):
        family = _FAMILIES.get(body[0])
        told = dict(attributes(body, _NFGENMSG.size))
        if family is None or _CHAIN_HOOK not in told:
            continue
        number = dict(attributes(told[_CHAIN_HOOK], 0)).get(_HOOK_NUMBER, b"")
        if len(number) == _BE32.size and _BE32.unpack(number)[0] in _HOOKS:
            yield " ".join((family, _text(told.get(_CHAIN_TABLE, b"")), _text(told.get(_CHAIN_NAME, b""))))


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode(errors="replace")


def _dump(protocol: int, kind: int, body: bytes) -> list[bytes]:
    """Bodies of all answers; none where the kernel has no such thing."""
    found: list[bytes] = []
    try:
        link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        if error.errno in _ABSENT:
            return []
        raise
    with link:
        link.bind((0, 0))
        link.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | _DUMP, 1, 0) + body)
        while True:
            data = link.recv(1 << 18)
            for told, _, start, end in messages(data):
                if told == _DONE:
                    return found
                if told != _ERROR:
                    found.append(data[start:end])
                    continue
                number = -int.from_bytes(data[start : start + 4], sys.byteorder, signed=True)
                if number in _ABSENT:
                    return []
                raise ApplyError(f"The kernel refused to list its rules for packets: {os.strerror(number)}.", number)
