"""Forged replies and broken messages against the resolver of the DNS64 benchmark."""

from __future__ import annotations

import random
import socket
import struct
import sys
import threading
import time
from pathlib import Path

from bench.dns64_lab import SYNTHESISING, UPSTREAM, Client, Lab, question
from bench.dns64_upstream import mutated
from e2e.lab.run import LabError

FORGED = bytes.fromhex("20010db8066600000000000000000001")  # 2001:db8:666::1
VICTIMS = 200
BURST = 2000
REPLY_FLAGS = b"\x81\x80\0\1\0\1\0\0\0\0"
NEXT_HEADER_UDP = 17
DNS_PORT = 53
TRIES = 4
BETWEEN_ANSWERS = 100  # messages that fit a socket's buffer, however small they are


class Forger:
    """Sends replies that claim to come from the upstream, from a raw socket: address, port and question are right.

    It sees the sockets that the resolver waits at, which an attacker elsewhere would have to guess; the message id
    it has to guess, and the case of the letters in the name.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._chance = random.Random(23)
        self._source = socket.inet_pton(socket.AF_INET6, UPSTREAM)
        self.sent = 0

    def __enter__(self) -> Forger:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def burst(self, count: int) -> None:
        """`count` replies with an AAAA record of the attacker's, for names that are being asked for."""
        waiting = waiting_sockets()
        if not waiting:
            time.sleep(0.01)
            return
        for _ in range(count):
            name = f"s{self._chance.randrange(VICTIMS)}.victim.example"
            asked = question(name, self._chance.randrange(65536))
            record = b"\xc0\x0c\0\x1c\0\1\0\1\x51\x80\0\x10" + FORGED
            message = asked[:2] + REPLY_FLAGS + asked[12:] + record
            self._send(*self._chance.choice(waiting), message)
        self.sent += count

    def _send(self, address: bytes, port: int, message: bytes) -> None:
        length = 8 + len(message)
        ends = self._source + address
        pseudo = ends + struct.pack("!IHBB", length, 0, 0, NEXT_HEADER_UDP)
        head = struct.pack("!HHHH", DNS_PORT, port, length, 0)
        checksum = _checksum(pseudo + head + message)
        packet = struct.pack("!IHBB", 6 << 28, length, NEXT_HEADER_UDP, 64) + ends
        packet += head[:6] + struct.pack("!H", checksum or 0xFFFF) + message
        self._socket.sendto(packet, (socket.inet_ntop(socket.AF_INET6, address), 0))


def waiting_sockets() -> list[tuple[bytes, int]]:
    """Address and port of this namespace's UDP sockets that are connected to the upstream."""
    found = []
    for line in Path("/proc/thread-self/net/udp6").read_text().splitlines()[1:]:
        local, remote = (_socket_address(text) for text in line.split()[1:3])
        if remote == (socket.inet_pton(socket.AF_INET6, UPSTREAM), DNS_PORT):
            found.append(local)
    return found


def _socket_address(text: str) -> tuple[bytes, int]:
    """Address and port as the kernel writes them: four words, each in the machine's order of octets."""
    address, _, port = text.partition(":")
    words = (bytes.fromhex(address[place : place + 8]) for place in range(0, 32, 8))
    return b"".join(word[::-1] if sys.byteorder == "little" else word for word in words), int(port, 16)


def forge(count: int) -> tuple[int, int]:
    """Sends `count` forged replies while VICTIMS names wait for an answer; (sent, answers that held forged data)."""
    stop = threading.Event()
    accepted = 0

    def victims() -> None:
        nonlocal accepted
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
            client.connect((SYNTHESISING, DNS_PORT))
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
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client, Client(SYNTHESISING) as witness:
        client.connect((SYNTHESISING, DNS_PORT))
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
            if number % BETWEEN_ANSWERS == 0:
                _answered(witness)  # what came before it has been read: nothing is lost on the way
                _drain(client)
    time.sleep(3)
    after = lab.wait(SYNTHESISING, lambda status: status.state == "Ready")
    return count, after.restarts - before.restarts


def _answered(witness: Client) -> None:
    """Waits for an answer. A client that has very many questions open, as after `forge`, is not listened to at once."""
    for _ in range(TRIES):
        try:
            witness.ask("v1.fuzz.example")
        except OSError:
            continue
        return
    raise LabError("The resolver does not answer any more.")


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
