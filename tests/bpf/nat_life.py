"""What RFC 6146 and docs/design/stateful.md make of random packets: the model for tests/bpf/nat_walk.py.

The model knows who may talk to whom and which ports are free; it does not know tables. Time is a number that the walk
moves.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.bpf.frames import ACK, FIN, RST, SYN, TCP, UDP

# Jumps of time are whole thousands of seconds and every sum of lives that counts is 300 to 700 beside one: real
# seconds that pass meanwhile (up to 200) decide nothing.
UDP_LIFE, ICMP_LIFE, EST_LIFE, TRANS_LIFE, REST = 1400, 400, 7400, 2300, 400
LIVES = (UDP_LIFE, ICMP_LIFE, EST_LIFE, TRANS_LIFE, 66, 55, REST)
HALF_OPEN = ("OUT_INIT", "IN_INIT")
CLOSING = ("IN_FIN", "OUT_FIN", "BOTH_FIN", "TRANS")

Far = tuple[str, int]
Client = tuple[int, str, int, int]  # protocol, address, port, service or -1
Port = tuple[int, str, int]  # protocol, address, port of the pool


@dataclass(slots=True)
class Session:
    state: str
    until: int
    reset: bool = False


@dataclass(slots=True)
class Mapping:
    out: Far
    sessions: dict[Far, Session] = field(default_factory=dict)


class Life:
    """Mappings, sessions and resting ports; `ends` of a service are its backend."""

    def __init__(self, pool: tuple[Far, ...], limit: int) -> None:
        self.now = 0
        self.pool = pool
        self.limit = limit
        self.mappings: dict[Client, Mapping] = {}
        self.rests: dict[Port, int] = {}  # when it was released
        self.perhaps: dict[Port, int] = {}  # of which it cannot be told whether it rests

    # Time

    def alive(self, client: Client, far: Far) -> Session | None:
        """The session, if its life is not over; EST is followed by TRANS."""
        mapping = self.mappings.get(client)
        session = mapping.sessions.get(far) if mapping else None
        if session is None or self.now < session.until:
            return session
        if session.state == "EST" and self.now < session.until + TRANS_LIFE:
            session.state, session.until = "TRANS", session.until + TRANS_LIFE
            return session
        self.end(client, far)
        return None

    def end(self, client: Client, far: Far, *, sure: bool = True) -> None:
        mapping = self.mappings[client]
        session = mapping.sessions.pop(far)
        if mapping.sessions:
            return
        del self.mappings[client]
        port = (client[0], *mapping.out)
        if client[3] >= 0 or (sure and session.state in HALF_OPEN):
            return
        (self.rests if sure else self.perhaps)[port] = self.now

    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        for client, mapping in list(self.mappings.items()):
            # Several end in one sweep: the port rests if the last one was established, and the order is anybody's.
            halves = {session.state in HALF_OPEN for session in mapping.sessions.values()}
            for far, session in list(mapping.sessions.items()):
                over = session.until + (TRANS_LIFE if session.state == "EST" else 0)
                if self.now >= over:
                    self.end(client, far, sure=len(halves) == 1)
                else:
                    self.alive(client, far)
        for table in (self.rests, self.perhaps):
            for port in [port for port, released in table.items() if self.now - released > REST]:
                del table[port]

    # Packets

    def move(self, session: Session, flags: int, outbound: bool) -> None:
        """Rows of RFC 6146 3.5.2.2 and lifetimes; `flags` 0 is UDP."""
        if session.state == "UDP":
            if outbound:
                session.until = self.now + UDP_LIFE + 1
            return
        before = session.state
        session.state, renew = after(before, flags, outbound)
        if session.state in CLOSING or session.state != before:
            session.reset = bool(flags & RST)
        if renew:
            life = EST_LIFE if session.state in ("EST", "IN_FIN", "OUT_FIN") else TRANS_LIFE
            session.until = self.now + life + 1

    def open(self, client: Client, far: Far, out: Far, state: str) -> None:
        """A session from inside or outside; AssertionError where its port may not be had."""
        mapping = self.mappings.get(client)
        if mapping is None:
            self.claim((client[0], *out), client, far)
            mapping = self.mappings[client] = Mapping(out)
        assert mapping.out == out, f"{client} moved from {mapping.out} to {out}"
        life = UDP_LIFE if state == "UDP" else TRANS_LIFE
        mapping.sessions[far] = Session(state, self.now + life + 1)

    def claim(self, port: Port, client: Client, far: Far) -> None:
        assert port[1:] in self.pool, f"{port} is not of the pool"
        assert port not in self.rests, f"{port} has not rested"
        self.perhaps.pop(port, None)
        for other in self.owners(port):
            assert client[3] >= 0, f"{port} of {client} is {other}'s"
            assert other[3] >= 0, f"{port} of {client} is {other}'s"
            session = self.mappings[other].sessions.get(far)
            if session is not None:
                done = session.state == "BOTH_FIN" or session.reset
                assert done, f"{port} to {far} of {client} is {other}'s, who is {session.state}"
                self.end(other, far)

    def owners(self, port: Port) -> list[Client]:
        """Whose a port is: one mapping's, or those of services."""
        return [client for client, mapping in self.mappings.items() if (client[0], *mapping.out) == port]

    def may_refuse(self, client: Client) -> bool:
        """Whether a new session may be refused: the object is full, or an address has no port left."""
        if self.whole() >= self.limit:
            return True
        proto = client[0]
        left = {address for address, number in self.pool if not self.has((proto, address, number), client)}
        return client not in self.mappings and bool(left)

    def has(self, port: Port, client: Client) -> bool:
        """Whether all ports of this one's address are taken; those that services share are for services."""
        ports = [(port[0], *each) for each in self.pool if each[0] == port[1]]
        return not all(each in self.rests or each in self.perhaps or self.owners(each) for each in ports)

    def count(self) -> int:
        return sum(len(mapping.sessions) for mapping in self.mappings.values())

    def half(self) -> int:
        return sum(s.state in HALF_OPEN for mapping in self.mappings.values() for s in mapping.sessions.values())

    def whole(self) -> int:
        return self.count() - self.half()


def after(state: str, flags: int, outbound: bool) -> tuple[str, bool]:
    """The next state of a TCP session, and whether its life begins anew."""
    rst, syn = bool(flags & RST), bool(flags & SYN) and not flags & RST
    fin = bool(flags & FIN) and not rst and not syn
    match state:
        case "OUT_INIT" | "IN_INIT":
            same = (state == "OUT_INIT") == outbound
            return (state if same else "EST", True) if syn else (state, False)
        case "EST":
            if fin:
                return ("OUT_FIN" if outbound else "IN_FIN"), False
            return ("TRANS" if rst else "EST"), True
        case "OUT_FIN" | "IN_FIN":
            other = (state == "OUT_FIN") != outbound
            return ("BOTH_FIN" if fin and other else state), True
        case "BOTH_FIN":
            anew = syn and outbound and not flags & ACK
            return ("TRANS" if anew else state), anew
        case _:
            return (state, False) if rst else ("EST", True)


def opening(proto: int) -> str:
    """The state of a session that the client begins."""
    return "OUT_INIT" if proto == TCP else "UDP"


__all__ = ["CLOSING", "HALF_OPEN", "LIVES", "UDP", "Client", "Far", "Life", "Mapping", "Session", "after", "opening"]
