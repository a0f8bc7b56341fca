"""A balancer for tests and benchmarks: the shipped object with tables filled as a node fills them."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from sixgate.node.bpf import Map, SkbContext, XdpContext
from sixgate.node.bpf.layouts import MAPS, SgFeature, SgLbFlag, SgLbKind
from tests.bpf.harness import Loaded, Outcome, reason_name

TCP, UDP = 6, 17
CHUNK = 256
SECOND = 1_000_000_000
SLOW = 1  # index of the loopback device: a redirect to it is seen, not followed


@dataclass(frozen=True, slots=True)
class Slots:
    """A table: (backend, former) of each slot, and its drain in CLOCK_MONOTONIC nanoseconds."""

    slots: Sequence[tuple[int, int]]
    drain_until_ns: int = 0
    learn_until_ns: int = 0
    epoch: int = 1

    def chunks(self) -> dict[object, object]:
        """Entries of the inner map."""
        head = {"drain_until_ns": self.drain_until_ns, "learn_until_ns": self.learn_until_ns, "epoch": self.epoch}
        return {
            number: head
            | {"slot": [{"backend": b, "former": f} for b, f in self.slots[number * CHUNK : (number + 1) * CHUNK]]}
            for number in range((len(self.slots) + CHUNK - 1) // CHUNK)
        }


class Tables:
    """The balancer's maps, filled as a node fills them."""

    def __init__(self, maps: Mapping[str, Map]) -> None:
        self.maps = maps
        self.sizes: dict[int, int] = {}
        self.generation = 0

    def backend(self, number: int, address: str, kind: SgLbKind = SgLbKind.SG_LB_IPIP, **fields: object) -> None:
        """Puts a backend at id `number`."""
        source = "192.0.2.100" if ip_address(address).version == 4 else "2001:db8:ff::"
        value = {"addr": address, "src": source, "src_mask": 0, "version": 1, "kind": int(kind), "ttl": 64} | fields
        self.maps["sg_lb_backend"].set(number, value)

    def table(self, number: int, table: Slots) -> None:
        """Swaps a table in."""
        entries = table.chunks()
        prototype = MAPS["sg_lb_table"].inner
        assert prototype is not None
        with Map.create(prototype, max_entries=len(entries)) as inner:
            inner.set_many(entries.items())
            self.maps["sg_lb_table"].set(number, inner)
        self.sizes[number] = len(table.slots)

    def vip(self, address: str, port: int = 0, proto: int = 0, table: int = 0, **fields: object) -> None:
        """Puts a VIP; without port and protocol the address itself, which answers ping."""
        self.vip_unsaid(address, port, proto, table, **fields)
        self.generation += 2
        self.maps["sg_lb_gen"].set(0, self.generation)

    def vip_unsaid(self, address: str, port: int = 0, proto: int = 0, table: int = 0, **fields: object) -> None:
        """As `vip`, but XDP's copies of VIPs still count."""
        flags = SgLbFlag.SG_LB_SERVICE if port else SgLbFlag.SG_LB_ECHO
        value = {"seed": 7, "table": table, "size": self.sizes.get(table, 1), "stat": 1, "flags": int(flags)} | fields
        self.maps["sg_lb_vip"].set({"addr": address, "port": port, "proto": proto}, value)

    def stats(self, stat: int = 1) -> dict[str, int]:
        """Counters of a VIP, all CPUs."""
        return self._sums("sg_lb_stats", stat)

    def backend_stats(self, number: int) -> dict[str, int]:
        """Counters of a backend, all CPUs."""
        return self._sums("sg_lb_cpu", number)

    def drops(self, stat: int = 1) -> dict[str, int]:
        """Packets of a VIP that were dropped, by reason."""
        found: dict[str, int] = {}
        for key, count in self.maps["sg_lb_drops"].sums():
            assert isinstance(key, dict)
            assert isinstance(count, int)
            if key["stat"] == stat:
                found[reason_name(int(str(key["reason"])))] = count
        return found

    def _sums(self, name: str, key: int) -> dict[str, int]:
        found = self.maps[name].sum(key)
        assert isinstance(found, dict)
        return {each: int(str(value)) for each, value in found.items() if not isinstance(value, list | bytes | str)}


class Balancer(Tables):
    """One loaded object, `sg_xdp`, `sg_tc` or `sg_slow`, for packets that are said to come from `device`."""

    def __init__(
        self,
        name: str = "sg_xdp",
        device: str = "lo",
        features: int = SgFeature.SG_F_LB,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self.name, self.device = name, device
        config = {
            "features": int(features), "l2_len": 14, "slow_dev": SLOW, "icmp_rate": 1000, "icmp_burst": 100,
        }  # fmt: skip
        self.loaded = Loaded(name, constants={"sg_cfg": config}, sizes=sizes)
        super().__init__(self.loaded.maps)

    def run(self, packet: bytes, *, repeat: int = 1) -> Outcome:
        """One packet from `device`."""
        index = socket.if_nametoindex(self.device)
        context = XdpContext(ingress_ifindex=index) if self.name == "sg_xdp" else SkbContext(ifindex=index)
        return self.loaded.run(packet, context, repeat=repeat)

    def send(self, packet: bytes) -> int:
        """One packet from `device`, without a look at the counters; the verdict."""
        return self.verdict_and_packet(packet)[0]

    def verdict_and_packet(self, packet: bytes) -> tuple[int, bytes]:
        """As `send`, with the packet afterwards."""
        index = socket.if_nametoindex(self.device)
        context = XdpContext(ingress_ifindex=index) if self.name == "sg_xdp" else SkbContext(ifindex=index)
        result = self.loaded.program.test_run(packet, context=context)
        return result.retval, result.data

    def close(self) -> None:
        self.loaded.close()
