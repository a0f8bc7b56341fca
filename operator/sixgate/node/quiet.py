"""Devices of pods that need no look: they were as wanted, and nothing has happened to them since. Pure.

A node with a thousand pods is one with a thousand devices of which, at a birth, one matters. What is wanted of a pod's
device depends on the device itself and on what stands in a `Frame`; so as long as both are the same, there is nothing
to work out, and the whole way from look to actions leaves it out. Whoever is in doubt wakes: a device that is looked at
without need costs time, and nothing else. A look at everything wakes all of them.
"""

from __future__ import annotations

import fnmatch
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.node import actions as act
from sixgate.node import devices
from sixgate.node.model import HOOKS, SCOPE_LINK
from sixgate.node.names import join
from sixgate.node.resolve import BEHIND
from sixgate.node.resolve_passage import FORWARDING
from sixgate.node.resolve_tables import NODE_MAPS

if TYPE_CHECKING:
    from collections.abc import Iterable, Set

    from sixgate.api.nodeconfig import NodeConfigSpec
    from sixgate.node.model import Desired, Device, Observed

_STANDING = frozenset({devices.AUTO, devices.PODS, BEHIND, FORWARDING})
# Actions that say what they are about; what others do may concern all devices.
_OF_DEVICES = (act.Attach, act.UpdateLink, act.Detach, act.WriteEntries, act.DeleteEntries)
# Findings that may be about a pod's device: while there are such, everything is looked at.
_ABOUT_HOOKS = frozenset({"HookOccupied", "Conflicted"})


@dataclass(frozen=True, slots=True)
class Frame:
    """What the wants of all pods' devices have in common. `spec` is compared by identity."""

    spec: NodeConfigSpec
    objects: tuple[tuple[str, str], ...]  # name and key
    frozen: frozenset[str]

    @classmethod
    def of(cls, spec: NodeConfigSpec, want: Desired) -> Frame:
        return cls(spec, tuple((item.name, item.key) for item in want.objects), want.frozen)

    def same(self, other: Frame | None) -> bool:
        return (
            other is not None
            and other.spec is self.spec
            and (other.objects, other.frozen) == (self.objects, self.frozen)
        )


@dataclass(slots=True)
class Quiet:
    """`devices` by name, `keys` their indexes as keys of maps, `pins` names of their links' pins."""

    devices: dict[str, Device] = field(default_factory=dict)
    keys: set[bytes] = field(default_factory=set)
    pins: set[str] = field(default_factory=set)
    frame: Frame | None = None
    _names: dict[int, str] = field(default_factory=dict)  # by index

    def settle(self, frame: Frame, want: Desired, have: Observed, plan: tuple[act.Action, ...]) -> None:
        """`plan` is all that is to be done, or tried again, until `have` is as `want` says: devices that it is not
        about are as they should be."""
        if not self._fits(frame, want, have):
            self.wake_all()
            return
        if not all(isinstance(action, _OF_DEVICES) for action in plan):
            return
        self.frame = frame
        named, patterns = _named(frame.spec)
        todo = {action.hook.device for action in plan if isinstance(action, act.Attach | act.UpdateLink | act.Detach)}
        keys = {key for action in plan for key in _keys(action)}
        for name in (have.pod_ports.pods & have.devices.keys()) - todo:
            device = have.devices[name]
            plain = not device.xdp and not device.ours and all(a.scope == SCOPE_LINK for a in device.addresses)
            spoken_of = name in named or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
            if plain and not spoken_of and _key(device.ifindex) not in keys and name not in have.remembered.filters:
                self.devices[name] = device
                self.keys.add(_key(device.ifindex))
                self.pins.update(_pins(name))
                self._names[device.ifindex] = name

    def copy(self) -> Quiet:
        return Quiet(dict(self.devices), set(self.keys), set(self.pins), self.frame, dict(self._names))

    def missed(self, actions: Iterable[act.Action]) -> tuple[act.Action, ...]:
        """Those of the actions that are about devices which were quiet: something happened to them, and nobody said
        so."""
        return tuple(action for action in actions if self._is_about(action))

    def _is_about(self, action: act.Action) -> bool:
        match action:
            case act.Attach() | act.UpdateLink() | act.Detach():
                return action.hook.device in self.devices
        return not self.keys.isdisjoint(_keys(action))

    def wake(self, names: Iterable[str]) -> None:
        for name in names:
            device = self.devices.pop(name, None)
            if device is not None:
                self.keys.discard(_key(device.ifindex))
                self.pins.difference_update(_pins(name))
                del self._names[device.ifindex]

    def wake_indexes(self, indexes: Iterable[int]) -> None:
        self.wake([self._names[index] for index in indexes if index in self._names])

    def wake_all(self) -> None:
        self.devices.clear()
        self.keys.clear()
        self.pins.clear()
        self._names.clear()
        self.frame = None

    def keep(self, pods: Set[str]) -> None:
        """Wakes those that do not lead to pods any more."""
        self.wake(self.devices.keys() - pods)

    @staticmethod
    def _fits(frame: Frame, want: Desired, have: Observed) -> bool:
        """Sizes of super-packets depend on all devices; of clsact filters, which older kernels have, no pin tells."""
        findings = {found.reason for found in (*want.problems, *want.notes)}
        plain = not frame.spec.big_tcp and not have.originals and have.kernel.tcx
        return plain and not frame.frozen and not findings & _ABOUT_HOOKS


def _named(spec: NodeConfigSpec) -> tuple[frozenset[str], tuple[str, ...]]:
    """Devices that a NodeConfig calls by name, and its patterns for names."""
    asked = {pattern for item in spec.objects for a in item.attachments for pattern in a.devices} - _STANDING
    made = {name for link in spec.links for name in (link.name, link.peer) if name}
    used = {item.device for item in spec.addresses} | {item.device for item in spec.routes if item.device}
    patterns = tuple(sorted(text for text in asked if set(text) & set("*?[")))
    return frozenset((asked | made | used) - set(patterns)), patterns


def _keys(action: act.Action) -> tuple[bytes, ...]:
    """Devices whose entries in tables of the node are not as wanted."""
    match action:
        case act.WriteEntries() if action.map in NODE_MAPS:
            return tuple(key for key, _ in action.contents)
        case act.DeleteEntries() if action.map in NODE_MAPS:
            return action.keys
    return ()


def _pins(device: str) -> tuple[str, ...]:
    return tuple(join(device, hook) for hook in HOOKS)


def _key(index: int) -> bytes:
    return index.to_bytes(4, sys.byteorder)
