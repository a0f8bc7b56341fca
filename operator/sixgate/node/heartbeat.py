"""Heartbeats between gateways of egress, and what nodes with selected pods hear of them: one UDP socket.

Who is believed is decided by the source address: claims only from gateways. What a datagram means is said in
egress/wire.py; what follows from it in egress/owners.py.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.node.egress.wire import PORT, Kind, Message, Record, datagrams, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

log = logging.getLogger(__name__)

SUBSCRIBER_S = 5.0  # how long a node that has not said hello again is told of changes
MAX_SUBSCRIBERS = 8192
ASKED = 8  # nodes that are asked for a sign of life

Peer = tuple[str, int]


@dataclass(slots=True)
class Subscriber:
    """A node with pods: when it was heard last, and the pairs that it asked for."""

    at: float
    pairs: frozenset[int] = frozenset()


@dataclass(slots=True)
class Heartbeat:
    """The socket. `clock` is monotonic seconds. `on_claims` gets the name of a gateway and its records, `on_witness`
    the address of any node that showed a sign of life, `records` is what this node owns just now."""

    clock: Callable[[], float]
    on_claims: Callable[[str, tuple[Record, ...]], None]
    on_witness: Callable[[str], None]
    records: Callable[[], tuple[Record, ...]]
    members: Mapping[str, str] = field(default_factory=dict)  # name of a gateway by its address
    subscribers: dict[Peer, Subscriber] = field(default_factory=dict)
    sent: int = 0
    _socket: socket.socket | None = None
    _bound: str = ""
    _sequence: int = 0

    def bind(self, address: str) -> None:
        """Listens at this node's address as a gateway, or anywhere as a node that only asks (empty). Twice is fine;
        OSError where the address is not there (yet)."""
        if self._socket is not None and self._bound == address:
            return
        self.close()
        version = ipaddress.ip_address(address).version if address else 6
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if address else 0)
            made.bind((address, PORT) if address else ("::", 0))
        except OSError:
            made.close()
            raise
        self._socket, self._bound = made, address
        asyncio.get_running_loop().add_reader(made, self._readable)

    def close(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def beat(self, peers: Iterable[str]) -> None:
        """One heartbeat to every gateway that shares a pair."""
        for data in self._datagrams(Kind.HEARTBEAT, self.records()):
            for address in peers:
                self._send(data, (address, PORT))

    def hello(self, gateways: Iterable[str], pairs: Iterable[int]) -> None:
        """Tell gateways that pods here use these pairs."""
        for data in self._datagrams(Kind.HELLO, tuple(Record(pair) for pair in sorted(pairs))):
            for address in gateways:
                self._send(data, (address, PORT))

    def ask(self, peers: Iterable[str]) -> None:
        """A sign of life is wanted of gateways and of some of the nodes with pods."""
        (data,) = self._datagrams(Kind.ASK, ())
        for address in peers:
            self._send(data, (address, PORT))
        for peer in sorted(self.subscribers, key=lambda peer: -self.subscribers[peer].at)[:ASKED]:
            self._send(data, peer)

    def publish(self, pairs: Iterable[int]) -> None:
        """Tell everybody who uses one of these pairs what became of them."""
        changed, now = frozenset(pairs), self.clock()
        mine = {record.pair: record for record in self.records()}
        for peer, subscriber in list(self.subscribers.items()):
            if now - subscriber.at > SUBSCRIBER_S:
                del self.subscribers[peer]
                continue
            records = tuple(mine[pair] for pair in sorted(changed & subscriber.pairs) if pair in mine)
            if records:
                for data in self._datagrams(Kind.HEARTBEAT, records):
                    self._send(data, peer)

    def _datagrams(self, kind: Kind, records: tuple[Record, ...]) -> list[bytes]:
        self._sequence += 1
        return datagrams(kind, self._sequence, records)

    def _send(self, data: bytes, peer: Peer) -> None:
        if self._socket is None:
            return
        host = peer[0]
        if self._socket.family == socket.AF_INET6 and ":" not in host:
            host = f"::ffff:{host}"
        try:
            self._socket.sendto(data, (host, peer[1]))
            self.sent += 1
        except OSError as error:
            log.debug("A heartbeat for %s was not sent: %s", host, error)

    def _readable(self) -> None:
        for _ in range(64):  # then others get their turn
            assert self._socket is not None
            try:
                data, source = self._socket.recvfrom(2048)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("The heartbeat socket: %s", error)  # an ICMP error for something sent before
                continue
            message = unpack(data)
            if message is not None:
                self._handle(message, (source[0].removeprefix("::ffff:"), source[1]))

    def _handle(self, message: Message, peer: Peer) -> None:
        name = self.members.get(peer[0])
        match message.kind:
            case Kind.HEARTBEAT if name is not None:
                self.on_claims(name, message.records)
            case Kind.HELLO:
                self._greet(message, peer)
            case Kind.ASK if name is not None:
                for data in self._datagrams(Kind.HERE, ()):
                    self._send(data, peer)
            case Kind.HERE if name is not None or peer in self.subscribers:
                self.on_witness(peer[0])
            case _:
                log.debug("A datagram of kind %d from %s, which is no gateway, is dropped.", message.kind, peer[0])

    def _greet(self, message: Message, peer: Peer) -> None:
        """The answer has at most as many records as the question, so nothing is amplified."""
        asked = frozenset(record.pair for record in message.records)
        if peer not in self.subscribers and len(self.subscribers) >= MAX_SUBSCRIBERS:
            return
        self.subscribers[peer] = Subscriber(self.clock(), asked)
        self.on_witness(peer[0])
        mine = tuple(record for record in self.records() if record.pair in asked)
        if mine:
            for data in self._datagrams(Kind.HEARTBEAT, mine):
                self._send(data, peer)
