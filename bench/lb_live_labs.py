"""The ways that bench/lb_live.py compares, in labs of one shape, and where packets end in them.

A client sends VIP's packets to `gw`, which balances them to BACKENDS addresses behind one device. Ways:

sixgate  the shipped XDP object, one VIP, all backends in its table of 65,537 slots
bare     an XDP program that encapsulates everything towards one backend: no VIP, no choice, no counter
nft      DNAT by a hash of source and port to one of the backends, and masquerade
nothing  frames are dropped in XDP where they come in: the sender alone
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench import lb_ns, live
from e2e.lab.compiled import bpf_object
from e2e.lab.packets import DPORT
from e2e.lab.run import LabError, LabRun
from e2e.lab.stamp import hardware_address
from sixgate.node.bpf import BpfObject, Link
from tests.bpf.balancer import UDP, Balancer, Slots

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    Prepare = Callable[[LabRun, ExitStack], None]

CLIENT, VIP = "198.51.100.2", "203.0.113.1"
BACKENDS = [f"192.0.2.{2 + number}" for number in range(lb_ns.BACKENDS)]
PER_ADDRESS = 256
"""Flows of one client address."""
NEIGHBOURS = 4099
"""Two packets that follow each other are of flows so far apart: an odd prime visits all."""
TRIES = 5
BPF = Path(__file__).parent / "bpf"
NFT = """
table ip lb {{
    chain pre {{
        type nat hook prerouting priority dstnat
        ip daddr {vip} dnat to jhash ip saddr . udp sport mod {count} map {{ {backends} }}
    }}
    chain post {{
        type nat hook postrouting priority srcnat
        oifname "{device}" masquerade
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class LivePath:
    """One way with one end; `arrived` counts what has come to that end so far."""

    lab: LabRun
    arrived: Callable[[], int]
    source: str = CLIENT
    target: str = VIP

    def rate(self, seconds: float, flows: int) -> float:
        """Packets that arrive, per second of the core's time. A measurement in which more than 1 % are lost on the way
        is made anew, as other work of the core can make queues overflow; LabError where that happens TRIES times."""
        frame = live.frame(self.lab, "client", self.source, self.target)
        for _ in range(TRIES):
            before = self.arrived()
            sent = live.transmit(self.lab, "client", frame, seconds, flows=(flows, min(flows, PER_ADDRESS), NEIGHBOURS))
            count = self.arrived() - before
            if count >= sent.runs * 0.99:
                return count / sent.core
        raise LabError(
            f"{count} of {sent.runs} packets from {self.source} to {self.target} arrived where they are counted."
        )


def path(stack: ExitStack, way: str, end: str) -> LivePath:
    """A lab of its own for a way with an end: names of WAYS and ENDS."""
    lab = stack.enter_context(LabRun())
    build(lab)
    WAYS[way](lab, stack)
    return LivePath(lab, ENDS[end](lab, stack))


def build(lab: LabRun) -> None:
    """A client, `gw`, and what is behind it; all backends have one link address, next hops are known."""
    for role in ("client", "gw", "be"):
        lab.add_netns(role)
    lab.sysctl("gw", "net/ipv4/conf/all/forwarding", "1")
    for role, near, far in (("client", "198.51.100.1", [CLIENT]), ("be", "192.0.2.1", BACKENDS)):
        lab.add_veth(role, "up", "gw", role)
        up, down = lab.device("up"), lab.device(role)
        lab.ip("gw", f"addr add {near}/16 dev {down}")
        lab.ip(role, f"addr add {far[0]}/16 dev {up}", f"route add default via {near}")
        mac = hardware_address(lab, role, "up")
        lab.ip("gw", *(f"neigh add {each} lladdr {mac} dev {down}" for each in far))
        lab.run("gw", ["ethtool", "-K", down, "gro", "on"])
        lab.run(role, ["ethtool", "-K", up, "gro", "on"])


def sixgate(lab: LabRun, stack: ExitStack) -> None:
    def attach() -> None:
        balancer = stack.enter_context(contextlib.closing(Balancer(device=lab.device("client"))))
        for number, address in enumerate(BACKENDS, 1):
            balancer.backend(number, address)
        balancer.table(0, Slots([(1 + slot % len(BACKENDS), 0) for slot in range(lb_ns.SIZE)]))
        balancer.vip(VIP)
        balancer.vip(VIP, DPORT, UDP)
        device = socket.if_nametoindex(lab.device("be"))
        balancer.maps["sg_tx"].set(device, device)
        index = socket.if_nametoindex(lab.device("client"))
        stack.enter_context(Link.xdp(balancer.loaded.program, index, "native"))

    lab.call("gw", attach)


def bare(lab: LabRun, stack: ExitStack) -> None:
    macs = [hardware_address(lab, role, name) for role, name in (("be", "up"), ("gw", "be"))]

    def attach() -> None:
        opened = stack.enter_context(BpfObject.open(bpf_object(BPF / "lb_bare.bpf.c")))
        dmac, smac = (list(bytes.fromhex(mac.replace(":", ""))) for mac in macs)
        fields = {"saddr": _be32("192.0.2.100"), "daddr": _be32(BACKENDS[0]), "dmac": dmac, "smac": smac}
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
    rules = lab.workdir / "lb.nft"
    backends = ", ".join(f"{number} : {address}" for number, address in enumerate(BACKENDS))
    rules.write_text(NFT.format(vip=VIP, count=len(BACKENDS), backends=backends, device=lab.device("be")))
    lab.run("gw", ["nft", "-f", str(rules)])


def nothing(_lab: LabRun, _stack: ExitStack) -> None:
    """The end of this way is its begin."""


def _drop_in_xdp(role: str, device: str, lab: LabRun, stack: ExitStack) -> Callable[[], int]:
    def attach() -> None:
        opened = stack.enter_context(BpfObject.open(bpf_object(BPF / "drop.bpf.c")))
        opened.load()
        program = stack.enter_context(opened.program("sg_drop"))
        stack.enter_context(Link.xdp(program, socket.if_nametoindex(lab.device(device)), "native"))

    lab.call(role, attach)
    return partial(_received, lab, role, device)


def _drop_in_tc(role: str, device: str, hook: str, lab: LabRun) -> None:
    """A classic BPF program of one instruction: drop."""
    lab.run(role, ["tc", "qdisc", "add", "dev", lab.device(device), "clsact"])
    for protocol in ("ip", "ipv6"):
        filtered = ["dev", lab.device(device), hook, "protocol", protocol, "bpf", "bytecode", "1,6 0 0 2", "da"]
        lab.run(role, ["tc", "filter", "add", *filtered])


def _drop_skb(lab: LabRun, _stack: ExitStack) -> Callable[[], int]:
    _drop_in_tc("be", "up", "ingress", lab)
    return partial(_received, lab, "be", "up")


def _drop_leaving(lab: LabRun, _stack: ExitStack) -> Callable[[], int]:
    _drop_in_tc("gw", "be", "egress", lab)

    def dropped() -> int:
        text = lab.run("gw", ["tc", "-s", "-json", "qdisc", "show", "dev", lab.device("be")]).stdout
        return sum(int(each["drops"]) for each in json.loads(text) if each["kind"] == "clsact")

    return dropped


def _received(lab: LabRun, role: str, device: str) -> int:
    text = lab.run(role, ["ip", "-s", "-json", "link", "show", "dev", lab.device(device)]).stdout
    return int(json.loads(text)[0]["stats64"]["rx"]["packets"])


WAYS: dict[str, Prepare] = {"sixgate": sixgate, "bare": bare, "nft": nft, "nothing": nothing}
ENDS: dict[str, Callable[[LabRun, ExitStack], Callable[[], int]]] = {
    "card": partial(_drop_in_xdp, "be", "up"),  # in XDP at the backends' device
    "skb": _drop_skb,  # in tc there: an skb is made of every frame of XDP first
    "leaving": _drop_leaving,  # in tc where skbs leave the gateway: they are not even given to a device
    "come": partial(_drop_in_xdp, "gw", "client"),  # where frames come in
}
