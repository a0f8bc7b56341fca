"""Live frames through a balancer in mode NAT and through nft's DNAT with masquerade, within either family.

As bench/lb_live.py; sixgate is its own agent with an object, as a user would have it. All flows are known to both
before: sessions here, entries of the connection table there.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from bench import harness, lb_ns
from bench.harness import Goal, Report, Row, progress
from bench.lb_live_labs import ENDS, LivePath
from bench.nat_labs import start
from e2e.lab.packets import DPORT
from e2e.lab.run import LabRun
from e2e.lab.sixgate import NODE
from e2e.lab.stamp import hardware_address

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST_SESSIONS = 262_144
NFT_GOAL = Goal("ratio", ">=", 1.5)
NFT = """
table {table} lb {{
    chain pre {{
        type nat hook prerouting priority dstnat
        {ip} daddr {vip} dnat to jhash {ip} saddr . udp sport mod {count} map {{ {backends} }}
    }}
    chain post {{
        type nat hook postrouting priority srcnat
        oifname "{device}" masquerade
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Family:
    """Addresses of one family: the gateway's towards client and backends, with prefix lengths, and those of others."""

    number: int
    client: str
    vip: str
    near_client: str
    near_backends: str
    backends: tuple[str, ...]
    length: int

    @property
    def ip(self) -> str:
        return "ip" if self.number == 4 else "ip6"


FAMILIES = (
    Family(
        4, "198.51.100.2", "203.0.113.1", "198.51.100.1", "192.0.2.1",
        tuple(f"192.0.2.{2 + number}" for number in range(lb_ns.BACKENDS)), 16,
    ),
    Family(
        6, "2001:db8:c::2", "2001:db8:a::80", "2001:db8:c::1", "2001:db8:b::1",
        tuple(f"2001:db8:b::{2 + number:x}" for number in range(lb_ns.BACKENDS)), 64,
    ),
)  # fmt: skip


def measure(report: Report, flows: Sequence[int], rounds: int, seconds: float) -> None:
    """Adds rows for each family and each number of flows."""
    for family in FAMILIES:
        with ExitStack() as stack:
            paths = {name: path(stack, family, *way) for name, way in WAYS.items()}
            what = f"mode NAT, IPv{family.number}, live frames"
            for count in flows:
                progress(f"{what}, flows {count:,}: {rounds} rounds of {seconds:g} s")
                report.rows += rows(paths, what, count, rounds, seconds)
    report.remarks.append(
        "Mode NAT, live frames: sessions of UDP within one family, known before; the agent's own programs, XDP in "
        "front of tc (acceleration: BestEffort), source addresses of the gateway."
    )


def rows(paths: Mapping[str, LivePath], what: str, flows: int, rounds: int, seconds: float) -> list[Row]:
    """One number of flows, through both ways in turns."""
    for each in paths.values():
        each.rate(1.0, flows)
    got = harness.interleave({name: partial(each.rate, seconds, flows) for name, each in paths.items()}, rounds)
    kpps = {name: tuple(rate / 1e3 for rate in rates) for name, rates in got.items()}
    what = f"{what}, {flows:,} {'flows' if flows > 1 else 'flow'}"
    return [
        Row(f"{what}, against nft DNAT and masquerade", "kpps", kpps["sixgate"], kpps["nft"], NFT_GOAL),
        Row(f"{what}, an skb made of each, against nft", "kpps", kpps["sixgate, skb"], kpps["nft, skb"], NFT_GOAL),
    ]


def path(stack: ExitStack, family: Family, way: str, end: str) -> LivePath:
    """A lab of its own for `sixgate` or `nft`, with an end of bench/lb_live_labs.py."""
    lab = stack.enter_context(LabRun())
    build(lab, family)
    if way == "nft":
        rules = lab.workdir / "lb.nft"
        backends = ", ".join(f"{number} : {address}" for number, address in enumerate(family.backends))
        words = {"table": family.ip, "ip": family.ip, "vip": family.vip, "count": len(family.backends)}
        rules.write_text(NFT.format(**words, backends=backends, device=lab.device("be")))
        lab.run("gw", ["nft", "-f", str(rules)])
    else:
        start(lab, balancer(family))
    return LivePath(lab, ENDS[end](lab, stack), family.client, family.vip)


def build(lab: LabRun, family: Family) -> None:
    """A client, `gw`, and backends behind one device; next hops are known."""
    for role in ("client", "gw", "be"):
        lab.add_netns(role)
    which = "ipv4" if family.number == 4 else "ipv6"
    lab.sysctl("gw", f"net/{which}/conf/all/forwarding", "1")
    nodad = "" if family.number == 4 else " nodad"
    sides = (("client", family.near_client, family.client), ("be", family.near_backends, family.backends[0]))
    for role, near, far in sides:
        lab.add_veth(role, "up", "gw", role)
        up, down = lab.device("up"), lab.device(role)
        lab.ip("gw", f"addr add {near}/{family.length} dev {down}{nodad}")
        lab.ip(role, f"addr add {far}/{family.length} dev {up}{nodad}", f"route add default via {near}")
        lab.run("gw", ["ethtool", "-K", down, "gro", "on"])
        lab.run(role, ["ethtool", "-K", up, "gro", "on"])
    mac = hardware_address(lab, "be", "up")
    lab.ip("gw", *(f"neigh add {each} lladdr {mac} dev {lab.device('be')}" for each in family.backends))


def balancer(family: Family) -> dict[str, Any]:
    """One UDP port of the virtual address, in front of all backends."""
    return {
        "apiVersion": "sixgate.io/v1alpha1",
        "kind": "LoadBalancer",
        "metadata": {"name": "lab"},
        "spec": {
            "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": NODE}},
            "vips": [family.vip],
            "ports": [{"port": DPORT, "protocol": "UDP"}],
            "backends": [{"address": address} for address in family.backends],
            "forwarding": {"mode": "NAT", "nat": {"maxSessions": MOST_SESSIONS}},
        },
    }


WAYS = {
    "sixgate": ("sixgate", "card"),
    "nft": ("nft", "leaving"),
    "sixgate, skb": ("sixgate", "skb"),
    "nft, skb": ("nft", "skb"),
}
