"""A million random steps of a small stateful gateway beside the model of tests/bpf/nat_life.py.

    python -m tests.bpf.nat_walk [--steps 1000000] [--seed 0]

Every packet's fate and new addresses, the counters of sessions, mappings and half-open sessions, and every port that is
given out are compared after each step; all tables, as bytes, with each other and with the model after every 50 steps.
Exit code 1 and the last steps where they part.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
import time
from collections import deque
from functools import cache
from ipaddress import ip_address

from sixgate.node.bpf.layouts import SgStState
from tests.bpf.frames import ACK, FIN, RST, SYN, TCP, UDP, embed, read, tcp, udp
from tests.bpf.nat_lab import BLOCKS, Domain, NatLab, Pool, Service
from tests.bpf.nat_life import CLOSING, HALF_OPEN, LIVES, Client, Far, Life, opening
from tests.bpf.nat_rows import MAP, SESS, MapRow, SessRow

CLIENTS = tuple(f"2001:db8:1::{i}" for i in range(1, 5))
CLIENT_PORTS = (1000, 2000, 2001, 3000)
REMOTES = tuple((f"203.0.113.{i}", port) for i in range(1, 4) for port in (80, 81))
VIP = "2001:db8:80::80"
BACKENDS: tuple[Far, ...] = (("203.0.113.1", 80), ("203.0.113.2", 80))
FIRST, LAST = 1024, 1030
POOL = tuple((f"192.0.2.{i}", port) for i in (1, 2) for port in range(FIRST, LAST + 1))
LIMIT, HALF = 20, 6
IDS = 512
SEEN = 64  # indexes are given out from below: never more are in use
FLAGS = (SYN, SYN, ACK, SYN | ACK, FIN | ACK, RST)
WALK_STEPS, WALK_S = 20_000, 100.0
COMPARE = 50
SHARED = 0x80000000
USE = struct.Struct("=3I")  # what the walk looks at
PEER = struct.Struct("=16sI2sH")
FORWARD = struct.Struct("=16s2sBBHH")
PORTS = struct.Struct("=QQII64I")
FREE, EST = SgStState.SG_ST_FREE, SgStState.SG_ST_EST
STATES = {state.value: state.name.removeprefix("SG_ST_") for state in SgStState}


@cache
def packet(proto: int, src: Far, dst: Far, flags: int) -> bytes:
    return tcp(*src, *dst, flags) if proto == TCP else udp(*src, *dst)


def ends(address: bytes, port: bytes) -> Far:
    """An end as the model names it."""
    text = address[12:] if address.startswith(bytes(10) + b"\xff\xff") else address
    return str(ip_address(text)), int.from_bytes(port, "big")


class Walk:
    """One gateway and its model."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        services = [
            Service(VIP, 80 + i, proto, 0, (BACKENDS[i],)) for proto in (TCP, UDP) for i in range(len(BACKENDS))
        ]
        self.services = {(each.proto, each.port - 80): number for number, each in enumerate(services)}
        domain = Domain(pools=(Pool(n=2, ports=(FIRST, LAST)),), max_sessions=LIMIT, half_size=HALF, lives=LIVES)
        self.lab = NatLab((domain,), tuple(services), ids=IDS)
        self.contexts = {six: self.lab.context(packet(UDP, *pair, 0)) for six, pair in SAMPLES.items()}
        self.blocks = [(struct.pack("=I", i * BLOCKS), i) for i in range(6)]
        self.history: deque[str] = deque(maxlen=40)
        self.life = Life(POOL, LIMIT)
        self.counts: dict[str, int] = {}
        self.begin()

    def begin(self) -> None:
        """Everything ends; a new model."""
        self.age(100_000)
        self.settle(0)
        self.age_ports(100_000)
        self.life = Life(POOL, LIMIT)
        self.began, self.steps = time.monotonic(), 0

    def step(self) -> None:
        """One random step, everything that is cheap compared."""
        chance = self.random.random()
        if chance < 0.55:
            self.outbound()
        elif chance < 0.99:
            self.inbound()
        else:
            self.time_passes()
        self.check_counters()
        self.steps += 1
        if self.steps % COMPARE == 0:
            self.compare()
        if self.steps >= WALK_STEPS or (self.steps % COMPARE == 0 and time.monotonic() - self.began > WALK_S):
            self.begin()

    # Packets

    def send(self, proto: int, src: Far, dst: Far, flags: int) -> tuple[Far, Far] | None:
        """New source and destination; None where it was not translated. Every checksum that comes out is right."""
        frame = packet(proto, src, dst, flags)
        six = ":" in src[0]
        result = self.lab.loaded.program.test_run(frame, context=self.contexts[six])
        data = result.data
        if (data[12:14] == b"\x86\xdd") == six:
            self.count("refused")
            return None
        assert result.retval == 7, f"verdict {result.retval} for a packet of the other family"
        out = read(data)
        assert out.sound, f"a checksum of {out} is wrong"
        self.count("translated")
        return (out.src, out.sport), (out.dst, out.dport)

    def outbound(self) -> None:
        chosen = self.random
        proto = chosen.choice((TCP, UDP))
        near = (chosen.choice(CLIENTS), chosen.choice(CLIENT_PORTS))
        flags = chosen.choice(FLAGS) if proto == TCP else 0
        number = chosen.randrange(len(BACKENDS)) if chosen.random() < 0.5 else -1
        far = BACKENDS[number] if number >= 0 else chosen.choice(REMOTES)
        client: Client = (proto, *near, number)
        self.history.append(f"{client} -> {far} {flags:#x}")
        session = self.life.alive(client, far)
        mapping = self.life.mappings.get(client)
        seen = self.send(proto, near, (VIP, 80 + number) if number >= 0 else (embed(far[0]), far[1]), flags)
        again = number >= 0 and flags == SYN and session is not None and session.state in CLOSING
        if session is None and proto == TCP and (flags & (SYN | RST)) != SYN:
            wanted = (mapping.out, far) if mapping and number < 0 else None
            assert seen == wanted, f"{seen}, not {wanted}"
        elif seen is None:
            assert session is None, f"refused amid {session}"
            assert self.life.may_refuse(client), "refused without need"
        elif session is None or again:
            assert seen[1] == far
            self.life.open(client, far, seen[0], opening(proto))
            self.count("opened")
        else:
            assert mapping is not None
            assert seen == (mapping.out, far)
            self.life.move(session, flags, True)

    def inbound(self) -> None:
        chosen = self.random
        known = list(self.life.mappings.items())
        if known and chosen.random() < 0.9:
            client, mapping = chosen.choice(known)
            proto, to = client[0], mapping.out
            far = chosen.choice(list(mapping.sessions)) if chosen.random() < 0.7 else chosen.choice(REMOTES)
        else:
            proto, to, far = chosen.choice((TCP, UDP)), chosen.choice(POOL), chosen.choice(REMOTES)
        flags = chosen.choice(FLAGS) if proto == TCP else 0
        owners = self.life.owners((proto, *to))
        if not owners and flags == SYN:
            return  # what is remembered of it may choose a later port
        self.history.append(f"{far} -> {to} of {owners} {proto} {flags:#x}")
        served = [each for each in owners if each[3] >= 0]
        owner = next((each for each in served if far in self.life.mappings[each].sessions), None)
        if not served:
            owner = owners[0] if owners else None
        session = self.life.alive(owner, far) if owner else None
        seen = self.send(proto, far, to, flags)
        if owner is None or owner not in self.life.mappings:
            assert seen is None, f"{seen} for a packet to nobody"
            return
        opens = session is None and proto == TCP and (flags & (SYN | RST)) == SYN
        if opens and seen is None:
            assert self.life.whole() >= LIMIT, "refused without need"
            return
        source = (VIP, 80 + owner[3]) if owner[3] >= 0 else (embed(far[0]), far[1])
        assert seen == (source, (owner[1], owner[2])), f"{seen}, not from {source} to {owner}"
        if opens:
            self.life.open(owner, far, to, "IN_INIT")
        elif session:
            self.life.move(session, flags, False)

    # Time

    def time_passes(self) -> None:
        seconds = self.random.choice((1000, 2000, 3000, 8000))
        self.history.append(f"{seconds} s")
        self.life.pass_time(seconds)
        self.age_ports(seconds)
        self.age(seconds)
        self.settle(self.life.count())
        self.count("jumps")

    def age(self, seconds: int) -> None:
        """Takes life off every session. One that is not over is nobody else's to write."""
        table = self.lab.map("sg_st_sess")
        raw = table.first_values(SEEN)
        for index in range(SEEN):
            value = bytearray(raw[index * 80 : index * 80 + 80])
            state, _, expires = struct.unpack_from("=3I", value, 20)
            if state != FREE:
                struct.pack_into("=I", value, 28, (expires - seconds) & 0xFFFFFFFF)
                table.set_raw(struct.pack("=I", index), bytes(value))

    def age_ports(self, seconds: int) -> None:
        table = self.lab.map("sg_st_port")
        for key, _ in self.blocks:
            value = bytearray(table.get_raw(key) or b"")
            resting, _, empty = struct.unpack_from("=QII", value, 8)
            if not resting and not empty:
                continue
            struct.pack_into("=II", value, 16, 0, 0)  # rest_next, and what was known of this second
            for bit in range(64):
                if resting >> bit & 1:
                    since = struct.unpack_from("=I", value, 24 + 4 * bit)[0]
                    struct.pack_into("=I", value, 24 + 4 * bit, (since - seconds) & 0xFFFFFFFF)
            table.set_raw(key, bytes(value))

    def settle(self, sessions: int) -> None:
        """Waits for the sweeper; a session's index is the last that it gives back."""
        deadline = time.monotonic() + 60
        while (have := self.bits("sg_st_sids").bit_count()) != sessions:
            assert time.monotonic() < deadline, f"{have} sessions after a minute's sweeping, not {sessions}"
            time.sleep(0.001)

    def bits(self, name: str) -> int:
        """Indexes in use, as bits."""
        return int.from_bytes((self.lab.map(name).get_raw(bytes(4)) or b"")[:64], "little")

    # Comparing

    def use(self) -> tuple[int, int, int]:
        sessions, half, mappings = USE.unpack_from(self.lab.map("sg_st_use").get_raw(bytes(4)) or bytes(12))
        return sessions, half, mappings

    def check_counters(self) -> None:
        wanted = (self.life.count(), self.life.half(), len(self.life.mappings))
        if (use := self.use()) != wanted:
            self.forget_half_open()
            wanted = (self.life.count(), self.life.half(), len(self.life.mappings))
        assert use == wanted, f"sessions, half-open, mappings: {use}, not {wanted}"

    def forget_half_open(self) -> None:
        """A ring of half-open sessions may give one up for another; the model follows the tables in this alone."""
        real = {(client, far) for client, _, far, _ in self.rows()}
        for client, mapping in list(self.life.mappings.items()):
            for far, session in list(mapping.sessions.items()):
                if session.state in HALF_OPEN and (client, far) not in real:
                    assert self.life.half() > HALF, "a half-open session gave way without need"
                    self.life.end(client, far)
                    self.count("given up")

    def rows(self) -> list[tuple[Client, Far, Far, str]]:
        """All sessions: client, pool's end, remote, state."""
        maps, found = self.mappings(), []
        now = int(time.clock_gettime(time.CLOCK_MONOTONIC))
        for row in self.sessions().values():
            mapping = maps[row.map]
            service = -1
            if mapping.svc:
                service = next(i for (_, i), number in self.services.items() if number == mapping.svc - 1)
            over = row.state == EST and (now - row.expires) & 0xFFFFFFFF < 1 << 31
            state = "TRANS" if over else STATES[row.state]  # nobody has looked yet
            client = (row.proto, *ends(mapping.near, mapping.in_port), service)
            found.append((client, ends(mapping.out, mapping.out_port), ends(row.remote, row.rport), state))
        return found

    def sessions(self) -> dict[int, SessRow]:
        rows = map(SessRow._make, SESS.iter_unpack(self._cut("sg_st_sess", 80, SESS.size)))
        return {index: row for index, row in enumerate(rows) if row.state != FREE}

    def mappings(self) -> dict[int, MapRow]:
        rows = map(MapRow._make, MAP.iter_unpack(self._cut("sg_st_map", 56, MAP.size)))
        return {index: row for index, row in enumerate(rows) if row.refs}

    def _cut(self, name: str, size: int, part: int) -> bytes:
        raw = self.lab.map(name).first_values(SEEN)
        return b"".join(raw[at : at + part] for at in range(0, SEEN * size, size))

    def compare(self) -> None:
        """All tables with each other, and with the model."""
        real: dict[Client, dict[Far, str]] = {}
        for client, out, far, state in self.rows():
            assert client in self.life.mappings, f"{client} is nobody's"
            assert self.life.mappings[client].out == out
            assert far not in real.get(client, {}), f"two sessions of {client} and {far}"
            real.setdefault(client, {})[far] = state
        wanted = {
            client: {far: session.state for far, session in mapping.sessions.items()}
            for client, mapping in self.life.mappings.items()
        }
        assert real == wanted, f"{real}, not {wanted}"
        self.compare_tables()
        self.count("compared")

    def compare_tables(self) -> None:
        """Both hashes, both bitmaps, references and ports: no half pair, nothing twice, nothing left behind."""
        sessions, mappings = self.sessions(), self.mappings()
        forward, find, refs = {}, {}, dict.fromkeys(mappings, 0)
        placed = set()  # keys of sessions in their mappings' places, which need no entry
        for index, each in mappings.items():
            dom = each.svc - 1 if each.svc else each.obj
            forward[FORWARD.pack(each.near, each.in_port, each.proto, each.svc != 0, dom, 0)] = struct.pack("=I", index)
        for index, row in sessions.items():
            refs[row.map] += 1
            mapping = mappings[row.map]
            place = SHARED | mapping.block * 64 + mapping.bit if mapping.shared else row.map
            key = PEER.pack(row.remote, place, row.rport, 0)
            assert key not in find, f"sessions {find[key]!r} and {index} are of one mapping and one remote"
            find[key] = struct.pack("=I", index)
            if index == row.map and not mapping.shared:
                placed.add(key)
        assert dict(self.lab.map("sg_st_fwd").lookup_batch()) == forward, "mappings and sg_st_fwd differ"
        known = dict(self.lab.map("sg_st_find").lookup_batch())
        assert known | {key: find[key] for key in placed} == find, "sessions and sg_st_find differ"
        if placed - known.keys():
            self.count("found in place")
        assert {i: each.refs for i, each in mappings.items()} == refs, "references and sessions differ"
        for name, indexes in (("sg_st_sids", sessions), ("sg_st_mids", mappings)):
            bits = sum(1 << index for index in indexes)
            assert self.bits(name) == bits, f"{name} differs"
        self.compare_ports(mappings)

    def compare_ports(self, mappings: dict[int, MapRow]) -> None:
        wanted: dict[tuple[int, int], int] = {}
        for index, each in mappings.items():
            place = (each.block, each.bit)
            if each.shared:
                wanted[place] = wanted.get(place, SHARED) + 1
            else:
                assert place not in wanted, f"port {place} belongs to two mappings"
                wanted[place] = index + 1
        real: dict[tuple[int, int], int] = {}
        resting = 0
        for key, number in self.blocks:
            used, rests, _, _, *slots = PORTS.unpack(self.lab.map("sg_st_port").get_raw(key) or b"")
            assert not rests & ~used, f"a port of block {number} rests and is free"
            resting += rests.bit_count()
            real |= {(number * BLOCKS, bit): slots[bit] for bit in range(64) if (used & ~rests) >> bit & 1}
        assert real == wanted, f"ports: {real}, not {wanted}"
        assert len(self.life.rests) <= resting, "a port does not rest"

    def count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


SAMPLES = {True: (("2001:db8:1::1", 1), (VIP, 1)), False: (("203.0.113.1", 1), ("192.0.2.1", 1))}


def run(steps: int, seed: int) -> dict[str, int]:
    """That many steps; how often what happened. AssertionError where engine and model part."""
    walk = Walk(seed)
    with walk.lab:
        for number in range(steps):
            try:
                walk.step()
            except AssertionError as error:
                last = "\n".join(walk.history)
                raise AssertionError(f"step {number} of seed {seed}: {error}\n{last}") from error
        walk.compare()
    return walk.counts


def main() -> int:
    parser = argparse.ArgumentParser(description="Random life of a stateful gateway beside a model.")
    parser.add_argument("--steps", type=int, default=1_000_000, help="steps in all")
    parser.add_argument("--seed", type=int, default=0, help="where random numbers begin")
    args = parser.parse_args()
    began = time.monotonic()
    try:
        counts = run(args.steps, args.seed)
    except AssertionError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    took = time.monotonic() - began
    told = ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items()))
    sys.stdout.write(f"{args.steps:,} steps in {took:.0f} s ({1000 * took / args.steps:.2f} ms each): {told}.\n")
    sys.stdout.write("0 half pairs, 0 duplicates, no difference from the model.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
