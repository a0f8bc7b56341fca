"""The engine of stateful NAT under test: the shipped tc program in a network namespace, packets by BPF_PROG_TEST_RUN.

    with NatLab() as lab:                                  # one NAT64 object, pool 192.0.2.1 and 192.0.2.2
        seen = lab.send(udp("2001:db8::1", 4000, "64:ff9b::c633:6401", 53))
        assert seen.reason == "SG_OK_64" and seen.out.src == "192.0.2.1"

Checksums of what comes out are verified here, every time.
"""

from __future__ import annotations

import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any

from e2e.lab.netns import new_netns
from sixgate.node.bpf import Map, SkbContext
from sixgate.node.bpf.layouts import SgFeature, SgFlushField, SgGwFlag, SgStFlag, SgStHas
from tests.bpf.frames import PREFIX, TCP, UDP, Out, read
from tests.bpf.harness import Loaded
from tests.kept import Kept

CLOCK_MONOTONIC_COARSE = 6  # linux/time.h
BLOCKS = 1008  # of ports 1024 to 65535
LIVES = (300, 60, 7440, 240, 66, 55, 120)  # of a SYN and of a fragment: no loaded machine shall outlive them
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


def mapped(address: str) -> str:
    """The address as maps hold it."""
    return address if ":" in address else f"::ffff:{address}"


def plain(address: str) -> str:
    """An address of a map as people write it."""
    value = ip_address(address)
    if isinstance(value, IPv6Address) and value.ipv4_mapped:
        return str(value.ipv4_mapped)
    return str(value)


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


class NatLab(Kept):
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
        super().__init__()
        self.stack.enter_context(new_netns())
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

    def _used(self, bitmap: str, name: str) -> dict[int, dict[str, Any]]:
        """Entries of array `name` whose bit in `bitmap` is set, by index."""
        words = (
            (int(entry) * 8 + at, bits) for entry, ids in self.records(bitmap) for at, bits in enumerate(ids["used"])
        )
        indexes = (word * 64 + bit for word, bits in words for bit in range(64) if bits >> bit & 1)
        return {index: self.record(name, index) for index in indexes}

    def sessions(self) -> dict[int, dict[str, Any]]:
        """Sessions by index."""
        return self._used("sg_st_sids", "sg_st_sess")

    def mappings(self) -> dict[int, dict[str, Any]]:
        """Mappings by index."""
        return self._used("sg_st_mids", "sg_st_map")

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
        """Lets time pass for every session."""
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
        for index in (base + i * BLOCKS for base in self.bases.values() for i in range(3)):
            block = self.record("sg_st_port", index)
            if block["empty"]:  # what was known of this second is over
                blocks.set(index, block | {"empty": 0})

    def flush(self, client: str | None = None, remote: str | None = None) -> None:
        """Ends the sessions of a client, with a remote, or of both; returns when the sweeper has done it."""
        order: dict[str, Any] = {"seq": int(self.record("sg_st_sweep", 0)["flushed"]) + 1, "fields": 0}
        for name, address, bit in (
            ("client", client, SgFlushField.SG_FLUSH_CLIENT),
            ("remote", remote, SgFlushField.SG_FLUSH_REMOTE),
        ):
            if address is not None:
                order |= {name: mapped(address), f"{name}_mask": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}
                order["fields"] |= int(bit)
        self.map("sg_st_flush").set(0, order)
        self.wait(lambda: self.record("sg_st_sweep", 0)["flushed"] == order["seq"])

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
