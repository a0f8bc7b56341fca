"""What becomes of connections when their gateway dies, and what it costs to copy them to another one all the time."""

from __future__ import annotations

import contextlib
import time
from functools import partial

from bench import harness
from bench.egress_cost import CONNECTIONS_S, connections, servers
from bench.egress_lab import Connections, baseline, ready_lab, sent_copies
from bench.harness import Goal, Report, Row, progress
from e2e.lab.egress import SERVER, SERVER4
from e2e.lab.run import LabError

MANY = 1000
OLD_S = 1.0  # a connection of this age is copied
WATCHED_S = 20.0  # in which everything is told once
NONE = Goal("value", "<=", 0)


def measure_takeover(report: Report, rounds: int) -> None:
    for transport in ("VXLAN", "Direct"):
        _survival(report, transport)
    _two_deaths(report)
    _wire(report)
    _rate(report, rounds)
    report.remarks.append(
        f"Takeover: every connection was established {OLD_S:g} s before the cable of its gateway was pulled, and "
        "carries bytes both ways, round after round; resets are those that pod and server have sent or received."
    )


def _survival(report: Report, transport: str) -> None:
    """The owner's cable is pulled while 1,000 connections talk."""
    with ready_lab(transport) as lab:
        progress(f"a gateway dies with {MANY} connections, {transport}")
        owner = lab.wait_copied()
        with Connections(lab, "pay", MANY) as talking:
            time.sleep(OLD_S)
            before = lab.resets("pay", SERVER)
            talking.start()
            time.sleep(0.5)
            lab.cut_off(owner)
            time.sleep(5)
            talking.stop()
            resets = lab.resets("pay", SERVER) - before
    alive = (float(MANY - talking.broken),)
    report.rows.append(
        Row(f"{transport}, gateway dies: connections that go on, of 1,000", "", alive, goal=Goal("value", ">=", MANY))
    )
    report.rows.append(Row(f"{transport}, gateway dies: resets", "", (float(resets),), goal=NONE))
    stall = (talking.longest_stall_s,)
    report.rows.append(Row(f"{transport}, gateway dies: longest stall", "s", stall, goal=Goal("value", "<=", 2)))


def _two_deaths(report: Report) -> None:
    """The owner's cable is pulled, and then that of the gateway which took over."""
    with ready_lab(gateways=("g1", "g2", "g3")) as lab:
        progress(f"two of three gateways die in a row with {MANY} connections")
        lab.wait_copied()
        with Connections(lab, "pay", MANY) as talking:
            time.sleep(OLD_S)
            before = lab.resets("pay", SERVER)
            talking.start()
            for _ in range(2):
                owner = lab.owner("n1")
                lab.wait(lambda owner=owner: lab.standby(owner), lambda owner=owner: lab.tail(owner))
                time.sleep(OLD_S)
                lab.cut_off(owner)
            time.sleep(5)
            talking.stop()
            resets = lab.resets("pay", SERVER) - before
    alive = (float(MANY - talking.broken),)
    text = "two of three gateways die in a row"
    report.rows.append(Row(f"{text}: connections that go on, of 1,000", "", alive, goal=Goal("value", ">=", MANY)))
    report.rows.append(Row(f"{text}: resets", "", (float(resets),), goal=NONE))


def _wire(report: Report) -> None:
    """Bytes from gateway to gateway, for connections that are born and for such that are there."""
    with ready_lab() as lab:
        owner = lab.wait_copied()
        progress("bytes of copies on the wire")
        sent = sent_copies(lab, owner)
        start = sent()
        with Connections(lab, "pay", MANY):
            time.sleep(OLD_S)
            born = sent()
            time.sleep(WATCHED_S)
            steady = sent()
    report.rows.append(Row("copying: bytes for a connection that is born", "B", ((born - start) / MANY,)))
    report.rows.append(
        Row("copying: bytes a second for one that is there", "B/s", ((steady - born) / MANY / WATCHED_S,))
    )


def _rate(report: Report, rounds: int) -> None:
    """New connections with a standby, without one, and by the kernel alone."""
    with contextlib.ExitStack() as stack:
        labs = {
            "copied": stack.enter_context(ready_lab()),
            "alone": stack.enter_context(ready_lab(gateways=("g1",))),
            "kernel": stack.enter_context(baseline()),
        }
        labs["copied"].wait_copied()
        for lab in labs.values():
            stack.enter_context(servers(lab))
        progress(f"connections with and without a standby: {rounds} rounds of {CONNECTIONS_S:g} s")
        for lab in labs.values():
            connections(lab, SERVER4, CONNECTIONS_S / 2)
        opened = {name: partial(connections, lab, SERVER4, CONNECTIONS_S) for name, lab in labs.items()}
        got = harness.interleave(opened, rounds)
        if not any(row["standby"] for row in labs["copied"].reports(labs["copied"].owner("n1"))):
            raise LabError("The standby is gone.")
    goal = Goal("ratio", ">=", 1.0)
    report.rows.append(Row("new connections while they are copied, to nft", "1/s", got["copied"], got["kernel"], goal))
    report.rows.append(Row("new connections while they are copied, to none copied", "1/s", got["copied"], got["alone"]))
