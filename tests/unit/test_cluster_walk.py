"""The way of a packet across nodes, with answers as nodes give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sixgate.cli.cluster.walk import MAX_NODES, Addresses, Packet, walk

ADDRESSES = Addresses(
    {"192.0.2.1": "n1", "192.0.2.2": "n2", "2001:db8::3": "n3"}, {"2001:db8:1::5": "n1", "10.0.2.7": "n2"}
)
PACKET = Packet("[2001:db8:1::5]:4000", "[64:ff9b::cb00:7101]:80", "tcp", rest=("--length", "9"))


def end(source: str, target: str, proto: str = "tcp", inner: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"source": source, "target": target, "proto": proto, "inner": inner}


def answer(
    *sentences: str,
    address: str = "",
    after: dict[str, Any] | None = None,
    here: bool = False,
    dropped: bool = False,
    arrives: str = "",
) -> dict[str, Any]:
    hop = None if dropped else {"device": "eth0", "address": address, "here": here, "arrives": arrives}
    after = after or end(PACKET.source, PACKET.target)
    return {"dropped": dropped, "sentences": list(sentences), "hop": hop, "after": after}


class Nodes:
    """Answers by node, and the questions that were asked."""

    def __init__(self, **answers: dict[str, Any]) -> None:
        self.answers, self.asked = answers, list[tuple[str, list[str]]]()

    def __call__(self, node: str, words: Sequence[str]) -> dict[str, Any]:
        self.asked.append((node, list(words)))
        return self.answers[node]


def test_from_a_pod_through_a_gateway_to_the_outside() -> None:
    out = end("198.51.100.1:2048", "203.0.113.1:80")
    nodes = Nodes(
        n1=answer("n1 sends it on.", address="2001:db8::3"),
        n3=answer("n3 translates it.", address="203.0.113.1", after=out),
    )
    way = walk(nodes, "n1", PACKET, ADDRESSES)
    assert [node for node, _ in nodes.asked] == ["n1", "n3"]
    assert nodes.asked[1][1] == [
        *("--from", PACKET.source, "--to", PACKET.target, "--proto", "tcp", "--length", "9"),
    ]
    assert way.sentences() == [
        "n1: n1 sends it on.",
        "n3: n3 translates it.",
        "203.0.113.1 is on no node of the cluster: the packet has left it.",
    ]
    assert not way.dropped


def test_what_a_node_made_of_it_is_asked_at_the_next_one_and_where_it_comes_in() -> None:
    changed = end("192.0.2.9", "10.0.2.7", "icmpv6")
    nodes = Nodes(
        n1=answer(address="192.0.2.2", after=changed, arrives="sg-egress0"),
        n2=answer(address="10.0.2.7", after=changed),
    )
    way = walk(nodes, "n1", PACKET, ADDRESSES)
    assert nodes.asked[1][1][:8] == [
        *("--from", "192.0.2.9", "--to", "10.0.2.7", "--proto", "icmp", "--device", "sg-egress0")
    ]
    assert way.end == "10.0.2.7 is on n2 itself: the packet has arrived."


def test_it_ends_where_the_packet_does() -> None:
    for last, dropped in ((answer("dropped", dropped=True), True), (answer("mine", here=True), False)):
        way = walk(Nodes(n1=answer(address="192.0.2.2"), n2=last), "n1", PACKET, ADDRESSES)
        assert (way.dropped, way.end, len(way.answers)) == (dropped, "", 2)
    no_way = answer("The kernel has no way to it.")
    assert walk(Nodes(n1=no_way), "n1", PACKET, ADDRESSES).sentences() == ["n1: The kernel has no way to it."]


def test_an_outer_header_is_told_and_not_asked_for() -> None:
    outer = end("192.0.2.1", "192.0.2.2", "ipip", inner=end("198.51.100.7:1", "203.0.113.80:80"))
    way = walk(Nodes(n1=answer(address="192.0.2.2", after=outer)), "n1", PACKET, ADDRESSES)
    assert "n2 has 192.0.2.2, and takes the outer header off" in way.end


def test_nodes_that_send_it_round_are_told() -> None:
    way = walk(Nodes(n1=answer(address="192.0.2.2"), n2=answer(address="192.0.2.1")), "n1", PACKET, ADDRESSES)
    assert len(way.answers) == MAX_NODES
    assert "they send it round" in way.end
    assert way.document()["end"] == way.end
    assert [row["node"] for row in way.document()["nodes"]][:2] == ["n1", "n2"]
