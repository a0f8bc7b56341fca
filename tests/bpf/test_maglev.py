"""Maglev tables: the program against the paper's algorithm, shares, and what a removal disturbs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from sixgate.node.bpf import Manifest
from sixgate.node.maglev import Maglev, _walk

SEED = 7
SIZE = 65537


@pytest.fixture(scope="module")
def maglev(shipped: Manifest) -> Iterator[Maglev]:
    with Maglev(shipped) as made:
        yield made


def backends(count: int, weights: Sequence[int] = (1,)) -> list[tuple[bytes, int]]:
    return [(f"10.0.{i >> 8}.{i & 255}".encode(), weights[i % len(weights)]) for i in range(count)]


def paper(given: list[tuple[bytes, int]], size: int) -> list[int]:
    """Pseudocode 1 of the paper, with turns by weight."""
    turns = sorted(range(len(given)), key=lambda index: given[index][0])
    walk = {index: _walk(given[index][0], size, SEED) for index in turns}
    largest = max(weight for _, weight in given)
    credit, asked = dict.fromkeys(turns, largest // 2), dict.fromkeys(turns, 0)
    table: list[int] = [-1] * size
    filled = 0
    while True:
        for index in turns:
            credit[index] += given[index][1]
            if credit[index] < largest:
                continue
            credit[index] -= largest
            first, stride = walk[index]
            while table[slot := (first + asked[index] * stride) % size] >= 0:
                asked[index] += 1
            table[slot] = index
            filled += 1
            if filled == size:
                return table


@pytest.mark.parametrize("size", [3, 251, 1021, 16381])
@pytest.mark.parametrize("weights", [(1,), (1, 2, 3), (65535, 1), (7, 7, 100)])
@pytest.mark.parametrize("count", [1, 3, 40, 200])
def test_the_program_builds_the_papers_table(maglev: Maglev, count: int, size: int, weights: tuple[int, ...]) -> None:
    given = backends(min(count, size), weights)
    assert list(maglev.build(given, size, SEED)) == paper(given, size)


def test_the_order_of_backends_does_not_matter(maglev: Maglev) -> None:
    given = backends(50, (1, 5))
    other = random.Random(1).sample(given, len(given))
    first = [given[index] for index in maglev.build(given, 1021, SEED)]
    assert first == [other[index] for index in maglev.build(other, 1021, SEED)]
    assert first != [given[index] for index in maglev.build(given, 1021, SEED + 1)]


@pytest.mark.parametrize("count", [3, 100, 500])
def test_equal_weights_have_equal_shares(maglev: Maglev, count: int) -> None:
    shares = Counter(maglev.build(backends(count), SIZE, SEED))
    assert max(shares.values()) * count / SIZE <= 1.02


@pytest.mark.parametrize(
    ("count", "weights"), [(3, (1, 2, 7)), (100, tuple(range(1, 101))), (500, (1, 4)), (100, (100, *[1] * 99))]
)
def test_shares_follow_weights(maglev: Maglev, count: int, weights: tuple[int, ...]) -> None:
    given = backends(count, weights)
    shares, total = Counter(maglev.build(given, SIZE, SEED)), sum(weight for _, weight in given)
    for index, (_, weight) in enumerate(given):
        assert shares[index] == pytest.approx(SIZE * weight / total, rel=0.02)


def test_a_backend_of_the_least_weight_has_a_slot(maglev: Maglev) -> None:
    given = backends(500, (65535, *[1] * 499))
    assert len(Counter(maglev.build(given, SIZE, SEED))) == 500


def test_a_removal_disturbs_little_else(maglev: Maglev) -> None:
    given = backends(100)
    before = maglev.build(given, SIZE, SEED)
    moved = []
    for gone in range(0, 100, 10):
        rest = given[:gone] + given[gone + 1 :]
        after = maglev.build(rest, SIZE, SEED)
        moved.append(sum(a != gone and given[a] != rest[b] for a, b in zip(before, after, strict=True)) / SIZE)
    assert sum(moved) / len(moved) <= 0.006


@pytest.mark.parametrize(
    ("given", "size", "told"),
    [
        ([], 251, "takes 1 to 251 backends, not 0"),
        (backends(4), 3, "takes 1 to 3 backends, not 4"),
        (backends(1), 65539, "has 3 to 65537 slots, not 65539"),
        ([(b"a", 1), (b"a", 2)], 251, "one backend twice"),
        ([(b"a", 0)], 251, "weight of 1 to 65535, not 0"),
        ([(b"a", 65536)], 251, "weight of 1 to 65535, not 65536"),
    ],
    ids=["none", "too many", "too large", "twice", "weightless", "too heavy"],
)
def test_what_cannot_be_built_is_refused(maglev: Maglev, given: list[tuple[bytes, int]], size: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        maglev.build(given, size, SEED)
