"""What the data plane remembers of sessions, read from its pinned maps; works when no agent is alive.

Sessions stand in an array and mappings in another. Both are read in batches and compared as bytes; only what is asked
for is decoded. What comes or goes meanwhile may or may not be seen.
"""

from __future__ import annotations

import errno
import ipaddress
import struct
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sixgate.errors import ApplyError, BpfError
from sixgate.node import names
from sixgate.node.bpf import layouts
from sixgate.node.bpf.codec import Codec, Value, decode_address, encode
from sixgate.node.bpf.ctype import U32, Record
from sixgate.node.bpf.map import Map

if TYPE_CHECKING:
    from pathlib import Path

    from sixgate.node.numbers import Numbers

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
STATE_NAMES = {int(state): state.name.removeprefix("SG_ST_") for state in layouts.SgStState}
_SESS, _MAP = layouts.SG_ST_SESS, layouts.SG_ST_MAP
FLUSH_SECONDS = 20.0  # the sweeper takes eight for a whole pass


@dataclass(frozen=True, slots=True)
class Session:
    """One session and its mapping. `state` as in `enum sg_st_state`; `age_s`, `left_s` in seconds."""

    object: str
    service: str
    protocol: str
    client: str
    client_port: int
    pool: str
    pool_port: int
    remote: str
    remote_port: int
    state: str
    age_s: int
    left_s: int
    packets_out: int
    packets_in: int
    bytes_out: int
    bytes_in: int


@dataclass(frozen=True, slots=True)
class Filter:
    """Which sessions are meant; every part that is given must fit."""

    object: str = ""
    client: Network | None = None
    pool: str = ""
    remote: Network | None = None
    protocol: str = ""
    state: str = ""

    @property
    def everything(self) -> bool:
        return self == Filter()


def _offset(record: Record, name: str) -> int:
    return record.by_name[name].offset


def _read_u16(data: bytes, at: int) -> int:
    return int(struct.unpack_from("=H", data, at)[0])


def _read_u32(data: bytes, at: int) -> int:
    return int(struct.unpack_from("=I", data, at)[0])


@dataclass(frozen=True, slots=True)
class NatState:
    """The pinned maps of one node. `numbers` name objects and services."""

    bpffs: Path
    numbers: Numbers

    def _map(self, name: str, value: Record) -> Map:
        return Map.from_pin(self.bpffs / names.map_path(name), codec=Codec(U32, value, map_name=name))

    def present(self) -> bool:
        """Whether this node keeps sessions at all."""
        return (self.bpffs / names.map_path("sg_st_sess")).exists()

    def names_of(self, space: str) -> dict[int, str]:
        given = self.numbers[space].given if space in self.numbers else {}
        return {first: name for name, (first, _) in given.items()}

    def sessions(self, wanted: Filter) -> Iterator[Session]:
        """Sessions that fit, in the order of the table."""
        if not self.present():
            return
        numbers = self._object_numbers(wanted.object) if wanted.object else ()
        if wanted.object and not numbers:
            return
        objects, services = self.names_of("obj"), self.names_of("svc")
        proto, state = PROTOCOLS.get(wanted.protocol, 0), _state_number(wanted.state)
        client, remote = _range(wanted.client), _range(wanted.remote)
        pool = encode(layouts.SG_ST_POOL.by_name["addr"].type, wanted.pool) if wanted.pool else b""
        at_state, at_obj = _offset(_SESS, "state"), _offset(_SESS, "obj")
        state_size = _SESS.by_name["state"].type.size
        now = int(time.clock_gettime(time.CLOCK_MONOTONIC))
        with self._map("sg_st_sess", _SESS) as table, self._map("sg_st_map", _MAP) as mappings:
            for batch in table.batches():
                for _, data in batch:
                    found = int.from_bytes(data[at_state : at_state + state_size], "little")
                    if not found or (state is not None and found != state):
                        continue
                    if numbers and _read_u16(data, at_obj) not in numbers:
                        continue
                    if proto and data[_offset(_SESS, "proto")] != proto:
                        continue
                    if remote and not _inside(data, _offset(_SESS, "remote"), remote):
                        continue
                    mapping = mappings.get_raw(data[_offset(_SESS, "map") : _offset(_SESS, "map") + 4])
                    if mapping is None or not _read_u32(mapping, _offset(_MAP, "refs")):
                        continue
                    if client and not _inside(mapping, _offset(_MAP, "in"), client):
                        continue
                    at_out = _offset(_MAP, "out")
                    if pool and mapping[at_out : at_out + 16] != pool:
                        continue
                    yield _session(table, mappings, data, mapping, (objects, services, now))

    def _object_numbers(self, name: str) -> tuple[int, ...]:
        """Numbers of an object of this name; or of both families of one, as a gateway without a pool and a balancer
        have them. The kind may be left out."""
        given = self.numbers["obj"].given if "obj" in self.numbers else {}
        short = name.removeprefix("NAT46Gateway/")
        for each in (short, f"LoadBalancer/{short}"):
            found = [given[key][0] for key in (each, f"{each}/4", f"{each}/6") if key in given]
            if found:
                return tuple(found)
        return ()

    def stats(self) -> list[dict[str, Value]]:
        """What each object uses and has counted."""
        if not self.present():
            return []
        rows: list[dict[str, Value]] = []
        stats = Map.from_pin(
            self.bpffs / names.map_path("sg_st_stats"), codec=Codec(U32, layouts.SG_ST_STAT, map_name="sg_st_stats")
        )
        with (
            stats,
            self._map("sg_st_use", layouts.SG_ST_USE) as use,
            self._map("sg_st_obj", layouts.SG_ST_OBJ) as objects,
        ):
            for number, name in sorted(self.names_of("obj").items(), key=lambda item: item[1]):
                told, counted, used = objects.get(number), stats.sum(number), use.get(number)
                assert isinstance(told, dict)
                assert isinstance(counted, dict)
                assert isinstance(used, dict)
                rows.append(
                    {"object": name, "limit": told["max_sessions"], "ports": self._ports(told), "use": used, **counted}
                )
        return rows

    def _ports(self, told: dict[str, Value]) -> int:
        """Ports of an object's pools, per protocol."""
        first, count = told["pool"], told["n_pools"]
        assert isinstance(first, int)
        assert isinstance(count, int)
        total = 0
        with self._map("sg_st_pool", layouts.SG_ST_POOL) as pools:
            for number in range(first, first + count):
                pool = pools.get(number)
                if isinstance(pool, dict):
                    n_addrs, low, high = pool["n_addrs"], pool["first"], pool["last"]
                    assert isinstance(n_addrs, int)
                    assert isinstance(low, int)
                    assert isinstance(high, int)
                    total += n_addrs * (high - low + 1)
        return total

    def by(self, what: str, wanted: Filter) -> Counter[str]:
        """Sessions counted by `object`, `client`, `pool`, `protocol` or `state`."""
        return Counter(str(getattr(session, what)) for session in self.sessions(wanted))

    def sweeper(self) -> dict[str, Value]:
        """The sweeper's own account; empty where there is none."""
        try:
            with self._map("sg_st_sweep", layouts.SG_ST_SWEEP) as table:
                found = table.get(0)
        except BpfError as error:
            if error.errno != errno.ENOENT:
                raise
            return {}
        return found if isinstance(found, dict) else {}

    def flush(self, wanted: Filter) -> int:
        """Ends sessions that fit; how many. ApplyError where the data plane does not do it in time, or cannot tell
        such sessions."""
        if wanted.state:
            raise ApplyError(
                "Sessions can be ended by object, client, pool address, remote and protocol, not by state."
            )
        orders = self._orders(wanted) if self.present() else ()
        if not orders or not self._in_use():
            return 0  # the sweeper begins with the first session
        return sum(map(self._flush, orders))

    def _flush(self, order: dict[str, object]) -> int:
        before = self.sweeper()
        seq = (int(time.time_ns() // 1_000_000) & 0xFFFFFFFF) or 1
        if before.get("flushed") == seq:  # two orders within a millisecond
            seq = seq % 0xFFFFFFFF + 1
        with self._map("sg_st_flush", layouts.SG_ST_FLUSH) as table:
            table.set(0, {**order, "seq": seq})
        deadline = time.monotonic() + FLUSH_SECONDS
        while time.monotonic() < deadline:
            now = self.sweeper()
            if now.get("flushed") == seq:
                removed, old = now.get("flush_removed"), before.get("flush_removed", 0)
                assert isinstance(removed, int)
                assert isinstance(old, int)
                return removed - old
            time.sleep(0.05)
        raise ApplyError(
            f"The data plane has not ended these sessions within {FLUSH_SECONDS:g} s: does its sweeper run?"
        )

    def _in_use(self) -> bool:
        with self._map("sg_st_use", layouts.SG_ST_USE) as table:
            return any(any(value) for _, value in table.lookup_batch())

    def _orders(self, wanted: Filter) -> tuple[dict[str, object], ...]:
        """A `struct sg_st_flush` for each object that a filter means; none where nothing can fit it."""
        if not wanted.object:
            return (self._order(wanted),)
        bit = layouts.SgFlushField.SG_FLUSH_OBJ
        return tuple(self._order(wanted, int(bit), obj=number) for number in self._object_numbers(wanted.object))

    @staticmethod
    def _order(wanted: Filter, fields: int = 0, **order: object) -> dict[str, object]:
        bits = layouts.SgFlushField
        for field, bit, network in (
            ("client", bits.SG_FLUSH_CLIENT, wanted.client),
            ("remote", bits.SG_FLUSH_REMOTE, wanted.remote),
        ):
            if network is not None:
                fields |= bit
                order[field] = str(network.network_address)
                order[f"{field}_mask"] = _mask(network)
        if wanted.pool:
            fields, order["out"] = fields | bits.SG_FLUSH_OUT, wanted.pool
        if wanted.protocol:
            fields, order["proto"] = fields | bits.SG_FLUSH_PROTO, PROTOCOLS[wanted.protocol]
        return {**order, "fields": fields}


def _session(
    table: Map, mappings: Map, data: bytes, mapping: bytes, known: tuple[dict[int, str], dict[int, str], int]
) -> Session:
    objects, services, now = known
    one, bound = table.codec.decode_value(data), mappings.codec.decode_value(mapping)
    assert isinstance(one, dict)
    assert isinstance(bound, dict)
    number = {name: value for values in (one, bound) for name, value in values.items() if isinstance(value, int)}
    out, into = one["out"], one["in"]
    assert isinstance(out, dict)
    assert isinstance(into, dict)
    state = int(number["state"])
    protocol = PROTOCOL_NAMES.get(number["proto"], str(number["proto"]))
    service = services.get(number["svc"] - 1, "") if number["svc"] else ""
    if number["vport"]:  # of a balancer, whose service is an address with many ports
        service += f" {protocol.upper()} {number['vport']}"
    return Session(
        object=objects.get(number["obj"], f"object {number['obj']}"),
        service=service,
        protocol=protocol,
        client=str(bound["in"]),
        client_port=number["in_port"],
        pool=str(bound["out"]),
        pool_port=number["out_port"],
        remote=str(one["remote"]),
        remote_port=number["rport"],
        state=STATE_NAMES.get(state, str(state)),
        age_s=max(0, now - number["created"]),
        left_s=max(0, number["expires"] - now),
        packets_out=_number(out, "packets"),
        packets_in=_number(into, "packets"),
        bytes_out=_number(out, "bytes"),
        bytes_in=_number(into, "bytes"),
    )


def _number(count: dict[str, Value], name: str) -> int:
    value = count[name]
    assert isinstance(value, int)
    return value


def _state_number(name: str) -> int | None:
    return next((number for number, each in STATE_NAMES.items() if each == name), None) if name else None


def _range(network: Network | None) -> tuple[bytes, bytes] | None:
    """First and last address of a network as `struct sg_addr`, which sort as addresses do."""
    if network is None:
        return None
    ctype = layouts.SG_ST_POOL.by_name["addr"].type
    return encode(ctype, str(network.network_address)), encode(ctype, str(network.broadcast_address))


def _inside(data: bytes, at: int, bounds: tuple[bytes, bytes]) -> bool:
    return bounds[0] <= data[at : at + 16] <= bounds[1]


def _mask(network: Network) -> str:
    """The mask of a network within the 128 bits of `struct sg_addr`."""
    length = network.prefixlen + (96 if network.version == 4 else 0)
    return decode_address((((1 << length) - 1) << (128 - length)).to_bytes(16, "big"))
