"""Everything a node can do to itself, as data. `execute` is the only interpreter.

`owners` are the users' objects an action is for: if it fails, they are Degraded. `makes` and `needs` name resources
(`map sg_nat`, `link sg-slow0`): an action is not tried while what it needs could not be made. Neither takes part in
comparison, so an action that failed is recognised when it is wanted again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sixgate.node.carry import MapFields
    from sixgate.node.model import Contents, Hook, MapShape, Owners, ProgName, RouteKey, SizeKey, Sizes
    from sixgate.node.numbers import SpaceNumbers

OUR_ALIAS = "sixgate"  # ifalias of every device that sixgate made


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    owners: Owners = field(default=(), compare=False)
    needs: frozenset[str] = field(default=frozenset(), compare=False)
    makes: frozenset[str] = field(default=frozenset(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeLink(Action):
    name: str
    kind: str
    peer: str

    def __str__(self) -> str:
        return f"create {self.kind} device {self.name}" + (f" with peer {self.peer}" if self.peer else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLink(Action):
    """MTU in bytes, the mark of ours, and up."""

    name: str
    mtu: int

    def __str__(self) -> str:
        return f"set {self.name} up with MTU {self.mtu}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadsOff(Action):
    name: str

    def __str__(self) -> str:
        return f"switch offloads of {self.name} off"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveLink(Action):
    name: str

    def __str__(self) -> str:
        return f"remove device {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddAddress(Action):
    device: str
    address: str
    prefix_len: int

    def __str__(self) -> str:
        return f"add address {self.address}/{self.prefix_len} to {self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveAddress(Action):
    device: str
    address: str
    prefix_len: int

    def __str__(self) -> str:
        return f"remove address {self.address}/{self.prefix_len} from {self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSysctl(Action):
    """The original value is recorded first, unless one is recorded already."""

    path: str
    value: str

    def __str__(self) -> str:
        return f"set sysctl {self.path} to {self.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreSysctl(Action):
    path: str

    def __str__(self) -> str:
        return f"restore sysctl {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadObject(Action):
    """Load all programs of an object with `constants` (canonical JSON). `maps` are (map name, pin path) pairs: an
    existing pin is used, a missing one is made."""

    name: str
    key: str
    constants: str
    programs: tuple[str, ...]
    maps: tuple[tuple[str, str], ...]
    layouts: tuple[tuple[str, str], ...] = field(default=(), compare=False)  # pin path, hash of the map's types
    sizes: tuple[tuple[str, int], ...] = ()  # map name, entries that it has room for
    carried: Mapping[str, MapFields] = field(default_factory=dict, compare=False)  # maps that hold state

    def __str__(self) -> str:
        return f"load {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CarryEntries(Action):
    """Put what the pinned map `pin` holds and the one at `to` lacks into the latter. `again` after the programs were
    switched, for what came in between."""

    map: str
    pin: str
    to: str
    again: bool
    fields: MapFields = field(compare=False)

    def __str__(self) -> str:
        return f"carry the entries of {self.map} over" + (" once more" if self.again else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteEntries(Action):
    map: str
    pin: str
    contents: Contents

    def __str__(self) -> str:
        return f"write {len(self.contents)} entries of {self.map}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteEntries(Action):
    map: str
    pin: str
    keys: tuple[bytes, ...]

    def __str__(self) -> str:
        return f"delete {len(self.keys)} entries of {self.map}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInner(Action):
    """Make an inner map, fill it, and only then pin it as MAP:KEY:DIGEST."""

    map: str
    outer_key: bytes
    digest: str
    contents: Contents
    shape: MapShape

    def __str__(self) -> str:
        return f"build a table of {len(self.contents)} entries for {self.map}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapSlots(Action):
    """Put pinned inner maps into slots of the outer map, in one batch; `slots` are (outer key, digest)."""

    map: str
    pin: str
    slots: tuple[tuple[bytes, str], ...]

    def __str__(self) -> str:
        return f"swap {len(self.slots)} tables of {self.map}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearSlots(Action):
    map: str
    pin: str
    keys: tuple[bytes, ...]

    def __str__(self) -> str:
        return f"take {len(self.keys)} tables out of {self.map}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attach(Action):
    """`mechanism` is tcx, clsact or xdp. An XDP program that is not required is only attached in native mode."""

    hook: Hook
    ifindex: int
    prog: ProgName
    mechanism: str
    required: bool = field(default=True, compare=False)

    def __str__(self) -> str:
        return f"attach {self.prog.program} to {self.hook}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateLink(Action):
    """Replace the program of a pinned link in one step; a severed link is made anew."""

    hook: Hook
    ifindex: int
    prog: ProgName
    mechanism: str
    required: bool = field(default=True, compare=False)

    def __str__(self) -> str:
        return f"replace the program on {self.hook} by {self.prog.program}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Detach(Action):
    """Take our program off a hook. `mechanism` is link (pinned tcx or XDP link) or clsact."""

    hook: Hook
    mechanism: str

    def __str__(self) -> str:
        return f"detach from {self.hook}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AddRoute(Action):
    route: RouteKey

    def __str__(self) -> str:
        return f"add {_route(self.route)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveRoute(Action):
    route: RouteKey

    def __str__(self) -> str:
        return f"remove {_route(self.route)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpin(Action):
    """Remove one file under the bpffs directory; `path` is relative to it."""

    path: str

    def __str__(self) -> str:
        return f"unpin {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RenameMap(Action):
    """Put the pin of a map's new layout in place of the old one."""

    pin: str
    to: str

    def __str__(self) -> str:
        return f"rename pin {self.pin} to {self.to}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetTables(Action):
    """These maps get no contents from a NodeConfig any more."""

    maps: tuple[str, ...]

    def __str__(self) -> str:
        return f"forget tables {', '.join(self.maps)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RememberNumbers(Action):
    """Record which numbers belong to what, before any table says so."""

    numbers: tuple[tuple[str, SpaceNumbers], ...] = field(compare=False)

    def __str__(self) -> str:
        return f"remember the numbers of {', '.join(name for name, _ in self.numbers) or 'nothing'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RememberSizes(Action):
    """Record what devices have before it is changed: one write for all."""

    originals: tuple[tuple[SizeKey, Sizes], ...]

    def __str__(self) -> str:
        return f"remember the packet sizes of {_devices(self.originals)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSizes(Action):
    key: SizeKey
    sizes: Sizes

    def __str__(self) -> str:
        return f"set the packet sizes of {self.key} to {self.sizes}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetSizes(Action):
    """These devices have their own sizes again, or are gone."""

    originals: tuple[tuple[SizeKey, Sizes], ...]

    def __str__(self) -> str:
        return f"forget the packet sizes of {_devices(self.originals)}"


class HookFields(TypedDict):
    """Arguments that Attach and UpdateLink share."""

    hook: Hook
    ifindex: int
    prog: ProgName
    mechanism: str
    required: bool
    owners: Owners
    needs: frozenset[str]
    makes: frozenset[str]


def _route(route: RouteKey) -> str:
    parts = [f"{route.kind} route {route.destination}"]
    parts += [f"via {route.via}"] if route.via else []
    parts += [f"dev {route.device}"] if route.device else []
    return " ".join([*parts, f"in table {route.table}"])


def _devices(sized: tuple[tuple[SizeKey, Sizes], ...]) -> str:
    names = [str(key) for key, _ in sized]
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])} and {len(names) - 3} more devices"


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance(Action):
    """Bring the maps of the balancer up to date; `state` names the want, so that another want is another action."""

    state: str

    def __str__(self) -> str:
        return "bring the tables of the balancer up to date"
