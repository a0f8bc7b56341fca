#!/usr/bin/env python3
"""Traffic of pods and of hosts outside; needs nothing but Python, so that it runs in any image that has it.

    traffic.py serve PORT                      TCP: says who the peer is, then echoes; UDP: counts numbered packets
    traffic.py ask HOST PORT                   one connection; prints what the server calls us
    traffic.py names HOST PORT --connections N    one after the other; prints what the servers call themselves
    traffic.py resolve NAME                    prints the first IPv6 address of a name
    traffic.py load HOST PORT --connections N --packets N --seconds N     prints one JSON object at the end
    traffic.py watch HOST PORT --seconds N     bursts over TCP, prints the largest packet that the device carried

`load` keeps every connection open and sends on each once a second; a connection that ends, or whose answer is not what
was sent, is a reset. UDP packets carry their number; the server says which have come. It ends after so many seconds, or
when its standard input does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import struct
import sys
import threading
import time
from contextlib import suppress

ASK, NAME, REPORT, SINK = b"ask\n", b"name\n", b"report\n", b"sink\n"
ETH_P_ALL = 3


def address(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    return (socket.AF_INET6 if ":" in host else socket.AF_INET), (host, port)


# -- server ------------------------------------------------------------------------------------------------------------


class Counter:
    """Numbered packets by the id of their sender."""

    def __init__(self) -> None:
        self.seen: dict[int, set[int]] = {}

    def serve(self, port: int, family: socket.AddressFamily) -> None:
        listener = socket.socket(family, socket.SOCK_DGRAM)
        listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUFFORCE if hasattr(socket, "SO_RCVBUFFORCE") else 33, 1 << 24
        )
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
        while True:
            sender, number = struct.unpack_from("!II", listener.recv(2048))
            self.seen.setdefault(sender, set()).add(number)


async def answer(counter: Counter, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    peer = writer.get_extra_info("peername")[0].removeprefix("::ffff:")
    try:
        while line := await reader.readline():
            if line == ASK:
                writer.write(f"{peer}\n".encode())
            elif line == NAME:
                writer.write(f"{socket.gethostname()}\n".encode())
            elif line == SINK:
                while await reader.read(1 << 20):
                    pass
            elif line.startswith(REPORT.strip()):
                sender = int(line.split()[1])
                writer.write(f"{len(counter.seen.get(sender, ()))}\n".encode())
            else:
                writer.write(line)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def serve(port: int) -> None:
    counter = Counter()
    families = [family for family in (socket.AF_INET, socket.AF_INET6) if usable(family)]
    for family in families:
        threading.Thread(target=counter.serve, args=(port, family), daemon=True).start()
    hosts = ["::" if family == socket.AF_INET6 else "0.0.0.0" for family in families]
    servers = [
        await asyncio.start_server(lambda r, w: answer(counter, r, w), host, port, backlog=4096) for host in hosts
    ]
    print("serving", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


def usable(family: socket.AddressFamily) -> bool:
    try:
        socket.socket(family, socket.SOCK_DGRAM).close()
    except OSError:
        return False
    return True


# -- client ------------------------------------------------------------------------------------------------------------


async def ask(host: str, port: int, line: bytes = ASK) -> str:
    reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 10)
    writer.write(line)
    told = await asyncio.wait_for(reader.readline(), 10)
    writer.close()
    return told.decode().strip()


def resolve(name: str) -> str:
    """The first IPv6 address of a name; empty where it has none."""
    try:
        return str(socket.getaddrinfo(name, None, socket.AF_INET6, socket.SOCK_STREAM)[0][4][0])
    except socket.gaierror:
        return ""


class Load:
    """Connections and packets for some time. `resets` are connections that did not live to the end."""

    def __init__(self, host: str, port: int, connections: int, packets: int, seconds: float) -> None:
        self.host, self.port, self.connections, self.packets, self.seconds = host, port, connections, packets, seconds
        self.resets, self.messages, self.sent, self.worst_ms = 0, 0, 0, 0.0
        self.why: dict[str, int] = {}
        self.opened = 0
        self.end = 0.0

    async def connection(self, number: int, gate: asyncio.Semaphore) -> None:
        try:
            async with gate:
                reader, writer = await asyncio.wait_for(asyncio.open_connection(self.host, self.port), 30)
            self.opened += 1
            await asyncio.sleep(number % 100 / 100)
            while time.monotonic() < self.end:
                line = f"{number} {self.messages}\n".encode()
                began = time.monotonic()
                writer.write(line)
                if await asyncio.wait_for(reader.readline(), 15) != line:
                    raise ConnectionError("another answer than was sent")
                self.messages += 1
                self.worst_ms = max(self.worst_ms, (time.monotonic() - began) * 1000)
                await asyncio.sleep(1)
            writer.close()
        except OSError as error:  # TimeoutError is one
            self.resets += 1
            self.why[type(error).__name__ + ": " + str(error)] = (
                self.why.get(type(error).__name__ + ": " + str(error), 0) + 1
            )

    def blast(self, sender: int) -> None:
        """Numbered packets in batches of a hundredth of a second; a late batch is made up for by the next."""
        family, target = address(self.host, self.port)
        out = socket.socket(family, socket.SOCK_DGRAM)
        out.connect(target)
        began = time.monotonic()
        while (now := time.monotonic()) < self.end:
            due = int((now - began) * self.packets)
            for number in range(self.sent, min(due, self.sent + self.packets // 20)):
                with suppress(OSError):  # an answer of the network to an earlier one; the server's count says the rest
                    out.send(struct.pack("!II", sender, number) + bytes(56))
                self.sent = number + 1
            time.sleep(0.005)

    def until_told(self) -> None:
        """Whoever started this closes its standard input when it has seen enough."""
        while sys.stdin.read(1):
            pass
        self.end = min(self.end, time.monotonic())

    async def run(self) -> dict[str, object]:
        sender = struct.unpack("!I", socket.inet_aton("127.0.0.1"))[0] ^ (time.monotonic_ns() & 0xFFFFFF)
        began = time.monotonic()
        self.end = began + self.seconds
        threading.Thread(target=self.until_told, daemon=True).start()
        blaster = threading.Thread(target=self.blast, args=(sender,))
        if self.packets:
            blaster.start()
        gate = asyncio.Semaphore(50)
        await asyncio.gather(*(self.connection(number, gate) for number in range(self.connections)))
        received = 0
        if self.packets:
            blaster.join()
            await asyncio.sleep(1)
            received = int(await ask(self.host, self.port, f"report {sender}\n".encode()))
        return {
            "connections": self.opened, "resets": self.resets, "messages": self.messages, "why": self.why,
            "worst_ms": round(self.worst_ms, 1), "sent": self.sent, "received": received,
            "lost": self.sent - received, "packets_per_s": round(self.sent / (self.end - began)),
            "seconds": round(self.end - began, 1),
        }  # fmt: skip


# -- sizes -------------------------------------------------------------------------------------------------------------


def watch(host: str, port: int, seconds: float) -> int:
    """Bytes of the largest packet that was sent on any device while a connection was busy. Needs CAP_NET_RAW."""
    largest = 0
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    tap.settimeout(0.1)
    sink = socket.create_connection((host, port), 10)
    sink.sendall(SINK)
    end = time.monotonic() + seconds
    threading.Thread(target=_fill, args=(sink, end), daemon=True).start()
    while time.monotonic() < end:
        try:
            largest = max(largest, tap.recv_into(bytearray(64), 64, socket.MSG_TRUNC))
        except TimeoutError:
            continue
    return largest


def _fill(sink: socket.socket, end: float) -> None:
    block = bytes(1 << 20)
    while time.monotonic() < end:
        sink.sendall(block)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["serve", "ask", "names", "resolve", "load", "watch"])
    parser.add_argument("words", nargs="+")
    parser.add_argument("--connections", type=int, default=0)
    parser.add_argument("--packets", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5)
    args = parser.parse_args()
    if args.what == "serve":
        asyncio.run(serve(int(args.words[0])))
    if args.what == "resolve":
        print(resolve(args.words[0]))
        return 0
    host, port = args.words[0], int(args.words[-1])
    if args.what == "ask":
        print(asyncio.run(ask(host, port)))
    elif args.what == "names":
        for _ in range(args.connections):
            print(asyncio.run(ask(host, port, NAME)))
    elif args.what == "load":
        load = Load(host, port, args.connections, args.packets, args.seconds)
        print(json.dumps(asyncio.run(load.run())))
    else:
        print(watch(host, port, args.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
