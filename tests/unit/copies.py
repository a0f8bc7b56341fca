"""What tests of copied connections share: doubles of the engine's tables, of who owns what, and of a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from sixgate.node.bpf import layouts
from sixgate.node.egress.copytables import Copied, Put
from sixgate.node.egress.copywire import RECORD
from sixgate.node.egress.standby import Standby

PAIR = 7
_OBJ = layouts.SG_EG_SESSION.by_name["obj"].offset


def record(obj: int, fill: int = 1) -> bytes:
    """A session of one object, all other bytes alike."""
    data = bytearray((fill,)) * RECORD
    data[_OBJ : _OBJ + 2] = obj.to_bytes(2, "little")
    return bytes(data)


@dataclass
class Clock:
    """Stands still."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def port_of(server: asyncio.Server | None) -> int:
    assert server is not None
    return int(server.sockets[0].getsockname()[1])


@dataclass
class Tables:
    """The engine, as far as it is asked."""

    words: int = 64
    is_open: bool = True
    objects_of: dict[int, dict[int, int]] = field(default_factory=lambda: {PAIR: {4: 1, 6: 2}})
    changed: list[bytes] = field(default_factory=list)
    everything: bytes = b""
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    walked: list[tuple[int, int, bool]] = field(default_factory=list)
    sleeping: dict[int, bool] = field(default_factory=dict)
    configured: dict[int, Copied] = field(default_factory=dict)
    outdated: dict[int, int] = field(default_factory=dict)
    refuse: int = 0

    def objects(self, pair: int) -> dict[int, int]:
        return self.objects_of.get(pair, {})

    def sessions(self, objects: Any) -> int:
        del objects
        return 42

    def asleep(self, obj: int, asleep: bool) -> None:
        self.sleeping[obj] = asleep

    def configure(self, objects: Mapping[int, Copied]) -> None:
        self.configured.update(objects)

    def collect(self, at: int, end: int, *, whole: bool, slack: int) -> tuple[bytes, int]:
        assert slack == 60
        self.walked.append((at, end, whole))
        if whole:
            return (self.everything if at == 0 else b""), end
        return (self.changed.pop(0) if self.changed else b""), end

    def put(self, records: bytes) -> Put:
        self.calls.append(("put", records))
        return Put(len(records) // RECORD - self.refuse, full=self.refuse)

    def outdate(self, objects: Mapping[int, int]) -> None:
        self.outdated.update(objects)

    def prune(self, at: int, end: int) -> int:
        del end
        self.calls.append(("prune", at, {n for n, since in self.outdated.items() if since}))
        return 1


@dataclass
class Owning:
    """Who owns what."""

    own: dict[int, int] = field(default_factory=dict)
    best: str = "g2"
    holders: dict[int, str] = field(default_factory=dict)
    epochs: dict[int, int] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)

    def alive(self, node: str, timeout_s: float, now: float) -> bool:
        del timeout_s, now
        return node not in self.dead

    def mine(self) -> dict[int, int]:
        return self.own

    def epoch(self, pair: int) -> int:
        return self.own.get(pair, self.epochs.get(pair, 0))

    def holder(self, pair: int) -> str:
        return self.holders.get(pair, "")

    def preferred(self, pair: int, now: float, without: str = "") -> str:
        assert without == "g1"
        return self.best


def known(*gateways: str) -> Any:
    pair = SimpleNamespace(gateways=gateways, policy=SimpleNamespace(transport="VXLAN", device="eth0"))
    addresses = {name: f"192.0.2.{name[1:]}" for name in ("g1", "g2", "g3")}
    return SimpleNamespace(node="g1", pairs={PAIR: pair}, gateways=addresses, own_address="192.0.2.1")


def standby_of(*gateways: str) -> Standby:
    return Standby(Tables(), known(*gateways), Owning(), lambda _: False, Clock())  # type: ignore[arg-type]
