"""Packets put on a wire and read from it byte by byte, with hosts at its ends that never answer by themselves.

n6 ── to6  gw  to4 ── n4        n6 and n4 have no addresses; the gateway holds permanent neighbour entries for them
"""

from __future__ import annotations

import select
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from e2e.lab.packets import internet_checksum
from e2e.lab.stamp import hardware_address
from e2e.lab.topology import GATEWAY, build_gateway

if TYPE_CHECKING:
    from collections.abc import Sequence

    from e2e.lab.run import LabRun

ENDS = ("n6", "n4")
ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
PACKET_OUTGOING = 4
ICMPV6 = 58
NEIGHBOUR_DISCOVERY = frozenset((133, 134, 135, 136, 137, 143))


@dataclass(frozen=True, slots=True)
class Plan:
    """Addresses around the gateway; `neighbours` are who lives behind each end, `routes` the gateway's own."""

    gateway6: str
    gateway4: str
    neighbours6: tuple[str, ...]
    neighbours4: tuple[str, ...]
    routes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Expected:
    """A packet that must appear at `end`; only bits set in `mask` count, and an IPv4 header checksum must hold."""

    end: str
    packet: bytes
    mask: bytes


class Wire:
    """Two ends around a gateway; make inside an open LabRun."""

    def __init__(self, lab: LabRun, plan: Plan) -> None:
        self._lab = lab
        build_gateway(lab)
        for end, near in zip(ENDS, ("to6", "to4"), strict=True):
            lab.add_netns(end)
            lab.sysctl(end, "net/ipv6/conf/default/disable_ipv6", "1")
            lab.add_veth(end, "up", GATEWAY, near)
        self._headers = {
            end: bytes.fromhex((self._mac(GATEWAY, near) + self._mac(end, "up")).replace(":", ""))
            for end, near in zip(ENDS, ("to6", "to4"), strict=True)
        }
        dev6, dev4 = lab.device("to6"), lab.device("to4")
        lab.ip(
            GATEWAY,
            f"addr add {plan.gateway6} dev {dev6} nodad",
            f"addr add {plan.gateway4} dev {dev4}",
            *(f"neigh replace {a} lladdr {self._mac('n6', 'up')} dev {dev6} nud permanent" for a in plan.neighbours6),
            *(f"neigh replace {a} lladdr {self._mac('n4', 'up')} dev {dev4} nud permanent" for a in plan.neighbours4),
            *(f"route add {route}" for route in plan.routes),
        )
        self._sockets = {end: lab.call(end, lambda: _open_socket(lab.device("up"))) for end in ENDS}

    def _mac(self, role: str, device: str) -> str:
        return hardware_address(self._lab, role, device)

    def set_mtu(self, end: str, gateway_mtu: int, end_mtu: int) -> None:
        """Sets the MTU of both sides of one wire."""
        near = self._lab.device("to6" if end == "n6" else "to4")
        self._lab.ip(GATEWAY, f"link set {near} mtu {gateway_mtu}")
        self._lab.ip(end, f"link set {self._lab.device('up')} mtu {end_mtu}")

    def drain(self) -> None:
        """Forgets everything that has arrived so far."""
        for sock in self._sockets.values():
            while select.select([sock], [], [], 0)[0]:
                sock.recv(65536)

    def send(self, end: str, packet: bytes) -> None:
        """Puts one IP packet on the wire at `end`, addressed to the gateway's device."""
        proto = ETH_P_IPV6 if packet[0] >> 4 == 6 else ETH_P_IP
        self._sockets[end].send(self._headers[end] + proto.to_bytes(2, "big") + packet)

    def exchange(
        self, sends: Sequence[tuple[str, bytes]], expects: Sequence[Expected], *, wait_s: float = 3.0
    ) -> tuple[str, ...]:
        """Sends packets and compares what comes with what must come; returns differences, none where all is right."""
        self.drain()
        for end, packet in sends:
            self.send(end, packet)
            if len(sends) > 1:
                time.sleep(0.02)
        missing, differences, others = list(expects), [], []
        deadline = time.monotonic() + wait_s
        while missing and (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select(list(self._sockets.values()), [], [], left)
            for end, sock in self._sockets.items():
                arrived = _read_packet(sock) if sock in ready else None
                if arrived is None:
                    continue
                index = _match(missing, end, arrived)
                if index is None:
                    others.append(f"{end} {arrived[:48].hex()}")
                else:
                    differences += compare(missing.pop(index), arrived)
        if missing:
            saw = f", saw {'; '.join(others[:2])}" if others else ", saw nothing"
            differences.append(f"{len(missing)} of {len(expects)} packets missing{saw}")
        return tuple(differences)


def _open_socket(device: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.bind((device, 0))
    return sock


def _read_packet(sock: socket.socket) -> bytes | None:
    """One IP packet that arrived, without link header and padding; None for anything else."""
    frame, address = sock.recvfrom(65536)
    if address[2] == PACKET_OUTGOING or frame[12:14] not in (b"\x08\x00", b"\x86\xdd"):
        return None
    packet = frame[14:]
    if packet[0] >> 4 == 4:
        return packet[: int.from_bytes(packet[2:4], "big")]
    if packet[6] == ICMPV6 and packet[40] in NEIGHBOUR_DISCOVERY:
        return None
    return packet[: 40 + int.from_bytes(packet[4:6], "big")]


def _addresses(packet: bytes) -> bytes:
    return packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]


def _match(missing: list[Expected], end: str, packet: bytes) -> int | None:
    """Which expected packet this one is: an exact one first, else the first between the same addresses."""
    alike = [
        index
        for index, expected in enumerate(missing)
        if expected.end == end
        and expected.packet[0] >> 4 == packet[0] >> 4
        and _addresses(expected.packet) == _addresses(packet)
    ]
    return next((index for index in alike if not compare(missing[index], packet)), alike[0] if alike else None)


def compare(expected: Expected, packet: bytes) -> list[str]:
    """Differences in words, with byte offsets; empty where the packet is as expected."""
    found = []
    if len(packet) != len(expected.packet):
        found.append(f"length {len(packet)} instead of {len(expected.packet)}")
    wrong = [
        i
        for i, (want, mask, got) in enumerate(zip(expected.packet, expected.mask, packet, strict=False))
        if (want ^ got) & mask
    ]
    for first, last in list(_runs(wrong))[:6]:
        want, got = expected.packet[first : last + 1], packet[first : last + 1]
        found.append(f"bytes {first}-{last} {got[:8].hex()} instead of {want[:8].hex()}")
    if packet[0] >> 4 == 4 and internet_checksum(packet[: (packet[0] & 15) * 4]):
        found.append("IPv4 header checksum wrong")
    return found


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Neighbouring numbers as (first, last)."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
