"""A packet's way across nodes: each is asked what it does with the packet, and the next is who has its next hop.

Pure but for the question: `ask` sends words of `sixgate trace` to a node and returns the document of its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, TypeAlias

MAX_NODES = 8
PROTOCOLS = {"icmpv6": "icmp"}

Document: TypeAlias = dict[str, Any]
Ask: TypeAlias = Callable[[str, Sequence[str]], Document]


@dataclass(frozen=True, slots=True)
class Packet:
    """What a trace is asked for: ends as ADDRESS or ADDRESS:PORT, IPv6 in brackets; `rest` are other options."""

    source: str
    target: str
    proto: str
    device: str = ""
    rest: tuple[str, ...] = ()

    def words(self) -> list[str]:
        device = ["--device", self.device] if self.device else []
        return ["--from", self.source, "--to", self.target, "--proto", self.proto, *device, *self.rest]


@dataclass(frozen=True, slots=True)
class Way:
    """Answers of the nodes in the order in which the packet meets them, and a sentence of what follows."""

    answers: tuple[tuple[str, Document], ...]
    end: str

    @property
    def dropped(self) -> bool:
        return bool(self.answers) and bool(self.answers[-1][1]["dropped"])

    def sentences(self) -> list[str]:
        told = [f"{node}: {sentence}" for node, answer in self.answers for sentence in answer["sentences"]]
        return [*told, self.end] if self.end else told

    def document(self) -> Document:
        return {
            "nodes": [{"node": node, **answer} for node, answer in self.answers],
            "dropped": self.dropped,
            "end": self.end,
        }


@dataclass(frozen=True, slots=True)
class Addresses:
    """Names of nodes by their own addresses and by those of their pods."""

    nodes: Mapping[str, str] = field(default_factory=dict)
    pods: Mapping[str, str] = field(default_factory=dict)

    def node_of(self, address: str) -> str:
        """Where the address is, empty outside of the cluster."""
        text = str(ip_address(address)) if address else ""
        return self.nodes.get(text) or self.pods.get(text) or ""


def walk(ask: Ask, first: str, packet: Packet, addresses: Addresses) -> Way:
    """Follow `packet` from its first node until it is dropped, has arrived, or leaves the cluster."""
    answers: list[tuple[str, Document]] = []
    node = first
    while len(answers) < MAX_NODES:
        answer = ask(node, packet.words())
        answers.append((node, answer))
        hop, after = answer.get("hop"), answer.get("after")
        if answer["dropped"] or not hop or not after or hop["here"] or not hop["address"]:
            return Way(tuple(answers), "")
        following = addresses.node_of(hop["address"])
        if not following:
            return Way(tuple(answers), f"{hop['address']} is on no node of the cluster: the packet has left it.")
        if following == node:
            return Way(tuple(answers), f"{hop['address']} is on {node} itself: the packet has arrived.")
        if after["inner"] is not None:
            end = f"{following} has {hop['address']}, and takes the outer header off"
            return Way(tuple(answers), f"{end}; what it is then is told there by its own trace.")
        proto = PROTOCOLS.get(after["proto"], after["proto"])
        packet = Packet(after["source"], after["target"], proto, hop["arrives"], packet.rest)
        node = following
    return Way(tuple(answers), f"After {MAX_NODES} nodes the packet is still on its way: they send it round.")
