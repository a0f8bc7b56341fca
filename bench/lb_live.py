"""Live frames through a balancer: sixgate in XDP, nft's DNAT with masquerade, and a program that only encapsulates.

Each way leads through three namespaces of the same shape; one core sends, balances and receives, and sending and
receiving cost the same in all figures. What arrives at the backend's device is counted and dropped.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench import harness, lb_ns, live
from bench.harness import Goal, Report, Row, progress
from e2e.lab.packets import DPORT
from e2e.lab.run import LabError, LabRun
from e2e.lab.stamp import hardware_address
from sixgate.node.bpf import BpfObject, Link
from tests.bpf.balancer import UDP, Balancer, Slots

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENT, BACKEND, VIP = "198.51.100.2", "192.0.2.2", "203.0.113.1"

BARE = Path(__file__).parent / "bpf" / "lb_bare.bpf.c"
NFT = """
table ip lb {{
    chain pre {{ type nat hook prerouting priority -100; ip daddr {vip} dnat to {backend}; }}
    chain post {{ type nat hook postrouting priority 100; ip daddr {backend} masquerade; }}
}}
"""


def build(lab: LabRun) -> None:
    """A client, `gw`, a backend that drops all IP at its door; veths that take XDP frames."""
    for role in ("client", "gw", "be"):
        lab.add_netns(role)
    lab.sysctl("gw", "net/ipv4/conf/all/forwarding", "1")
    for role, near, far in (("client", "198.51.100.1", CLIENT), ("be", "192.0.2.1", BACKEND)):
        lab.add_veth(role, "up", "gw", role)
        up, down = lab.device("up"), lab.device(role)
        lab.ip("gw", f"addr add {near}/24 dev {down}")
        lab.ip(role, f"addr add {far}/24 dev {up}", f"route add default via {near}")
        lab.ip("gw", f"neigh add {far} lladdr {hardware_address(lab, role, 'up')} dev {down}")
        lab.run("gw", ["ethtool", "-K", down, "gro", "on"])
        lab.run(role, ["ethtool", "-K", up, "gro", "on"])
    up = lab.device("up")
    lab.run("be", ["tc", "qdisc", "add", "dev", up, "clsact"])
    words = ["tc", "filter", "add", "dev", up, "ingress", "protocol", "ip", "bpf", "bytecode", "1,6 0 0 2", "da"]
    lab.run("be", words)


def sixgate(lab: LabRun, stack: ExitStack) -> None:
    """The shipped XDP object with one VIP and 100 backends in its table, all of them at one address."""

    def attach() -> None:
        balancer = stack.enter_context(contextlib.closing(Balancer(device=lab.device("client"))))
        for number in range(1, 101):
            balancer.backend(number, BACKEND)
        balancer.table(0, Slots([(1 + slot % 100, 0) for slot in range(lb_ns.SIZE)]))
        balancer.vip(VIP)
        balancer.vip(VIP, DPORT, UDP)
        device = socket.if_nametoindex(lab.device("be"))
        balancer.maps["sg_tx"].set(device, device)
        index = socket.if_nametoindex(lab.device("client"))
        stack.enter_context(Link.xdp(balancer.loaded.program, index, "native"))

    lab.call("gw", attach)


def bare(lab: LabRun, stack: ExitStack) -> None:
    """The program that only encapsulates."""
    macs = [hardware_address(lab, role, name) for role, name in (("be", "up"), ("gw", "be"))]

    def attach() -> None:
        opened = stack.enter_context(BpfObject.open(lb_ns.compiled(BARE)))
        dmac, smac = (list(bytes.fromhex(mac.replace(":", ""))) for mac in macs)
        fields = {"saddr": _be32("192.0.2.100"), "daddr": _be32(BACKEND), "dmac": dmac, "smac": smac}
        opened.set_constants({"sg_bare": fields})
        opened.load()
        opened.map("sg_bare_tx").set(0, socket.if_nametoindex(lab.device("be")))
        program = stack.enter_context(opened.program("sg_lb_bare"))
        stack.enter_context(Link.xdp(program, socket.if_nametoindex(lab.device("client")), "native"))

    lab.call("gw", attach)


def _be32(address: str) -> int:
    """The number whose bytes in memory are those of the address."""
    return int.from_bytes(ipaddress.IPv4Address(address).packed, "little")


def nft(lab: LabRun, _stack: ExitStack) -> None:
    """DNAT to the backend, masquerade towards it."""
    rules = lab.workdir / "lb.nft"
    rules.write_text(NFT.format(vip=VIP, backend=BACKEND))
    lab.run("gw", ["nft", "-f", str(rules)])


def packets(lab: LabRun, seconds: float) -> float:
    """Thousands per second that reach the backend's device."""
    frame = live.frame(lab, "client", CLIENT, VIP)
    before = arrived(lab)
    took = live.transmit(lab, "client", frame, seconds)
    count = arrived(lab) - before
    if not count:
        raise LabError(f"None of the packets from {CLIENT} to {VIP} arrived at the backend.")
    return count / took / 1e3


def arrived(lab: LabRun) -> int:
    text = lab.run("be", ["ip", "-s", "-json", "link", "show", "dev", lab.device("up")]).stdout
    return int(json.loads(text)[0]["stats64"]["rx"]["packets"])


def measure(report: Report, rounds: int = 7, seconds: float = 1.0) -> None:
    """Adds the rows."""
    ways: dict[str, Callable[[LabRun, ExitStack], None]] = {"sixgate": sixgate, "bare": bare, "nft": nft}
    progress(f"balancer, live frames: {rounds} rounds of {seconds:g} s through {', '.join(ways)}")
    with ExitStack() as stack:
        measures: dict[str, Callable[[], float]] = {}
        for name, prepare in ways.items():
            lab = stack.enter_context(LabRun())
            build(lab)
            prepare(lab, stack)
            packets(lab, 0.2)
            measures[name] = partial(packets, lab, seconds)
        got = harness.interleave(measures, rounds)
    what = "live 44-byte UDP packets over veth, one core"
    report.rows += [
        Row(f"{what}, against nft DNAT and masquerade", "kpps", got["sixgate"], got["nft"], Goal("ratio", ">=", 1.5)),
        Row(f"{what}, against bare encapsulation", "kpps", got["sixgate"], got["bare"], Goal("ratio", ">=", 0.8)),
    ]
