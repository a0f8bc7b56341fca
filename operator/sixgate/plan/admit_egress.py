"""An EgressGateway among the others: which nodes carry its pods' packets out."""

from __future__ import annotations

from sixgate.api.egressgateway import EgressGateway
from sixgate.plan.cluster import Of, address_of_cluster, covered_by_egress
from sixgate.plan.egress import (
    MAX_PAIR,
    MAX_STAT,
    OBJECTS,
    Numbers,
    common_family,
    node_address,
    numbered_pairs,
    parts,
)
from sixgate.plan.result import CONFLICTED, COVERS, NO_ADDRESS
from sixgate.plan.run import Run
from sixgate.plan.select import NodeSet


class EgressAdmission:
    """Egress objects, oldest first: who comes first has the lower numbers."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._family = common_family(run.snapshot.nodes)
        self._pair_numbers, self._stat_numbers = Numbers(MAX_PAIR), Numbers(MAX_STAT)

    def admit(self, item: EgressGateway, gateways: NodeSet, mine: bool) -> None:
        """Whatever keeps an object from having a gateway keeps its pods' packets from leaving, but one: destinations
        that cover the cluster itself would cut its pods off."""
        stat, pairs = self._stat_numbers.give(str(item.ref)), numbered_pairs(item, self._pair_numbers)
        covered = covered_by_egress(item, self._run.cluster)
        if covered:
            field, network, own = covered
            text = f"has the destination {network} ({field}), which covers {own}; list it in spec.excludedCIDRs"
            self._run.blame(item, COVERS, text, field)
            return
        if self._run.lacks_objects(item, OBJECTS):
            return
        mine = self._has_addresses(item, gateways) and mine
        usable = gateways if mine else 0
        for name in self._run.index.names_of(usable):
            if not node_address(self._run.nodes[name], self._family):
                text = f"has the gateway {name}, which has no IPv{self._family} address that a tunnel could lead to"
                self._run.blame(item, NO_ADDRESS, f"{text}; it is left out")
        found = parts(item, self._run.index, self._run.nodes, usable, stat, pairs if mine else (), self._family)
        for part, nodes in found:
            self._run.program(part, nodes)
            self._run.selected[item.ref] |= nodes

    def _has_addresses(self, item: EgressGateway, gateways: NodeSet) -> bool:
        """Whether none of its addresses is the cluster's own. One of a gateway is: that is where it is adopted."""
        names = set(self._run.index.names_of(gateways))
        taken = address_of_cluster(item, self._run.cluster, names)
        if taken is None:
            return True
        field, address, own = taken
        what = f"is {own}, which is no gateway of it" if own.of is Of.NODE else f"is one of {own}"
        self._run.blame(item, CONFLICTED, f"wants {address} ({field}), but that {what}", field)
        return False
