"""Taps that show super-packets whole, and what must become of each of their segments.

with Tap(lab, GATEWAY, "client6") as before, Tap(lab, "server4", "up") as after:
    ...
    assert compare(node, before.packets(), after.packets()).faults == []
"""

from __future__ import annotations

import select
import socket
import struct
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from tests.rfc.model import translate
from tests.rfc.oracle import verify_packet
from tests.rfc.verdict import Drop, Out, Sent
from tests.rfc.wire import TCP, UDP, pseudo4, pseudo6

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.lab.run import LabRun
    from tests.rfc.config import Node

SOL_PACKET, PACKET_STATISTICS, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 6, 15, 23
SO_RCVBUFFORCE, ETH_P_ALL = 33, 3
VNET = struct.Struct("=BBHHHH")
NEEDS_CSUM, GSO_TCP6 = 1, 4  # VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV6
JUMBO = bytes((0xC2, 4))
NEIGHBOURS = frozenset(range(133, 138))


@dataclass(frozen=True, slots=True)
class Tapped:
    """One layer-3 packet as the kernel hands it on: offloads not done yet are described beside it."""

    data: bytes
    needs_csum: bool = False
    gso_type: int = 0
    gso_size: int = 0

    @property
    def protocol(self) -> int:
        return self.data[9] if self.data[0] >> 4 == 4 else self.data[6]


class Tap:
    """Everything that arrives at one device, super-packets whole; use as a context manager around the traffic.

    `sent`: everything that leaves it instead. What XDP took is not seen.
    """

    def __init__(self, lab: LabRun, role: str, device: str, *, sent: bool = False) -> None:
        self._sent = sent
        self._socket = lab.call(role, lambda: _tap_socket(lab.device(device), sent))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def packets(self, *, settle_s: float = 0.2) -> list[Tapped]:
        """What has arrived until nothing came for a moment, neighbour discovery left out; fails where some was lost."""
        found = list(self._read(settle_s))
        _, lost = struct.unpack("=II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        assert not lost, f"the tap had no room for {lost} packets"
        return found

    def _read(self, settle_s: float) -> Iterator[Tapped]:
        while select.select([self._socket], [], [], settle_s)[0]:
            frame, address = self._socket.recvfrom(1 << 20)
            if self._sent != (address[2] == socket.PACKET_OUTGOING):
                continue
            flags, gso_type, _, gso_size, _, _ = VNET.unpack_from(frame)
            frame = frame[VNET.size :]
            if frame[12:14] not in (b"\x08\x00", b"\x86\xdd"):
                continue
            data = frame[14:]
            if data[0] >> 4 == 6 and data[6] == 58 and data[40] in NEIGHBOURS:
                continue
            partial = bool(flags & NEEDS_CSUM)
            yield Tapped(data, partial, gso_type & 0x7F, gso_size)


def _tap_socket(device: str, sent: bool) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, not sent)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 28)
    sock.bind((device, ETH_P_ALL))
    return sock


def inject(lab: LabRun, role: str, device: str, link_header: bytes, packet: bytes) -> None:
    """Sends one TCP super-packet of 1400-byte segments over IPv6, as a stack would: the checksum is left to others."""
    start = len(link_header) + 40
    offer = VNET.pack(NEEDS_CSUM, GSO_TCP6, start + 20, 1400, start, 16)

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
            sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            sock.bind((lab.device(device), 0))
            sock.send(offer + link_header + packet)

    lab.call(role, send)


def ones_sum(data: bytes) -> int:
    """RFC 1071, in one step: 2^16 is 1 modulo 2^16 - 1."""
    padded = data + b"\0" * (len(data) % 2)
    total = int.from_bytes(padded, "big")
    return 0 if not total else (total - 1) % 0xFFFF + 1


def segments(tapped: Tapped) -> list[bytes]:
    """The ordinary packets that a super-packet stands for, checksums complete; a whole packet is its only one."""
    data = tapped.data
    version = data[0] >> 4
    head, body = (data[:20], data[20:]) if version == 4 else (data[:40], data[40:])
    if version == 6 and head[6] == 0 and body[2:4] == JUMBO:  # the local header of super-packets, never on a wire
        head, body = head[:6] + body[:1] + head[7:], body[8:]
    proto = head[9] if version == 4 else head[6]
    if not tapped.gso_size:
        return [_finish(head, body, 0, proto)] if tapped.needs_csum else [data]
    header = 8 if proto == UDP else (body[12] >> 4) * 4
    payload, size = body[header:], tapped.gso_size
    parts = [payload[at : at + size] for at in range(0, len(payload), size)]
    found = []
    for number, part in enumerate(parts):
        upper = bytearray(body[:header])
        if proto == TCP:
            sequence = (int.from_bytes(body[4:8], "big") + number * size) & 0xFFFFFFFF
            upper[4:8] = sequence.to_bytes(4, "big")
            upper[13] &= 0xFF if number == len(parts) - 1 else ~0x09 & 0xFF  # FIN and PSH on the last
            upper[13] &= 0xFF if number == 0 else 0x7F  # CWR on the first
        else:
            upper[4:6] = (8 + len(part)).to_bytes(2, "big")
        found.append(_finish(head, bytes(upper) + part, number, proto))
    return found


def _finish(head: bytes, body: bytes, number: int, proto: int) -> bytes:
    """Lengths, identification and checksums of segment `number`."""
    at = 16 if proto == TCP else 6
    if head[0] >> 4 == 4:
        ident = (int.from_bytes(head[4:6], "big") + number) & 0xFFFF
        head = head[:2] + struct.pack("!HH", 20 + len(body), ident) + head[6:10] + b"\0\0" + head[12:]
        head = head[:10] + (~ones_sum(head) & 0xFFFF).to_bytes(2, "big") + head[12:]
        pseudo = pseudo4(head[12:16], head[16:20], len(body), proto)
    else:
        head = head[:4] + struct.pack("!H", len(body)) + head[6:]
        pseudo = pseudo6(head[8:24], head[24:40], len(body), proto)
    body = body[:at] + b"\0\0" + body[at + 2 :]
    value = ~ones_sum(pseudo + body) & 0xFFFF
    if proto == UDP and not value:
        value = 0xFFFF
    return head + body[:at] + value.to_bytes(2, "big") + body[at + 2 :]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`faults` are sentences. `segments` had to leave, `cut` of them out of the `supers` that came in whole."""

    faults: list[str]
    segments: int
    cut: int
    supers: int
    answers: tuple[Out, ...]


def compare(node: Node, came: list[Tapped], left: list[Tapped]) -> Comparison:
    """Whether what left is what each segment of what came would have become alone.

    Free are IPv4 identifications, which the translator chooses. The last segment of a super-packet is shorter than the
    others, and may carry their DF where, alone, it would be small enough for none (RFC 7915 5.1).
    """
    wanted: Counter[bytes] = Counter()
    answers: list[Out] = []
    total = cut = 0
    for tapped in came:
        parts, first_df = segments(tapped), False
        for number, part in enumerate(parts):
            verdict = translate(node, part)[0]
            if not isinstance(verdict, Sent):
                if isinstance(verdict, Drop) and verdict.answer is not None:
                    answers.append(verdict.answer)
                continue
            first_df = verdict.packets[0].data[6] & 0x40 != 0 if number == 0 else first_df
            for out in verdict.packets:
                wanted[_key(out.data, as_df=first_df and number == len(parts) - 1)] += 1
                total += 1
                cut += bool(tapped.gso_size)
    faults = []
    got: Counter[bytes] = Counter()
    for tapped in left:
        if tapped.needs_csum or tapped.gso_size:
            faults.append("the tap behind the gateway shows a packet that is not finished; its offloads must be off")
        faults += [f"{fault}: {tapped.data[:60].hex()}" for fault in verify_packet(tapped.data)]
        key = _key(tapped.data, as_df=False)
        got[key if key in wanted else _key(tapped.data, as_df=True)] += 1
    missing, extra = wanted - got, got - wanted
    for word, packets in (("did not leave", missing), ("was not expected", extra)):
        faults += [f"{count} x {word}: {key[:72].hex()} ({len(key)} bytes)" for key, count in list(packets.items())[:5]]
    supers = sum(1 for tapped in came if tapped.gso_size)
    return Comparison(faults, total, cut, supers, tuple(answers))


def _key(packet: bytes, *, as_df: bool) -> bytes:
    """The packet without what the translator chooses. Header checksums are the oracle's business."""
    if packet[0] >> 4 == 6:
        return packet
    flags = packet[6:8] if not as_df else bytes((packet[6] | 0x40, packet[7]))
    return packet[:4] + b"\0\0" + flags + packet[8:10] + b"\0\0" + packet[12:]


def segmented(packets: list[Tapped]) -> list[Tapped]:
    """What the next device would make of super-packets: their segments, finished."""
    return [Tapped(part) for each in packets for part in segments(each)]


def of_protocol(packets: list[Tapped], protocol: int) -> list[Tapped]:
    """Packets and fragments of one upper protocol."""
    return [p for p in packets if protocol == (p.data[40] if p.protocol in (0, 44) else p.protocol)]
