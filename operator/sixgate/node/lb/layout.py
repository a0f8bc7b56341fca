"""Bytes of the balancer's keys and values, as types_lb.h has them.

A node writes up to a million of them at once, and the codec of BTF is made for few; a unit test compares the two.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

CHUNK = 256
MAX_TABLE = MAX_STAT = MAX_BACKEND = 16384
PROTOCOLS = {"TCP": 6, "UDP": 17}
KINDS = {"DSR": 1, "L2": 2, "NAT": 3}
DOWN, NO_NEW, ENDED = 1, 2, 4  # enum sg_lb_backend_flag
TTL = 64

KEY = struct.Struct("=16s2sB5x")
RANGE_KEY = struct.Struct("=IB3x16s2s6x")
VIP = struct.Struct("=Q11IHBBI4x")
HEAD = struct.Struct("=QQI4x")
BACKEND = struct.Struct("=16s16sIIBBB5x")
SOURCE_KEY = struct.Struct("=II16s")
QUIC_KEY = struct.Struct("=II16s")
U32 = struct.Struct("=I")
CHUNK_BYTES = HEAD.size + 4 * CHUNK
_RANGE_FIXED_BITS = 160
_MAPPED = bytes(10) + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class VipValue:
    """`struct sg_lb_vip`."""

    seed: int = 0
    table: int = 0
    size: int = 0
    stat: int = 0
    flags: int = 0  # enum sg_lb_flag
    source_gen: int = 0
    affinity: int = 0
    affinity_s: int = 0
    limit: int = 0
    limit_gap_ns: int = 0
    limit_burst_ns: int = 0
    quic: int = 0
    port_delta: int = 0
    quic_off: int = 0
    quic_len: int = 0
    svc: int = 0

    def pack(self) -> bytes:
        return VIP.pack(
            self.seed,
            self.table,
            self.size,
            self.stat,
            self.flags,
            self.source_gen,
            self.affinity,
            self.affinity_s,
            self.limit,
            self.limit_gap_ns,
            self.limit_burst_ns,
            self.quic,
            self.port_delta,
            self.quic_off,
            self.quic_len,
            self.svc,
        )


@dataclass(frozen=True, slots=True)
class BackendValue:
    """`struct sg_lb_backend`; addresses of 16 bytes."""

    addr: bytes
    src: bytes
    src_mask: int
    version: int
    kind: int
    flags: int = 0
    ttl: int = TTL

    def pack(self) -> bytes:
        return BACKEND.pack(self.addr, self.src, self.src_mask, self.version, self.kind, self.flags, self.ttl)

    @classmethod
    def unpack(cls, raw: bytes) -> BackendValue:
        return cls(*BACKEND.unpack(raw))


FREE = BackendValue(bytes(16), bytes(16), 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Head:
    """The head of every chunk of a table; times are CLOCK_MONOTONIC in nanoseconds."""

    drain_until_ns: int = 0
    learn_until_ns: int = 0
    epoch: int = 0


@lru_cache(maxsize=65536)
def mapped(address: str | IPv4Address | IPv6Address) -> bytes:
    """`struct sg_addr`: 16 bytes, IPv4 as ::ffff:a.b.c.d."""
    parsed = ip_address(address)
    return parsed.packed if parsed.version == 6 else _MAPPED + parsed.packed


def unmapped(raw: bytes) -> str:
    """The address as text."""
    return str(IPv4Address(raw[12:])) if raw.startswith(_MAPPED) else str(IPv6Address(raw))


def vip_key(address: bytes, port: int = 0, protocol: int = 0) -> bytes:
    return KEY.pack(address, port.to_bytes(2, "big"), protocol)


def range_keys(address: bytes, protocol: int, first: int, last: int) -> list[bytes]:
    """A range of ports as prefixes of 16 bits, at most 30 of them."""
    made = []
    while first <= last:
        bits = min((first & -first).bit_length() - 1 if first else 16, (last - first + 1).bit_length() - 1)
        made.append(RANGE_KEY.pack(_RANGE_FIXED_BITS + 16 - bits, protocol, address, first.to_bytes(2, "big")))
        first += 1 << bits
    return made


def chunks(slots: array[int], head: Head) -> list[tuple[bytes, bytes]]:
    """Entries of a table's inner map. `slots` are 32-bit numbers: the backend's id, and the former one's shifted left
    by 16."""
    front = HEAD.pack(head.drain_until_ns, head.learn_until_ns, head.epoch)
    raw = slots.tobytes()
    return [
        (U32.pack(number), front + raw[at : at + 4 * CHUNK].ljust(4 * CHUNK, b"\0"))
        for number, at in enumerate(range(0, len(raw), 4 * CHUNK))
    ]


def chunk_count(size: int) -> int:
    """Entries of the inner map of a table of so many slots."""
    return (size + CHUNK - 1) // CHUNK


def read_chunks(entries: list[tuple[bytes, bytes]], size: int) -> tuple[array[int], Head]:
    """The inverse of `chunks` for a table of `size` slots."""
    ordered = sorted(entries, key=lambda entry: U32.unpack(entry[0])[0])
    slots = array("I", b"".join(value[HEAD.size :] for _, value in ordered))
    return slots[:size], Head(*HEAD.unpack_from(ordered[0][1]))
