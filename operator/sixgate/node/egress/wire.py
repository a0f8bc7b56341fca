"""Datagrams of gateways and of nodes with pods: heartbeats, questions and answers. Pure."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

PORT = 8474
MAGIC = b"SGE1"
_HEAD = struct.Struct("!4sBxHI")  # magic, kind, number of records, sequence
_RECORD = struct.Struct("!II")  # flags in the upper 8 bits and the pair; epoch
_RELEASED, _STATIC = 1 << 31, 1 << 30
_PAIR_MASK = 0x3FFFFF
MAX_RECORDS = 150  # of one datagram, which fits an MTU of 1280


class Kind(enum.IntEnum):
    """HEARTBEAT: what a gateway owns. HELLO: a node names the pairs that its pods use, and is answered with as many
    records. ASK: a sign of life is wanted. HERE: that sign."""

    HEARTBEAT = 1
    HELLO = 2
    ASK = 3
    HERE = 4


@dataclass(frozen=True, slots=True)
class Record:
    pair: int
    epoch: int = 0
    released: bool = False
    static: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    kind: Kind
    sequence: int
    records: tuple[Record, ...] = ()


def pack(message: Message) -> bytes:
    parts = [_HEAD.pack(MAGIC, message.kind, len(message.records), message.sequence & 0xFFFFFFFF)]
    for record in message.records:
        flags = (_RELEASED if record.released else 0) | (_STATIC if record.static else 0)
        parts.append(_RECORD.pack(flags | record.pair, record.epoch & 0xFFFFFFFF))
    return b"".join(parts)


def datagrams(kind: Kind, sequence: int, records: tuple[Record, ...]) -> list[bytes]:
    """As many datagrams as the records need, at least one."""
    starts = range(0, max(len(records), 1), MAX_RECORDS)
    return [pack(Message(kind, sequence, records[start : start + MAX_RECORDS])) for start in starts]


def unpack(data: bytes) -> Message | None:
    """None for what is none of ours, whatever it is."""
    if len(data) < _HEAD.size:
        return None
    magic, kind, count, sequence = _HEAD.unpack_from(data)
    if magic != MAGIC or kind not in set(Kind) or count > MAX_RECORDS or len(data) != _HEAD.size + count * _RECORD.size:
        return None
    records = []
    for number in range(count):
        word, epoch = _RECORD.unpack_from(data, _HEAD.size + number * _RECORD.size)
        records.append(Record(word & _PAIR_MASK, epoch, bool(word & _RELEASED), bool(word & _STATIC)))
    return Message(Kind(kind), sequence, tuple(records))
