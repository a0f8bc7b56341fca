"""The standby's side of copying: what the owner of a pair tells is put into the engine, asleep until the pair comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.errors import BpfError
from sixgate.node.egress.copytables import CopyTables, seconds
from sixgate.node.egress.copywire import (
    GREETING,
    HEAD,
    MAGIC,
    RECORD,
    Frame,
    Kind,
    Reply,
    Verdict,
    read_head,
    renumbered,
)

if TYPE_CHECKING:
    from sixgate.node.egress.known import Known
    from sixgate.node.egress.owners import Owners

log = logging.getLogger(__name__)

SILENCE_S = 60.0  # of an owner, which asks once a second how many there are
STRIDE = 512  # words of the bitmap that are looked through at once
PAUSE_S = 0.002  # and then others may go on
# Copies that a living owner has not spoken of for so long are not kept: it copies to another gateway, or did not hand
# its connections over. Longer than an upgrade has owner and standby in two versions.
FORGET_S = 120.0


@dataclass(slots=True)
class Standby:
    """Takes copies. `draining` says whether connections that were begun here are still served. All of it belongs to
    the event loop, so no record is taken once the pair is this node's."""

    tables: CopyTables
    known: Known
    owners: Owners
    draining: Callable[[int], bool]
    clock: Callable[[], float]
    refused: int = 0  # records that found no room, or their port taken
    _begun: dict[int, int] = field(default_factory=dict)  # second at which a copy of everything began, by pair
    _spoken: dict[int, float] = field(default_factory=dict)  # when its owner spoke of a pair last, or was not alive
    _talking: dict[str, asyncio.StreamWriter] = field(default_factory=dict)
    _due: dict[int, tuple[int, int]] = field(default_factory=dict)  # pair and second, by object: to be pruned
    _pruned: dict[int, tuple[int, int]] = field(default_factory=dict)  # the same, just now
    _pruning: asyncio.Task[None] | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
        """A gateway that has said MAGIC: until it leaves, or says what nobody understands. One at a time of each."""
        (size,) = GREETING.unpack(MAGIC + await reader.readexactly(GREETING.size - len(MAGIC)))[1:]
        writer.write(GREETING.pack(MAGIC, RECORD))
        if size != RECORD:
            log.warning("%s copies records of %d bytes, not of %d: another version; refused.", peer, size, RECORD)
            return
        before = self._talking.get(peer)
        if before is not None:
            before.close()
        self._talking[peer] = writer
        try:
            await self._listen(reader, writer, peer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            log.info("%s copies nothing more for now: %s.", peer, error or type(error).__name__)
        finally:
            if self._talking.get(peer) is writer:
                del self._talking[peer]

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> None:
        while True:
            async with asyncio.timeout(SILENCE_S):
                frame = read_head(await reader.readexactly(HEAD.size))
                if frame is None:
                    log.warning("%s says what is no frame; its copies end here.", peer)
                    return
                records = await reader.readexactly(frame.count * RECORD)
            writer.write(self.take(frame, records, peer).pack())
            await writer.drain()

    def take(self, frame: Frame, records: bytes, peer: str) -> Reply:
        """What becomes of a frame of the gateway with this address."""
        verdict = self._judge(frame, peer)
        if verdict is not Verdict.TAKEN:
            return Reply(verdict, frame.sequence, 0, 0)
        self._spoken[frame.pair] = self.clock()
        try:
            objects = self.tables.objects(frame.pair)
            if not objects or (frame.family and frame.family not in objects):
                return Reply(Verdict.UNKNOWN, frame.sequence, 0, 0)
            refused = self._do(frame, records, objects)
            return Reply(Verdict.TAKEN, frame.sequence, self.tables.sessions(objects.values()), refused)
        except BpfError as error:
            log.error("Copies of pair %d were not taken: %s", frame.pair, error)
            return Reply(Verdict.UNKNOWN, frame.sequence, 0, 0)

    def _judge(self, frame: Frame, peer: str) -> Verdict:
        known = self.known.pairs.get(frame.pair)
        if known is None or self.known.node not in known.gateways or not self.tables.is_open:
            return Verdict.UNKNOWN
        if frame.pair in self.owners.mine():
            return Verdict.MINE
        holder = self.owners.holder(frame.pair)
        if frame.epoch < self.owners.epoch(frame.pair) and holder and self.known.gateways.get(holder) != peer:
            return Verdict.STALE
        return Verdict.TAKEN

    def _do(self, frame: Frame, records: bytes, objects: dict[int, int]) -> int:
        match frame.kind:
            case Kind.RECORDS:
                put = self.tables.put(renumbered(records, objects[frame.family]))
                self.refused += put.refused
                return put.refused
            case Kind.BEGIN:
                self._begun[frame.pair] = seconds()
                self._spare(objects.values())
            case Kind.END:
                since = self._begun.pop(frame.pair, None)
                if since is not None:
                    self._prune(frame.pair, objects, since)
            case Kind.DROP:
                self._begun.pop(frame.pair, None)
                self._prune(frame.pair, objects, seconds() + 1)
        return 0

    # -- what is over ----------------------------------------------------------------------------------------------

    def _prune(self, pair: int, objects: dict[int, int], since: int) -> None:
        """Copies of the pair that nobody told of since then end soon: a million of them take a while to look through,
        and heartbeats cannot wait for it."""
        if self.draining(pair):
            return
        self._due |= dict.fromkeys(objects.values(), (pair, since))
        if self._pruning is None or self._pruning.done():
            self._pruning = asyncio.create_task(self._look_through())

    def look(self) -> None:
        """To be called now and then: what nobody speaks of any more is forgotten."""
        now = self.clock()
        for pair, known in self.known.pairs.items():
            holder = self.owners.holder(pair)
            kept = pair in self.owners.mine() or self.draining(pair) or self.known.node not in known.gateways
            if kept or not holder or not self.owners.alive(holder, FORGET_S / 10, now) or not self.tables.is_open:
                self._spoken[pair] = now
            elif now - self._spoken.setdefault(pair, now) >= FORGET_S:
                self._spoken[pair] = now
                self._forget(pair, holder)

    def _forget(self, pair: int, holder: str) -> None:
        try:
            objects = self.tables.objects(pair)
            count = self.tables.sessions(objects.values())
        except BpfError as error:
            log.error("Copies of pair %d that nobody speaks of are still here: %s", pair, error)
            return
        if count:
            log.info("%s has not spoken of pair %d for %d s: its %d copies go.", holder, pair, FORGET_S, count)
            self._prune(pair, objects, seconds() + 1)

    def _spare(self, objects: Iterable[int]) -> None:
        for number in objects:
            self._due.pop(number, None)
            if self._pruned.pop(number, None) is not None:
                self.tables.outdate({number: 0})

    async def _look_through(self) -> None:
        try:
            while self._due and self.tables.is_open:
                self._pruned, self._due = self._due, {}
                self.tables.outdate({number: since for number, (_, since) in self._pruned.items()})
                ended = 0
                for at in range(0, self.tables.words, STRIDE):
                    ended += self._step(at)
                    await asyncio.sleep(PAUSE_S)
                if ended:
                    log.info("%d copies are of connections that are no more.", ended)
                self.tables.outdate(dict.fromkeys(self._pruned, 0))
                self._pruned = {}
        except BpfError as error:
            log.error("Copies of connections that are no more may still be here: %s", error)
            self._pruned = {}

    def _step(self, at: int) -> int:
        """Once the pair is this node's, what nobody told of may be what pods have begun here."""
        mine = self.owners.mine()
        self._spare([n for n, (pair, _) in self._pruned.items() if pair in mine or self.draining(pair)])
        return self.tables.prune(at, at + STRIDE) if self._pruned and self.tables.is_open else 0

    def close(self) -> None:
        for writer in self._talking.values():
            writer.close()
        self._talking.clear()
        self._begun.clear()
        self._due.clear()
        if self._pruning is not None:
            self._pruning.cancel()
