"""What objects claim for themselves, and who else already has it.

A claim is a range of addresses, with a protocol and ports where it is for those only. Two objects contradict each
other where their claims overlap: everywhere, if both are addresses on the network (a VIP, an egress address, a pool);
on the nodes they share, if one of them only concerns what passes a node (a translation prefix).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from sixgate.api.addr import Network

ALL_PORTS = (0, 65535)


@dataclass(frozen=True, slots=True)
class Claim:
    """`network` belongs to its object; `protocol` is empty for all, `ports` first and last.

    `first` and `last` are the network's bounds as numbers, kept because they are compared far more often than made.
    """

    network: Network
    where: str
    per_node: bool
    protocol: str = ""
    ports: tuple[int, int] = ALL_PORTS
    first: int = field(init=False, compare=False)
    last: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", int(self.network.network_address))
        object.__setattr__(
            self, "last", self.first | ((1 << (self.network.max_prefixlen - self.network.prefixlen)) - 1)
        )

    def __str__(self) -> str:
        text = str(self.network)
        if self.network.prefixlen == self.network.max_prefixlen:
            text = str(self.network.network_address)
        if self.ports != ALL_PORTS:
            first, last = self.ports
            text += f" port {first}" if first == last else f" ports {first} to {last}"
        return f"{text}/{self.protocol}" if self.protocol else text

    def shares_ports(self, other: Claim) -> bool:
        if self.protocol and other.protocol and self.protocol != other.protocol:
            return False
        return self.ports[0] <= other.ports[1] and other.ports[0] <= self.ports[1]


class ClaimIndex:
    """Claims by owner (a number), found by overlap: in the number of prefix lengths, not of claims."""

    def __init__(self) -> None:
        self._by_length: dict[int, dict[int, dict[int, list[tuple[int, Claim]]]]] = {4: {}, 6: {}}
        self._firsts: dict[int, list[tuple[int, int]]] = {4: [], 6: []}

    def add(self, owner: int, claim: Claim) -> None:
        network = claim.network
        first, length = claim.first, network.prefixlen
        same_length = self._by_length[network.version].setdefault(length, defaultdict(list))
        if first not in same_length:
            insort(self._firsts[network.version], (first, length))
        same_length[first].append((owner, claim))

    def overlapping(self, claim: Claim) -> Iterator[tuple[int, Claim]]:
        """Owners and claims that overlap with `claim` in addresses, protocol and ports."""
        network = claim.network
        first, width = claim.first, network.max_prefixlen
        lengths = self._by_length[network.version]
        for length in [length for length in lengths if length <= network.prefixlen]:
            start = first >> (width - length) << (width - length)
            yield from self._sharing(lengths[length].get(start, ()), claim)
        inside = self._firsts[network.version]
        for position in range(bisect_left(inside, (first, 0)), len(inside)):
            start, length = inside[position]
            if start > claim.last:
                return
            if length > network.prefixlen:
                yield from self._sharing(lengths[length][start], claim)

    @staticmethod
    def _sharing(found: list[tuple[int, Claim]] | tuple[()], claim: Claim) -> Iterator[tuple[int, Claim]]:
        return ((owner, other) for owner, other in found if claim.shares_ports(other))
