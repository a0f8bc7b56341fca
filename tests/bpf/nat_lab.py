"""The engine of stateful NAT under test: the shipped tc program in a network namespace, packets by BPF_PROG_TEST_RUN.

    with NatLab() as lab:                                  # one NAT64 object, pool 192.0.2.1 and 192.0.2.2
        seen = lab.send(udp("2001:db8::1", 4000, "64:ff9b::c633:6401", 53))
        assert seen.reason == "SG_OK_64" and seen.out.src == "192.0.2.1"

Packets are built and read with `struct`; checksums of what comes out are verified here, every time.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sixgate.node.bpf import Map, SkbContext
from sixgate.node.bpf.layouts import SgFeature, SgGwFlag, SgStFlag, SgStHas
from tests.bpf.harness import Loaded, reason_name

CLOCK_MONOTONIC_COARSE = 6  # linux/time.h
LINK = bytes.fromhex("020000000001020000000002")
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
FIN, SYN, RST, ACK = 1, 2, 4, 16
CLONE_NEWNET = 0x40000000
BLOCKS = 1008  # of ports 1024 to 65535
LIVES = (300, 60, 7440, 240, 66, 55, 120)  # of a SYN and of a fragment: no loaded machine shall outlive them
PREFIX = "64:ff9b:1::"
DEVICES = """
link add v6 type veth peer name p6
link add v4 type veth peer name p4
link set v6 up
link set p6 up
link set v4 up
link set p4 up
addr add 2001:db8:f::1/64 dev v6 nodad
addr add 198.51.100.1/24 dev v4
neigh add 2001:db8:f::2 lladdr 02:00:00:00:00:02 dev v6
neigh add 198.51.100.2 lladdr 02:00:00:00:00:04 dev v4
route add default via 2001:db8:f::2
route add default via 198.51.100.2
"""


@lru_cache(maxsize=65536)
def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def mapped(address: str) -> str:
    """The address as maps hold it."""
    return address if ":" in address else f"::ffff:{address}"


def plain(address: str) -> str:
    """An address of a map as people write it."""
    value = ip_address(address)
    if isinstance(value, IPv6Address) and value.ipv4_mapped:
        return str(value.ipv4_mapped)
    return str(value)


def embed(address: str, prefix: str = PREFIX) -> str:
    """RFC 6052 with a prefix of 96 bits."""
    return str(IPv6Address(int(IPv6Address(prefix)) | int(IPv4Address(address))))


def ones(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo(src: bytes, dst: bytes, length: int, proto: int) -> bytes:
    if len(src) == 4:
        return src + dst + struct.pack("!HH", proto, length)
    return src + dst + struct.pack("!II", length, proto)


def frame(src: str, dst: str, proto: int, body: bytes, *, ttl: int = 64, extra: bytes = b"", ident: int = 0) -> bytes:
    """A frame around layer 4, which is whole; `extra` are IPv6 extension headers whose first one is a fragment header,
    or for IPv4 the two bytes of flags and offset."""
    a, b = packed(src), packed(dst)
    if len(a) == 16:
        first = 44 if extra else proto
        head = struct.pack("!IHBB", 6 << 28, len(extra) + len(body), first, ttl) + a + b
        return LINK + b"\x86\xdd" + head + extra + body
    flags = extra or b"\x40\0"
    head = struct.pack("!BBHH2sBBH", 0x45, 0, 20 + len(body), ident, flags, ttl, proto, 0) + a + b
    head = head[:10] + struct.pack("!H", ~ones(head) & 0xFFFF) + head[12:]
    return LINK + b"\x08\0" + head + body


def summed(src: str, dst: str, proto: int, body: bytes, at: int) -> bytes:
    """Layer 4 with the checksum at `at`, which holds zero."""
    value = ~ones(pseudo(packed(src), packed(dst), len(body), proto) + body) & 0xFFFF
    if proto == UDP and not value:
        value = 0xFFFF
    return body[:at] + struct.pack("!H", value) + body[at + 2 :]


def udp_body(src: str, sport: int, dst: str, dport: int, payload: bytes = b"sixgate!") -> bytes:
    body = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    return summed(src, dst, UDP, body, 6)


def udp(src: str, sport: int, dst: str, dport: int, payload: bytes = b"sixgate!", *, ttl: int = 64) -> bytes:
    return frame(src, dst, UDP, udp_body(src, sport, dst, dport, payload), ttl=ttl)


def tcp_body(src: str, sport: int, dst: str, dport: int, flags: int, *, payload: bytes = b"") -> bytes:
    body = struct.pack("!HHIIBBHHH", sport, dport, 1, 1, 0x50, flags, 8192, 0, 0) + payload
    return summed(src, dst, TCP, body, 16)


def tcp(src: str, sport: int, dst: str, dport: int, flags: int, *, payload: bytes = b"") -> bytes:
    return frame(src, dst, TCP, tcp_body(src, sport, dst, dport, flags, payload=payload))


def echo_body(src: str, dst: str, ident: int, *, reply: bool = False, payload: bytes = b"ping") -> bytes:
    six = ":" in src
    kind = (129 if reply else 128) if six else (0 if reply else 8)
    body = struct.pack("!BBHHH", kind, 0, 0, ident, 1) + payload
    if six:
        return summed(src, dst, ICMP6, body, 2)
    return body[:2] + struct.pack("!H", ~ones(body) & 0xFFFF) + body[4:]


def echo(src: str, dst: str, ident: int, *, reply: bool = False) -> bytes:
    return frame(src, dst, ICMP6 if ":" in src else ICMP, echo_body(src, dst, ident, reply=reply))


def icmp_error(src: str, dst: str, kind: int, code: int, inner: bytes, *, info: int = 0) -> bytes:
    """An ICMP error of `src` about `inner`, a frame whose link header is left out."""
    six = ":" in src
    body = struct.pack("!BBHI", kind, code, 0, info) + inner[14:]
    if six:
        return frame(src, dst, ICMP6, summed(src, dst, ICMP6, body, 2))
    body = body[:2] + struct.pack("!H", ~ones(body) & 0xFFFF) + body[4:]
    return frame(src, dst, ICMP, body)


@dataclass(frozen=True, slots=True)
class Out:
    """What a frame holds. ICMP: `sport` and `dport` are the identifier."""

    src: str
    dst: str
    proto: int
    sport: int
    dport: int
    ttl: int
    flags: int
    sound: bool  # every checksum is right
    body: bytes


def read(data: bytes) -> Out:
    """Reads a frame; later fragments have ports 0 and are sound where their header is."""
    layer3 = data[14:]
    if layer3[0] >> 4 == 6:
        src, dst = layer3[8:24], layer3[24:40]
        proto, ttl, body = layer3[6], layer3[7], layer3[40:]
        offset, sound = 0, True
        if proto == 44:
            proto, offset, body = body[0], struct.unpack("!H", body[2:4])[0], body[8:]
    else:
        src, dst = layer3[12:16], layer3[16:20]
        proto, ttl, body = layer3[9], layer3[8], layer3[20 : struct.unpack("!H", layer3[2:4])[0]]
        offset = struct.unpack("!H", layer3[6:8])[0] & 0x3FFF
        sound = ones(layer3[:20]) == 0xFFFF
    a, b = (socket.inet_ntop(socket.AF_INET6 if len(x) == 16 else socket.AF_INET, x) for x in (src, dst))
    if offset:
        return Out(a, b, proto, 0, 0, ttl, 0, sound, body)
    head = b"" if proto == ICMP else pseudo(src, dst, len(body), proto)
    sound = sound and ones(head + body) == 0xFFFF
    if proto in (ICMP, ICMP6):
        ident = struct.unpack("!H", body[4:6])[0]
        return Out(a, b, proto, ident, ident, ttl, body[0], sound, body)
    sport, dport = struct.unpack("!HH", body[:4])
    return Out(a, b, proto, sport, dport, ttl, body[13] if proto == TCP else 0, sound, body)


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of a packet: the reason (the last counter that moved), and the packet where it was sent."""

    reason: str
    out: Out

    @property
    def sent(self) -> bool:
        return self.reason.startswith("SG_OK")


@dataclass(frozen=True, slots=True)
class Pool:
    """Addresses in a row with a port range."""

    first: str = "192.0.2.1"
    n: int = 2
    ports: tuple[int, int] = (1024, 65535)


@dataclass(frozen=True, slots=True)
class Domain:
    """One object of the engine."""

    pools: tuple[Pool, ...] = (Pool(),)
    prefix: str | None = PREFIX
    flags: int = SgStFlag.SG_ST_LIVE | SgStFlag.SG_ST_PAIRED | SgStFlag.SG_ST_HAIRPIN
    lives: tuple[int, ...] = LIVES
    max_sessions: int = 4096
    half_size: int = 512
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Service:
    vip: str
    port: int
    proto: int
    obj: int
    backends: tuple[tuple[str, int], ...]


class NatLab:
    """One gateway: tc program, tables, devices; all of it gone with `close`."""

    def __init__(
        self,
        domains: tuple[Domain, ...] = (Domain(),),
        services: tuple[Service, ...] = (),
        *,
        ids: int = 4096,
        program: str = "sg_tc",
        features: int = SgFeature.SG_F_NAT | SgFeature.SG_F_STATEFUL,
        mtu4: int = 1500,
    ) -> None:
        self.stack = contextlib.ExitStack()
        self._enter_namespace()
        for line in DEVICES.strip().splitlines():
            family = ["-6"] if "2001:" in line and "route" in line else []
            subprocess.run(["ip", *family, *line.split()], check=True)
        subprocess.run(["ip", "link", "set", "v4", "mtu", str(mtu4)], check=True)
        for path in ("ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"):
            Path("/proc/sys/net", path).write_text("1")
        self.v6, self.v4 = socket.if_nametoindex("v6"), socket.if_nametoindex("v4")
        blocks = sum(pool.n * 3 * BLOCKS for domain in domains for pool in domain.pools)
        sizes = dict.fromkeys(("sg_st_fwd", "sg_st_map", "sg_st_find", "sg_st_sess", "sg_st_seen"), ids)
        sizes |= {"sg_st_sids": ids // 512, "sg_st_mids": ids // 512}
        sizes |= {"sg_st_port": blocks, "sg_st_resv": blocks}
        sizes |= {"sg_st_half": sum(domain.half_size for domain in domains)}
        config = {
            "features": features,
            "l2_len": 14,
            "slow_dev": 1,
            "icmp_rate": 1000,
            "icmp_burst": 1000,
            "st_ids": ids,
        }
        self.loaded = self.stack.enter_context(Loaded(program, constants={"sg_cfg": config}, sizes=sizes))
        self.domains = domains
        self.bases: dict[str, int] = {}
        self.stateful = 0
        self.sent: list[tuple[int, int]] = []  # seconds before and after each packet
        self._configure(domains, services)

    def _enter_namespace(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        if libc.unshare(CLONE_NEWNET):
            os.close(home)
            raise OSError(ctypes.get_errno(), "No network namespace can be made")

        def leave() -> None:
            libc.setns(home, CLONE_NEWNET)
            os.close(home)

        self.stack.callback(leave)

    def _configure(self, domains: tuple[Domain, ...], services: tuple[Service, ...]) -> None:
        base = half = pools = 0
        gateways = []
        for number, domain in enumerate(domains):
            first_pool = pools
            gw: dict[str, Any] = {"flags": SgGwFlag.SG_GW_STATEFUL, "low_mtu": 1280, "obj": number, "stat": number}
            if domain.prefix:
                gw |= {
                    "prefix": domain.prefix,
                    "mask": "ffff:ffff:ffff:ffff:ffff:ffff::",
                    "prefix_len": 96,
                    "flags": SgGwFlag.SG_GW_STATEFUL | SgGwFlag.SG_GW_PREFIX,
                }
                gateways.append(gw)
                self.stateful |= SgStHas.SG_ST_HAS_GW
            for pool in domain.pools:
                value: dict[str, Any] = {"addr": mapped(pool.first), "n_addrs": pool.n, "base": base, "first_block": 16}
                value |= {"blocks": BLOCKS, "first": pool.ports[0], "last": pool.ports[1]}
                self.put("sg_st_pool", {pools: value})
                flags = 2 if domain.flags & SgStFlag.SG_ST_STATIC else 0
                for i in range(pool.n):
                    address = str(ip_address(pool.first) + i)
                    own = {"base": base, "first_block": 16, "blocks": BLOCKS, "obj": number, "flags": flags}
                    self.put("sg_st_own", {mapped(address): own})
                    self.bases[address] = base
                    base += 3 * BLOCKS
                self.stateful |= SgStHas.SG_ST_HAS_OWN6 if ":" in pool.first else SgStHas.SG_ST_HAS_OWN4
                pools += 1
            value = {
                "gw": gw,
                "flags": domain.flags,
                "max_sessions": domain.max_sessions,
                "life": list(domain.lives),
            }
            value |= {"half_base": half, "half_size": domain.half_size, "client_len": 128}
            value |= {"n_addrs": sum(pool.n for pool in domain.pools), "pool": first_pool}
            value |= {"n_pools": len(domain.pools)} | dict(domain.fields)
            self.put("sg_st_obj", {number: value})
            half += domain.half_size
        for number, service in enumerate(services):
            vip = {"addr": mapped(service.vip), "port": service.port, "proto": service.proto}
            self.put("sg_st_vip", {Frozen(vip): number})
            self.put("sg_st_svcs", {number: {"vip": vip, "obj": service.obj}})
            backends = [{"addr": mapped(a), "port": p, "weight": 1} for a, p in service.backends]
            ring = [i % len(backends) for i in range(16381)] if backends else []
            self.loaded.swap("sg_st_table", number, {0: {"n": len(backends), "backend": backends, "ring": ring}})
            self.stateful |= SgStHas.SG_ST_HAS_SVC6 if ":" in service.vip else SgStHas.SG_ST_HAS_SVC4
        self.loaded.swap(
            "sg_nat", 0, {0: {"n_gw": len(gateways), "version": 1, "stateful": self.stateful, "gw": gateways}}
        )
        for key in (0, self.v6, self.v4):
            self.put("sg_dev", {key: {"addr6": "2001:db8:f::1", "addr4": "::ffff:198.51.100.1", "mtu": 1500}})

    # Use

    def send(self, packet: bytes, *, device: int | None = None, gso_size: int = 0) -> Seen:
        """Runs one packet; what is sent must be sound."""
        six = packet[12:14] == b"\x86\xdd"
        index = device or (self.v6 if six else self.v4)
        began = seconds()
        outcome = self.loaded.run(packet, SkbContext(ifindex=index, gso_size=gso_size))
        self.sent.append((began, seconds()))
        reasons = list(outcome.reasons)
        reason = reasons[-1] if reasons else ""
        out = read(outcome.data)
        assert out.sound or not reason.startswith("SG_OK"), f"{reason}: a checksum of {out} is wrong"
        return Seen(reason, out)

    def run(self, packet: bytes) -> tuple[int, bytes]:
        """The same without counters, for many packets: verdict and frame."""
        six = packet[12:14] == b"\x86\xdd"
        result = self.loaded.program.test_run(packet, context=SkbContext(ifindex=self.v6 if six else self.v4))
        return result.retval, result.data

    def map(self, name: str) -> Map:
        return self.loaded.maps[name]

    def record(self, name: str, key: Any) -> Any:
        """One entry of a map, decoded."""
        return self.map(name).get(key)

    def put(self, name: str, entries: Mapping[Any, Any]) -> None:
        """Writes entries into a map."""
        self.loaded.fill(name, entries)

    def records(self, name: str) -> Iterator[tuple[Any, Any]]:
        return iter(self.map(name).items())

    def sessions(self) -> dict[int, dict[str, Any]]:
        """Sessions by index."""
        found: dict[int, dict[str, Any]] = {}
        for entry, ids in self.records("sg_st_sids"):
            for word, bits in enumerate(ids["used"]):
                for bit in range(64):
                    if bits >> bit & 1:
                        index = int(entry) * 512 + word * 64 + bit
                        found[index] = self.record("sg_st_sess", index)
        return found

    def mappings(self) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        for entry, ids in self.records("sg_st_mids"):
            for word, bits in enumerate(ids["used"]):
                for bit in range(64):
                    if bits >> bit & 1:
                        index = int(entry) * 512 + word * 64 + bit
                        found[index] = self.record("sg_st_map", index)
        return found

    def session(self) -> dict[str, Any]:
        """The only session there is."""
        (one,) = self.sessions().values()
        return one

    def stat(self, obj: int = 0) -> dict[str, int]:
        """Counters of an object that are not zero; those of packets by name.packets."""
        total: dict[str, int] = {}
        for values in self.record("sg_st_stats", obj):
            for name, value in values.items():
                if isinstance(value, dict):
                    total[name] = total.get(name, 0) + value["packets"]
                else:
                    total[name] = total.get(name, 0) + value
        return {name: value for name, value in total.items() if value}

    def use(self, obj: int = 0) -> dict[str, int]:
        found: dict[str, int] = self.record("sg_st_use", obj)
        return found

    def age(self, seconds: int) -> None:
        """Lets time pass for every session and for every port that rests."""
        for index, session in self.sessions().items():
            self.map("sg_st_sess").set(index, session | {"expires": (session["expires"] - seconds) % 2**32})

    def rest(self, seconds: int) -> None:
        """Lets time pass for every port that rests."""
        blocks = self.map("sg_st_port")
        for key, raw in list(blocks.lookup_batch()):
            if any(raw[8:16]):  # the bits of those that rest; decoding every block would take a second
                index = int.from_bytes(key, "little")
                block = self.record("sg_st_port", index)
                rests, slots = block["resting"], block["slot"]
                aged = [(slot - seconds) % 2**32 if rests >> i & 1 else slot for i, slot in enumerate(slots)]
                blocks.set(index, block | {"slot": aged, "rest_next": 0})

    def bind(self, proto: int, out: str, out_port: int, client: str, port: int) -> None:
        """A static binding of object 0, and its port reserved."""
        inside = Frozen(addr=client, port=port, proto=proto, side=0, obj=0)
        outside = Frozen(addr=mapped(out), port=out_port, proto=proto, side=1, obj=0)
        self.put("sg_st_bind", {inside: {"addr": mapped(out), "port": out_port}})
        self.put("sg_st_bind", {outside: {"addr": client, "port": port, "obj": 0}})
        number = {TCP: 0, UDP: 1}.get(proto, 2)
        index = self.bases[out] + number * BLOCKS + out_port // 64 - 16
        known = self.record("sg_st_resv", index)
        self.put("sg_st_resv", {index: known | 1 << out_port % 64})

    def context(self, packet: bytes) -> SkbContext:
        return SkbContext(ifindex=self.v6 if packet[12:14] == b"\x86\xdd" else self.v4)

    def wait(self, done: Callable[[], bool]) -> None:
        """Waits until the sweeper has brought something about."""
        deadline = time.monotonic() + 30
        while not done():
            assert time.monotonic() < deadline, f"the sweeper did not do it: {self.record('sg_st_sweep', 0)}"
            time.sleep(0.005)

    def life_left(self) -> int:
        """Seconds that the only session has."""
        return int(self.session()["expires"]) - seconds()

    def lives(self, life: int, *, since_first: bool = False) -> bool:
        """Whether the only session got `life` seconds by the last packet, or by one of all packets. However slow the
        machine is: the engine's clock moved between both ends of sending it, and is rounded up."""
        (began, ended) = (self.sent[0][0] if since_first else self.sent[-1][0]), self.sent[-1][1]
        return began <= int(self.session()["expires"]) - life - 1 <= ended

    def close(self) -> None:
        self.stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def seconds() -> int:
    """The engine's clock."""
    return int(time.clock_gettime(CLOCK_MONOTONIC_COARSE))


class Frozen(dict[str, Any]):
    """A struct that is a key of a map."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(sorted(self.items())))


def clients(seed: int) -> Iterator[tuple[str, int]]:
    """Random addresses and ports of clients, without end."""
    source = random.Random(seed)
    while True:
        yield f"2001:db8:1::{source.getrandbits(16):x}:{source.getrandbits(16):x}", source.randrange(1024, 65536)


__all__ = ["Domain", "NatLab", "Pool", "Service", "reason_name"]
