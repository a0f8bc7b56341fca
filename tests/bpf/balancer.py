"""A balancer for tests and benchmarks: the shipped object with tables filled as a node fills them."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from sixgate.node.bpf import Map, SkbContext, XdpContext
from sixgate.node.bpf.layouts import SgFeature, SgLbFlag, SgLbKind
from tests.bpf.harness import Loaded, Outcome

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


@dataclass(slots=True)
class Balancer:
    """One loaded object, `sg_xdp`, `sg_tc` or `sg_slow`. `device` is where packets are said to come from."""

    name: str = "sg_xdp"
    device: str = "lo"
    features: int = SgFeature.SG_F_LB
    l2_len: int = 14
    sizes: dict[int, int] = field(default_factory=dict)
    loaded: Loaded = field(init=False)

    def __post_init__(self) -> None:
        config = {
            "features": self.features, "l2_len": self.l2_len, "slow_dev": SLOW, "icmp_rate": 1000, "icmp_burst": 100,
        }  # fmt: skip
        self.loaded = Loaded(self.name, constants={"sg_cfg": config})

    def backend(self, number: int, address: str, kind: SgLbKind = SgLbKind.SG_LB_IPIP, **fields: object) -> None:
        """Puts a backend at id `number`."""
        source = "192.0.2.100" if ip_address(address).version == 4 else "2001:db8:ff::"
        value = {"addr": address, "src": source, "src_mask": 0, "version": 1, "kind": int(kind), "ttl": 64} | fields
        self.loaded.fill("sg_lb_backend", [(number, value)])

    def table(self, number: int, table: Slots) -> None:
        """Swaps a table in."""
        entries = table.chunks()
        prototype = self.loaded.object.maps["sg_lb_table"].inner
        assert prototype is not None
        with Map.create(prototype, max_entries=len(entries)) as inner:
            inner.set_many(entries.items())
            self.loaded.maps["sg_lb_table"].set(number, inner)
        self.sizes[number] = len(table.slots)

    def vip(self, address: str, port: int = 0, proto: int = 0, table: int = 0, **fields: object) -> None:
        """Puts a VIP; without port and protocol the address itself, which answers ping."""
        flags = SgLbFlag.SG_LB_SERVICE if port else SgLbFlag.SG_LB_ECHO
        value = {"seed": 7, "table": table, "size": self.sizes.get(table, 1), "stat": 1, "flags": int(flags)} | fields
        self.loaded.fill("sg_lb_vip", [({"addr": address, "port": port, "proto": proto}, value)])

    def run(self, packet: bytes, *, repeat: int = 1, gso_size: int = 0, gso_segs: int = 0) -> Outcome:
        """One packet from `device`."""
        index = socket.if_nametoindex(self.device)
        if self.name == "sg_xdp":
            return self.loaded.run(packet, XdpContext(ingress_ifindex=index), repeat=repeat)
        return self.loaded.run(packet, SkbContext(ifindex=index, gso_size=gso_size, gso_segs=gso_segs), repeat=repeat)

    def stats(self, stat: int = 1) -> dict[str, int]:
        """Counters of a VIP, all CPUs."""
        found = self.loaded.maps["sg_lb_stats"].sum(stat)
        assert isinstance(found, dict)
        return {name: int(str(value)) for name, value in found.items()}

    def close(self) -> None:
        self.loaded.close()
