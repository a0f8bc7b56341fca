"""Connections as the engine keeps them, for copying: what has changed is read, what another gateway told is written.

The work is done by two programs of the object sg_import, run by hand; records go through mapped memory, thousands at a
time, so that no record costs a system call.
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.errors import BpfError
from sixgate.node.bpf import layouts
from sixgate.node.bpf.layouts import MAPS, SgCopyWhat, SgImport
from sixgate.node.bpf.map import Map
from sixgate.node.egress.copywire import MAX_RECORDS, RECORD
from sixgate.node.egress.sessions import pinned_program

if TYPE_CHECKING:
    from pathlib import Path

    from sixgate.node.bpf.prog import Program

_COPY = struct.Struct("=8I8IQ2I")  # struct sg_eg_copy
_FIRST = struct.Struct("=8I")
_DONE = struct.Struct("=8I")
_FRAME = bytes(12) + b"\x88\xb5" + bytes(50)  # a run wants a packet, and does not look at it
assert _COPY.size == layouts.SG_EG_COPY.size
IDS_OF_AN_ENTRY = 512  # of sg_st_sids
IDS_OF_A_WORD = 64
_NAMES = (
    "sg_eg_copy",
    "sg_eg_outbox",
    "sg_eg_inbox",
    "sg_eg_copied",
    "sg_eg_prune",
    "sg_eg_obj",
    "sg_st_sids",
    "sg_st_use",
)


@dataclass(frozen=True, slots=True)
class Copied:
    """An object of the engine: whether its sessions are told of, those too that have not changed where a walk asks for
    `all`, and, with direct ways, this gateway's end of them."""

    pair: int
    on: bool = False
    all: bool = False
    ifindex: int = 0
    smac: bytes = bytes(6)


@dataclass(frozen=True, slots=True)
class Put:
    """What became of records: `full` found no room, `taken` another connection's port, `broken` were no sessions."""

    good: int = 0
    taken: int = 0
    full: int = 0
    broken: int = 0

    @property
    def refused(self) -> int:
        return self.taken + self.full + self.broken


@dataclass(slots=True)
class CopyTables:
    """The maps and programs below a directory of pins. Nothing here blocks longer than a run of a program."""

    bpffs: Path
    words: int = 0  # of the bitmap of sessions
    _maps: dict[str, Map] = field(default_factory=dict)
    _memory: dict[str, mmap.mmap] = field(default_factory=dict)
    _programs: dict[str, Program] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        return bool(self._programs)

    def open(self) -> bool:
        """Whether they are others than before. BpfError where this node is no gateway."""
        fresh: dict[str, Map] = {}
        try:
            for name in _NAMES:
                fresh[name] = Map.from_pin(self.bpffs / "maps" / name, spec=MAPS[name])
            programs = {n: pinned_program(self.bpffs, "sg_import", n) for n in ("sg_copy_in_tc", "sg_copy_out_tc")}
        except BaseException:
            for opened in fresh.values():
                opened.close()
            raise
        same = self.is_open and all(self._maps[name].info.id == fresh[name].info.id for name in _NAMES)
        self.close()
        self._maps, self._programs = fresh, programs
        for name in ("sg_eg_copy", "sg_eg_outbox", "sg_eg_inbox"):
            table = fresh[name]
            pages = -(-table.info.max_entries * table.info.value_size // mmap.PAGESIZE)
            self._memory[name] = mmap.mmap(table.fd, pages * mmap.PAGESIZE, mmap.MAP_SHARED)
        self.words = fresh["sg_st_sids"].info.max_entries * IDS_OF_AN_ENTRY // IDS_OF_A_WORD
        return not same

    def close(self) -> None:
        for memory in self._memory.values():
            memory.close()
        for table in self._maps.values():
            table.close()
        for program in self._programs.values():
            program.close()
        self._memory, self._maps, self._programs = {}, {}, {}

    # -- what there is ---------------------------------------------------------------------------------------------

    def objects(self, pair: int) -> dict[int, int]:
        """Numbers of the engine's objects by family, of a pair that this node is a gateway of."""
        row = self._maps["sg_eg_obj"].get(pair)
        if not isinstance(row, dict):
            return {}
        families = int(str(row["families"]))
        return {family: int(str(row[f"obj{family}"])) for bit, family in ((1, 4), (2, 6)) if families & bit}

    def sessions(self, objects: Iterable[int]) -> int:
        """How many sessions the objects have."""
        rows = (self._maps["sg_st_use"].get(number) for number in objects)
        return sum(int(str(row["sessions"])) for row in rows if isinstance(row, dict))

    def configure(self, objects: Mapping[int, Copied]) -> None:
        """Which objects are told of; of others nothing is."""
        table = self._maps["sg_eg_copied"]
        for number, item in objects.items():
            table.set(
                number,
                {
                    "on": int(item.on),
                    "pair": item.pair,
                    "ifindex": item.ifindex,
                    "smac": item.smac,
                    "all": int(item.all),
                },
            )

    # -- runs ------------------------------------------------------------------------------------------------------

    def _run(self, program: str, repeat: int = 1) -> None:
        self._programs[program].test_run(_FRAME, repeat=repeat)

    def _ask(self, what: SgCopyWhat, at: int = 0, end: int = 0, *, slack: int = 0, obj: int = 0) -> None:
        _COPY.pack_into(self._memory["sg_eg_copy"], 0, what, at, end, 0, slack, obj, 0, 0, *[0] * 8, 0, 0, 0)
        self._run("sg_copy_out_tc")

    def asleep(self, obj: int, asleep: bool) -> None:
        """Whether the object's sessions are another gateway's, of which nothing must come in here."""
        self._ask(SgCopyWhat.SG_COPY_SLEEP if asleep else SgCopyWhat.SG_COPY_WAKE, obj=obj)

    def collect(self, at: int, end: int, *, whole: bool, slack: int) -> tuple[bytes, int]:
        """Records of words `at` to `end` of the bitmap, of those that have changed or also of the others of objects
        that are told of as a whole, and where the walk has ended: before `end` where there was no more room."""
        what = SgCopyWhat.SG_COPY_ALL if whole else SgCopyWhat.SG_COPY_CHANGED
        self._ask(what, at, min(end, self.words), slack=slack)
        _, at, _, count, *_ = _FIRST.unpack_from(self._memory["sg_eg_copy"], 0)
        return bytes(self._memory["sg_eg_outbox"][: count * RECORD]), at

    def spare_all(self) -> None:
        """A former agent may have been pruning when it ended."""
        self.outdate(dict.fromkeys(range(self._maps["sg_eg_prune"].info.max_entries), 0))

    def outdate(self, objects: Mapping[int, int]) -> None:
        """From which second on an object's sessions must have been told of, so that `prune` leaves them; 0: none."""
        table = self._maps["sg_eg_prune"]
        for number, since in objects.items():
            table.set(number, since & 0xFFFFFFFF)

    def prune(self, at: int, end: int) -> int:
        """Ends what is outdated, in these words of the bitmap; how many."""
        self._ask(SgCopyWhat.SG_COPY_PRUNE, at, min(end, self.words))
        return int(_FIRST.unpack_from(self._memory["sg_eg_copy"], 0)[6])

    def put(self, records: bytes) -> Put:
        """Makes sessions of records, or ends them."""
        count = len(records) // RECORD
        if count > MAX_RECORDS or count * RECORD != len(records):
            raise BpfError(f"{len(records)} bytes are not up to {MAX_RECORDS} records of {RECORD}.")
        if not count:
            return Put()
        memory = self._memory["sg_eg_copy"]
        _COPY.pack_into(memory, 0, *[0] * 8, *[0] * 8, 0, 0, 0)
        self._memory["sg_eg_inbox"][: len(records)] = records
        self._run("sg_copy_in_tc", count)
        done = _DONE.unpack_from(memory, _FIRST.size)
        return Put(
            done[SgImport.SG_IMPORT_DONE] + done[SgImport.SG_IMPORT_KNOWN],
            done[SgImport.SG_IMPORT_TAKEN],
            done[SgImport.SG_IMPORT_FULL],
            done[SgImport.SG_IMPORT_BROKEN],
        )


def seconds() -> int:
    """The engine's clock."""
    return int(time.clock_gettime(time.CLOCK_MONOTONIC))
