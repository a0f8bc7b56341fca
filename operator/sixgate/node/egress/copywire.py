"""What gateways say to each other while one copies its connections to the other, over TCP. Pure.

The owner begins with a greeting, which names the size of a record: two gateways that do not agree on it do not copy.
Then it sends frames, and the standby answers each one. Records are `struct sg_eg_session`, values and no indexes; a
frame has those of one pair and family, so whoever takes them puts its own number of the object in.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from sixgate.node.bpf import layouts
from sixgate.node.egress.sessions import COPIES

MAGIC = COPIES
RECORD = layouts.SG_EG_SESSION.size
MAX_RECORDS = layouts.MAPS["sg_eg_inbox"].max_entries
GREETING = struct.Struct("!4sHxx")  # magic, bytes of a record
HEAD = struct.Struct("!BBHIII")  # kind, family, number of records, pair, epoch, sequence
REPLY = struct.Struct("!BBxxIII")  # kind, verdict, sequence, sessions of the pair here, records that found no room
_OBJ = layouts.SG_EG_SESSION.by_name["obj"].offset
_STATE = layouts.SG_EG_SESSION.by_name["state"].offset


class Kind(enum.IntEnum):
    """RECORDS: connections, begun, changed or ended. BEGIN and END stand around a copy of everything: what was there
    before and was not told of in between is over. DROP: copies go elsewhere from now on. PING: how many are there?"""

    RECORDS = 1
    BEGIN = 2
    END = 3
    DROP = 4
    PING = 5


class Verdict(enum.IntEnum):
    """What the standby thinks of a frame. MINE: it owns the pair itself. STALE: somebody else does, in a later epoch.
    UNKNOWN: it has no such pair, or not yet."""

    TAKEN = 0
    MINE = 1
    STALE = 2
    UNKNOWN = 3


REFUSALS = {
    Verdict.MINE: "it has the pair itself",
    Verdict.STALE: "it knows of a later owner",
    Verdict.UNKNOWN: "it does not know the pair yet",
}


@dataclass(frozen=True, slots=True)
class Frame:
    kind: Kind
    pair: int
    epoch: int
    sequence: int
    family: int = 0
    count: int = 0

    def pack(self) -> bytes:
        return HEAD.pack(
            self.kind, self.family, self.count, self.pair, self.epoch & 0xFFFFFFFF, self.sequence & 0xFFFFFFFF
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """`sessions` of the pair at the standby; `refused` records of the frame found no room or their port taken."""

    verdict: Verdict
    sequence: int
    sessions: int
    refused: int

    def pack(self) -> bytes:
        return REPLY.pack(0, self.verdict, self.sequence, self.sessions, self.refused)


def read_head(data: bytes) -> Frame | None:
    """None for what is no frame."""
    kind, family, count, pair, epoch, sequence = HEAD.unpack(data)
    if kind not in set(Kind) or count > MAX_RECORDS or (kind == Kind.RECORDS) != (family in (4, 6)):
        return None
    if kind != Kind.RECORDS and (count or family):
        return None
    return Frame(Kind(kind), pair, epoch, sequence, family, count)


def read_reply(data: bytes) -> Reply | None:
    """None for what is no reply."""
    _, verdict, sequence, sessions, refused = REPLY.unpack(data)
    return Reply(Verdict(verdict), sequence, sessions, refused) if verdict in set(Verdict) else None


def by_object(records: bytes) -> dict[int, bytes]:
    """Records by the number of their object; one object at a time is the usual case, and costs nothing."""
    low, high = records[_OBJ::RECORD], records[_OBJ + 1 :: RECORD]
    numbers = [a | b << 8 for a, b in zip(low, high, strict=True)]
    if len(set(numbers)) <= 1:
        return {numbers[0]: records} if numbers else {}
    found: dict[int, bytearray] = {}
    for place, number in enumerate(numbers):
        found.setdefault(number, bytearray()).extend(records[place * RECORD : (place + 1) * RECORD])
    return {number: bytes(data) for number, data in found.items()}


def renumbered(records: bytes, obj: int) -> bytes:
    """The same records as of object `obj`."""
    count = len(records) // RECORD
    out = bytearray(records)
    out[_OBJ::RECORD] = bytes((obj & 0xFF,)) * count
    out[_OBJ + 1 :: RECORD] = bytes((obj >> 8,)) * count
    return bytes(out)


def ends(records: bytes) -> int:
    """How many of the records say that a connection has ended."""
    return records[_STATE::RECORD].count(0)
