"""Sessions live through the agent's death and through an upgrade of the objects, under traffic."""

from __future__ import annotations

import pytest

from bench.nat_upgrade import kill_under_flows, upgrade_under_flows
from sixgate.node.bpf import missing_permission


@pytest.fixture(autouse=True)
def _permitted() -> None:
    if reason := missing_permission():
        pytest.skip(reason)


def test_no_session_is_lost_by_kill_9() -> None:
    got = kill_under_flows(kills=3, flows=2000, rate=10_000)
    assert got.packets > 2000
    assert (got.lost, got.moved) == (0, 0)


def test_no_session_is_lost_by_objects_with_a_larger_session() -> None:
    """The table of sessions is made anew and its entries carried over, while every flow sends."""
    got = upgrade_under_flows(flows=20_000)
    assert (got.lost, got.moved_meanwhile) == (0, 0)
    assert "Carried 20000 entries of sg_st_sess over." in got.log
