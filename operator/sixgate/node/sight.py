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
from sixgate.node.mirror import Mirror
from sixgate.node.model import Attached, Hook, InnerPin, LinkPin, MapPin, ProgName, ProgPin
from sixgate.node.shapes import normal_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

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
    _known: dict[str, tuple[int, _T]] = field(default_factory=dict)

    def forget(self) -> None:
        self._known.clear()

    def drop(self, name: str) -> None:
        self._known.pop(name, None)

    def put(self, name: str, found: _T) -> None:
        """What a known pin leads to now."""
        self._known[name] = (self._known[name][0], found)

    def has_lost(self) -> bool:
        """Whether a pin that was read is gone."""
        try:
            return not self._known.keys() <= set(os.listdir(self.directory))
        except FileNotFoundError:
            return bool(self._known)

    def is_outdated(self) -> bool:
        """Whether a pin that was read leads to something else by now."""
        for name, (_, found) in self._known.items():
            try:
                if self.read(self.directory / name) != found:
                    return True
            except BpfError:
                return True
        return False

    def look(self) -> list[tuple[str, _T]]:
        """Those that are there, by name; one that vanishes meanwhile is passed over."""
        before, self._known = self._known, {}
        if not self.directory.is_dir():
            return []
        with os.scandir(self.directory) as entries:
            pins = sorted((entry.name, entry.inode()) for entry in entries)
        for name, inode in pins:
            known = before.get(name)
            if known is not None and known[0] == inode:
                self._known[name] = known
                continue
            try:
                self._known[name] = (inode, self.read(self.directory / name))
            except BpfError as error:
                if (self.directory / name).exists():
                    raise
                del error
        return [(name, found) for name, (_, found) in self._known.items()]


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
        self._anew = True

    def close(self) -> None:
        self.mirror.close()

    def __enter__(self) -> Sight:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def forget(self) -> None:
        """The next look is at everything."""
        self._anew = True

    def look(self) -> None:
        """Devices, addresses and routes as they are now."""
        # With a pin that somebody removed its program went off its hook, and of XDP, too, no event tells.
        self._anew = self._anew or self._links.has_lost()
        if self._anew:
            self._tcx.clear()
            for pins in (*self._maps, self._inner):
                pins.forget()
            self._programs.forget()
            self._links.forget()
        for index in self.mirror.look(anew=self._anew):
            self._tcx.pop(index, None)
        self._anew = False

    def touched(self, action: act.Action) -> None:
        """To be told of every action that was tried."""
        match action:
            case act.Attach() | act.UpdateLink() | act.Detach() if action.hook.hook != "xdp":
                device = self.mirror.devices.get(action.hook.device)
                if device is not None:
                    self._tcx.pop(device.ifindex, None)
                self._links.drop(names.join(action.hook.device, action.hook.hook))
            case _ if not isinstance(action, _SEEN_ANYWAY):
                self.forget()

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
        """A link whose device is gone leads to the index 0, which only the link itself tells."""
        alive = {device.ifindex for device in self.mirror.devices.values()}
        for name, found in self._links.look():
            parts = names.split(name)
            if found.ifindex and found.ifindex not in alive:
                found = replace(found, ifindex=0)  # noqa: PLW2901
                self._links.put(name, found)
            if len(parts) == 2:
                hook = Hook(*parts)
                yield hook, LinkPin(hook, found.id, found.prog_id, found.ifindex)


def _query(ifindex: int, hook: str) -> Iterator[Attached]:
    try:
        for seen in info.query_tcx(ifindex, "tc-ingress" if hook == "tc-ingress" else "tc-egress")[0]:
            yield Attached(prog_id=seen.prog_id, link_id=seen.link_id)
    except BpfError as error:
        # Gone since the devices were listed: the event of that brings us here again.
        if error.errno != errno.ENODEV:
            raise
