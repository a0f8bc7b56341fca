"""Both ends of connections through an egress gateway, and which of them a gateway knows."""

from __future__ import annotations

import json
import socket
from collections import Counter
from dataclasses import dataclass, field

from e2e.lab.egress import SERVER, SERVER4, SERVER6, EgressLab

PORT = 9001


@dataclass
class Ends:
    """Both ends of connections, of both families."""

    lab: EgressLab
    mine: list[socket.socket] = field(default_factory=list)
    theirs: list[socket.socket] = field(default_factory=list)
    ports: list[int] = field(default_factory=list)

    def open(self, count: int) -> None:
        for server in (SERVER4, SERVER6):
            self._open(server, count // 2)

    def _open(self, server: str, count: int) -> None:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET

        def listen() -> socket.socket:
            made = socket.socket(family)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((server, PORT))
            made.listen(1024)
            return made

        with self.lab.lab.call(SERVER, listen) as listener:
            listener.settimeout(60)
            self.mine += self.lab.lab.call(
                "pay", lambda: [socket.create_connection((server, PORT), 60) for _ in range(count)]
            )
            accepted = [listener.accept() for _ in range(count)]
        self.theirs += [end for end, _ in accepted]
        by_port = {address[1]: end for end, address in accepted}
        self.ports += sorted(by_port)
        for end in (*self.mine, *self.theirs):
            end.settimeout(60)

    def talk(self) -> None:
        """Every connection carries a byte both ways; the server begins, which pods' nodes are not asked about."""
        for ends, others in ((self.theirs, self.mine), (self.mine, self.theirs)):
            for end in ends:
                end.sendall(b"x")
            for other in others:
                assert other.recv(1) == b"x"

    def close(self) -> None:
        for end in (*self.mine, *self.theirs):
            end.close()


def missing(ends: Ends, node: str) -> Counter[int]:
    """Ports of those connections that a gateway has not, established."""
    told = ends.lab.command(node, ["egress", "flows", "payments", "--limit", "10000", "-o", "json"]).stdout
    there = (row for row in json.loads(told) if (row["protocol"], row["state"]) == ("tcp", "EST"))
    return Counter(ends.ports) - Counter(row["pool_port"] for row in there)
