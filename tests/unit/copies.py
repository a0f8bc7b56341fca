"""What tests of copied connections share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sixgate.node.bpf import layouts
from sixgate.node.egress.copywire import RECORD

PAIR, OTHER = 7, 8
_OBJ = layouts.SG_EG_SESSION.by_name["obj"].offset


def record(obj: int, fill: int = 1) -> bytes:
    """A session of one object, all other bytes alike."""
    data = bytearray((fill,)) * RECORD
    data[_OBJ : _OBJ + 2] = obj.to_bytes(2, "little")
    return bytes(data)


@dataclass
class Clock:
    """Stands still."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def port_of(server: asyncio.Server | None) -> int:
    assert server is not None
    return int(server.sockets[0].getsockname()[1])
