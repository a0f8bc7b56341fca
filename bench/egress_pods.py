"""Pods under egress: with addresses that are not theirs, and what an operator writes for them."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from bench.egress_lab import PORT, ready_lab
from bench.harness import Goal, Report, Row, progress
from bench.operator import fresh, requests
from e2e.apiserver.cluster import DIGESTS, Cluster, OperatorProcess
from e2e.lab.egress import SERVER, SERVER4, SERVER6, SOURCE4, SOURCE6, EgressLab, egress_gateway

if TYPE_CHECKING:
    from collections.abc import Callable

NONE = Goal("value", "==", 0)
SPOOFED = 100_000
OPERATOR_PODS = 50
SPACE = "payments"


def measure_spoof(report: Report, count: int = SPOOFED) -> None:
    """Packets with somebody else's address, from a pod that is selected and from one that is not."""
    with ready_lab() as lab:
        lab.add_pod("plain", "n1", "other")
        lab.wait(lambda: lab.has_pod("n1", lab.pods["plain"].ipv4), "the node does not know it")
        out = 0
        with _arrivals(lab, SERVER4) as arrived4, _arrivals(lab, SERVER6) as arrived6:
            for role in ("plain", "pay"):
                lab.lab.call(role, _warm_up)
            control = arrived4() + arrived6()
            before = _refused(lab)
            for role, other in (("plain", "pay"), ("pay", "plain")):
                pod, node = lab.pods[other], lab.nodes["n1"]
                sources4 = (pod.ipv4, SOURCE4, f"198.51.100.{node}", "192.0.2.77", f"10.{node}.200.9")
                sources6 = (pod.ipv6, SOURCE6, f"2001:db8:e::{node}", "2001:db8:77::1")
                progress(f"{count // 2:,} spoofed packets from {role}")
                lab.lab.call(role, partial(_lie4, sources4, count // 4))
                lab.lab.call(role, partial(_lie6, sources6, count // 4))
                out += arrived4() + arrived6()
            refused = _refused(lab) - before
    note = f"{refused:,} counted as dropped, {control} honest ones arrived"
    report.rows.append(Row(f"{count:,} spoofed packets: out", "", (float(out),), goal=NONE, note=note))
    report.rows.append(Row("spoofed packets counted", "", (float(refused),), goal=Goal("value", ">=", count)))


def _refused(lab: EgressLab) -> int:
    return sum(lab.drops("n1", name) for name in ("SG_DROP_EGRESS_SPOOFED", "SG_DROP_EGRESS_UNKNOWN"))


@contextlib.contextmanager
def _arrivals(lab: EgressLab, server: str) -> Any:
    """Yields a function that waits a moment and says how many datagrams the server has got since it was called last."""

    def listen() -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        made.bind((server, PORT))
        made.setblocking(False)
        return made

    with lab.lab.call(SERVER, listen) as receiver:

        def count() -> int:
            time.sleep(0.5)
            found = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    receiver.recv(64)
                    found += 1
            return found

        yield count


def _warm_up() -> None:
    for family, server in ((socket.AF_INET, SERVER4), (socket.AF_INET6, SERVER6)):
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            for _ in range(10):
                sender.sendto(b"honest", (server, PORT))
                time.sleep(0.02)


def _lie4(sources: tuple[str, ...], count: int) -> None:
    udp = struct.pack("!HHHH", 4000, PORT, 12, 0) + b"lies"
    packets = [
        struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
        + socket.inet_aton(source)
        + socket.inet_aton(SERVER4)
        + udp
        for source in sources
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        _send_all(lambda packet: raw.sendto(packet, (SERVER4, 0)), packets, count)


def _lie6(sources: tuple[str, ...], count: int) -> None:
    def packet(source: str) -> bytes:
        ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, SERVER6)
        udp = struct.pack("!HHHH", 4000, PORT, 12, 0) + b"lies"
        total = sum(struct.unpack(f"!{len(ends) // 2}H", ends)) + 17 + 12
        total += sum(struct.unpack("!6H", udp))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        udp = udp[:6] + struct.pack("!H", ~total & 0xFFFF or 0xFFFF) + udp[8:]
        return struct.pack("!IHBB", 0x60000000, len(udp), 17, 64) + ends + udp

    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        _send_all(lambda data: raw.sendto(data, (SERVER6, 0)), [packet(source) for source in sources], count)


def _send_all(send: Callable[[bytes], int], packets: list[bytes], count: int) -> None:
    for packet in islice(cycle(packets), count):
        while True:
            try:
                send(packet)
            except OSError:  # a full buffer, or an answer to a former one
                os.sched_yield()
                continue
            break


def measure_operator(report: Report, count: int = OPERATOR_PODS) -> None:
    """Writes of a real operator at a real API server while pods are born and nodes report them."""
    digests = {
        **DIGESTS,
        **{name: f"sha256:{n:064x}" for n, name in enumerate(("sg_egress", "sg_eslow", "sg_import"), 50)},
    }
    with fresh() as (cluster, directory):
        cluster.node("n1")
        cluster.node("n2", {"sixgate.io/egress": "true"})
        _namespace(cluster)
        cluster.apply(egress_gateway())
        with OperatorProcess(cluster.operator_account(), directory, digests=digests) as operator:
            operator.wait_log("holds the lease")
            cluster.wait("both NodeConfigs", lambda: len(cluster.list("NodeConfig")) == 2, 60)
            cluster.report()
            cluster.wait(
                "Ready", lambda: cluster.conditions("EgressGateway", "payments")["Ready"]["status"] == "True", 60
            )
            pair = {"object": "payments", "pair": 1, "ipv4": SOURCE4, "ipv6": SOURCE6, "owner": "n2"}
            owned = {"status": {"egress": [{**pair, "here": True, "epoch": 1}]}}
            cluster.patch("NodeConfig", "n2", owned, "status")
            cluster.wait("the owner", lambda: _owner(cluster) == "n2", 30)
            time.sleep(2)
            before, reported = _writes(cluster), requests(cluster, "nodeconfigs", "status")
            progress(f"{count} pods at an API server with an operator")
            for number in range(count):
                _pod(cluster, number)
                row = {**pair, "epoch": 1, "pods": number + 1}
                cluster.patch("NodeConfig", "n1", {"status": {"egress": [row]}}, "status")
            time.sleep(3)
            written = _writes(cluster) - before
            reported = requests(cluster, "nodeconfigs", "status") - reported
            alive = operator.running
    note = f"{reported} reports of their node meanwhile" + ("" if alive else ", but it had died")
    report.rows.append(
        Row(f"writes of the operator for {count} pods", "", (float(written if alive else -1),), goal=NONE, note=note)
    )


def _owner(cluster: Cluster) -> str:
    listed = (cluster.get("EgressGateway", "payments") or {}).get("status", {}).get("addresses") or [{}]
    return str(listed[0].get("node", ""))


def _writes(cluster: Cluster) -> int:
    """Of everything that an operator writes; reports of nodes are none of it."""
    return (
        requests(cluster, "nodeconfigs")
        + requests(cluster, "egressgateways")
        + requests(cluster, "egressgateways", "status")
        + requests(cluster, "configmaps")
        + requests(cluster, "events")
    )


def _namespace(cluster: Cluster) -> None:
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE, "labels": {"team": "payments"}}}
    cluster.call("POST", "/api/v1/namespaces", body)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    cluster.call("POST", f"/api/v1/namespaces/{SPACE}/serviceaccounts", account)


def _pod(cluster: Cluster, number: int) -> None:
    """A Pod, and what its kubelet says of it."""
    body: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"p{number}"},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "none"}]},
    }
    path, address = f"/api/v1/namespaces/{SPACE}/pods", f"10.1.0.{number + 2}"
    cluster.call("POST", path, body)
    status = {"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}}
    cluster.call("PATCH", f"{path}/p{number}/status", status, content_type="application/merge-patch+json")
