"""Objects that contradict each other: the older keeps what it has, whatever the order of events."""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import StartOperator, gateway

if TYPE_CHECKING:
    from e2e.apiserver.cluster import Cluster, Json

LABEL = {"gateway": "yes"}
NAMES = ("a", "b", "c")
FAR_APART = (0, 5)  # the order of names and its reverse, with ages that differ: creationTimestamp has whole seconds
A_SECOND_LATER = 1.1


def same_prefix(name: str) -> Json:
    """Three of these contradict each other pairwise: one prefix, different IPv4 addresses."""
    return gateway(name, "2001:db8:64::/96", f"198.18.{ord(name)}.0/24")


def settled(cluster: Cluster) -> bool:
    objects = cluster.list("NAT46Gateway").values()
    return all(o.get("status", {}).get("observedGeneration") == o["metadata"]["generation"] for o in objects)


def conflicted(cluster: Cluster, name: str) -> bool:
    return cluster.conditions("NAT46Gateway", name).get("Conflicted", {}).get("status") == "True"


@pytest.fixture
def two_nodes(cluster: Cluster) -> Cluster:
    for name in ("n1", "n2"):
        cluster.node(name, LABEL)
    return cluster


@pytest.mark.parametrize("order", list(itertools.permutations(NAMES)), ids="".join)
def test_the_oldest_wins_and_the_next_takes_over(
    two_nodes: Cluster, operator: StartOperator, order: tuple[str, ...]
) -> None:
    cluster = two_nodes
    operator()
    made = {name: cluster.apply(same_prefix(name))["metadata"]["creationTimestamp"] for name in order}
    by_age = sorted(order, key=lambda name: (made[name], name))  # stamps have whole seconds: names decide within one
    while by_age:
        winner, *losers = by_age
        cluster.wait(
            f"{winner} wins",
            lambda winner=winner, losers=losers: (
                settled(cluster) and not conflicted(cluster, winner) and all(conflicted(cluster, n) for n in losers)
            ),
        )
        for loser in losers:
            assert f"NAT46Gateway/{winner}" in cluster.conditions("NAT46Gateway", loser)["Conflicted"]["message"]
        cluster.wait(
            "only the winner's addresses at the nodes",
            lambda winner=winner: (
                f"NAT46Gateway/{winner}" in (text := json.dumps(cluster.list("NodeConfig")))
                and not any(f'"NAT46Gateway/{other}"' in text for other in order if other != winner)
            ),
        )
        cluster.delete("NAT46Gateway", winner)
        by_age = losers
    cluster.wait("no NodeConfig left", lambda: not cluster.list("NodeConfig"))


def test_all_orders_of_events_give_the_same_nodeconfigs(two_nodes: Cluster, operator: StartOperator) -> None:
    cluster = two_nodes
    objects = [gateway(n, f"2001:db8:{i + 1}::/96", f"198.18.{i}.0/24") for i, n in enumerate(NAMES)]
    operator()
    owners = [f'"NAT46Gateway/{name}"' for name in NAMES]
    seen: set[str] = set()
    for number, order in enumerate(itertools.permutations(objects)):
        for document in order:
            cluster.apply(document)
            if number in FAR_APART:
                time.sleep(A_SECOND_LATER)
        cluster.wait("settled", lambda: settled(cluster) and len(cluster.list("NodeConfig")) == 2)
        cluster.wait("all three", lambda: all(o in json.dumps(cluster.list("NodeConfig")) for o in owners))
        specs = {name: config["spec"] for name, config in cluster.list("NodeConfig").items()}
        seen.add(json.dumps(specs, sort_keys=True))
        for document in order:
            cluster.delete("NAT46Gateway", document["metadata"]["name"])
        cluster.wait("none left", lambda: not cluster.list("NodeConfig"))
    assert len(seen) == 1
