"""A long-lived connection from the owner of pairs to the gateway that would take them over. What is sent and not yet
acknowledged is bounded; whoever has more to say waits, and loses nothing, for what has changed stays marked in the
engine."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from sixgate.node.egress.copywire import (
    GREETING,
    HEAD,
    MAGIC,
    RECORD,
    REFUSALS,
    REPLY,
    Frame,
    Kind,
    Reply,
    Verdict,
    read_reply,
)

log = logging.getLogger(__name__)

WINDOW_BYTES = 1 << 20  # sent and not acknowledged
GREETING_S = 5.0
AGAIN_S = 1.0  # between attempts
COPYING = "Copying"  # not yet
STUCK_S = 2.0  # without an acknowledgement, while one is due


@dataclass(slots=True)
class PairCopies:
    """What is known of a pair's copies: `sessions` of it at the standby, `whole` once everything was there, `why` it
    does not take them, empty if it does; `refused` are those that the last copy of everything found no room for."""

    sessions: int = 0
    whole: bool = False
    why: str = ""
    refused: int = 0
    counted: int = 0  # so far, in this copy of everything


@dataclass(slots=True)
class Link:
    """To gateway `node`. `synced` is when the engine was as the standby is now, `refused` counts records that
    the standby had no room for."""

    node: str
    address: str
    port: int
    source: Callable[[], str]
    clock: Callable[[], float]
    why: str = "no connection yet"
    reason: str = COPYING  # the same in one word
    synced: float = -1.0
    sent_bytes: int = 0
    sent_records: int = 0
    refused: int = 0
    pairs: dict[int, PairCopies] = field(default_factory=dict)
    connected: int = 0  # how often: each connection begins with everything
    _writer: asyncio.StreamWriter | None = None
    _cause: tuple[str, str] | None = None
    _clean: set[int] = field(default_factory=set)  # pairs of which nothing was refused since a copy of everything began
    _sequence: int = 0
    _waiting: deque[tuple[int, int, Kind, int, float]] = field(default_factory=deque)  # number, bytes, kind, pair, time
    _waiting_bytes: int = 0
    _marks: deque[tuple[int, float]] = field(default_factory=deque)
    _task: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        return self._writer is not None

    @property
    def room(self) -> bool:
        """Whether more may be sent just now."""
        return self._waiting_bytes < WINDOW_BYTES

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def send(self, kind: Kind, pair: int, epoch: int, family: int = 0, records: bytes = b"") -> None:
        """Nothing happens where there is no connection: the next one begins with everything."""
        if self._writer is None:
            return
        self._sequence += 1
        count = len(records) // RECORD
        self._writer.write(Frame(kind, pair, epoch, self._sequence, family, count).pack() + records)
        size = HEAD.size + len(records)
        self._waiting.append((self._sequence, size, kind, pair, self.clock()))
        self._waiting_bytes += size
        self.sent_bytes += size
        self.sent_records += count

    def mark(self, now: float) -> None:
        """Everything that was to be told up to now is on its way."""
        if not self._waiting:
            self.synced = now
        elif not self._marks or self._marks[-1][0] != self._sequence:
            self._marks.append((self._sequence, now))

    def stuck(self, now: float) -> bool:
        """The other side does not keep up, or is not there any more."""
        return bool(self._waiting) and now - self._waiting[0][4] > STUCK_S

    def break_off(self, why: str) -> None:
        """It is tried anew, and begins with everything."""
        self._cause = ("StandbyUnreachable", why)
        if self._writer is not None:
            self._writer.transport.abort()

    async def _run(self) -> None:
        while True:
            self._cause = None
            try:
                await self._talk()
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                failed = f"the connection failed ({error or type(error).__name__})"
                self._cause = self._cause or ("StandbyUnreachable", failed)
            finally:
                self.reason, self.why = self._cause or ("StandbyUnreachable", "no connection")
                self._writer = None
                self._reset()
            await asyncio.sleep(AGAIN_S)

    def _reset(self) -> None:
        self._waiting.clear()
        self._marks.clear()
        self._waiting_bytes = 0
        self._clean.clear()
        self.pairs.clear()
        self.synced = -1.0

    async def _talk(self) -> None:
        source = self.source()
        async with asyncio.timeout(GREETING_S):
            local = (source, 0) if source else None
            reader, writer = await asyncio.open_connection(self.address, self.port, local_addr=local)
        try:
            writer.write(GREETING.pack(MAGIC, RECORD))
            async with asyncio.timeout(GREETING_S):
                answer = await reader.read(GREETING.size)
            if answer != GREETING.pack(MAGIC, RECORD):
                self._cause = (
                    "OtherVersion",
                    f"it does not take records of {RECORD} bytes: another version, or it does not know this node",
                )
                return
            self._writer, self.why = writer, ""
            self.connected += 1
            while True:
                reply = read_reply(await reader.readexactly(REPLY.size))
                if reply is None or not self._heard(reply):
                    self._cause = ("OtherVersion", "it answers what it was not asked")
                    return
        finally:
            writer.transport.abort()  # nobody waits for the rest: the next connection begins with everything

    def _heard(self, reply: Reply) -> bool:
        if not self._waiting or self._waiting[0][0] != reply.sequence:
            return False
        _, size, kind, pair, _ = self._waiting.popleft()
        self._waiting_bytes -= size
        self.refused += reply.refused
        copies = self.pairs.setdefault(pair, PairCopies())
        copies.why = REFUSALS.get(reply.verdict, "")
        copies.sessions = reply.sessions
        copies.counted += reply.refused
        if reply.verdict is not Verdict.TAKEN:
            self._clean.discard(pair)
            copies.whole = False
        elif kind is Kind.BEGIN:
            self._clean.add(pair)
            copies.counted = 0
        elif kind is Kind.END:
            copies.whole = pair in self._clean
            copies.refused = copies.counted
        while self._marks and self._marks[0][0] <= reply.sequence:
            self.synced = self._marks.popleft()[1]
        return True
