"""What the last look at a node has seen, so that the next one asks only about what has changed: a pod that is born on
a node with a thousand others must not cost a thousand questions.

What causes no event, because somebody else did it to a hook or a pin, is seen when everything is looked at anew.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from sixgate.errors import BpfError
from sixgate.node import actions as act
from sixgate.node import names
from sixgate.node.bpf import info
from sixgate.node.egress.ports import PortFinder, Ports
from sixgate.node.mirror import Mirror
from sixgate.node.model import Attached, Hook, InnerPin, LinkPin, MapPin, ProgName, ProgPin
from sixgate.node.quiet import Quiet
from sixgate.node.shapes import normal_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Set
    from pathlib import Path
    from types import TracebackType

    from sixgate.api.nodeconfig import NodeConfigSpec
    from sixgate.node.model import Desired, Device, Observed
    from sixgate.node.quiet import Frame

_TC_HOOKS = ("tc-ingress", "tc-egress")
# These are of maps and objects, which every look reads.
_SEEN_ANYWAY = (act.LoadObject, act.WriteEntries, act.DeleteEntries, act.BuildInner, act.SwapSlots, act.ClearSlots)


_T = TypeVar("_T")


@dataclass(slots=True)
class Pins(Generic[_T]):
    """Pins of one directory and what `read` makes of each, by name: read once, for a pin keeps what it was made for,
    and what is pinned in its place has another inode."""

    directory: Path
    read: Callable[[Path], _T]
    known: dict[str, _T] = field(default_factory=dict)
    _inodes: dict[str, int] = field(default_factory=dict)

    def forget(self) -> None:
        self.known.clear()
        self._inodes.clear()

    def drop(self, name: str) -> None:
        self.known.pop(name, None)
        self._inodes.pop(name, None)

    def is_outdated(self) -> bool:
        """Whether a pin that was read leads to something else by now."""
        for name, found in self.known.items():
            try:
                if self.read(self.directory / name) != found:
                    return True
            except BpfError:
                return True
        return False

    def scan(self) -> frozenset[str]:
        """Takes in what is there now. Names that are new, gone, or of something else; one that vanishes meanwhile is
        passed over."""
        try:
            with os.scandir(self.directory) as entries:
                inodes = {entry.name: entry.inode() for entry in entries}
        except (FileNotFoundError, NotADirectoryError):
            inodes = {}
        if inodes == self._inodes:
            return frozenset()
        changed = frozenset(name for name, _ in inodes.items() ^ self._inodes.items())
        for name in changed:
            self.drop(name)
        for name in sorted(changed & inodes.keys()):
            try:
                self.known[name] = self.read(self.directory / name)
            except BpfError as error:
                if (self.directory / name).exists():
                    raise
                del error
            else:
                self._inodes[name] = inodes[name]
        return changed

    def look(self) -> list[tuple[str, _T]]:
        """Those that are there now, by name."""
        self.scan()
        return sorted(self.known.items(), key=lambda item: item[0])


def _map_info(path: Path) -> info.MapInfo:
    return info.ask_pin(path, "map", info.map_info)


def _program_info(path: Path) -> info.ProgInfo:
    return info.ask_pin(path, "program", info.prog_info)


def _link_info(path: Path) -> info.LinkInfo:
    return info.ask_pin(path, "link", info.link_info)


def _map_pin(pin: str, found: info.MapInfo) -> MapPin:
    shape = normal_shape(found.type, found.key_size, found.value_size, found.max_entries, found.flags)
    return MapPin(pin, found.id, shape)


class Sight:
    """Of one node, whose pins are below `root`; used by one thread at a time; `close` it. A new one saw nothing yet."""

    def __init__(self, root: Path) -> None:
        self.mirror = Mirror()
        self._tcx: dict[int, dict[str, tuple[Attached, ...]]] = {}  # by index of the device
        self._maps = tuple(Pins(root / directory, _map_info) for directory in (names.MAPS, names.NEW_MAPS))
        self._inner = Pins(root / names.INNER, _map_info)
        self._programs = Pins(root / names.PROGS, _program_info)
        self._links = Pins(root / names.LINKS, _link_info)
        self._quiet = Quiet()
        self._finder = PortFinder()
        self._ports: tuple[object, Ports] = (None, Ports())
        self.believed = Quiet()  # what was quiet until the last look, which was at everything as a matter of routine
        self._anew = True
        self._routine = False

    def close(self) -> None:
        self.mirror.close()

    def __enter__(self) -> Sight:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def forget(self, *, routine: bool = False) -> None:
        """The next look is at everything; as a matter of `routine`, or because there is reason to."""
        self._routine = routine and (self._routine or not self._anew)
        self._anew = True

    def look(self, spec: NodeConfigSpec) -> None:
        """Devices, addresses and routes as they are now, and which of them `spec` needs no look at."""
        if self._routine or not self._anew:
            self._look_at_changes()
        if self._quiet.frame is not None and self._quiet.frame.spec is not spec:
            self._quiet.wake_all()
        self.believed = self._quiet.copy() if self._routine else Quiet()
        if self._anew:
            self._tcx.clear()
            for pins in (*self._maps, self._inner):
                pins.forget()
            self._programs.forget()
            self._links.forget()
            self._links.scan()
            self._quiet.wake_all()
            self.mirror.look(anew=True)
        self._anew = self._routine = False

    def _look_at_changes(self) -> None:
        before = frozenset(self._links.known)
        changed = self._links.scan()
        if (changed & before) - self._links.known.keys():
            # With a pin that somebody removed its program went off its hook, and of XDP, too, no event tells.
            self._anew, self._routine = True, False
            return
        self._quiet.wake(names.split(name)[0] for name in changed)
        indexes = self.mirror.look()
        self._quiet.wake_indexes(indexes)
        for index in indexes:
            self._tcx.pop(index, None)

    def ports(self, defaults: Iterable[str]) -> Ports:
        """Devices that lead to pods; `defaults` are those of default routes."""
        version = self.mirror.version, tuple(defaults)
        if self._ports[0] != version:
            hosts = frozenset(self.mirror.host_routes.values())
            self._ports = version, self._finder.find(self.mirror.devices, hosts, version[1])
        self._quiet.keep(self._ports[1].pods)
        return self._ports[1]

    def devices(self) -> tuple[dict[str, Device], dict[str, Device]]:
        """By name: those to be looked at, and the quiet ones."""
        quiet = dict(self._quiet.devices)
        loud = sorted((self.mirror.devices[name] for name in self.mirror.devices.keys() - quiet.keys()), key=_by_index)
        return {device.name: device for device in loud}, quiet

    def quiet_keys(self) -> Set[bytes]:
        """Keys of quiet devices in maps of devices."""
        return self._quiet.keys

    def settle(self, frame: Frame, want: Desired, have: Observed, plan: tuple[act.Action, ...]) -> None:
        """`plan` is what is to be done until `have`, as it was seen last, is as `want` says."""
        self._quiet.settle(frame, want, have, plan)

    def fits(self, frame: Frame) -> bool:
        """Whether what is quiet is still wanted as it is; everything is loud where not."""
        if self._quiet.frame is None or frame.same(self._quiet.frame):
            return True
        self._quiet.wake_all()
        return False

    def touched(self, action: act.Action) -> None:
        """To be told of every action that was tried."""
        match action:
            case act.Attach() | act.UpdateLink() | act.Detach() if action.hook.hook != "xdp":
                device = self.mirror.devices.get(action.hook.device)
                if device is not None:
                    self._tcx.pop(device.ifindex, None)
                self._quiet.wake((action.hook.device,))
                self._links.drop(names.join(action.hook.device, action.hook.hook))
            case _ if not isinstance(action, _SEEN_ANYWAY):
                self.forget()
            case act.LoadObject():
                self._quiet.wake_all()  # its maps may be new ones, and empty

    def is_outdated(self) -> bool:
        """Whether a link was detached or has another program, which no event tells."""
        return self._links.is_outdated()

    def tcx(self, ifindex: int) -> dict[str, tuple[Attached, ...]]:
        """Programs of a device's tcx hooks, in their order; also where clsact is forced: one of ours may be left."""
        if ifindex not in self._tcx:
            self._tcx[ifindex] = {hook: found for hook in _TC_HOOKS if (found := tuple(_query(ifindex, hook)))}
        return self._tcx[ifindex]

    def maps(self) -> Iterator[tuple[str, MapPin]]:
        """By their paths below the root."""
        for pins in self._maps:
            for name, found in pins.look():
                pin = f"{pins.directory.name}/{name}"
                yield pin, _map_pin(pin, found)

    def inner(self) -> Iterator[InnerPin]:
        for name, found in self._inner.look():
            parts = names.split(name)
            if len(parts) == 3:
                yield InnerPin(parts[0], parts[1], parts[2], found.id, _map_pin(name, found).shape)

    def programs(self) -> Iterator[tuple[ProgName, ProgPin]]:
        for name, found in self._programs.look():
            parts = names.split(name)
            if len(parts) == 3:
                program = ProgName(*parts)
                yield program, ProgPin(program, found.id, found.map_ids)

    def links(self) -> Iterator[tuple[Hook, LinkPin]]:
        """Of all but quiet devices. A link whose device is gone leads to the index 0, which only the link itself
        tells."""
        for name in sorted(self._links.known.keys() - self._quiet.pins):
            found = self._links.known[name]
            parts = names.split(name)
            if found.ifindex and found.ifindex not in self.mirror.names:
                found = self._links.known[name] = replace(found, ifindex=0)
            if len(parts) == 2:
                hook = Hook(*parts)
                yield hook, LinkPin(hook, found.id, found.prog_id, found.ifindex)


def _by_index(device: Device) -> int:
    return device.ifindex


def _query(ifindex: int, hook: str) -> Iterator[Attached]:
    try:
        for seen in info.query_tcx(ifindex, "tc-ingress" if hook == "tc-ingress" else "tc-egress")[0]:
            yield Attached(prog_id=seen.prog_id, link_id=seen.link_id)
    except BpfError as error:
        # Gone since the devices were listed: the event of that brings us here again.
        if error.errno != errno.ENODEV:
            raise
