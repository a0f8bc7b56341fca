"""The parts of bench/bigtcp.py that go through sixgate: egress from a pod and back, and uploads through a balancer."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from bench import harness
from bench.bigtcp_labs import BIG, LEGACY, mean_kilobytes
from bench.harness import Goal, Report, Row, progress
from e2e.lab import traffic
from e2e.lab.egress import LAN, SERVER, SERVER4, SERVER6, EgressLab, egress_gateway
from e2e.lab.run import LabRun
from tests.bpf.balancer import Slots
from tests.netns.lb_lab import OUTER4, OUTER6, VIP4, VIP6, LbLab, address
from tests.netns.test_bigtcp_transfer import set_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WHOLE, NEVER_WORSE = Goal("value", ">=", 100), Goal("ratio", ">=", 0.95)
TCP = 6
POD, NODE, OWNER = "pay", "n1", "g1"


def _compared(size: Callable[[int], None], measure: Callable[[], float], rounds: int) -> dict[str, tuple[float, ...]]:
    def under(bytes_: int) -> float:
        size(bytes_)
        return measure()

    return harness.interleave({"off": partial(under, LEGACY), "on": partial(under, BIG)}, rounds)


@contextmanager
def _egress(transport: str) -> Iterator[tuple[EgressLab, Callable[[int], None]]]:
    with LabRun() as run:
        lab = EgressLab(run)
        lab.objects = {"payments": egress_gateway(transport=transport, nat={"maxSessions": 65536})}
        lab.add_node(NODE)
        lab.add_node(OWNER, gateway=True)
        lab.add_pod(POD, NODE)
        lab.start()
        lab.wait_pods(NODE, 1)
        lab.wait_settled()
        devices = [(POD, "eth0"), (NODE, POD), (NODE, "up"), (OWNER, "up"), (SERVER, "up")]
        devices += [(LAN, name) for name in (NODE, OWNER, SERVER)]
        last = [0]

        def size(bytes_: int) -> None:
            for role, device in devices if bytes_ != last[0] else ():
                set_sizes(run, role, device, bytes_)
            last[0] = bytes_

        with traffic.iperf_server(run, SERVER):
            yield lab, size


def measure_egress(report: Report, rounds: int, seconds: float) -> None:
    """A pod's uploads and downloads, straight to the gateway and through the tunnel."""
    for transport in ("Direct", "VXLAN"):
        with _egress(transport) as (lab, size):
            for family, server in ((6, SERVER6), (4, SERVER4)):
                for reverse, name in ((False, "upload"), (True, "download")):
                    progress(f"egress {transport} IPv{family} {name}: {rounds} rounds of {seconds:g} s")

                    def send(server: str = server, reverse: bool = reverse) -> float:
                        return (
                            traffic.iperf(lab.lab, POD, server, seconds=seconds, reverse=reverse).bits_per_second / 1e9
                        )

                    got = _compared(size, send, rounds)
                    metric = f"egress, {transport}, IPv{family} {name}"
                    # What is cut at the tunnel's door, as if no policy knew: policies leave these devices at 64 KB.
                    goal, note = (None, "not what a policy sets") if transport == "VXLAN" else (NEVER_WORSE, "")
                    report.rows.append(Row(metric, "Gbit/s", got["on"], got["off"], goal, note))
                    if transport == "Direct":
                        size(BIG)
                        role, device = (POD, "eth0") if reverse else (SERVER, "up")
                        mean = mean_kilobytes(lab.lab, role, device, family, send)
                        report.rows.append(Row(f"{metric}: mean packet when on", "KB", (mean,), goal=WHOLE))
    report.remarks.append(
        "Egress: pod, node, gateway and server on a bridge; on is what a policy with pods: Live sets."
    )


def measure_dsr(report: Report, rounds: int, seconds: float) -> None:
    """Uploads to a virtual address, in all four kinds of IP in IP, and with link addresses changed only."""
    with LabRun() as run, LbLab(run, xdp=False) as lab:
        last = [0]

        def size(bytes_: int) -> None:
            for role in ("client", "be1") if bytes_ != last[0] else ():
                set_sizes(run, role, "up", bytes_)
                set_sizes(run, "lb", role, bytes_)
            last[0] = bytes_

        with traffic.iperf_server(run, "be1"):
            for number, (v6, how) in enumerate((v6, how) for v6 in (False, True) for how in ("IPv4", "IPv6", "L2")):
                family, vip = (6, VIP6) if v6 else (4, VIP4)
                metric = f"DSR, IPv{family} " + ("by link address" if how == "L2" else f"in {how}")
                _balance(lab, 10 + number, v6, how)
                progress(f"{metric}: {rounds} rounds of {seconds:g} s")
                send = partial(_upload, run, vip, seconds)
                got = _compared(size, send, rounds)
                report.rows.append(Row(metric, "Gbit/s", got["on"], got["off"], NEVER_WORSE))
                size(BIG)
                mean = mean_kilobytes(run, "be1", "up", family, send)
                report.rows.append(Row(f"{metric}: mean packet when on", "KB", (mean,), goal=WHOLE))
    report.remarks.append("DSR: the balancer in tc; packets as they arrive at the backend, unpacked.")


def _upload(run: LabRun, vip: str, seconds: float) -> float:
    return traffic.iperf(run, "client", vip, seconds=seconds).bits_per_second / 1e9


def _balance(lab: LbLab, number: int, v6: bool, how: str) -> None:
    """The VIP's iperf3 port leads to be1."""
    outer6 = v6 if how == "L2" else how == "IPv6"
    more = {"kind": 2} if how == "L2" else {"src": OUTER6 if outer6 else OUTER4, "src_mask": 0xFF}
    lab.tables.backend(number, address(1, outer6), version=number, **more)
    lab.tables.table(number, Slots([(number, 0)] * 251))
    vip = VIP6 if v6 else VIP4
    lab.tables.vip(vip)
    lab.tables.vip(vip, traffic.IPERF_PORT, TCP, table=number)
