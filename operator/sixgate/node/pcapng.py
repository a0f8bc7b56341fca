"""A capture file that Wireshark and tcpdump open: packets with a comment each (pcapng, draft-ietf-opsawg-pcapng).

Interface 0 shows packets as they came to a program, interface 1 as they left it.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER = 0x1A2B3C4D
_ETHERNET = 1
_COMMENT, _NAME, _RESOLUTION = 1, 2, 9
_NANOSECONDS = 9


class PcapNg:
    """Writes to `file`, block by block; every block is complete when it is written."""

    def __init__(self, file: BinaryIO, names: tuple[str, ...], snap_bytes: int) -> None:
        self._file = file
        self._write(_SECTION, struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1))
        for name in names:
            options = _option(_NAME, name.encode()) + _option(_RESOLUTION, bytes([_NANOSECONDS])) + _option(0, b"")
            self._write(_INTERFACE, struct.pack("<HHI", _ETHERNET, 0, snap_bytes) + options)

    def packet(self, interface: int, time_s: float, frame: bytes, size: int, comment: str) -> None:
        """`frame` is the beginning of a packet of `size` bytes."""
        stamp = int(time_s * 1e9)
        head = struct.pack("<IIIII", interface, stamp >> 32, stamp & 0xFFFFFFFF, len(frame), max(size, len(frame)))
        options = _option(_COMMENT, comment.encode()) + _option(0, b"")
        self._write(_PACKET, head + _padded(frame) + options)

    def _write(self, kind: int, body: bytes) -> None:
        length = len(body) + 12
        self._file.write(struct.pack("<II", kind, length) + body + struct.pack("<I", length))
        self._file.flush()


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
