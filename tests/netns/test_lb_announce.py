"""One of several balancers has a virtual address on the segment; the next one takes it over."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from e2e.lab.balance import BALANCER, CLIENT, SECOND, BalancerLab
from e2e.lab.run import LabRun

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

VIPS = pytest.mark.parametrize("vip", ["203.0.113.80", "2001:db8:5::80"])
NODES = (BALANCER, SECOND)
SCRIPT = Path(__file__).with_name("announcing.py")
ROOT = Path(__file__).resolve().parents[2]


def has(lab: LabRun, role: str, vip: str) -> bool:
    shown = json.loads(lab.run(role, ["ip", "-j", "addr", "show"]).stdout)
    return any(info["local"] == vip for device in shown for info in device["addr_info"])


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 120  # beside any load
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def answered_by(lab: LabRun, vip: str) -> str:
    """Link address that the client has learnt; it pings first, as a client does."""
    lab.run(CLIENT, ["ping", "-c1", "-W1", vip], check=False)
    rows = json.loads(lab.run(CLIENT, ["ip", "-j", "neigh", "show", vip]).stdout)
    return str(rows[0].get("lladdr", "")) if rows else ""


def link_address(lab: LabRun, role: str) -> str:
    return str(json.loads(lab.run(role, ["ip", "-j", "link", "show", "dev", lab.device("up")]).stdout)[0]["address"])


@pytest.fixture
def lab() -> Iterator[LabRun]:
    with LabRun() as made:
        BalancerLab(made, ()).build(NODES)
        yield made


def announce(lab: LabRun, role: str, vip: str, *nodes: str, devices: str = "-") -> subprocess.Popen[str]:
    words = [sys.executable, str(SCRIPT), role, vip, devices, *nodes]
    path = os.pathsep.join((str(ROOT), str(ROOT / "operator")))
    with told(lab, role).open("w") as out:
        return lab.spawn(role, words, stdout=out, env={"PYTHONPATH": path})


def told(lab: LabRun, role: str) -> Path:
    """What the node that announces says."""
    return lab.workdir / f"announcing-{role}"


@VIPS
def test_the_next_node_takes_an_address_over_and_gives_it_back(lab: LabRun, vip: str) -> None:
    agents = {role: announce(lab, role, vip, *NODES) for role in NODES}
    up = lab.device(BALANCER)  # its end at the bridge
    try:
        wait(lambda: has(lab, BALANCER, vip), "the preferred node does not take the address")
        wait(lambda: answered_by(lab, vip) == link_address(lab, BALANCER), "the client does not find it")
        lab.ip("br", f"link set {up} down")
        wait(lambda: has(lab, SECOND, vip), "the next node does not take over")
        wait(lambda: answered_by(lab, vip) == link_address(lab, SECOND), "the client does not find the next node")
        lab.ip("br", f"link set {up} up")
        wait(lambda: not has(lab, SECOND, vip), "the next node does not give the address back")
        assert has(lab, BALANCER, vip)
    finally:
        for agent in agents.values():
            agent.terminate()
            agent.wait()


@VIPS
def test_a_node_whose_agent_died_keeps_its_address(lab: LabRun, vip: str) -> None:
    first = announce(lab, BALANCER, vip, *NODES)
    wait(lambda: has(lab, BALANCER, vip), "the preferred node does not take the address")
    first.kill()
    first.wait()
    second = announce(lab, SECOND, vip, *NODES)
    try:
        time.sleep(5)
        assert has(lab, BALANCER, vip)
        assert not has(lab, SECOND, vip)
    finally:
        second.terminate()
        second.wait()


@VIPS
def test_an_address_that_another_node_is_to_have_goes(lab: LabRun, vip: str) -> None:
    for nodes, wanted in ((NODES, True), ((SECOND,), False)):
        agent = announce(lab, BALANCER, vip, *nodes)
        wait(lambda wanted=wanted: has(lab, BALANCER, vip) is wanted, f"the address is there or not: {nodes}")  # type: ignore[misc]
        agent.kill()
        agent.wait()
