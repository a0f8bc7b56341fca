"""From BIG TCP items of a NodeConfig to the sizes of devices. Pure.

Four things bound what a policy asks for: what the driver takes (`tso_max_size`), whether the device is a tunnel,
whether the kernel knows IPv4 BIG TCP at all, and whether the kernel forwards the packets. Kernels that carry a jumbo
header inside IPv6 super-packets of more than 64 KB count its 8 bytes as part of every segment when they forward one,
find the segments larger than the MTU, and drop the packet: TCP falls to a thousandth. So nothing that the kernel
forwards may grow beyond 64 KB as IPv6: not what a forwarding device merges, and not what the other end of a forwarding
veth sends. Where a program redirects them (resolve_passage.py), they may. A gateway of sixgate, in turn, takes large
IPv6 packets whole, and cuts large IPv4 ones to make them IPv6, but for those that pods of the node get: unless all of
them are, what arrives at its devices stays at 64 KB as IPv4.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.node import devices
from sixgate.node.model import Device, Owners, Pod, SizeKey, Sizes, SizeWant
from sixgate.node.resolve_passage import LEGACY_BYTES, Asked, Passages, find_passages, forwarders

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sixgate.api.nodeconfig import BigTcp, NodeConfigSpec
    from sixgate.node.findings import Findings
    from sixgate.node.model import Observed

# Kinds that put a header of their own around packets. Some say that they take super-packets of more than 64 KB and then
# carry a hundredth of what 64 KB carry (VXLAN over IPv6, Linux 6.18): they must have been seen to work.
TUNNELS = frozenset(
    {
        "vxlan",
        "geneve",
        "bareudp",
        "gre",
        "gretap",
        "erspan",
        "ip6gre",
        "ip6gretap",
        "ip6erspan",
        "ipip",
        "ip6tnl",
        "sit",
    }
    | {"vti", "vti6", "xfrm", "wireguard", "gtp", "amt"}
)
_STACKED, _BONDED = frozenset({"vlan", "macvlan", "ipvlan", "macsec"}), frozenset({"bond", "team"})
_MAX_NAMED = 3
_SPECIAL = frozenset("*?[")


@dataclass(slots=True)
class Choice:
    """What policies want of one device, by family."""

    ipv6: int = 0
    ipv4: int = 0
    owners: Owners = ()
    live: bool = False
    forwarding: str = "Auto"


Choices = dict[int, Choice]  # by index of the device


@dataclass(frozen=True, slots=True)
class _Ways:
    """Whether the kernel forwards IPv6 packets that arrive at a device (`here`) and at its other end (`there`), so that
    they must not be large; whether a program makes IPv6 of IPv4 packets that arrive, which must not be large either;
    why they are not redirected; and whether a program puts them into a tunnel, where the kernel would cut them."""

    here: bool
    there: bool
    program_here: bool = False
    program_there: bool = False
    why: str = ""
    tunnel_here: bool = False
    tunnel_there: bool = False


@dataclass(slots=True)
class _Why:
    """Reasons by owner and text, so that a thousand devices make one sentence."""

    names: dict[tuple[Owners, str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def say(self, owners: Owners, reason: str, name: str, text: str) -> str:
        self.names[owners, reason, text].append(name)
        return f"{name} {text}"

    def tell(self, found: Findings) -> None:
        for (owners, reason, text), names in self.names.items():
            more = len(names) - _MAX_NAMED
            listed = ", ".join(names[:_MAX_NAMED]) + (f" and {more} more devices" if more > 0 else "")
            (found.problem if reason == "NoIPv4BigTcp" else found.note)(owners, reason, f"{listed} {text}")


def choose(spec: NodeConfigSpec, have: Observed, found: Findings) -> Choices:
    """What policies want, by device; devices that are named and missing are said in `found`."""
    choices: Choices = {}
    for item in spec.big_tcp:
        for device in _selected(item, have, found):
            _choose(choices.setdefault(device.ifindex, Choice()), item, device)
    return choices


def passages(choices: Choices, have: Observed) -> Passages:
    """How super-packets get through this node once devices are as `choices` want them."""
    by_index = {device.ifindex: device for device in have.devices.values()}
    asked = []
    for index, choice in choices.items():
        device = by_index[index]
        _, peer_forwards = _other_end(device, have)
        size = _bounded(choice.ipv6, device, "IPv6", have)[0] if choice.ipv6 else device.sizes.gso6
        asked.append(Asked(device, LEGACY_BYTES if peer_forwards else size, choice.forwarding))
    return find_passages(asked, have, frozenset() if have.kernel.tunnels_big else TUNNELS)


def resolve_sizes(
    spec: NodeConfigSpec, choices: Choices, have: Observed, passing: Passages, found: Findings
) -> tuple[SizeWant, ...]:
    """Sizes by device; what a device does not get is said in `found`."""
    by_index = {device.ifindex: device for device in have.devices.values()}
    why = _Why()
    wants = []
    for index, choice in sorted(choices.items()):
        device = by_index[index]
        pod, peer = _peer(device, have)
        mine = forwarders(device, have)
        here = bool(mine - passing.redirected)
        theirs = forwarders(peer, have) if pod is None and peer is not None else frozenset()
        there = bool(theirs - passing.redirected) if pod is None else _other_end(device, have)[1]
        cut = frozenset() if passing.whole else passing.translated
        met = device.name in cut
        met_there = pod is None and peer is not None and peer.name in cut
        reason = next((passing.refused[i] for i in sorted(mine | theirs) if passing.refused.get(i)), "")
        door = device.name in passing.tunnelled
        door_there = pod is None and peer is not None and peer.name in passing.tunnelled
        ways = _Ways(here, there, met, met_there, reason, door, door_there)
        wants.append(_want(SizeKey("", index, device.name), device, choice, ways, have, why))
        if choice.live and pod is not None and peer is not None:
            key = SizeKey(pod.netns, peer.ifindex, peer.name)
            inside = bool(forwarders(peer, pod))
            wants.append(
                _want(
                    key, peer, choice, _Ways(inside, here, program_there=met, why=reason, tunnel_there=door), have, why
                )
            )
    if any(choice.live for choice in choices.values()) and not have.kernel.sys_admin:
        owners = tuple(sorted({o for item in spec.big_tcp if item.pods == "Live" for o in item.owners}))
        text = "pods: Live enters the network namespaces of pods, which needs CAP_SYS_ADMIN, and this process lacks it;"
        found.problem(owners, "NoPermission", f"{text} only the node's own ends of their devices were set.")
    why.tell(found)
    return tuple(wants)


def _selected(item: BigTcp, have: Observed, found: Findings) -> Iterator[Device]:
    chosen: dict[int, Device] = {}
    uplinks: set[int] = set()
    for pattern in item.include:
        matched = devices.match(pattern, have)
        if not matched and pattern != devices.AUTO and not _SPECIAL & set(pattern):
            text = f"Device {pattern} should be set for BIG TCP, but this node has no such device."
            found.problem(item.owners, "DeviceMissing", text)
        elif not matched and item.pods == "Off":
            found.note(item.owners, "DeviceMissing", f"No device of this node matches {pattern}.")
        chosen |= {device.ifindex: device for device in matched}
        if pattern == devices.AUTO:
            uplinks |= {device.ifindex for device in matched}
    if item.pods != "Off":
        chosen |= {d.ifindex: d for d in have.devices.values() if d.netnsid >= 0 and not d.ours}
    excluded = {device.ifindex for pattern in item.exclude for device in devices.match(pattern, have)}
    for index in sorted(uplinks - excluded):
        chosen |= {device.ifindex: device for device in _below(chosen[index], have)}
    yield from (device for index, device in sorted(chosen.items()) if index not in excluded)


def _below(device: Device, have: Observed) -> tuple[Device, ...]:
    """Devices that carry an uplink: ports of a bond, what is under a VLAN. They merge and cut its super-packets."""
    found: dict[int, Device] = {}
    wanted = [device]
    while wanted:
        upper = wanted.pop()
        for other in have.devices.values():
            carries = other.ifindex == upper.lower if upper.kind in _STACKED else other.master == upper.ifindex
            if carries and upper.kind in _STACKED | _BONDED and other.ifindex not in found:
                found[other.ifindex] = other
                wanted.append(other)
    return tuple(found.values())


def _choose(choice: Choice, item: BigTcp, device: Device) -> None:
    """The first item that names a family has it."""
    used = False
    if item.ipv6_size is not None and not choice.ipv6:
        choice.ipv6, choice.forwarding, used = item.ipv6_size, item.forwarding, True
    if item.ipv4_size is not None and not choice.ipv4:
        choice.ipv4, used = item.ipv4_size, True
    if used:
        choice.owners = (*choice.owners, *(owner for owner in item.owners if owner not in choice.owners))
        choice.live = choice.live or (item.pods == "Live" and device.netnsid >= 0)


def _peer(device: Device, have: Observed) -> tuple[Pod | None, Device | None]:
    """The other end of a veth or netkit, and the pod that it is in; None where it cannot be seen."""
    if device.netnsid < 0:
        return None, have.device_by_index(device.peer_ifindex) if device.peer_ifindex else None
    for pod in have.pods:
        if pod.netnsid == device.netnsid:
            for other in pod.devices.values():
                if other.ifindex == device.lower and other.lower == device.ifindex:
                    return pod, other
    return None, None


def _other_end(device: Device, have: Observed) -> tuple[Device | None, bool]:
    """The other end in another namespace, and whether a kernel forwards there. Where that end itself merges more than
    64 KB, somebody knows better: a policy of that namespace, which redirects."""
    pod, peer = _peer(device, have)
    if pod is None or peer is None:
        return peer, False
    return peer, bool(forwarders(peer, pod)) and peer.sizes.gro6 <= LEGACY_BYTES


def _want(key: SizeKey, device: Device, choice: Choice, ways: _Ways, have: Observed, why: _Why) -> SizeWant:  # noqa: PLR0917
    base = have.originals.get(key, device.sizes)
    gso6, gro6, gso4, gro4 = base.gso6, base.gro6, base.gso4, base.gro4
    told = []
    if choice.ipv6:
        size, text = _bounded(choice.ipv6, device, "IPv6", have)
        if text:
            told.append(why.say(choice.owners, "Clamped", str(key), text))
        gso6 = gro6 = size
        if size > LEGACY_BYTES and not have.kernel.forwards_big6:
            gso6 = LEGACY_BYTES if ways.there else size
            gro6 = LEGACY_BYTES if ways.here else size
            if gso6 != gro6 or gso6 == LEGACY_BYTES:
                told.append(why.say(choice.owners, "KernelForwards", str(key), _forwarded(gso6, gro6, ways.why)))
    if choice.ipv4 and not base.has_ipv4:
        if choice.ipv4 > LEGACY_BYTES:
            text = f"has no BIG TCP for IPv4: Linux {have.kernel.release} has none, 6.3 and newer do."
            told.append(why.say(choice.owners, "NoIPv4BigTcp", str(key), text))
    elif choice.ipv4:
        gso4, text = _bounded(choice.ipv4, device, "IPv4", have)
        gro4 = gso4
        if text:
            told.append(why.say(choice.owners, "Clamped", str(key), text))
        if gso4 > LEGACY_BYTES and (ways.program_here or ways.program_there):
            gso4 = LEGACY_BYTES if ways.program_there else gso4
            gro4 = LEGACY_BYTES if ways.program_here else gro4
            verb = "merges" if ways.program_here else "sends"
            text = f"{verb} IPv4 packets of at most 64 KB: a gateway would have to cut larger ones to make them IPv6."
            told.append(why.say(choice.owners, "GatewayCuts", str(key), text))
    wanted = Sizes(gso6, gro6, gso4, gro4)
    if (ways.tunnel_here or ways.tunnel_there) and (small := _at_the_door(wanted, choice, ways)) != wanted:
        wanted = small
        verb = "merges" if ways.tunnel_here else "sends"
        text = f"{verb} packets of at most 64 KB: egress would have to cut larger ones for its tunnel, "
        text += "which transport: Direct has not."
        told.append(why.say(choice.owners, "EgressCuts", str(key), text))
    return SizeWant(key, wanted, choice.owners, choice.ipv6, choice.ipv4, " ".join(told))


def _at_the_door(sizes: Sizes, choice: Choice, ways: _Ways) -> Sizes:
    """What a device may merge, and its other end send, where a tunnel follows; families that no policy names stay."""
    no_bound = max(sizes.gso6, sizes.gro6, sizes.gso4, sizes.gro4)
    gso = LEGACY_BYTES if ways.tunnel_there else no_bound
    gro = LEGACY_BYTES if ways.tunnel_here else no_bound
    return Sizes(
        min(sizes.gso6, gso) if choice.ipv6 else sizes.gso6,
        min(sizes.gro6, gro) if choice.ipv6 else sizes.gro6,
        min(sizes.gso4, gso) if choice.ipv4 else sizes.gso4,
        min(sizes.gro4, gro) if choice.ipv4 else sizes.gro4,
    )


def _bounded(wanted: int, device: Device, family: str, have: Observed) -> tuple[int, str]:
    """What the device lets through of `wanted`, and the rest of a sentence where that is less."""
    top = device.tso_max or LEGACY_BYTES
    if device.kind in TUNNELS and wanted > LEGACY_BYTES < top and not have.kernel.tunnels_big:
        text = f"stays without BIG TCP for {family}: this kernel is not known to carry it through a tunnel"
        return LEGACY_BYTES, f"{text} ({device.kind}); `sixgate bigtcp test` tries."
    if wanted <= top:
        return wanted, ""
    kind = f" of kind {device.kind}" if device.kind else ""
    if top <= LEGACY_BYTES:
        return min(
            top, LEGACY_BYTES
        ), f"stays without BIG TCP for {family}: its driver{kind} takes at most {top} bytes."
    return top, f"gets {top} bytes for {family} instead of {wanted}: its driver{kind} takes no more."


def _forwarded(gso6: int, gro6: int, why: str) -> str:
    both = gso6 == gro6 == LEGACY_BYTES
    what = "sends and merges" if both else "merges" if gro6 == LEGACY_BYTES else "sends"
    where = "its other end" if what == "sends" else "the device"
    return (
        f"{what} IPv6 packets of at most 64 KB: the kernel forwards what arrives at {where}, and this kernel is not "
        f"known to forward larger ones whole (`sixgate bigtcp test` tries){f'; {why}' if why else ''}."
    )
