"""Live frames through a stateful gateway that has a million sessions, and one that has a thousand."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import harness, live
from bench.harness import Goal, Report, Row, progress
from bench.nat64_labs import prepare_packets
from bench.nat_labs import POOL, NatPath, gateway, start
from bench.nat_upgrade import FIRST_SOURCE
from e2e.lab import natlab
from e2e.lab.natlab import CLIENT6, SERVER4
from e2e.lab.packets import DPORT
from e2e.lab.run import LabError, LabRun

if TYPE_CHECKING:
    from e2e.lab.sixgate import Sixgate

MANY, FEW = 1_000_000, 1_000
PORTS = 1000  # of one client
FIRST_PORT = 10000
STRIDE = 7919  # an order that caches do not foresee
FILLINGS_S = (1.0, 6.0, 12.0, 24.0)  # each begins at the first session


@dataclass(frozen=True, slots=True)
class Crowd:
    """A lab whose gateway has `sessions` UDP sessions."""

    path: NatPath
    sixgate: Sixgate
    sessions: int

    def frame(self) -> bytes:
        lab, ports = self.path.lab, (FIRST_PORT, DPORT)
        return live.frame(lab, CLIENT6.role, FIRST_SOURCE, self.path.target, ports)

    def have(self) -> int:
        """Sessions in the gateway's table."""
        stats = json.loads(self.sixgate.command(["nat", "stats", "-o", "json"]).stdout)
        return int(stats["objects"][0]["use"]["sessions"])

    def fill(self) -> None:
        """Makes the sessions. LabError where they cannot be made."""
        for seconds in FILLINGS_S:
            live.transmit(self.path.lab, CLIENT6.role, self.frame(), seconds, flows=(self.sessions, PORTS, 1))
            if self.have() >= self.sessions:
                return
        raise LabError(f"The gateway has {self.have()} sessions instead of {self.sessions}.")

    def packets(self) -> float:
        """Packets per second that reach the server, thousands; every one is the next session's."""
        lab = self.path.lab
        before = self.path.arrived(SERVER4.role)
        flows = (self.sessions, PORTS, STRIDE)
        seconds = live.transmit(lab, CLIENT6.role, self.frame(), self.path.seconds, flows=flows).seconds
        arrived = self.path.arrived(SERVER4.role) - before
        if arrived < 1000:
            raise LabError(f"Only {arrived} packets arrived at {SERVER4.role}.")
        return arrived / seconds / 1e3


def _crowd(lab: LabRun, seconds: float, sessions: int) -> Crowd:
    natlab.build(lab, (CLIENT6, SERVER4))
    stateful = {"pools": [{"cidr": POOL}], "maxSessions": 1 << 20}
    sixgate = start(lab, gateway({"prefix": str(natlab.PREFIX), "stateful": stateful}))
    path = NatPath(lab, CLIENT6, SERVER4, natlab.embed(SERVER4.ip), seconds).learn()
    prepare_packets(lab, (CLIENT6.role, SERVER4.role))
    made = Crowd(path, sixgate, sessions)
    made.fill()
    return made


def measure(report: Report, rounds: int, seconds: float) -> None:
    """Two labs in turns; both tables have room for as many."""
    progress(f"live frames: {MANY:,} sessions against {FEW:,}")
    with ExitStack() as stack:
        few, many = (_crowd(stack.enter_context(LabRun()), seconds, count) for count in (FEW, MANY))
        got = harness.interleave({"few": few.packets, "many": many.packets}, rounds)
        left = many.have()
    text = f"pps with {MANY:,} sessions against {FEW:,} sessions, live frames"
    report.rows.append(Row(text, "kpps", got["many"], got["few"], Goal("ratio", ">=", 0.8)))
    text = "Live frames: sessions in the table after the last round"
    report.rows.append(Row(text, "sessions", (float(left),), goal=Goal("value", ">=", MANY)))
