"""What the way through a gateway costs, beside kernel routing, a VXLAN device of the kernel and nft masquerade.

Both labs have the same nodes, hops, MTUs and offloads (pod, its node, the tunnel, the gateway, the server) and are
measured in turns, many short rounds, after a warm-up that is thrown away.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from functools import partial
from typing import TYPE_CHECKING

from bench import harness
from bench.egress_lab import baseline, ready_lab
from bench.harness import Goal, Report, Row, progress
from bench.nat_labs import AT_ONCE, CONNS_PORT, conns_program
from e2e.lab import traffic
from e2e.lab.egress import SERVER, SERVER4, SERVER6
from e2e.lab.run import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.lab.egress import EgressLab

POD = "pay"
WARM_UP_S = 1.0  # iperf3 counts whole seconds
CONNECTIONS_S = 0.3  # a source address has 64,512 ports, and a released one rests for 120 s
SHORT_S, MOST_ROUNDS = 0.2, 20  # many short rounds, as such short ones scatter; more would take all ports


@contextlib.contextmanager
def servers(lab: EgressLab) -> Iterator[None]:
    """iperf3 and, at both addresses, something that accepts connections."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(traffic.iperf_server(lab.lab, SERVER))
        for address in (SERVER4, SERVER6):
            words = [conns_program(), "serve", address, str(CONNS_PORT)]
            process = lab.lab.spawn(SERVER, words, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            traffic.wait_listening(lab.lab, SERVER, CONNS_PORT, process)
        yield


def tcp_gbits(lab: EgressLab, address: str, seconds: float, *, reverse: bool = False) -> float:
    """Payload of one flow between pod and server."""
    return traffic.iperf(lab.lab, POD, address, seconds=seconds, reverse=reverse).bits_per_second / 1e9


def connections(lab: EgressLab, address: str, seconds: float) -> float:
    """TCP connections that stand and are reset again, per second. LabError where more than 1 % failed."""
    words = [conns_program(), "open", address, str(CONNS_PORT), str(seconds), str(AT_ONCE)]
    done = json.loads(lab.lab.run(POD, words, timeout=seconds + 30).stdout)
    if done["failed"] * 100 > done["opened"]:
        raise LabError(f"{done['failed']} of {done['failed'] + done['opened']} connections failed.")
    return float(done["opened"]) / float(done["seconds"])


def measure_cost(report: Report, rounds: int, seconds: float) -> None:
    with contextlib.ExitStack() as stack:
        labs = {"sixgate": stack.enter_context(ready_lab()), "kernel": stack.enter_context(baseline())}
        for lab in labs.values():
            stack.enter_context(servers(lab))
        for family, address in (("IPv4", SERVER4), ("IPv6", SERVER6)):
            for way, reverse in (("pod to server", False), ("server to pod", True)):
                progress(f"{family} TCP, {way}: {rounds} rounds of {seconds:g} s")
                for lab in labs.values():
                    tcp_gbits(lab, address, WARM_UP_S, reverse=reverse)
                measures = {n: partial(tcp_gbits, lab, address, seconds, reverse=reverse) for n, lab in labs.items()}
                got = harness.interleave(measures, rounds)
                goal = Goal("ratio", ">=", 0.9)
                report.rows.append(
                    Row(f"{family} TCP throughput, {way}", "Gbit/s", got["sixgate"], got["kernel"], goal)
                )
            more = min(2 * rounds, MOST_ROUNDS)
            progress(f"{family} connections: {more} rounds of {SHORT_S:g} s")
            for lab in labs.values():
                connections(lab, address, SHORT_S)
            opened = {n: partial(connections, lab, address, SHORT_S) for n, lab in labs.items()}
            got = harness.interleave(opened, more)
            goal = Goal("ratio", ">=", 1.0)
            report.rows.append(Row(f"{family} new connections", "1/s", got["sixgate"], got["kernel"], goal))
    report.remarks.append(
        "Throughput and connections: compared with kernel routing through the same nodes, a VXLAN device of the kernel "
        "and nft masquerade; connections are opened by one process, 64 at once, and reset as soon as they stand."
    )
