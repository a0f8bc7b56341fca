"""The reading side of a BPF ring buffer, through libbpf's ring_buffer__*.

    with Map.from_pin("/sys/fs/bpf/sixgate/maps/sg_events") as table, RingBuffer(table) as ring:
        loop.add_reader(ring.fileno(), lambda: handle(ring.consume()))

A ring buffer has one position of reading, which lies in the map: a second reader, also of another process, would take
records away from the first.
"""

from __future__ import annotations

import ctypes
import errno
import os
from ctypes import c_void_p
from types import TracebackType
from typing import Self

from sixgate.errors import BpfError
from sixgate.node.bpf.lib import RING_CALLBACK, captured_log, check, check_pointer, failure, libbpf
from sixgate.node.bpf.map import Map
from sixgate.node.bpf.mapspec import MapType


class RingBuffer:
    """Reads the records of one map; `close` it or use it in `with`. The map may be closed before."""

    def __init__(self, table: Map) -> None:
        """BpfError: EINVAL where `table` is no ring buffer, EPERM, ENOMEM."""
        self.name = table.name
        self._handle = 0
        if table.type != MapType.RINGBUF:
            raise BpfError(
                f"Map {table.name} is of type {table.type}, where a ring buffer ({int(MapType.RINGBUF)}) is expected.",
                errno.EINVAL,
            )
        self._records: list[bytes] = []
        self._limit = 0
        # Kept as an attribute: libbpf calls it until the ring is freed.
        self._callback = RING_CALLBACK(self._take)
        # libbpf waits on the descriptor that it is given, so it gets one that nobody else closes.
        try:
            self._fd = os.dup(table.fd)
        except OSError as error:
            raise failure(error.errno or 0, f"opening ring buffer {table.name} for reading") from error
        try:
            with captured_log() as log:
                ctypes.set_errno(0)
                ring = libbpf().ring_buffer__new(self._fd, self._callback, None, None)
                self._handle = check_pointer(ring, f"opening ring buffer {table.name} for reading", log)
        except BaseException:
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        """A descriptor that is readable while records wait, for selectors and asyncio's add_reader; owned by this."""
        return check(libbpf().ring_buffer__epoll_fd(self._open()), f"waiting for ring buffer {self.name}")

    def consume(self, limit: int = 1024) -> list[bytes]:
        """Takes the records that wait, oldest first, at most `limit`; empty where there are none. Does not block."""
        if limit <= 0:
            raise BpfError(f"Ring buffer {self.name} is read 1 record at a time or more, not {limit}.", errno.EINVAL)
        self._records, self._limit = [], limit
        result = libbpf().ring_buffer__consume(self._open())
        if result != -errno.ECANCELED:
            check(result, f"reading ring buffer {self.name}")
        return self._records

    def close(self) -> None:
        """Frees it; the map and records not read yet stay. Twice is fine."""
        if self._handle:
            libbpf().ring_buffer__free(self._handle)
            os.close(self._fd)
            self._handle = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> c_void_p:
        if not self._handle:
            raise BpfError(f"Ring buffer {self.name} is closed; it cannot be read any more.", errno.EBADF)
        return c_void_p(self._handle)

    def _take(self, _context: int | None, record: int, size_bytes: int) -> int:
        """Called by libbpf for each record. A negative result ends the call of consume; the record is taken even so."""
        self._records.append(ctypes.string_at(record, size_bytes))
        return -errno.ECANCELED if len(self._records) >= self._limit else 0
