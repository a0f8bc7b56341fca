"""Random life of a small gateway beside a model in Python: no half pair, no port twice, nothing forgotten.

    python -m tests.bpf.test_nat_machine --steps 1000000

The model knows who may talk to whom, and not how the tables are built; the tables are compared with each other.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from sixgate.node.bpf.layouts import SgStState
from tests.bpf.nat_lab import ACK, FIN, LIVES, RST, SYN, TCP, UDP, Domain, NatLab, Out, Pool, embed, tcp, udp

CLIENTS = tuple(f"2001:db8:1::{i}" for i in range(1, 5))
REMOTES = tuple(f"203.0.113.{i}" for i in range(1, 4))
CLIENT_PORTS = (1000, 2000, 2001, 3000)
REMOTE_PORTS = (80, 81)
POOL = Pool(n=2, ports=(1024, 1035))
MAX_SESSIONS, HALF = 20, 6
UDP_LIFE, EST_LIFE, TRANS_LIFE, REST = LIVES[0], LIVES[2], LIVES[3], LIVES[6]
STEPS = 40

Client = tuple[int, str, int]  # protocol, address, port
Far = tuple[str, int]


@dataclass
class Session:
    state: str
    until: int


@dataclass
class Mapping:
    out: Far
    sessions: dict[Far, Session] = field(default_factory=dict)


class Gateway:
    """What RFC 6146 makes of the packets; time is a number that tests move."""

    def __init__(self) -> None:
        self.now = 0
        self.mappings: dict[Client, Mapping] = {}

    def alive(self, client: Client, far: Far) -> Session | None:
        mapping = self.mappings.get(client)
        session = mapping.sessions.get(far) if mapping else None
        if session is None or self.now < session.until:
            return session
        if session.state == "EST" and self.now < session.until + TRANS_LIFE:
            session.state, session.until = "TRANS", session.until + TRANS_LIFE
            return session
        self.end(client, far)
        return None

    def end(self, client: Client, far: Far) -> None:
        mapping = self.mappings[client]
        del mapping.sessions[far]
        if not mapping.sessions:
            del self.mappings[client]

    def move(self, session: Session, flags: int, outbound: bool) -> None:
        """Rows of RFC 6146 3.5.2.2 and lifetimes; `flags` 0 is UDP."""
        if session.state == "UDP":
            if outbound:
                session.until = self.now + UDP_LIFE + 1
            return
        state, renew = after(session.state, flags, outbound)
        session.state = state
        if renew:
            life = EST_LIFE if state in ("EST", "IN_FIN", "OUT_FIN") else TRANS_LIFE
            session.until = self.now + life + 1


def after(state: str, flags: int, outbound: bool) -> tuple[str, bool]:
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


class NatMachine(RuleBasedStateMachine):
    """Clients send, remotes answer, time passes; after every step the tables agree with the model."""

    @initialize()
    def start(self) -> None:
        self.lab = shared()
        clear(self.lab)
        self.model = Gateway()

    @rule(
        proto=st.sampled_from([TCP, UDP]),
        client=st.sampled_from(CLIENTS),
        port=st.sampled_from(CLIENT_PORTS),
        far=st.tuples(st.sampled_from(REMOTES), st.sampled_from(REMOTE_PORTS)),
        flags=st.sampled_from([SYN, ACK, SYN | ACK, FIN | ACK, RST]),
    )
    def outbound(self, proto: int, client: str, port: int, far: tuple[str, int], flags: int) -> None:
        flags = flags if proto == TCP else 0
        remote, dport = far
        key = (proto, client, port)
        session = self.model.alive(key, far)
        mapping = self.model.mappings.get(key)
        sent = embed(remote)
        packet = tcp(client, port, sent, dport, flags) if proto == TCP else udp(client, port, sent, dport)
        seen = self.lab.send(packet)
        if session is None and proto == TCP and (flags & (SYN | RST)) != SYN:
            assert seen.reason == ("SG_OK_64" if mapping else "SG_DROP_ST_NO_STATE")
        elif session is None and seen.reason == "SG_SLOW_ICMP":
            # A refusal needs a reason: the object is full, or so is every port of the client's address.
            assert self.lab.use()["sessions"] - self.lab.use()["half"] >= MAX_SESSIONS or mapping is None
        else:
            assert seen.reason == "SG_OK_64"
            if mapping is None:
                mapping = self.model.mappings[key] = Mapping((seen.out.src, seen.out.sport))
            if session is None:
                state = "OUT_INIT" if proto == TCP else "UDP"
                life = TRANS_LIFE if proto == TCP else UDP_LIFE
                mapping.sessions[far] = Session(state, self.model.now + life + 1)
            else:
                self.model.move(session, flags, True)
        if seen.reason == "SG_OK_64":
            assert mapping is not None
            self.check(seen.out, mapping.out, (remote, dport))
        self.forget_half_open()

    @rule(
        proto=st.sampled_from([TCP, UDP]),
        remote=st.sampled_from(REMOTES),
        sport=st.sampled_from(REMOTE_PORTS),
        pick=st.integers(0, 1000),
        flags=st.sampled_from([SYN, ACK, SYN | ACK, FIN | ACK, RST]),
    )
    def inbound(self, proto: int, remote: str, sport: int, pick: int, flags: int) -> None:
        flags = flags if proto == TCP else 0
        known = [key for key in sorted(self.model.mappings) if key[0] == proto]
        key = known[pick % len(known)] if known and pick % 8 else None
        to = self.model.mappings[key].out if key else ("192.0.2.1", 1024 + pick % 12)
        key = next((each for each in known if self.model.mappings[each].out == to), None)
        if key is None and flags == SYN:
            return  # what is remembered of it may choose a later port
        far = (remote, sport)
        session = self.model.alive(key, far) if key else None
        packet = tcp(remote, sport, *to, flags) if proto == TCP else udp(remote, sport, *to)
        seen = self.lab.send(packet)
        mapping = self.model.mappings.get(key) if key else None
        if key is None or mapping is None:
            assert seen.reason in ("SG_DROP_ST_NO_STATE", "SG_DROP_ST_SYN")
            clear_syn(self.lab)
            return
        opens = session is None and proto == TCP and (flags & (SYN | RST)) == SYN
        if opens and seen.reason == "SG_SLOW_ICMP":
            assert self.lab.use()["sessions"] - self.lab.use()["half"] >= MAX_SESSIONS
            return
        assert seen.reason == "SG_OK_46"
        self.check(seen.out, (embed(remote), sport), (key[1], key[2]))
        if opens:
            mapping.sessions[far] = Session("IN_INIT", self.model.now + TRANS_LIFE + 1)
        elif session:
            self.model.move(session, flags, False)
        self.forget_half_open()

    @rule(seconds=st.sampled_from([90, 250, 320, 7500]))
    def time_passes(self, seconds: int) -> None:
        """Whatever is over by now may be swept at any moment: model and tables wait until it is."""
        self.model.now += seconds
        self.lab.age(seconds)
        for key, mapping in list(self.model.mappings.items()):
            for far in list(mapping.sessions):
                self.model.alive(key, far)
        self.lab.wait(lambda: len(self.lab.sessions()) == self.count())
        self.lab.rest(REST + 1)  # nobody else touches ports now

    @invariant()
    def tables_agree(self) -> None:
        if hasattr(self, "lab"):
            self.compare()

    def count(self) -> int:
        return sum(len(mapping.sessions) for mapping in self.model.mappings.values())

    def check(self, out: Out, source: Far, destination: Far) -> None:
        assert (out.src, out.sport, out.dst, out.dport) == (*source, *destination)

    def forget_half_open(self) -> None:
        """A ring of half-open sessions may give one up for another; the model follows the tables in this alone."""
        rows = self.lab.mappings()
        real = {
            ((s["proto"], rows[s["map"]]["in"], rows[s["map"]]["in_port"]), (s["remote"], s["rport"]))
            for s in self.lab.sessions().values()
        }
        for key, mapping in list(self.model.mappings.items()):
            for far, session in list(mapping.sessions.items()):
                if session.state in ("OUT_INIT", "IN_INIT") and (key, far) not in real:
                    assert self.lab.use()["half"] >= 1
                    self.model.end(key, far)

    def compare(self) -> None:
        lab = self.lab
        mappings, sessions = lab.mappings(), lab.sessions()
        assert consistent(lab, mappings, sessions) == []
        real: dict[Client, dict[Far, str]] = {}
        for session in sessions.values():
            row = mappings[session["map"]]
            key = (row["proto"], row["in"], row["in_port"])
            state = SgStState(session["state"]).name.removeprefix("SG_ST_")
            real.setdefault(key, {})[session["remote"], session["rport"]] = state
            assert self.model.mappings[key].out == (row["out"], row["out_port"])
        wanted = {
            key: {far: session.state for far, session in mapping.sessions.items()}
            for key, mapping in self.model.mappings.items()
        }
        assert real == wanted


def consistent(lab: NatLab, mappings: dict[int, dict[str, Any]], sessions: dict[int, dict[str, Any]]) -> list[str]:
    """Half pairs and duplicates, in words."""
    wrong: list[str] = []
    forward = {(k["addr"], k["port"], k["proto"]): v for k, v in lab.records("sg_st_fwd")}
    found = {(k["map"], k["addr"], k["port"]): v for k, v in lab.records("sg_st_find")}
    if {(m["in"], m["in_port"], m["proto"]): i for i, m in mappings.items()} != forward:
        wrong.append("mappings and sg_st_fwd differ")
    if {(s["map"], s["remote"], s["rport"]): i for i, s in sessions.items()} != found:
        wrong.append("sessions and sg_st_find differ")
    ports = {(m["out"], m["out_port"], m["proto"]) for m in mappings.values()}
    if len(ports) != len(mappings):
        wrong.append("a port belongs to two mappings")
    refs = dict.fromkeys(mappings, 0)
    for session in sessions.values():
        refs[session["map"]] = refs.get(session["map"], 0) + 1
    if {i: m["refs"] for i, m in mappings.items()} != refs:
        wrong.append("references and sessions differ")
    used = {}
    for index in range(2 * 3):  # the pool's ports are in the first block of each address and protocol
        block = lab.record("sg_st_port", index * 1008)
        for bit in range(64):
            if block["used"] >> bit & 1 and not block["resting"] >> bit & 1:
                used[index, bit] = block["slot"][bit] - 1
    owners = {
        i: (lab.bases[m["out"]] // 1008 + (0 if m["proto"] == TCP else 1), m["out_port"] % 64)
        for i, m in mappings.items()
    }
    if {place: i for i, place in owners.items()} != used:
        wrong.append("ports and mappings differ")
    use = lab.use()
    half = sum(1 for s in sessions.values() if s["half"])
    if (use["sessions"], use["maps"], use["half"]) != (len(sessions), len(mappings), half):
        wrong.append(f"counters say {use}")
    if half > HALF or len(sessions) > MAX_SESSIONS + HALF:
        wrong.append("more than allowed")
    return wrong


_shared: list[NatLab] = []


def shared() -> NatLab:
    """One gateway for all runs: making one takes longer than a run."""
    if not _shared:
        _shared.append(NatLab((Domain(pools=(POOL,), max_sessions=MAX_SESSIONS, half_size=HALF),), ids=512))
    return _shared[0]


def clear(lab: NatLab) -> None:
    """Ends every session."""
    lab.age(100_000)
    lab.wait(lambda: not lab.sessions())
    lab.rest(REST + 1)
    clear_syn(lab)


def clear_syn(lab: NatLab) -> None:
    for key, _ in list(lab.records("sg_st_syn")):
        lab.map("sg_st_syn").delete(key)


def run(steps: int, seed: int) -> None:
    """Random walks of STEPS steps each, `steps` in all; AssertionError where tables and model part."""
    random.seed(seed)
    chosen = settings(
        max_examples=max(1, steps // STEPS),
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),  # the tables outlive a run, so that shorter ones prove nothing
    )
    try:
        run_state_machine_as_test(NatMachine, settings=chosen)
    finally:
        while _shared:
            _shared.pop().close()


def test_random_life_of_a_gateway() -> None:
    run(800, 0)


def main() -> int:
    parser = argparse.ArgumentParser(description="Random life of a stateful gateway beside a model.")
    parser.add_argument("--steps", type=int, default=1_000_000, help="steps in all")
    parser.add_argument("--seed", type=int, default=0, help="where random numbers begin")
    args = parser.parse_args()
    run(args.steps, args.seed)
    sys.stdout.write(f"{args.steps:,} steps: 0 half pairs, 0 duplicates, no difference from the model.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
