"""How TCP super-packets of more than 64 KB get through a node. Pure.

An IPv6 one carries a jumbo header for as long as it is inside a machine, and the kernel's own forwarding drops it for
that. A program forwards it, then, past netfilter: so a policy may refuse that, and by default it is done only where
netfilter has no rules for such packets. And it is done only if every device that it may leave through takes it whole:
what has to be cut there costs more than it brings.

An IPv4 one that becomes IPv6 must not be transmitted at all (bpf_src/lib/big.h): it is handed to the other end of a
pod's device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.node.model import Device, Hook, Observed, Pod

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence, Set

    from sixgate.node.model import HookWant

LEGACY_BYTES = 65536  # GSO_LEGACY_MAX_SIZE: no BIG TCP
FORWARDING = "@forwarding"  # in place of a device's name in an attachment
PAIRED = frozenset({"veth", "netkit"})  # kinds whose `lower` is their other end
FORWARD, PEER = 1 << 0, 1 << 1  # enum sg_big_flag; a test compares the two
_MAX_NAMED = 3


@dataclass(frozen=True, slots=True)
class Asked:
    """What policies ask for of one device: its size of IPv6 once it is set, and who forwards."""

    device: Device
    size: int
    forwarding: str


@dataclass(frozen=True, slots=True)
class Passages:
    """Devices that the kernel forwards from, by index: why super-packets that arrive there are not redirected, empty
    where they are to be. `peers` are devices of pods that take super-packets without their being transmitted."""

    refused: Mapping[int, str] = field(default_factory=dict)
    peers: frozenset[int] = frozenset()
    redirected: frozenset[int] = frozenset()  # where the program is there already
    translated: frozenset[str] = frozenset()  # names of devices whose program makes IPv6 of IPv4
    whole: bool = False  # every device that IPv6 may leave through is one of `peers`
    tunnelled: frozenset[str] = frozenset()  # names of devices whose program puts packets into a tunnel

    @property
    def wanted(self) -> tuple[int, ...]:
        return tuple(sorted(index for index, why in self.refused.items() if not why))

    def flags(self) -> dict[int, int]:
        """Contents of sg_big by index of the device."""
        return {
            index: (FORWARD if index in self.wanted else 0) | (PEER if index in self.peers else 0)
            for index in sorted({*self.wanted, *self.peers})
        }


def forwarders(device: Device, place: Observed | Pod) -> frozenset[int]:
    """Indexes of the devices whose forwarding what arrives at `device` meets: its own or those of what stands above it
    (bridge, bond, VLAN). None where the kernel does not forward it."""
    if device.master:
        return frozenset({device.master}) & place.forwards6
    above = {d.ifindex for d in place.devices.values() if d.lower == device.ifindex and d.kind not in PAIRED}
    return frozenset({device.ifindex, *above}) & place.forwards6


def find_passages(asked: Sequence[Asked], have: Observed, tunnels: Set[str]) -> Passages:
    """What is to be redirected. `tunnels` are kinds of devices that put a header of their own around packets."""
    big = [item for item in asked if item.size > LEGACY_BYTES]
    if not big:
        return Passages()
    by_index = {device.ifindex: device for device in have.devices.values()}
    modes: dict[int, set[str]] = {}
    for item in big:
        for index in forwarders(item.device, have):
            modes.setdefault(index, set()).add(item.forwarding)
    peers = frozenset(_peers(have))
    exits = _exits(have)
    narrow = _narrow(exits, {item.device.ifindex: item.size for item in asked})
    refused = {}
    if not have.kernel.forwards_big6:
        refused = {
            index: _refusal(by_index[index], wanted, have, narrow, tunnels)
            for index, wanted in modes.items()
            if index in by_index
        }
    return Passages(refused, peers, whole=bool(exits) and all(device.ifindex in peers for device in exits))


def _refusal(device: Device, modes: Set[str], have: Observed, narrow: str, tunnels: Set[str]) -> str:
    if "Kernel" in modes:
        return "spec.forwarding leaves it to the kernel"
    if not device.ethernet or device.kind in tunnels:
        return f"{device.name} is no Ethernet device, and its packets are not redirected"
    if have.rules6 and "Redirect" not in modes:
        more = len(have.rules6) - _MAX_NAMED
        named = ", ".join(have.rules6[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
        return f"{named} would not see redirected packets (spec.forwarding: Redirect does it all the same)"
    return narrow


def _exits(have: Observed) -> tuple[Device, ...]:
    """Devices through which forwarded IPv6 packets may leave."""
    return tuple(
        d
        for d in sorted(have.devices.values(), key=lambda d: d.ifindex)
        if d.up and not d.loopback and not d.ours and not d.master and d.ifindex in have.forwards6
        if d.netnsid >= 0 or any(":" in a.address and a.scope == 0 for a in d.addresses)
    )


def _narrow(exits: Sequence[Device], sizes: Mapping[int, int]) -> str:
    """Names the devices that would have to cut super-packets, empty where there are none."""
    found = [d.name for d in exits if sizes.get(d.ifindex, d.sizes.gso6) <= LEGACY_BYTES]
    if not found:
        return ""
    more = len(found) - _MAX_NAMED
    named = ", ".join(found[:_MAX_NAMED]) + (f" and {more} more devices" if more > 0 else "")
    return f"packets may leave through {named}, where no more than 64 KB is sent at once"


def _peers(have: Observed) -> list[int]:
    """Devices whose other end is in a pod that can be looked at and does not forward what it gets. What is handed to
    that end is not transmitted here, so nobody must be waiting for it on the way: a program or a shaper."""
    here: dict[tuple[int, int, int], int] = {
        (device.netnsid, device.lower, device.ifindex): device.ifindex
        for device in have.devices.values()
        if device.kind in PAIRED and device.ifindex not in have.shaped
        if not have.attached.get(Hook(device.name, "tc-egress"))
    }
    return [
        here[pod.netnsid, end.ifindex, end.lower]
        for pod in have.pods
        for end in pod.devices.values()
        if (pod.netnsid, end.ifindex, end.lower) in here
        if end.up and not end.master and not forwarders(end, pod)
    ]


def with_programs(ways: Passages, hooks: Mapping[Hook, HookWant], have: Observed) -> Passages:
    """The same, knowing which programs are to be attached, and which of them are: sizes grow only once they are."""
    by_name = {device.ifindex: device for device in have.devices.values()}
    there, refused = set(), dict(ways.refused)
    for index in ways.wanted:
        device = by_name[index]
        want = hooks.get(Hook(device.name, "tc-ingress"))
        if want is None:
            refused[index] = f"no program that redirects them can be attached to {device.name}"
        elif "Forwarded" not in want.super_packets:
            refused[index] = f"tc-ingress of {device.name} runs {want.prog.program}, which does not redirect them"
        elif _attached(want, have):
            there.add(index)
    translated = {hook.device for hook, want in hooks.items() if "Translated" in want.super_packets}
    return Passages(refused, ways.peers, frozenset(there), frozenset(translated), ways.whole)


def _attached(want: HookWant, have: Observed) -> bool:
    program = have.programs.get(want.prog)
    ids = {seen.prog_id for seen in have.attached.get(want.hook, ())}
    return program is not None and program.prog_id in ids
