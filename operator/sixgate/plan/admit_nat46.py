"""A NAT46Gateway among the others: which of its nodes can have it, and with what."""

from __future__ import annotations

from sixgate.api.nat46gateway import NAT46Gateway
from sixgate.plan.announce import MAX_ANNOUNCED, AnnouncePart, own_part, shared_part, too_many
from sixgate.plan.cluster import Of, translated_own
from sixgate.plan.egress import node_address
from sixgate.plan.kinds import bpf_objects_of
from sixgate.plan.natplan import MAX_GATEWAYS
from sixgate.plan.pools import PoolSlice
from sixgate.plan.prefix_routes import route_parts
from sixgate.plan.result import COVERS, NO_ADDRESS, TOO_MANY, TOO_MANY_ADDRESSES, TOO_MUCH
from sixgate.plan.run import MAX_NAMED, Run
from sixgate.plan.select import NodeSet
from sixgate.plan.stateful import StatefulPart, pool_shares, too_much


class GatewayAdmission:
    """Gateways, oldest first: a node has room for so many."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._at_least: list[NodeSet] = [0] * MAX_GATEWAYS  # nodes with one gateway, with two and so on

    def admit(self, item: NAT46Gateway, held: NodeSet) -> None:
        if self._run.lacks_objects(item, bpf_objects_of(item)):
            return
        held &= ~self._blame_own(item, held)
        if self._blame_pools(item, held):
            return
        full = held & self._at_least[-1]
        if full:
            text = f"is one gateway too many on {self._run.named(full)}: a node holds at most {MAX_GATEWAYS}"
            self._run.blame(item, TOO_MANY, text, "spec.nodeSelector")
        held &= ~full
        for count in range(MAX_GATEWAYS - 1, 0, -1):
            self._at_least[count] |= self._at_least[count - 1] & held
        self._at_least[0] |= held
        if item.spec.stateless is not None:
            self._run.program(item, held)
        else:
            self._stateful(item, held)
        if item.spec.announce == "L2" and not self._blame_announced(item):
            ready = tuple(name for name in self._run.index.names_of(held) if self._run.nodes[name].ready)
            self._announce(shared_part(item, ready), held)

    def _stateful(self, item: NAT46Gateway, held: NodeSet) -> None:
        """The parts of a stateful gateway on its nodes, and the way there from all others."""
        names = self._run.index.names_of(held)
        shares = pool_shares(item, names, frozenset(name for name in names if self._run.nodes[name].ready))
        by_share: dict[tuple[PoolSlice, ...], NodeSet] = {}
        for name in names:
            by_share[shares.get(name, ())] = by_share.get(shares.get(name, ()), 0) | self._run.index.only(name)
        active: NodeSet = 0
        for slices, nodes in by_share.items():
            part = StatefulPart(item.ref, item, slices)
            reason = too_much(part)
            if reason:
                self._run.blame(item, TOO_MUCH, f"{reason} ({self._run.named(nodes)})", "spec.stateful.pools")
            elif slices or item.spec.services:
                self._run.program(self._run.memo.part(part), nodes)
                active |= nodes if slices else 0
                if item.spec.announce == "L2" and slices and not too_many(item):
                    for name in self._run.index.names_of(nodes):
                        self._announce(own_part(item, slices, name), self._run.index.only(name))
        if item.spec.prefix is None or item.spec.stateful is None:
            return
        translating = {name: self._run.nodes[name] for name in self._run.index.names_of(active)}
        everyone = self._run.index.names_of(self._run.index.everything & ~active)
        others = tuple(name for name in everyone if node_address(self._run.nodes[name], 6))
        without = [name for name in translating if not node_address(translating[name], 6)]
        if others and without:
            named = ", ".join(without[:MAX_NAMED])
            text = f"has no way to {named} from other nodes: a Node needs an IPv6 address for that"
            self._run.blame(item, NO_ADDRESS, text, "spec.nodeSelector")
        for route, members in route_parts(item, translating, others):
            nodes = sum(self._run.index.only(name) for name in members)
            self._run.program(self._run.memo.part(route), nodes)
            self._run.selected[item.ref] |= nodes

    def _announce(self, part: AnnouncePart | None, nodes: NodeSet) -> None:
        if part is not None:
            self._run.program(self._run.memo.part(part), nodes)

    def _blame_announced(self, item: NAT46Gateway) -> bool:
        """Whether the gateway has more addresses than nodes can answer for one by one."""
        count = too_many(item)
        if count:
            text = (
                f"has {count} addresses to announce (spec.announce), and {MAX_ANNOUNCED} are the most; route them to "
            )
            text += "the gateway nodes and leave spec.announce at None"
            self._run.blame(item, TOO_MANY_ADDRESSES, text, "spec.announce")
        return bool(count)

    def _blame_pools(self, item: NAT46Gateway, held: NodeSet) -> bool:
        """Whether a pool has an address of a node that it would be given out on another node."""
        stateful = item.spec.stateful
        for number, pool in enumerate(stateful.pools if stateful is not None else ()):
            field = f"spec.stateful.pools[{number}].cidr"
            for own in self._run.cluster.inside(pool.cidr):
                if own.of is Of.NODE and held == self._run.index.only(own.node):
                    continue  # a gateway of one node may share that node's own address with it
                self._run.blame(item, COVERS, f"has the pool {pool.cidr} ({field}), which covers {own}", field)
                return True
        return False

    def _blame_own(self, item: NAT46Gateway, held: NodeSet) -> NodeSet:
        """The nodes that `item` would cut off by translating an address that they have themselves."""
        cut: NodeSet = 0
        told = ""
        for field, network, own in translated_own(item, self._run.cluster):
            nodes = held if own.of is Of.SERVICES else self._run.index.only(own.node) & held
            if nodes and not told:
                why = (
                    "what Services have is not translated"
                    if own.of is Of.SERVICES
                    else "a node does not translate its own address"
                )
                told = f"{network} ({field}), which covers {own}; {why}"
            cut |= nodes
        if cut:
            self._run.blame(item, COVERS, f"wants {told}; left out on {self._run.named(cut)}")
        return cut
