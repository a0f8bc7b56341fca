"""Packets as the data plane meets them, live: before and after each program, with the verdict and its reason.

The programs look at a packet only while somebody asks (bpf_src/lib/observe.h); what is asked for ends by itself two
seconds after the process that asked was killed. One may ask at a time: a ring buffer has one position of reading.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast

from sixgate.errors import BpfError, SixgateError
from sixgate.node import names, packets
from sixgate.node.bpf import layouts
from sixgate.node.bpf.codec import decode
from sixgate.node.bpf.layouts import SG_OBS_EVENT, SgObsHook, SgReason
from sixgate.node.bpf.map import Map
from sixgate.node.bpf.ringbuf import RingBuffer
from sixgate.node.verdicts import meaning_of, verdict_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

    from sixgate.node.packets import Seen
    from sixgate.node.verdicts import Verdict

Network: TypeAlias = IPv4Network | IPv6Network

LEASE_S = 2.0  # how long the programs look after the last renewal
RENEW_S = 0.5
_TICKS_PER_S = 10  # the budget counts in tenths of a second
_CONF, _RING, _CPU = "sg_obs_conf", "sg_obs_ring", "sg_obs_cpu"
HOOKS = {
    SgObsHook.SG_AT_XDP: "xdp",
    SgObsHook.SG_AT_TC: "tc",
    SgObsHook.SG_AT_SLOW: "slow",
    SgObsHook.SG_AT_POD: "pod",
    SgObsHook.SG_AT_TUN: "tunnel",
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What to look at: one packet of `sample`, at most `per_s` events per second and CPU, of a network, with some
    verdicts (empty: all)."""

    sample: int = 1
    per_s: int = 1000
    network: Network | None = None
    verdicts: frozenset[str] = frozenset()

    def encoded(self, until_ns: int) -> dict[str, Any]:
        """Fields of struct sg_obs_conf."""
        bits = [0, 0, 0, 0]
        for reason in SgReason:
            # SG_REASON_MAX stands for a packet that nothing was counted of, which was left alone.
            verdict = "pass" if reason.name == "SG_REASON_MAX" else verdict_of(reason.name)[0]
            if not self.verdicts or verdict in self.verdicts:
                bits[reason >> 6] |= 1 << (reason & 63)
        budget = max(1, self.per_s // _TICKS_PER_S)
        asked: dict[str, Any] = {"sample": self.sample, "budget": budget, "until_ns": until_ns, "reasons": bits}
        if self.network is not None:
            asked |= {"by_addr": 1, "addr": self.network.network_address, "mask": _mask(self.network)}
        return asked


def _mask(network: Network) -> IPv6Address:
    """Of the 128 bits that addresses are compared by: an IPv4 one is ::ffff:a.b.c.d."""
    length = network.prefixlen + (96 if network.version == 4 else 0)
    return IPv6Address(((1 << 128) - 1) ^ ((1 << (128 - length)) - 1))


@dataclass(frozen=True, slots=True)
class FlowEvent:
    """One packet at one program. `time_s` is of the wall clock; sizes are of whole frames, `frames` their first 128
    bytes before and after."""

    time_s: float
    device: str
    hook: str
    reason: str
    before: Seen
    after: Seen
    size: int
    size_after: int
    frames: tuple[bytes, bytes]
    object: str = ""

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.reason)[0] if self.reason else "pass"

    @property
    def changed(self) -> bool:
        return self.before != self.after

    def __str__(self) -> str:
        when = time.strftime("%H:%M:%S", time.localtime(self.time_s)) + f".{int(self.time_s * 1000) % 1000:03d}"
        becomes = f" ⇒ {self.after}" if self.changed else ""
        why = verdict_of(self.reason)[1] if self.reason else "not_ours"
        of = f" [{self.object}]" if self.object else ""
        words = f" ({meaning_of(self.reason)})" if self.verdict in {"drop", "slow"} else ""
        return f"{when} {self.hook:<4} {self.device} {self.verdict} {why}{of} {self.before}{becomes}{words}"

    def document(self) -> dict[str, Any]:
        """For machines."""
        return {
            "time": self.time_s,
            "device": self.device,
            "hook": self.hook,
            "verdict": self.verdict,
            "reason": self.reason,
            "meaning": meaning_of(self.reason),
            "object": self.object,
            "bytes": self.size,
            "before": _ends(self.before),
            "after": _ends(self.after) if self.changed else None,
        }


def _ends(seen: Seen) -> dict[str, Any]:
    return {
        "protocol": seen.protocol,
        "source": str(seen.source.address),
        "sourcePort": seen.source.port,
        "destination": str(seen.target.address),
        "destinationPort": seen.target.port,
        "hopLimit": seen.ttl,
        "icmp": list(seen.icmp) if seen.icmp else None,
        "fragment": seen.fragment,
    }


def read_event(record: bytes, now_s: tuple[float, float], device_name: Callable[[int], str]) -> FlowEvent | None:
    """One struct sg_obs_event; None of a packet that is not IP. `now_s` is (wall clock, CLOCK_MONOTONIC).

    BpfError where it has another size than this version's.
    """
    if len(record) != SG_OBS_EVENT.size:
        raise BpfError(
            f"The data plane tells of a packet in {len(record)} bytes, where this version reads {SG_OBS_EVENT.size}; "
            "`sixgate observe` must be of the version of the programs."
        )
    values = cast("dict[str, Any]", decode(SG_OBS_EVENT, record))
    frames = bytes(values["before"])[: values["before_len"]], bytes(values["after"])[: values["after_len"]]
    before = packets.read(frames[0])
    if before is None:
        return None
    code = values["reason"]
    wall, mono = now_s
    return FlowEvent(
        time_s=wall - mono + values["time_ns"] / 1e9,
        device=device_name(values["ifindex"]),
        hook=HOOKS.get(values["hook"], str(values["hook"])),
        reason=SgReason(code).name if code < SgReason.SG_REASON_MAX else "",
        before=before,
        after=packets.read(frames[1]) or before,
        size=values["before_size"],
        size_after=values["after_size"],
        frames=frames,
    )


@dataclass(slots=True)
class Observer:
    """Asks the programs of one node for events while it is open. BpfError where nothing is pinned below `bpffs`,
    SixgateError where somebody else is looking."""

    bpffs: Path
    wish: Wish
    _conf: Map = field(init=False)
    _ring: RingBuffer = field(init=False)
    _renewed: float = field(default=0.0, init=False)
    _before: tuple[int, int] = field(default=(0, 0), init=False)

    def __enter__(self) -> Self:
        self._conf = Map.from_pin(self.bpffs / names.map_path(_CONF), spec=layouts.MAPS[_CONF])
        try:
            found = cast("dict[str, Any]", self._conf.get(0))
            if found["sample"] and found["until_ns"] > time.monotonic_ns():
                raise SixgateError(
                    "Packets are told to one process at a time, and another `sixgate observe` is looking at this node."
                )
            with Map.from_pin(self.bpffs / names.map_path(_RING), spec=layouts.MAPS[_RING]) as table:
                self._ring = RingBuffer(table)
        except BaseException:
            self._conf.close()
            raise
        while self._ring.consume():
            """What a former process has left."""
        self._before = self._held_back()
        self.renew()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._conf.set(0, {"sample": 0})
        self._ring.close()
        self._conf.close()

    def fileno(self) -> int:
        """Readable while events wait."""
        return self._ring.fileno()

    def renew(self) -> None:
        """To be called at least every LEASE_S; `events` does."""
        now = time.monotonic()
        if now - self._renewed >= RENEW_S:
            self._renewed = now
            self._conf.set(0, self.wish.encoded(time.monotonic_ns() + int(LEASE_S * 1e9)))

    def events(self) -> Iterator[FlowEvent]:
        """Those that wait, oldest first. Does not block."""
        self.renew()
        now_s = time.time(), time.monotonic()
        for record in self._ring.consume():
            event = read_event(record, now_s, device_name)
            if event is not None:
                yield event

    def missed(self) -> tuple[int, int]:
        """How many packets were not told since this began: for the bound of events, for want of room in the ring."""
        withheld, lost = self._held_back()
        return withheld - self._before[0], lost - self._before[1]

    def _held_back(self) -> tuple[int, int]:
        with Map.from_pin(self.bpffs / names.map_path(_CPU), spec=layouts.MAPS[_CPU]) as table:
            cpus = cast("list[dict[str, int]]", table.get(0))
        return sum(cpu["withheld"] for cpu in cpus), sum(cpu["lost"] for cpu in cpus)


def device_name(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return f"device {ifindex}"
