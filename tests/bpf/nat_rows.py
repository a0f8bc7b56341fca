"""Entries of the tables of stateful NAT as bytes: codecs that know every field are too slow for a million steps."""

from __future__ import annotations

import struct
from typing import NamedTuple

SESS = struct.Struct("=16s2sBB5I")
MAP = struct.Struct("=16s16s2s2sHHIIIBB")


class SessRow(NamedTuple):
    """struct sg_st_sess, without counters."""

    remote: bytes
    rport: bytes
    proto: int
    reset: int
    state: int
    map: int
    expires: int
    created: int
    half: int


class MapRow(NamedTuple):
    """struct sg_st_map."""

    near: bytes
    out: bytes
    in_port: bytes
    out_port: bytes
    obj: int
    svc: int
    refs: int
    last: int
    block: int
    proto: int
    flags: int

    @property
    def shared(self) -> bool:
        return bool(self.flags & 2)

    @property
    def bit(self) -> int:
        return int.from_bytes(self.out_port, "big") % 64
