"""The maps of egress, by their pins: written by the keeper alone, so that owners change in microseconds."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from sixgate.errors import BpfError
from sixgate.node.bpf.layouts import MAPS
from sixgate.node.bpf.map import Map

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from sixgate.node.egress.tables import Contents, Prefix, Target

HERE, MSS_CLAMP, DIRECT = 1, 2, 4  # enum sg_eg_way_flag
OWNER = 1  # enum sg_eg_own_flag
NAMES = ("sg_eg_pod", "sg_eg_dst", "sg_eg_way", "sg_eg_own", "sg_eg_next", "sg_eg_mac")


@dataclass(frozen=True, slots=True)
class Frame:
    """Link addresses as bytes, and the device's index; 0 where there is no direct way."""

    dmac: bytes = bytes(6)
    smac: bytes = bytes(6)
    ifindex: int = 0


@dataclass(frozen=True, slots=True)
class Way:
    gateway: str
    mtu: int
    flags: int
    frame: Frame = field(default_factory=Frame)
    stat: int = 0


@dataclass(frozen=True, slots=True)
class Own:
    flags: int
    epoch: int


@dataclass(slots=True)
class EgressMaps:
    """Open maps below a directory of pins; BpfError with ENOENT where there are none yet."""

    directory: Path
    _maps: dict[str, Map] = field(default_factory=dict)
    _written: Contents | None = None  # what `write` knows to be in the maps

    def open(self) -> None:
        """Opens what is not open, and anew what was replaced."""
        for name in NAMES:
            fresh = Map.from_pin(self.directory / name, spec=MAPS[name])
            known = self._maps.get(name)
            if known is not None and known.info.id == fresh.info.id:
                fresh.close()
                continue
            if known is not None:
                known.close()
            self._maps[name], self._written = fresh, None

    def close(self) -> None:
        for opened in self._maps.values():
            opened.close()
        self._maps.clear()
        self._written = None

    @property
    def is_open(self) -> bool:
        return bool(self._maps)

    def sessions(self, pairs: Iterable[int]) -> dict[int, int]:
        """Connections of pairs that this node is a gateway of."""
        if not (self.directory / "sg_st_use").exists():
            return {}
        found = {}
        with Map.from_pin(self.directory / "sg_eg_obj", spec=MAPS["sg_eg_obj"]) as objects:
            use_spec = MAPS["sg_st_use"]
            with Map.from_pin(self.directory / "sg_st_use", spec=use_spec) as use:
                for pair in pairs:
                    value = objects.get(pair)
                    if value is None:
                        continue
                    row = _fields(value)
                    families = int(str(row["families"]))
                    numbers = [int(str(row[name])) for bit, name in ((1, "obj4"), (2, "obj6")) if families & bit]
                    counted = (use.get(number) for number in numbers)
                    found[pair] = sum(int(str(_fields(one)["sessions"])) for one in counted if one is not None)
        return found

    # -- pods ------------------------------------------------------------------------------------------------------

    def write(self, wanted: Contents, *, anew: bool = False) -> int:
        """New sets first, then the pods that use them, then what nobody uses any more goes. Returns what it changed.
        Compares with what it wrote last, with `anew` with what is in the maps."""
        before, self._written = None if anew else self._written, None
        destinations, pods = self._maps["sg_eg_dst"], self._maps["sg_eg_pod"]
        if before is None:
            targets = dict(_targets(destinations, wanted.destinations.items()))
            people = dict(_people(pods, wanted.pods.items()))
            changed = _put(destinations, targets) + _put(pods, people)
            changed += _drop(pods, people) + _drop(destinations, targets)
        else:
            targets = dict(_targets(destinations, _new(wanted.destinations, before.destinations)))
            people = dict(_people(pods, _new(wanted.pods, before.pods)))
            gone = [pods.codec.encode_key(each) for each in before.pods.keys() - wanted.pods.keys()]
            unused = before.destinations.keys() - wanted.destinations.keys()
            destinations.update_batch(targets.items())
            pods.update_batch(people.items())
            pods.delete_batch(gone)
            destinations.delete_batch([destinations.codec.encode_key(_dst_key(*each)) for each in unused])
            changed = len(targets) + len(people) + len(gone) + len(unused)
        self._written = wanted
        return changed

    def chain(self, program: int | None) -> None:
        """The program (file descriptor) that is asked for what egress lets pass at pods' devices; None: no program."""
        following = self._maps["sg_eg_next"]
        if program is None:
            following.delete(0)
        else:
            following.set(0, program)

    # -- pairs -----------------------------------------------------------------------------------------------------

    def ways(self) -> dict[int, Way]:
        found = {}
        for key, raw in self._maps["sg_eg_way"].items():
            value = _fields(raw)
            frame = _frame(_fields(value["frame"]))
            found[int(str(key))] = Way(
                str(value["gateway"]), int(str(value["mtu"])), int(str(value["flags"])), frame, int(str(value["stat"]))
            )
        return found

    def set_way(self, pair: int, way: Way) -> None:
        frame = {"dmac": way.frame.dmac, "smac": way.frame.smac, "ifindex": way.frame.ifindex}
        value = {"gateway": way.gateway, "mtu": way.mtu, "flags": way.flags, "frame": frame, "stat": way.stat}
        self._maps["sg_eg_way"].set(pair, value)

    def drop_way(self, pair: int) -> None:
        self._maps["sg_eg_way"].delete(pair)

    def write_macs(self, wanted: Mapping[bytes, int]) -> None:
        """Addresses of pairs at gateways, with what they stand for."""
        table = self._maps["sg_eg_mac"]
        entries = {
            table.codec.encode_key({"mac": mac}): table.codec.encode_value(number) for mac, number in wanted.items()
        }
        _put(table, entries)
        _drop(table, entries)

    def owned(self) -> dict[int, Own]:
        found = {}
        for key, raw in self._maps["sg_eg_own"].items():
            value = {name: int(str(number)) for name, number in _fields(raw).items()}
            found[int(str(key))] = Own(**value)
        return found

    def set_own(self, pair: int, own: Own) -> None:
        self._maps["sg_eg_own"].set(pair, {"flags": own.flags, "epoch": own.epoch})

    def drop_own(self, pair: int) -> None:
        self._maps["sg_eg_own"].delete(pair)


def _fields(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise BpfError(f"A struct was expected in a map of egress, found {value!r}.")
    return value


def _frame(value: Mapping[str, object]) -> Frame:
    macs = [bytes(value[name]) for name in ("dmac", "smac")]  # type: ignore[call-overload]
    return Frame(macs[0], macs[1], int(str(value["ifindex"])))


def _dst_key(number: int, prefix: Prefix) -> dict[str, object]:
    return {"prefixlen": 32 + prefix.length, "set": number, "addr": ipaddress.IPv6Address(prefix.first)}


_K = TypeVar("_K")
_V = TypeVar("_V")


def _new(wanted: Mapping[_K, _V], before: Mapping[_K, _V]) -> list[tuple[_K, _V]]:
    return [(key, value) for key, value in wanted.items() if before.get(key) != value]


def _targets(table: Map, wanted: Iterable[tuple[tuple[int, Prefix], Target]]) -> Iterator[tuple[bytes, bytes]]:
    for (number, prefix), target in wanted:
        value = {"pair": target.pair, "stat": target.stat, "flags": target.flags}
        yield table.codec.encode_key(_dst_key(number, prefix)), table.codec.encode_value(value)


def _people(table: Map, wanted: Iterable[tuple[str, tuple[int, int]]]) -> Iterator[tuple[bytes, bytes]]:
    for address, (index, number) in wanted:
        yield table.codec.encode_key(address), table.codec.encode_value({"ifindex": index, "set": number})


def _put(table: Map, wanted: Mapping[bytes, bytes]) -> int:
    have = dict(table.lookup_batch())
    new = [(key, value) for key, value in wanted.items() if have.get(key) != value]
    if new:
        table.update_batch(new)
    return len(new)


def _drop(table: Map, wanted: Mapping[bytes, bytes]) -> int:
    surplus = [key for key, _ in table.lookup_batch() if key not in wanted]
    if surplus:
        table.delete_batch(surplus)
    return len(surplus)
