"""Packets through the shipped programs: load an object, set constants, fill tables, run, read the counters.

    with Loaded("sg_tc", constants={"sg_cfg": {"features": SgFeature.SG_F_NAT, "l2_len": 14}}) as gateway:
        gateway.swap("sg_nat", 0, {0: {"n_gw": 1, "gw": [{"prefix": "64:ff9b::", "prefix_len": 96}]}})
        gateway.fill("sg_nat_map", {...})
        outcome = gateway.run(bytes(packet), SkbContext(ifindex=2, gso_size=1400))
        assert (outcome.verdict, outcome.data, outcome.reasons) == (TC_ACT_REDIRECT, expected, {"SG_OK_64": 1})

Nothing is pinned: every Loaded has maps of its own, which go with it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sixgate.node.bpf import BpfObject, Map, Program, Resolve, SkbContext, XdpContext, load_manifest
from sixgate.node.bpf.layouts import SgReason
from tests.kept import Kept

ROOT = Path(__file__).resolve().parents[2]
OBJECTS = ROOT / "build" / "bpf"
METRICS = "sg_metrics"

TC_ACT_UNSPEC, TC_ACT_OK, TC_ACT_SHOT, TC_ACT_REDIRECT = 0xFFFFFFFF, 0, 2, 7
XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = range(5)


@dataclass(frozen=True, slots=True)
class Count:
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one packet: verdict of the program, the whole packet afterwards, and the counters that moved."""

    verdict: int
    data: bytes
    counts: dict[str, Count]
    duration_ns: int
    context: SkbContext | None

    @property
    def reasons(self) -> dict[str, int]:
        """Packets by name of enum sg_reason."""
        return {name: count.packets for name, count in self.counts.items()}


class Loaded(Kept):
    """One object in the kernel, with one program to run packets through."""

    def __init__(
        self,
        name: str,
        *,
        program: str = "",
        constants: Mapping[str, object] | None = None,
        resolve: Resolve | None = None,
        sizes: Mapping[str, int] | None = None,
        objects: Path = OBJECTS,
    ) -> None:
        """Loads `name` of the manifest in `objects`; `program` may be left out where the object has one. BpfError."""
        self.resolve = resolve
        super().__init__()
        with ExitStack() as undo:
            undo.callback(self.stack.close)
            data = load_manifest(objects).read(name)
            self.object = self.stack.enter_context(BpfObject.open(name, data=data))
            if constants:
                self.object.set_constants(constants, resolve=resolve)
            for map_name, entries in (sizes or {}).items():
                self.object.set_max_entries(map_name, entries)
            self.object.load()
            self.program: Program = self.stack.enter_context(self.object.program(program or self._only_program()))
            self.maps: dict[str, Map] = {
                each: self.stack.enter_context(self.object.map(each, resolve=resolve)) for each in self.object.maps
            }
            undo.pop_all()

    def fill(self, name: str, entries: Mapping[object, object] | Iterable[tuple[object, object]]) -> None:
        """Puts entries into a map."""
        self.maps[name].set_many(entries.items() if isinstance(entries, Mapping) else entries)

    def swap(self, name: str, key: object, entries: Mapping[object, object]) -> None:
        """Builds a new inner map of `entries` and puts it at `key` of a map of maps, as the node does."""
        prototype = self.object.maps[name].inner
        if prototype is None:
            raise ValueError(f"Map {name} is not a map of maps.")
        with Map.create(prototype, resolve=self.resolve) as inner:
            inner.set_many(entries.items())
            self.maps[name].set(key, inner)

    def run(self, packet: bytes, context: SkbContext | XdpContext | None = None, *, repeat: int = 1) -> Outcome:
        """Runs one packet, link header first. `counts` are those that this run moved."""
        before = self.metrics()
        result = self.program.test_run(packet, repeat=repeat, context=context)
        counts = {
            name: Count(now.packets - was.packets, now.bytes - was.bytes)
            for name, now in self.metrics().items()
            if now != (was := before.get(name, Count(0, 0)))
        }
        return Outcome(result.retval, result.data, counts, result.duration_ns, result.context)

    def metrics(self) -> dict[str, Count]:
        """The counters of sg_metrics that are not zero, summed over CPUs, by name of enum sg_reason."""
        found: dict[str, Count] = {}
        for key, raw in self.maps[METRICS].lookup_batch():
            if any(raw):
                numbers = struct.unpack(f"={len(raw) // 8}Q", raw)
                number = int.from_bytes(key, "little")
                found[reason_name(number)] = Count(sum(numbers[0::2]), sum(numbers[1::2]))
        return found

    def _only_program(self) -> str:
        (name,) = self.object.programs
        return name


def reason_name(number: int) -> str:
    """Name of a reason; its number as text where this tree's headers have none, as while one is being added."""
    try:
        return SgReason(number).name
    except ValueError:
        return str(number)
