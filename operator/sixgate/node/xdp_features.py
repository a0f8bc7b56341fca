"""Which devices can take frames that XDP redirects to them: the `netdev` generic netlink family of Linux 6.3."""

from __future__ import annotations

import contextlib
import errno

from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST, genlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket

_NETDEV_CMD_DEV_GET = 1
_NETDEV_XDP_ACT_NDO_XMIT = 4


class _DevMessage(genlmsg):  # type: ignore[misc] # pyroute2 has no types
    nla_map = (
        ("NETDEV_A_DEV_UNSPEC", "none"),
        ("NETDEV_A_DEV_IFINDEX", "uint32"),
        ("NETDEV_A_DEV_PAD", "hex"),
        ("NETDEV_A_DEV_XDP_FEATURES", "uint64"),
    )


def transmitters() -> frozenset[int] | None:
    """Indexes of devices whose driver can send redirected frames just now; None where the kernel does not tell."""
    with contextlib.closing(GenericNetlinkSocket()) as netlink:
        try:
            netlink.bind("netdev", _DevMessage)
            request = _DevMessage()
            request["cmd"], request["version"] = _NETDEV_CMD_DEV_GET, 1
            answers = list(netlink.nlm_request(request, netlink.prid, NLM_F_REQUEST | NLM_F_DUMP))
        except NetlinkError as error:
            if error.code in (errno.ENOENT, errno.EOPNOTSUPP):
                return None
            raise
    return frozenset(
        answer.get_attr("NETDEV_A_DEV_IFINDEX")
        for answer in answers
        if (answer.get_attr("NETDEV_A_DEV_XDP_FEATURES") or 0) & _NETDEV_XDP_ACT_NDO_XMIT
    )
