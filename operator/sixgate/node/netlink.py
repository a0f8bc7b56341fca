"""Links, addresses, routes and clsact filters through pyroute2: read, set, and read back what was set.

pyroute2 drops attributes that it does not know without a word, so every setter here compares what the kernel shows
afterwards with what was asked for. What sixgate makes is marked in the same message that makes it: links by their
group, addresses and routes by their protocol number; the link's alias is for people.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.ifinfmsg import ifinfbase
from pyroute2.netlink.rtnl.tcmsg import sched_bpf

from sixgate.errors import ApplyError
from sixgate.node import rtlink
from sixgate.node.actions import OUR_ALIAS
from sixgate.node.events import RTPROT_FLOATING, RTPROT_SIXGATE
from sixgate.node.model import AddressSeen, Attached, Device, Hook, RouteKey, Sizes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Netlink", "NetlinkError"]

LINK_GROUP = 0x5347  # marks links from their first moment
FILTER_PRIORITY = 0x5347  # of our clsact filters
FILTER_HANDLE = 0x5347
# Without an id of its own: BPF says for every packet where it goes. The address is that of every node, so that what
# comes out of the tunnel is for whoever got it; SG_EG_MACS of lib/egress.h.
VXLAN_PORT = 8473
VXLAN = {
    "vxlan_collect_metadata": True,
    "vxlan_learning": False,
    "vxlan_port": VXLAN_PORT,
    "vxlan_udp_zero_csum6_rx": True,
    "address": "02:53:47:45:47:01",
}
_CLSACT_PARENTS = {"tc-ingress": 0xFFFFFFF2, "tc-egress": 0xFFFFFFF3}
_IFA_F_NODAD = 0x02
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8
_ARPHRD_ETHER = 1
_ROUTE_KINDS = {1: "unicast", 6: "blackhole", 7: "unreachable", 8: "prohibit"}  # enum in linux/rtnetlink.h
_GONE = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL})
_XDP_MODES = {1: "native", 2: "generic", 3: "offloaded"}  # XDP_ATTACHED_DRV, _SKB, _HW


def _teach_pyroute2() -> None:
    """Add attributes that pyroute2 0.9.7 lacks: without TCA_BPF_ID nobody can tell which program a filter runs.

    Done on import, since pyroute2 compiles its tables when it first reads or writes a message.
    """
    options = sched_bpf.options
    if options.nla_map[-1][0] != "TCA_BPF_ID":
        missing = (("TCA_BPF_FLAGS_GEN", "uint32"), ("TCA_BPF_TAG", "hex"), ("TCA_BPF_ID", "uint32"))
        options.nla_map = (*options.nla_map, *missing)
    # Without the IPv4 sizes it leaves them out of its requests and says nothing.
    if ifinfbase.nla_map[-1][0] == "IFLA_ALLMULTI":
        sizes = (("IFLA_GSO_IPV4_MAX_SIZE", "uint32"), ("IFLA_GRO_IPV4_MAX_SIZE", "uint32"))
        ifinfbase.nla_map = (*ifinfbase.nla_map, ("IFLA_DEVLINK_PORT", "hex"), *sizes)


_teach_pyroute2()


class Netlink:
    """One rtnetlink socket in the namespace of the calling thread; use it in the thread that made it."""

    def __init__(self) -> None:
        self._ip = IPRoute()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self._ip.close()

    def devices(self) -> dict[str, Device]:
        """Every device with its addresses, by name."""
        addresses: dict[int, list[AddressSeen]] = {}
        for message in rtlink.read_addresses():
            addresses.setdefault(message.index, []).append(address_seen(message))
        return devices_with(addresses)

    def set_sizes(self, name: str, ifindex: int, sizes: Sizes) -> None:
        """Give one device its largest GSO and GRO packets, and read them back: kernels without IPv4 BIG TCP accept its
        attributes and forget them."""
        wanted = {"gso_max_size": sizes.gso6, "gro_max_size": sizes.gro6}
        # The kernel takes the IPv4 sizes along when it sets the others to 64 KB or less, so all of them are set.
        wanted |= {"gso_ipv4_max_size": sizes.gso4, "gro_ipv4_max_size": sizes.gro4} if sizes.has_ipv4 else {}
        with _refused(f"set the packet sizes of {name} to {sizes}"):
            self._ip.link("set", index=ifindex, **wanted)
        message = rtlink.read_link(ifindex)
        if message is None:
            raise ApplyError(f"Device {name} is not there any more.", errno.ENODEV)
        if (found := _sizes(message)) != sizes:
            raise ApplyError(f"Device {name} should have the packet sizes {sizes}, but the kernel shows {found}.")

    def default_devices(self) -> dict[int, int]:
        """Address family (4 or 6) to ifindex of the default route with the lowest metric."""
        best: dict[int, tuple[int, int]] = {}
        for message in rtlink.read_routes():
            if not message.key.destination:
                version = 4 if message.key.family == socket.AF_INET else 6
                found = (message.key.priority, message.device)
                best[version] = min(best.get(version, found), found)
        return {family: oif for family, (_, oif) in best.items()}

    def routes(self, names: dict[int, str]) -> tuple[RouteKey, ...]:
        """Routes that sixgate made. `names` maps ifindex to device name."""
        made = rtlink.routes_of(RTPROT_SIXGATE)
        return tuple(_route(message, names) for message in made if message.kind in _ROUTE_KINDS)

    def make_link(self, name: str, kind: str, peer: str) -> None:
        arguments: dict[str, Any] = {"ifname": name, "kind": kind, "group": LINK_GROUP}
        if peer:
            arguments["peer"] = {"ifname": peer, "group": LINK_GROUP}
        if kind == "vxlan":
            arguments |= VXLAN
        with _refused(f"create {kind} device {name}", unless=errno.EEXIST):
            self._ip.link("add", **arguments)
        found = self.devices().get(name)
        if found is None or found.group != LINK_GROUP or found.kind != kind:
            raise ApplyError(f"Device {name} should be a {kind} device made by sixgate, but the kernel shows {found}.")

    def set_link(self, name: str, mtu: int) -> None:
        """Give our link its MTU and alias, and set it up."""
        index = self._index(name)
        with _refused(f"set MTU {mtu} on {name}"):
            self._ip.link("set", index=index, mtu=mtu, ifalias=OUR_ALIAS, state="up")
        found = self.devices()[name]
        if (found.mtu, found.alias, found.up) != (mtu, OUR_ALIAS, True):
            raise ApplyError(
                f"Device {name} should be up with MTU {mtu} and alias {OUR_ALIAS}, but has MTU {found.mtu}, "
                f"alias {found.alias!r} and is {'up' if found.up else 'down'}."
            )

    def remove_link(self, name: str) -> None:
        """Remove a link of ours; one that is gone is fine, one that is not ours is left alone."""
        found = self.devices().get(name)
        if found is None:
            return
        if not found.ours:
            raise ApplyError(f"Device {name} was not made by sixgate, so it is not removed.")
        with _refused(f"remove device {name}", unless=_GONE):
            self._ip.link("del", index=found.ifindex)

    def add_address(self, device: str, address: str, prefix_len: int) -> None:
        index = self._index(device)
        with _refused(f"add {address}/{prefix_len} to {device}", unless=errno.EEXIST):
            self._ip.addr("add", index=index, address=address, prefixlen=prefix_len, proto=RTPROT_SIXGATE)
        seen = self.devices()[device].addresses
        if not any((a.address, a.prefix_len) == (address, prefix_len) for a in seen):
            raise ApplyError(f"Device {device} should have address {address}/{prefix_len}, but the kernel shows none.")

    def add_floating(self, device: str, address: str) -> None:
        """Put an egress address on: alone in its prefix, usable at once (it was asked for on the segment before), and
        never the source of this host's own connections."""
        wanted: dict[str, Any] = {"index": self._index(device), "address": address, "proto": RTPROT_FLOATING}
        if ":" in address:
            wanted |= {"prefixlen": 128, "flags": _IFA_F_NODAD, "preferred_lft": 0, "valid_lft": 0xFFFFFFFF}
        else:
            wanted |= {"prefixlen": 32}
        with _refused(f"add {address} to {device}", unless=errno.EEXIST):
            self._ip.addr("add", **wanted)

    def remove_address(self, device: str, address: str, prefix_len: int) -> None:
        found = self.devices().get(device)
        if found is not None:
            with _refused(f"remove {address}/{prefix_len} from {device}", unless=_GONE):
                self._ip.addr("del", index=found.ifindex, address=address, prefixlen=prefix_len)

    def add_route(self, route: RouteKey) -> None:
        names = {device.ifindex: device.name for device in self.devices().values()}
        there = any((seen.destination, seen.table) == (route.destination, route.table) for seen in self.routes(names))
        with _refused(f"add the route to {route.destination}", unless=errno.EEXIST):
            # One of ours to the same destination is replaced in one step: no packet finds none.
            self._ip.route("replace" if there else "add", **self._route_arguments(route))
        found = self.routes(names)
        if route not in found and (route.device or route not in {replace(seen, device="") for seen in found}):
            raise ApplyError(
                f"The route to {route.destination} in table {route.table} should be one made by sixgate, "
                "but another one with the same destination and metric is there."
            )

    def remove_route(self, route: RouteKey) -> None:
        if route.device and route.device not in self.devices():
            return
        with _refused(f"remove the route to {route.destination}", unless=_GONE):
            self._ip.route("del", **self._route_arguments(route))

    def filters(self, ifindex: int) -> dict[str, tuple[Attached, ...]]:
        """Our clsact filters on one device, by hook; none where the device has no clsact qdisc."""
        found: dict[str, tuple[Attached, ...]] = {}
        if not self.has_clsact(ifindex):
            return found
        for hook, parent in _CLSACT_PARENTS.items():
            for message in self._ip.get_filters(index=ifindex, parent=parent):
                options = message.get_attr("TCA_OPTIONS")
                ours = message["info"] >> 16 == FILTER_PRIORITY and message["handle"] == FILTER_HANDLE
                if ours and message.get_attr("TCA_KIND") == "bpf" and options is not None:
                    found[hook] = (Attached(prog_id=options.get_attr("TCA_BPF_ID") or 0, clsact=True),)
        return found

    def qdiscs(self) -> tuple[tuple[int, str], ...]:
        """Index of the device and kind of every qdisc, whoever made it."""
        return tuple((m["index"], m.get_attr("TCA_KIND")) for m in self._ip.get_qdiscs())

    def clsact_devices(self) -> frozenset[int]:
        """Indexes of devices with a clsact qdisc, whoever made it."""
        return frozenset(index for index, kind in self.qdiscs() if kind == "clsact")

    def has_clsact(self, ifindex: int) -> bool:
        return any(m.get_attr("TCA_KIND") == "clsact" for m in self._ip.get_qdiscs(index=ifindex))

    def add_clsact(self, ifindex: int, device: str) -> None:
        with _refused(f"add a clsact qdisc to {device}", unless=errno.EEXIST):
            self._ip.tc("add", "clsact", ifindex)

    def remove_clsact(self, ifindex: int, device: str) -> None:
        """Remove the qdisc unless somebody's filter is in it."""
        if not self.has_clsact(ifindex):
            return
        if any(True for parent in _CLSACT_PARENTS.values() for _ in self._ip.get_filters(index=ifindex, parent=parent)):
            return
        with _refused(f"remove the clsact qdisc of {device}", unless={*_GONE, errno.EINVAL}):
            self._ip.tc("del", "clsact", ifindex)

    def set_filter(self, ifindex: int, hook: Hook, *, prog_fd: int, prog_id: int, name: str) -> None:
        """Attach or replace our filter in one step."""
        with _refused(f"attach {name} to {hook}"):
            self._ip.tc(
                "replace-filter",
                "bpf",
                ifindex,
                FILTER_HANDLE,
                parent=_CLSACT_PARENTS[hook.hook],
                prio=FILTER_PRIORITY,
                fd=prog_fd,
                name=name,
                direct_action=True,
            )
        seen = self.filters(ifindex).get(hook.hook, ())
        if not seen or seen[0].prog_id != prog_id:
            raise ApplyError(f"The filter of {hook} should run program {prog_id}, but the kernel shows {seen}.")

    def remove_filter(self, ifindex: int, device: str, hook: str) -> None:
        with _refused(f"detach from {hook} on {device}", unless={*_GONE, errno.EINVAL}):
            self._ip.tc("del-filter", "bpf", ifindex, FILTER_HANDLE, parent=_CLSACT_PARENTS[hook], prio=FILTER_PRIORITY)

    def _index(self, name: str) -> int:
        found = self._ip.link_lookup(ifname=name)
        if not found:
            raise ApplyError(f"Device {name} is not there.", errno.ENODEV)
        return int(found[0])

    def _route_arguments(self, route: RouteKey) -> dict[str, Any]:
        destination = ipaddress.ip_network(route.destination)
        arguments: dict[str, Any] = {
            "dst": route.destination,
            "table": route.table,
            "type": route.kind,
            "proto": RTPROT_SIXGATE,
            "family": socket.AF_INET if destination.version == 4 else socket.AF_INET6,
        }
        if route.device:
            arguments["oif"] = self._index(route.device)
        if route.via:
            hop = ipaddress.ip_address(route.via)
            if hop.version == destination.version:
                arguments["gateway"] = route.via
            else:
                arguments["via"] = {
                    "family": socket.AF_INET6 if hop.version == 6 else socket.AF_INET,
                    "addr": route.via,
                }
        if route.mtu:
            arguments["metrics"] = {"mtu": route.mtu}
        return arguments


@contextlib.contextmanager
def _refused(what: str, *, unless: int | frozenset[int] | set[int] = frozenset()) -> Iterator[None]:
    """Turn the kernel's refusal into an ApplyError, unless its errno means that there is nothing to do."""
    accepted = {unless} if isinstance(unless, int) else unless
    try:
        yield
    except NetlinkError as error:
        if error.code not in accepted:
            raise ApplyError(f"The kernel refused to {what}: {error.args[1]}.", error.code) from error


def devices_with(addresses: Mapping[int, list[AddressSeen]]) -> dict[str, Device]:
    """Every device of the calling thread's namespace by name; `addresses` by index."""
    messages = rtlink.read_links()
    bridges = {message.index for message in messages if is_bridge(message)}
    devices = (device_of(message, addresses.get(message.index, []), bridges) for message in messages)
    return {device.name: device for device in devices}


def is_bridge(message: rtlink.LinkMessage) -> bool:
    return message.kind in ("bridge", "openvswitch")


def device_of(message: rtlink.LinkMessage, addresses: list[AddressSeen], bridges: set[int]) -> Device:
    """`bridges` are indexes of all bridges of the namespace."""
    alias = message.text(rtlink.IFLA_IFALIAS)
    group = message.number(rtlink.IFLA_GROUP)
    kind = message.kind
    programs = _xdp(message)
    master = message.number(rtlink.IFLA_MASTER)
    lower = message.number(rtlink.IFLA_LINK)
    return Device(
        name=message.text(rtlink.IFLA_IFNAME),
        ifindex=message.index,
        kind=kind,
        up=bool(message.flags & _IFF_UP),
        loopback=bool(message.flags & _IFF_LOOPBACK),
        port=master in bridges,
        ours=alias == OUR_ALIAS or group == LINK_GROUP,
        alias=alias,
        group=group,
        mtu=message.number(rtlink.IFLA_MTU),
        peer_ifindex=lower if kind == "veth" else 0,
        ethernet=message.hardware == _ARPHRD_ETHER,
        addresses=tuple(sorted(addresses)),
        xdp=programs,
        master=master,
        lower=lower,
        netnsid=message.number(rtlink.IFLA_LINK_NETNSID, -1) if kind in ("veth", "netkit") else -1,
        sizes=_sizes(message),
        tso_max=message.number(rtlink.IFLA_TSO_MAX_SIZE),
    )


def _sizes(message: rtlink.LinkMessage) -> Sizes:
    """Zero for what this kernel does not tell."""
    return Sizes(
        gso6=message.number(rtlink.IFLA_GSO_MAX_SIZE),
        gro6=message.number(rtlink.IFLA_GRO_MAX_SIZE),
        gso4=message.number(rtlink.IFLA_GSO_IPV4_MAX_SIZE),
        gro4=message.number(rtlink.IFLA_GRO_IPV4_MAX_SIZE),
    )


def address_seen(message: rtlink.AddressMessage) -> AddressSeen:
    return AddressSeen(
        address=str(ipaddress.ip_address(message.address)),
        prefix_len=message.prefix_len,
        scope=message.scope,
        flags=message.flags,
        ours=message.protocol == RTPROT_SIXGATE,
        floating=message.protocol == RTPROT_FLOATING,
    )


def _xdp(message: rtlink.LinkMessage) -> tuple[Attached, ...]:
    xdp = message.nested(rtlink.IFLA_XDP)
    prog_id = int.from_bytes(xdp.get(rtlink.IFLA_XDP_PROG_ID, b""), sys.byteorder)
    if not prog_id:
        return ()
    mode = _XDP_MODES.get(xdp.get(rtlink.IFLA_XDP_ATTACHED, b"\0")[0], "mixed")
    return (Attached(prog_id=prog_id, mode=mode),)


def _route(message: rtlink.MadeRoute, names: dict[int, str]) -> RouteKey:
    any_address = bytes(4 if message.family == socket.AF_INET else 16)
    destination = ipaddress.ip_address(message.destination or any_address)
    kind = _ROUTE_KINDS[message.kind]
    return RouteKey(
        destination=str(ipaddress.ip_network(f"{destination}/{message.prefix_len}")),
        device=names.get(message.device, "") if kind == "unicast" else "",
        via=str(ipaddress.ip_address(message.via)) if message.via else "",
        table=message.table,
        mtu=message.mtu,
        kind=kind,
    )
