"""What this node was told of egress: pairs with their policies, and where gateways are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.node.egress.owners import PairWant

if TYPE_CHECKING:
    from sixgate.api.nodeconfig import EgressPair, EgressPolicy


@dataclass(frozen=True, slots=True)
class KnownPair:
    """A pair with the policy that it is of."""

    pair: EgressPair
    policy: EgressPolicy

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(text for text in (self.pair.ipv4, self.pair.ipv6) if text)

    @property
    def gateways(self) -> tuple[str, ...]:
        """Nodes that may own it."""
        return tuple(member.node for member in self.policy.members)


@dataclass(slots=True)
class Known:
    """Seen from `node`. `pairs` by number; `gateways` are addresses by node, of former ones too."""

    node: str
    pairs: dict[int, KnownPair] = field(default_factory=dict)
    gateways: dict[str, str] = field(default_factory=dict)

    def configure(self, policies: tuple[EgressPolicy, ...]) -> None:
        self.pairs = {pair.id: KnownPair(pair, policy) for policy in policies for pair in policy.pairs}
        self.gateways |= {member.node: member.address for policy in policies for member in policy.members}

    def forget(self) -> None:
        self.pairs = {}
        self.gateways.clear()

    @property
    def own_address(self) -> str:
        """Of this node, if it is or was a gateway."""
        return self.gateways.get(self.node, "")

    def is_gateway(self) -> bool:
        return any(self.node in known.gateways for known in self.pairs.values())

    def peers(self) -> set[str]:
        """Addresses of gateways that share a pair with this one."""
        shared = (known.policy for known in self.pairs.values() if self.node in known.gateways)
        return {member.address for policy in shared for member in policy.members if member.node != self.node}

    def wants(self) -> list[PairWant]:
        """For the decision who owns what."""
        return [
            PairWant(
                id=number,
                members=known.gateways,
                leaving=frozenset(member.node for member in known.policy.members if member.leaving),
                fenced=known.policy.announce == "L2",
                interval_s=known.policy.heartbeat_ms / 1000,
                missed=known.policy.missed,
            )
            for number, known in self.pairs.items()
        ]
