"""Logs what the data plane tells while an agent runs: discarded packets (RFC 7915 4.5, 5.1.1), port blocks (RFC 7422).

The data plane never waits for this: a ring buffer that nobody empties fills up, and what comes then is only counted.
"""

from __future__ import annotations

import errno
import logging
import socket
from typing import TYPE_CHECKING

from sixgate.errors import BpfError
from sixgate.node import names
from sixgate.node.blocks import BlockEvent, read_block
from sixgate.node.bpf.ringbuf import RingBuffer
from sixgate.node.discards import Discard, LineBound, read_discard
from sixgate.node.observe import open_raw

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger(__name__)

EVENTS = "sg_events"
BLOCKS = "sg_st_log"
_AT_ONCE = 256  # records of one turn of the loop; it turns again where more wait


class DiscardLog:
    """Reads the ring buffer that is pinned under `bpffs`, and the one that is about to replace it.

    All methods belong to the thread of `loop`. `clock` is monotonic seconds.
    """

    name, what = EVENTS, "Discarded packets"

    def __init__(
        self, bpffs: Path, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], bound: LineBound | None = None
    ) -> None:
        self._bpffs, self._loop, self._clock = bpffs, loop, clock
        self._bound = bound or LineBound()
        self._rings: dict[int, RingBuffer] = {}  # by the map's id: it stays when the pin is renamed
        self._timer: asyncio.TimerHandle | None = None
        self._complaints: set[str] = set()

    def __enter__(self) -> DiscardLog:
        return self

    def __exit__(self, *_: object) -> None:
        for map_id in tuple(self._rings):
            self._drop(map_id)
        self._settle()

    def follow(self) -> None:
        """Open what is pinned now and close what is not any more. For the one process that keeps the node: a second
        reader would take records away from the first."""
        pinned = {self._open(self._bpffs / path) for path in (names.map_path(self.name), names.new_map_path(self.name))}
        for map_id in set(self._rings) - pinned:
            self._read(map_id)
            self._drop(map_id)

    def _open(self, path: Path) -> int:
        """The id of the map pinned at `path`, which is read from now on; 0 where there is none."""
        try:
            with open_raw(path) as table:
                map_id = table.info.id
                if map_id not in self._rings:
                    ring = RingBuffer(table)
                    self._rings[map_id] = ring
                    self._loop.add_reader(ring.fileno(), self._read, map_id)
                return map_id
        except BpfError as error:
            if error.errno != errno.ENOENT:
                self._complain(error)
            return 0

    def _read(self, map_id: int) -> None:
        ring = self._rings.get(map_id)
        if ring is None:
            return
        try:
            records = ring.consume(_AT_ONCE)
        except BpfError as error:
            # Left as it is, it would be readable for ever; `follow` opens it again.
            self._complain(error)
            self._drop(map_id)
            return
        for record in records:
            self._tell(record)

    def _tell(self, record: bytes) -> None:
        now_s = self._clock()
        if not self._is_bounded():
            self._say(record, now_s)
            return
        if self._bound.rest_s(now_s) == 0:
            self._settle()
        if not self._bound.admit(now_s):
            if self._timer is None:
                self._timer = self._loop.call_later(self._bound.rest_s(now_s), self._settle)
            return
        self._say(record, now_s)

    def _say(self, record: bytes, now_s: float) -> None:
        try:
            told = self._read_record(record, now_s)
        except BpfError as error:
            self._complain(error)
            return
        log.info("%s", told, extra=told.fields())

    def _read_record(self, record: bytes, now_s: float) -> Discard | BlockEvent:
        return read_discard(record, _device_name, now_s)

    def _is_bounded(self) -> bool:
        return True

    def _settle(self) -> None:
        """Say how many lines there are not."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if withheld := self._bound.take_withheld():
            log.info(
                "%d more packets were dropped than the %d in %g s that are logged; `sixgate status` counts them all.",
                withheld,
                self._bound.lines,
                self._bound.period_s,
                extra={"withheld": withheld},
            )

    def _drop(self, map_id: int) -> None:
        ring = self._rings.pop(map_id)
        self._loop.remove_reader(ring.fileno())
        ring.close()

    def _complain(self, error: BpfError) -> None:
        if str(error) not in self._complaints:
            self._complaints.add(str(error))
            log.warning("%s are not logged: %s", self.what, error)


class BlockLog(DiscardLog):
    """The same for port blocks, every one of them: who had a port when is to be found in the log."""

    name, what = BLOCKS, "Port blocks"

    def __init__(
        self,
        bpffs: Path,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        object_name: Callable[[int], str],
    ) -> None:
        super().__init__(bpffs, loop, clock)
        self._object_name = object_name

    def _read_record(self, record: bytes, now_s: float) -> Discard | BlockEvent:
        del now_s
        return read_block(record, self._object_name)

    def _is_bounded(self) -> bool:
        return False


def _device_name(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return f"a device that is gone (index {ifindex})"
