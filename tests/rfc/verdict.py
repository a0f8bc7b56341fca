"""What a translator may do with a packet, and how an observed behaviour is compared with it."""

from __future__ import annotations

from dataclasses import dataclass

from tests.rfc.wire import ICMP4, ones_sum


@dataclass(frozen=True, slots=True)
class Out:
    """A packet that leaves; bytes whose mask is zero are the translator's choice."""

    data: bytes
    mask: bytes

    @staticmethod
    def exact(data: bytes) -> Out:
        return Out(data, b"\xff" * len(data))

    @staticmethod
    def free(data: bytes, *ranges: tuple[int, int]) -> Out:
        """Exact but for the byte ranges [from, to)."""
        mask = bytearray(b"\xff" * len(data))
        for lo, hi in ranges:
            mask[lo:hi] = bytes(len(mask[lo:hi]))
        return Out(data, bytes(mask))

    def differs(self, other: bytes) -> list[str]:
        """Where `other` is not this packet; an empty list means that it is."""
        faults = [] if len(other) == len(self.data) else [f"{len(other)} bytes long, expected {len(self.data)}"]
        for at, (have, want, mask) in enumerate(zip(other, self.data, self.mask, strict=False)):
            if (have ^ want) & mask:
                faults.append(f"byte {at}: {have:02x}, expected {want:02x}")
        return faults[:12]


@dataclass(frozen=True, slots=True)
class Pass:
    """Left untouched for the kernel."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Dropped, and answered with `answer` where there is one; it may be left out where it is not `required`."""

    reason: str
    answer: Out | None = None
    required: bool = True


@dataclass(frozen=True, slots=True)
class Sent:
    """Translated: one packet, or the fragments of one in order."""

    packets: tuple[Out, ...]
    family: int  # of what leaves: 4 or 6


Verdict = Pass | Drop | Sent
# The first is what we chose; the others are equally right by the RFC's text (several reasons to drop, say).
Outcome = tuple[Verdict, ...]


@dataclass(frozen=True, slots=True)
class Observed:
    """What a real gateway did: the packets it sent, in order, and why (a name of enum sg_reason without `SG_`).

    `passed`: left untouched for the kernel. Where a packet is dropped and answered, `packets` holds the answer.
    `reason` is None where the gateway shows packets only.
    """

    packets: tuple[bytes, ...] = ()
    reason: str | None = None
    passed: bool = False


def _matches(verdict: Verdict, seen: Observed) -> list[str]:
    if isinstance(verdict, Pass):
        return [] if seen.passed and not seen.packets else ["expected to be left untouched"]
    if seen.passed:
        return ["was left untouched"]
    if isinstance(verdict, Drop):
        return _matches_drop(verdict, seen)
    if len(seen.packets) != len(verdict.packets):
        return [f"{len(seen.packets)} packets left ({seen.reason}), expected {len(verdict.packets)}"]
    faults: list[str] = []
    for number, (want, have) in enumerate(zip(verdict.packets, seen.packets, strict=True)):
        faults += [f"packet {number}: {fault}" for fault in want.differs(have)]
    return faults


def _matches_drop(want: Drop, seen: Observed) -> list[str]:
    if seen.reason is not None and seen.reason != want.reason:
        return [f"ended as {seen.reason}, expected {want.reason}"]
    if not seen.packets:
        return [] if want.answer is None or not want.required else [f"{want.reason} was not answered"]
    if want.answer is None or len(seen.packets) > 1:
        return [f"{want.reason} was answered with {len(seen.packets)} packets"]
    return want.answer.differs(seen.packets[0])


def compare(outcome: Outcome, seen: Observed) -> list[str]:
    """Empty where the behaviour is one of the right ones, else how it differs from the first (ours) and the others."""
    faults: list[str] = []
    for verdict in outcome:
        found = _matches(verdict, seen)
        if not found:
            return []
        faults.append(f"{type(verdict).__name__}: " + "; ".join(found))
    return faults


def free_ident4(data: bytes) -> Out:
    """An IPv4 packet whose identification, and so its header checksum, the translator chooses."""
    return Out.free(data, (4, 6), (10, 12))


def free_inner_ident4(out: Out) -> Out:
    """The same for the IPv4 header inside an ICMP error; their sum is constant, so the ICMP checksum stays exact."""
    assert out.data[9] == ICMP4
    assert ones_sum(out.data[20:]) == 0xFFFF
    mask = bytearray(out.mask)
    for lo, hi in ((32, 34), (38, 40)):
        mask[lo:hi] = bytes(len(mask[lo:hi]))
    return Out(out.data, bytes(mask))
