"""Live frames through a balancer: sixgate in XDP, nft's DNAT with masquerade, and a program that only encapsulates.

One core sends, balances and receives (live.c stays on one, and a veth's packets are taken in on the core that gave
them), so pps are those of one core, which does the sender's and the receiver's work, too: packets per second of time
that live.c had the core, which on a quiet machine is all of the time. What counts, and why:

* Frames are XDP frames, as a network card's driver hands them on. The sender never sleeps: as long as its program was
  put into the XDP dispatcher by every test run, half of its time went into waiting for RCU, and all ratios to 1.
* Flows. One flow is what a connection table likes best; a balancer sees many. nft tracks each of them, so it has up to
  65,536 entries, and chooses between the same 100 backends by a hash.
* Where packets end. A card that sends costs its host a descriptor. In the first rows a frame from XDP crosses a veth
  and is dropped in XDP behind it, while an skb of nft's is dropped as it leaves, after the last thing that nft's way
  does with it: crossing the veth would cost it 170 ns more, so this flatters nft. In the rows "an skb made of each"
  both end in tc behind the veth, as skbs: for sixgate the kernel makes one of every frame, only to drop it.
* "beyond its coming" is nanoseconds of a packet less those of one that is dropped where it comes in (row "sender
  alone"): what the core of a gateway would spend, with its sending.

* Mode NAT (bench/lb_live_nat.py) is compared with nft in the same way, for both families.

A figure is not taken of a way that loses more than 1 % of the packets.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from bench import harness, lb_live_nat
from bench.harness import Goal, Report, Row, progress
from bench.lb_live_labs import LivePath, path

if TYPE_CHECKING:
    from collections.abc import Mapping

FLOWS = (1, 4096, 65536)
KINDS = {
    "nothing": ("nothing", "come"),
    "sixgate": ("sixgate", "card"),
    "bare": ("bare", "card"),
    "nft": ("nft", "leaving"),
    "sixgate, skb": ("sixgate", "skb"),
    "bare, skb": ("bare", "skb"),
    "nft, skb": ("nft", "skb"),
}
NFT_GOAL, BARE_GOAL = lb_live_nat.NFT_GOAL, Goal("ratio", ">=", 0.8)


def measure(report: Report, rounds: int = 7, seconds: float = 0.5) -> None:
    """Adds the rows; some five minutes."""
    with ExitStack() as stack:
        paths = {name: path(stack, *kind) for name, kind in KINDS.items()}
        for flows in FLOWS:
            progress(f"balancer, live frames, flows {flows:,}: {rounds} rounds of {seconds:g} s, {len(paths)} ways")
            report.rows += rows(paths, rounds, seconds, flows)
    lb_live_nat.measure(report, FLOWS, min(rounds, 5), seconds)
    report.remarks.append(
        "Live frames: 44-byte UDP packets in XDP frames over veth, per second of the core's time; one core sends, "
        "balances and receives. sixgate's and bare encapsulation's end in XDP behind a veth, nft's as they leave the "
        "gateway (crossing the veth would cost them more); where an skb is made of each, all of them end in tc behind "
        "the veth. Beyond its coming: less what a packet takes that is dropped where it comes in."
    )


def rows(paths: Mapping[str, LivePath], rounds: int, seconds: float, flows: int) -> list[Row]:
    """All that is measured with one number of flows; nft knows them all before."""
    for each in paths.values():
        each.rate(0.3, flows)
    got = harness.interleave({name: partial(each.rate, seconds, flows) for name, each in paths.items()}, rounds)
    kpps = {name: tuple(rate / 1e3 for rate in rates) for name, rates in got.items()}
    coming = [1e9 / rate for rate in got["nothing"]]
    beyond = {
        name: tuple(1e9 / rate - come for rate, come in zip(rates, coming, strict=True)) for name, rates in got.items()
    }
    what = f"live frames, {flows:,} {'flows' if flows > 1 else 'flow'}"
    skb = f"{what}, an skb made of each"
    return [
        Row(f"{what}, against nft DNAT and masquerade", "kpps", kpps["sixgate"], kpps["nft"], NFT_GOAL),
        Row(f"{what}, against bare encapsulation", "kpps", kpps["sixgate"], kpps["bare"], BARE_GOAL),
        Row(f"{skb}, against nft", "kpps", kpps["sixgate, skb"], kpps["nft, skb"], NFT_GOAL),
        Row(f"{skb}, against bare encapsulation", "kpps", kpps["sixgate, skb"], kpps["bare, skb"], BARE_GOAL),
        Row(f"{what}: a packet beyond its coming, against nft", "ns", beyond["sixgate"], beyond["nft"]),
        Row(f"{what}: a packet beyond its coming, against bare encapsulation", "ns", beyond["sixgate"], beyond["bare"]),
        Row(f"{what}: sender alone, dropped where they come in", "kpps", kpps["nothing"]),
    ]
