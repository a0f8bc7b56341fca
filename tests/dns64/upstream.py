"""A scripted authoritative server: what it answers is written in a table, down to not answering at all."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SOA_TTL = 120
Answer = dns.message.Message


@dataclass(frozen=True)
class Name:
    """What one name answers. Records are "TTL TYPE DATA", with another owner as "OWNER TTL TYPE DATA"."""

    records: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rcodes: Mapping[str, int] = field(default_factory=dict)
    silent: tuple[str, ...] = ()
    soa: bool = True


def records(name: str, texts: tuple[str, ...]) -> list[dns.rrset.RRset]:
    """One set per owner and type, in order."""
    sets: dict[tuple[str, str], dns.rrset.RRset] = {}
    for text in texts:
        words = text.split()
        owner = name if words[0].isdigit() else words.pop(0)
        ttl, rtype, data = int(words[0]), words[1], " ".join(words[2:])
        made = dns.rrset.from_text(owner, ttl, "IN", rtype, data)
        key = (owner, rtype)
        if key in sets:
            sets[key].update(made)
        else:
            sets[key] = made
    return list(sets.values())


class Upstream:
    """Serves `names` over UDP and TCP; every question is in `asked` as (name, type)."""

    def __init__(self, address: str, names: Mapping[str, Name], more: Callable[[Answer], bool] | None = None) -> None:
        self.names = dict(names)
        self.more = more
        self.asked: list[tuple[str, str]] = []
        self._stop = threading.Event()
        self._udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._udp.bind((address, 53))
        self._udp.settimeout(0.1)
        self._tcp = socket.create_server((address, 53), family=socket.AF_INET6)
        self._tcp.settimeout(0.1)
        self._threads = [threading.Thread(target=run) for run in (self._serve_udp, self._serve_tcp)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._udp.close()
        self._tcp.close()

    def answer(self, wire: bytes) -> Answer | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name, rtype = question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, rtype))
        answer = dns.message.make_response(query, recursion_available=True)
        if self.more is not None and self.more(answer):
            return answer
        script = self.names.get(name.removesuffix("."))
        if script is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
            answer.authority.append(soa())
            return answer
        if rtype in script.silent:
            return None
        answer.set_rcode(dns.rcode.Rcode(script.rcodes.get(rtype, 0)))
        texts = script.records.get(rtype, script.records.get("ANY", ()))
        answer.answer = records(name, texts)
        if script.soa and not any(rrset.rdtype == question.rdtype for rrset in answer.answer):
            answer.authority.append(soa())
        return answer

    def _serve_udp(self) -> None:
        while not self._stop.is_set():
            try:
                wire, client = self._udp.recvfrom(4096)
            except TimeoutError:
                continue
            answer = self.answer(wire)
            if answer is not None:
                self._udp.sendto(_at_most(answer, 1232), client)

    def _serve_tcp(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._tcp.accept()
            except TimeoutError:
                continue
            with connection:
                connection.settimeout(2)
                size = int.from_bytes(connection.recv(2, socket.MSG_WAITALL))
                answer = self.answer(connection.recv(size, socket.MSG_WAITALL))
                if answer is not None:
                    wire = answer.to_wire(max_size=65535)
                    connection.sendall(len(wire).to_bytes(2) + wire)


def _at_most(answer: Answer, size: int) -> bytes:
    """The message, or as much of it as says that it is too long."""
    wire = answer.to_wire(max_size=65535)
    if len(wire) <= size:
        return wire
    answer.answer, answer.authority, answer.additional = [], [], []
    answer.flags |= dns.flags.TC
    return answer.to_wire()


def soa() -> dns.rrset.RRset:
    return dns.rrset.from_text(
        "example.", SOA_TTL, "IN", "SOA", f"ns.example. root.example. 1 3600 600 86400 {SOA_TTL}"
    )
