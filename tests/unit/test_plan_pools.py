"""Pools are shared out between gateway nodes: evenly, apart, and with as little moving as possible."""

from __future__ import annotations

from ipaddress import IPv4Network
from itertools import combinations

import pytest

from sixgate.plan.pools import Pool, PoolSlice, Shares, rendezvous, share_out

NODES = tuple(f"gw-{number}" for number in range(5))


def pool(text: str, first: int = 1024, last: int = 65535) -> Pool:
    return (IPv4Network(text), first, last)


def shares(pools: tuple[Pool, ...], nodes: tuple[str, ...] = NODES, ready: tuple[str, ...] | None = None) -> Shares:
    return share_out(pools, nodes, frozenset(nodes if ready is None else ready))


def addresses(slices: tuple[PoolSlice, ...]) -> set[int]:
    return {address for item in slices for address in range(item.first, item.last + 1)}


def overlap(one: PoolSlice, other: PoolSlice) -> bool:
    same_ports = one.first_port <= other.last_port and other.first_port <= one.last_port
    return one.first <= other.last and other.first <= one.last and same_ports


POOLS = [
    (pool("198.51.100.0/24"),),
    (pool("198.51.100.0/28"), pool("203.0.113.7/32")),
    (pool("10.0.0.0/8"),),
    (pool("198.51.100.0/24", 1024, 30000), pool("198.51.100.0/26", 30001, 65535)),
    (pool("10.0.0.0/12", 1024, 30000), pool("10.0.0.5/32", 30001, 65535)),
    (pool("198.51.100.1/32"),),
]


@pytest.mark.parametrize("pools", POOLS, ids=str)
def test_every_address_has_one_node_and_none_is_lost(pools: tuple[Pool, ...]) -> None:
    shared = shares(pools)
    for one, other in combinations(shared.values(), 2):
        assert not any(overlap(a, b) for a in one for b in other)
    held = sum(item.size for slices in shared.values() for item in slices)
    assert held == sum(network.num_addresses for network, _, _ in pools)


def test_one_address_with_two_ranges_of_ports_stays_on_one_node() -> None:
    shared = shares((pool("198.51.100.0/28", 1024, 30000), pool("198.51.100.0/29", 30001, 65535)))
    for one, other in combinations(shared.values(), 2):
        assert not addresses(one) & addresses(other)


@pytest.mark.parametrize("count", range(1, 9))
def test_nobody_has_two_addresses_more_than_another(count: int) -> None:
    nodes = tuple(f"n{number}" for number in range(count))
    sizes = [len(addresses(slices)) for slices in shares((pool("198.51.100.0/27"),), nodes).values()]
    assert max(sizes) - min(sizes) <= 1


def test_the_order_of_nodes_is_of_no_matter() -> None:
    pools = (pool("198.51.100.0/26"),)
    assert shares(pools, NODES) == shares(pools, NODES[::-1])


def test_a_node_that_leaves_moves_little_else() -> None:
    pools = (pool("198.51.100.0/24"),)
    before, after = shares(pools), shares(pools, NODES[:-1])
    moved = sum(len(addresses(before[name]) - addresses(after[name])) for name in NODES[:-1])
    assert moved <= 40, "of 256 addresses 51 have to move, and the bound on load moves some more"


def test_a_node_that_is_not_ready_keeps_its_addresses() -> None:
    pools = (pool("198.51.100.0/28"),)
    assert shares(pools, NODES, NODES[1:]) == shares(pools)


def test_the_last_address_goes_to_a_node_that_is_ready() -> None:
    pools = (pool("198.51.100.1/32"),)
    holder = next(name for name, slices in shares(pools).items() if slices)
    others = tuple(name for name in NODES if name != holder)
    after = shares(pools, NODES, others)
    assert not after[holder]
    assert sum(bool(slices) for slices in after.values()) == 1


def test_rendezvous_moves_only_those_whose_node_is_gone() -> None:
    keys = [f"node-{number}" for number in range(500)]
    before = {key: rendezvous(key, NODES) for key in keys}
    after = {key: rendezvous(key, NODES[1:]) for key in keys}
    assert all(before[key] == after[key] for key in keys if before[key] != NODES[0])
    assert min(list(before.values()).count(name) for name in NODES) > 60
