"""Which nodes a selector means, for many selectors and many nodes at once.

A set of nodes is an integer, bit n for the n-th node by name: 5,000 nodes are 625 bytes, and one `&` intersects them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from sixgate.api.base import LabelRequirement, LabelSelector
from sixgate.plan.snapshot import NodeInfo

NodeSet = int


class NodeIndex:
    """Nodes sorted by name, and the sets of those that have a label."""

    def __init__(self, nodes: Sequence[NodeInfo]) -> None:
        self.names = tuple(sorted({node.name for node in nodes}))
        position = self._position = {name: bit for bit, name in enumerate(self.names)}
        self.everything: NodeSet = (1 << len(self.names)) - 1
        by_label: dict[tuple[str, str], list[int]] = defaultdict(list)
        for node in nodes:
            for pair in node.labels.items():
                by_label[pair].append(position[node.name])
        self._by_label = {pair: _from_bits(bits) for pair, bits in by_label.items()}
        self._by_key: dict[str, NodeSet] = defaultdict(int)
        for (key, _), nodes_with in self._by_label.items():
            self._by_key[key] |= nodes_with
        self._known: dict[NodeSet, tuple[str, ...]] = {}

    def select(self, selector: LabelSelector) -> NodeSet:
        """Nodes that `selector` means; none for a selector without any label, whatever let it through."""
        if not selector.match_labels and not selector.match_expressions:
            return 0
        found = self.everything
        for pair in selector.match_labels.items():
            found &= self._by_label.get(pair, 0)
        for requirement in selector.match_expressions:
            found &= self._matching(requirement)
        return found

    def _matching(self, requirement: LabelRequirement) -> NodeSet:
        key = requirement.key
        having = 0
        for value in requirement.values:
            having |= self._by_label.get((key, value), 0)
        match requirement.operator:
            case "In":
                return having
            case "NotIn":
                return self.everything & ~having
            case "Exists":
                return self._by_key.get(key, 0)
            case "DoesNotExist":
                return self.everything & ~self._by_key.get(key, 0)

    def only(self, name: str) -> NodeSet:
        """The set of this one node."""
        return 1 << self._position[name]

    def names_of(self, nodes: NodeSet) -> tuple[str, ...]:
        """Names in `nodes`, sorted; equal sets share one tuple."""
        if nodes not in self._known:
            self._known[nodes] = tuple(self.names[bit] for bit in bits_of(nodes))
        return self._known[nodes]


def bits_of(nodes: NodeSet) -> Iterator[int]:
    """Positions in `nodes`, ascending."""
    digits = bin(nodes)[:1:-1]
    position = digits.find("1")
    while position >= 0:
        yield position
        position = digits.find("1", position + 1)


def _from_bits(bits: list[int]) -> NodeSet:
    raw = bytearray(max(bits) // 8 + 1)
    for bit in bits:
        raw[bit >> 3] |= 1 << (bit & 7)
    return int.from_bytes(raw, "little")
