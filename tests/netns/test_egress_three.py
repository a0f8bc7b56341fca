"""Three gateways: two die in a row, a better standby comes, and one comes back with nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from e2e.lab.egress import SERVER, EgressLab, settled
from e2e.lab.run import LabRun
from sixgate.node.egress.tables import rendezvous
from tests.netns.egress_ends import Ends, missing

GATEWAYS = ("g1", "g2", "g3")


@pytest.fixture(scope="module")
def lab() -> Iterator[EgressLab]:
    with LabRun() as run:
        yield settled(run, *GATEWAYS, failover={"drainSeconds": 1})


@pytest.fixture
def ends(lab: EgressLab) -> Iterator[Ends]:
    made = Ends(lab)
    try:
        yield made
    finally:
        made.close()
        for gateway in GATEWAYS:
            lab.cut(gateway, up=True)
        lab.wait_settled()


def order(lab: EgressLab) -> list[str]:
    """Who should have the pair, who next, and who then."""
    pair = lab.reports("n1")[0]["pair"]
    return sorted(GATEWAYS, key=lambda name: rendezvous(name, pair), reverse=True)


def wait_copies(lab: EgressLab, ends: Ends, owner: str, standby: str) -> None:
    """Until the owner says that the standby has everything, and that has every connection of the test."""

    def whole() -> bool:
        return lab.standby(owner) == standby and not missing(ends, standby)

    lab.wait(whole, lambda: f"{standby} has no copies: {lab.reports(owner)}\n{lab.tail(owner)}\n{lab.tail(standby)}")


def test_connections_outlive_two_gateways_and_go_home_to_an_empty_one(lab: EgressLab, ends: Ends) -> None:
    lab.wait_settled()
    first, second, third = order(lab)
    ends.open(60)
    wait_copies(lab, ends, first, second)
    before = lab.resets("pay", SERVER)
    lab.cut_off(first)
    wait_copies(lab, ends, second, third)  # what came as a copy is copied on
    ends.talk()
    lab.cut_off(second)
    assert lab.owner("n1") == third
    ends.talk()
    ends.talk()
    assert lab.resets("pay", SERVER) == before
    # The first one comes back and knows nothing: it is given the connections before it has the address.
    lab.kill(first)
    lab.command(first, ["down"])
    lab.cut(first, up=True)
    lab.start(first)
    lab.wait(lambda: lab.owner("n1") == first, lambda: f"{first} does not come back\n{lab.tail(third)}")
    ends.talk()
    assert lab.resets("pay", SERVER) == before


def test_copies_follow_to_a_better_standby(lab: EgressLab, ends: Ends) -> None:
    """The next gateway is away when they are made, and back when they are needed."""
    lab.wait_settled()
    first, second, third = order(lab)
    lab.cut(second)
    wait_copies(lab, ends, first, third)
    ends.open(60)
    wait_copies(lab, ends, first, third)
    lab.cut(second, up=True)
    wait_copies(lab, ends, first, second)
    lab.wait(
        lambda: missing(ends, third) == Counter(ends.ports),
        lambda: f"{third} lacks only {missing(ends, third)}\n{lab.tail(third)}",
    )
    before = lab.resets("pay", SERVER)
    lab.cut_off(first)
    assert lab.owner("n1") == second
    ends.talk()
    assert lab.resets("pay", SERVER) == before
