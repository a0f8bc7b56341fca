"""A LoadBalancer among the others: which of its nodes balance, and which take outer headers off."""

from __future__ import annotations

from functools import reduce
from operator import or_

from sixgate.api.addr import Address
from sixgate.api.loadbalancer import LoadBalancer
from sixgate.errors import Ref
from sixgate.plan.balancer import BalancerPart
from sixgate.plan.decap import OBJECTS as DECAP_OBJECTS
from sixgate.plan.decap import decap_parts
from sixgate.plan.kinds import bpf_objects_of
from sixgate.plan.lbnat import NO_SOURCE, family_of, shared_out, spread
from sixgate.plan.result import CONFLICTED
from sixgate.plan.run import MAX_NAMED, Run
from sixgate.plan.select import NodeSet


class BalancerAdmission:
    """Balancers, oldest first: two of them must not send packets round between them."""

    def __init__(self, run: Run) -> None:
        self._run = run
        nodes = run.snapshot.nodes
        self._nodes_at = {address: node.name for node in nodes for address in node.addresses}
        self._ready: NodeSet = reduce(or_, (run.index.only(node.name) for node in nodes if node.ready), 0)
        self._vips: dict[Address, list[tuple[Ref, NodeSet]]] = {}
        self._backends: dict[Address, list[tuple[Ref, NodeSet]]] = {}

    def admit(self, item: LoadBalancer, held: NodeSet) -> None:
        if self._run.lacks_objects(item, bpf_objects_of(item)):
            return
        held &= ~self._blame_loops(item, held)
        announcers = self._run.index.names_of(held & self._ready) if item.spec.announce == "L2" else ()
        part, problems = self._run.memo.balancer(item, self._run.snapshot.endpoints, announcers)
        self._run.problems += problems
        for shared, nodes in self._shared_out(item, part, held):
            self._run.program(shared, nodes)
        if all(name in self._run.snapshot.digests for name in DECAP_OBJECTS):
            self._unpack(item, part, held)

    def _shared_out(self, item: LoadBalancer, part: BalancerPart, held: NodeSet) -> list[tuple[BalancerPart, NodeSet]]:
        """`part` as its nodes do it: in mode NAT each has sources of its own."""
        if part.plan.nat is None or not part.plan.nat.sources:
            return [(part, held)]
        names = self._run.index.names_of(held)
        shares = shared_out(part.plan.nat.sources, names)
        without = spread(shares, {family_of(backend.address) for backend in part.plan.backends})
        if without:
            text = "has fewer addresses in spec.forwarding.nat.sourceAddresses than nodes, and none is left for "
            text += f"{', '.join(without[:MAX_NAMED])}; what has none does not balance"
            self._run.blame(item, NO_SOURCE, text, "spec.forwarding.nat.sourceAddresses")
        return [
            (self._run.memo.with_sources(part, shares[name]), self._run.index.only(name))
            for name in names
            if name not in without
        ]

    def _unpack(self, item: LoadBalancer, part: BalancerPart, held: NodeSet) -> None:
        """Nodes that have a backend's address themselves take outer headers off, unless they balance."""
        senders = [self._run.nodes[name] for name in self._run.index.names_of(held)]
        backends = [backend.address for backend in part.plan.backends]
        for name, unpacking in decap_parts(item, backends, self._nodes_at, senders).items():
            node = self._run.index.only(name) & ~held
            if node:
                self._run.program(unpacking, node)
                self._run.selected[item.ref] |= node

    def _blame_loops(self, item: LoadBalancer, held: NodeSet) -> NodeSet:
        """Nodes on which a backend of `item` is a VIP of an older balancer, or the other way round: packets would go
        round there for ever."""
        vips, backends = set(item.spec.vips), {backend.address for backend in item.spec.backends}
        looped: NodeSet = 0
        for addresses, taken in ((backends, self._vips), (vips, self._backends)):
            for address in sorted(addresses & taken.keys(), key=str):
                for older, nodes in taken[address]:
                    shared = nodes & held
                    if shared and not looped:
                        text = f"and {older} would make a loop: {address} is a VIP of one and a backend of the other"
                        self._run.blame(item, CONFLICTED, f"{text} on {self._run.named(shared)}", "spec.backends")
                    looped |= shared
        for addresses, taken in ((vips, self._vips), (backends, self._backends)):
            for address in addresses:
                taken.setdefault(address, []).append((item.ref, held & ~looped))
        return looped
