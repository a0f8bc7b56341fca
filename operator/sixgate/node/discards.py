"""Discarded packets as lines of a log, and how many lines there may be. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sixgate.errors import BpfError
from sixgate.node.bpf.codec import decode
from sixgate.node.bpf.layouts import SG_EVENT, SgReason
from sixgate.node.verdicts import meaning_of

if TYPE_CHECKING:
    from collections.abc import Callable

_PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 33: "DCCP", 58: "ICMPv6", 132: "SCTP"}
_OLD_S = 2.0  # below this, the line's own time says when it was


@dataclass(frozen=True, slots=True)
class Discard:
    """One packet that the data plane dropped, as it came in. `reason` is the name in C; ports are 0 where there are
    none or nobody looked; `age_s` is from the drop to the reading."""

    reason: str
    saddr: str
    daddr: str
    sport: int
    dport: int
    protocol: str
    device: str
    age_s: float

    def __str__(self) -> str:
        meaning = f" ({words})" if (words := meaning_of(self.reason)) else ""
        ports = bool(self.sport or self.dport)
        source = f"{self.saddr} port {self.sport}" if ports else self.saddr
        target = f"{self.daddr} port {self.dport}" if ports else self.daddr
        when = f", {self.age_s:.0f} s ago" if self.age_s >= _OLD_S else ""
        return (
            f"Packet dropped: {self.reason}{meaning}: {self.protocol} from {source} to {target} on {self.device}{when}."
        )

    def fields(self) -> dict[str, str | int]:
        """What the sentence says, one by one, for a log that is read by machines."""
        return {
            "reason": self.reason,
            "saddr": self.saddr,
            "daddr": self.daddr,
            "sport": self.sport,
            "dport": self.dport,
            "protocol": self.protocol,
            "device": self.device,
        }


def read_discard(record: bytes, device_name: Callable[[int], str], now_s: float) -> Discard:
    """One struct sg_event; `now_s` is of CLOCK_MONOTONIC. BpfError where it has another size than this version's."""
    if len(record) != SG_EVENT.size:
        raise BpfError(
            f"The data plane tells of a packet in {len(record)} bytes, where this version reads {SG_EVENT.size}; "
            "packets are only counted until it is replaced."
        )
    values = decode(SG_EVENT, record)
    assert isinstance(values, dict)  # of a Record
    number = {name: value for name, value in values.items() if isinstance(value, int)}
    code, proto = number["reason"], number["proto"]
    return Discard(
        reason=SgReason(code).name if code in SgReason._value2member_map_ else f"reason {code}",
        saddr=str(values["saddr"]),
        daddr=str(values["daddr"]),
        sport=number["sport"],
        dport=number["dport"],
        protocol=_PROTOCOLS.get(proto, f"protocol {proto}"),
        device=device_name(number["ifindex"]),
        age_s=max(0.0, now_s - number["time_ns"] / 1e9),
    )


class LineBound:
    """At most `lines` lines in `period_s` seconds, counted from the first of them; the rest is counted."""

    def __init__(self, lines: int = 20, period_s: float = 10.0) -> None:
        self.lines, self.period_s = lines, period_s
        self._start_s = float("-inf")
        self._used = 0
        self._withheld = 0

    def admit(self, now_s: float) -> bool:
        """Whether one more line may be written now; where not, it is counted as withheld."""
        if self.rest_s(now_s) == 0:
            self._start_s, self._used = now_s, 0
        if self._used >= self.lines:
            self._withheld += 1
            return False
        self._used += 1
        return True

    def rest_s(self, now_s: float) -> float:
        """Seconds until the period is over; 0 where it is, or none has begun."""
        return max(0.0, self._start_s + self.period_s - now_s)

    def take_withheld(self) -> int:
        """How many were withheld since this was asked last."""
        withheld, self._withheld = self._withheld, 0
        return withheld
