"""Connections of a pair on their way to another gateway: read from the engine's tables here, made by its code there.

What goes over the wire are values, no indexes: addresses, ports, protocol, state. A gateway believes gateways only, by
their addresses, as with heartbeats.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.errors import BpfError
from sixgate.node.bpf import layouts
from sixgate.node.bpf.codec import Codec
from sixgate.node.bpf.ctype import U32, Record
from sixgate.node.bpf.layouts import MAPS
from sixgate.node.bpf.map import Map
from sixgate.node.bpf.prog import Program
from sixgate.node.names import split

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Iterator
    from pathlib import Path

    Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter, str], Awaitable[None]]

log = logging.getLogger(__name__)

PORT = 8474
MAGIC = b"SGX2"
COPIES = b"SGC1"  # what a connection begins with that copies all the time (copywire.py)
_HEAD = struct.Struct("!4sII")  # magic, pair, number of records
_COUNT = struct.Struct("!I")
_LINK_HEADER = bytes(12) + b"\x08\x00"
MAX_RECORDS = 4_194_304
TIMEOUT_S = 10.0
_KEPT = frozenset(
    {
        layouts.SgStState.SG_ST_EST,
        layouts.SgStState.SG_ST_IN_FIN,
        layouts.SgStState.SG_ST_OUT_FIN,
        layouts.SgStState.SG_ST_BOTH_FIN,
        layouts.SgStState.SG_ST_UDP,
        layouts.SgStState.SG_ST_ICMP,
    }
)
_SESS, _MAP, _WIRE = layouts.SG_ST_SESS, layouts.SG_ST_MAP, layouts.SG_EG_SESSION


def _at(record: Record, name: str) -> slice:
    found = record.by_name[name]
    return slice(found.offset, found.offset + found.type.size)


@dataclass(frozen=True, slots=True)
class SessionTables:
    """The engine's pinned maps and program below a directory of pins. Blocks: to be used on a thread."""

    bpffs: Path

    def export(self, pair: int) -> list[bytes]:
        """Every connection of a pair that is whole, as `struct sg_eg_session` without the object's number."""
        objects = set(self._objects(pair))
        return list(self._read(objects)) if objects else []

    def _objects(self, pair: int) -> tuple[int, ...]:
        with Map.from_pin(self.bpffs / "maps" / "sg_eg_obj", spec=MAPS["sg_eg_obj"]) as table:
            found = table.get(pair)
        if not isinstance(found, dict):
            return ()
        families = int(str(found["families"]))
        return tuple(int(str(found[name])) for bit, name in ((1, "obj4"), (2, "obj6")) if families & bit)

    def _map(self, name: str, value: Record) -> Map:
        return Map.from_pin(self.bpffs / "maps" / name, codec=Codec(U32, value, map_name=name))

    def _read(self, objects: set[int]) -> Iterator[bytes]:
        with self._map("sg_st_sess", _SESS) as sessions, self._map("sg_st_map", _MAP) as mappings:
            state_at, obj_at, map_at = _at(_SESS, "state"), _at(_SESS, "obj"), _at(_SESS, "map")
            for batch in sessions.batches():
                for _, data in batch:
                    state = int.from_bytes(data[state_at], "little")
                    if state not in _KEPT or int.from_bytes(data[obj_at], "little") not in objects:
                        continue
                    mapping = mappings.get_raw(data[map_at])
                    if mapping is not None:
                        yield _record(data, mapping, state)

    def take(self, pair: int, records: list[bytes]) -> int:
        """Make connections of another gateway known here; how many are, those that were already counted in."""
        with Map.from_pin(self.bpffs / "maps" / "sg_eg_obj", spec=MAPS["sg_eg_obj"]) as table:
            found = table.get(pair)
        if not isinstance(found, dict):
            return 0
        taken = 0
        near, obj = _at(_WIRE, "near"), _at(_WIRE, "obj")
        with self._program() as program:
            for record in records:
                v4 = record[near].startswith(bytes(10) + b"\xff\xff")
                number = int(str(found["obj4" if v4 else "obj6"]))
                body = bytearray(record)
                body[obj] = number.to_bytes(2, "little")
                taken += program.test_run(_LINK_HEADER + bytes(body)).retval in (0, 1)
        return taken

    def _program(self) -> Program:
        return pinned_program(self.bpffs, "sg_import", "sg_import_tc")


def pinned_program(bpffs: Path, name: str, program: str) -> Program:
    """A program of an object, by its pin. BpfError where it is not loaded."""
    for path in sorted((bpffs / "progs").iterdir()):
        if split(path.name)[:2] == (name, program):
            return Program.from_pin(path)
    raise BpfError(f"Program {program} of {name} is not loaded on this node.")


def _record(session: bytes, mapping: bytes, state: int) -> bytes:
    out = bytearray(_WIRE.size)
    for name, source, field_name in (
        ("near", mapping, "in"),
        ("to", mapping, "out"),
        ("near_port", mapping, "in_port"),
        ("to_port", mapping, "out_port"),
        ("proto", mapping, "proto"),
    ):
        out[_at(_WIRE, name)] = source[_at(_MAP, field_name)]
    out[_at(_WIRE, "far")] = session[_at(_SESS, "remote")]
    out[_at(_WIRE, "far_port")] = session[_at(_SESS, "rport")]
    out[_at(_WIRE, "state")] = bytes((state,))
    return bytes(out)


@dataclass(slots=True)
class Handover:
    """Gives connections to other gateways and takes theirs, over TCP; `known` are the addresses of gateways, `copies`
    serves those who copy all the time."""

    tables: SessionTables
    known: Callable[[], Container[str]]
    copies: Serve | None = None
    _server: asyncio.Server | None = field(default=None, init=False)
    _bound: str = field(default="", init=False)

    async def bind(self, address: str) -> None:
        if self._bound == address:
            return
        await self.close()
        self._server = await asyncio.start_server(self._serve, address, PORT)
        self._bound = address

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._bound = ""

    async def give(self, pair: int, address: str) -> tuple[int, int]:
        """Send a pair's connections to a gateway: how many there were, and how many it has now. OSError where it cannot
        be reached."""
        records = await asyncio.to_thread(self.tables.export, pair)
        if not records:
            return 0, 0
        async with asyncio.timeout(TIMEOUT_S):
            source = (self._bound, 0) if self._bound else None
            reader, writer = await asyncio.open_connection(address, PORT, local_addr=source)
            try:
                writer.write(_HEAD.pack(MAGIC, pair, len(records)) + b"".join(records))
                await writer.drain()
                taken = int(_COUNT.unpack(await reader.readexactly(_COUNT.size))[0])
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
        return len(records), taken

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = str(writer.get_extra_info("peername")[0])
        try:
            if peer not in self.known():
                log.warning("%s, which is no gateway, wants to hand connections over; refused.", peer)
                return
            async with asyncio.timeout(TIMEOUT_S):
                magic = await reader.readexactly(len(MAGIC))
            if magic == COPIES and self.copies is not None:
                await self.copies(reader, writer, peer)
                return
            async with asyncio.timeout(TIMEOUT_S):
                head = await reader.readexactly(_HEAD.size - len(MAGIC))
                magic, pair, count = _HEAD.unpack(magic + head)
                if magic != MAGIC or count > MAX_RECORDS:
                    return
                body = await reader.readexactly(count * _WIRE.size)
            records = [body[at : at + _WIRE.size] for at in range(0, len(body), _WIRE.size)]
            taken = await asyncio.to_thread(self.tables.take, pair, records)
            log.info("Took %d of %d connections of pair %d from %s.", taken, count, pair, peer)
            writer.write(_COUNT.pack(taken))
            await writer.drain()
        except (OSError, BpfError, asyncio.IncompleteReadError, TimeoutError) as error:
            log.warning("Connections that %s hands over were not all taken: %s", peer, error or type(error).__name__)
        finally:
            writer.close()
