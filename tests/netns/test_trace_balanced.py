"""`sixgate trace` of a virtual address in mode NAT: a flow that is to begin and one that there is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from e2e.lab.balance import CLIENT, address
from tests.netns.test_lb_live import BACKENDS, Site, vip
from tests.netns.test_lb_nat import NAT, backends, site  # noqa: F401 - a fixture
from tests.netns.untouched import contents, settled

if TYPE_CHECKING:
    import subprocess


def trace(of: Site, source: str, *words: str) -> subprocess.CompletedProcess[str]:
    """No map of the node is another one afterwards."""
    before = contents(of.sixgate.bpffs)
    done = of.sixgate.command(["trace", "--from", source, "--to", f"{vip(4)}:80", *words, "-o", "json"], check=False)
    after = contents(of.sixgate.bpffs)
    assert {name for name in before if before[name] != after[name]} == set()
    return done


def last(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    step: dict[str, Any] = json.loads(done.stdout)["steps"][-1]
    return step


def test_a_flow_that_begins_and_one_that_there_is(site: Site) -> None:  # noqa: F811
    site.put(4, backends=backends(4), **NAT)
    client = address(CLIENT, 4)
    begins = trace(site, f"{client}:5")
    assert last(begins)["object"] == "LoadBalancer/web"
    assert "begins a session" in begins.stdout
    stray = trace(site, f"{client}:5", "--flags", "ack")
    assert (stray.returncode, last(stray)["reason"]) == (1, "SG_DROP_ST_NO_STATE")
    assert site.net.answers(3, vip(4))
    settled(site.sixgate.bpffs)
    (session, *_) = json.loads(site.sixgate.command(["nat", "list", "-o", "json"]).stdout)
    known = last(trace(site, f"{client}:{session['clientPort']}", "--flags", "ack"))
    assert known["object"] == "LoadBalancer/web"
    assert session["remote"] in {address(role, 4) for role in BACKENDS}
    assert f"→ {session['remote']}:{session['remotePort']}" in known["after"]
