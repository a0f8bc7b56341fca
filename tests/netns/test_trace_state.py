"""`sixgate trace` where flows have state: sessions, virtual addresses, pods with egress. Nothing of it changes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab.natlab import CLIENT4, CLIENT6, SERVER4, embed
from sixgate.node.bpf import missing_permission
from tests.netns.nat import Stage, nat64, staged
from tests.netns.test_metrics_live import BALANCER, VIP
from tests.netns.untouched import contents

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 4600
POOL = [{"cidr": "198.51.100.0/30"}]


@pytest.fixture(scope="module")
def one_stage() -> Iterator[Stage]:
    if reason := missing_permission():
        pytest.skip(reason)
    # Sessions that outlive every loaded machine: one that ends meanwhile changes maps, too.
    lasting = {"portRest": 0, "udp": 86400}
    with staged(nat64(pools=POOL, lifetimes=lasting, maxSessions=65536), BALANCER) as made:
        yield made


@pytest.fixture
def stage(one_stage: Stage) -> Iterator[Stage]:
    yield one_stage
    one_stage.close_sockets()


def trace(stage: Stage, source: str, target: str, *words: str, proto: str = "udp") -> dict[str, Any]:
    """No map of the node is another one afterwards."""
    asked = ["trace", "--from", source, "--to", target, "--proto", proto, *words, "-o", "json"]
    before = contents(stage.sixgate.bpffs)
    done = stage.sixgate.command(asked, check=False)
    after = contents(stage.sixgate.bpffs)
    assert {name for name in before if before[name] != after[name]} == set()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_session_that_there_is_both_ways(stage: Stage) -> None:
    client, server = stage.udp(CLIENT6, PORT), stage.udp(SERVER4, PORT)
    client.sendto(b"question", (embed(SERVER4.ip), PORT))
    _, (pool, pool_port) = server.recvfrom(100)
    counted = stage.nat("stats")["objects"]
    out = trace(stage, f"[{CLIENT6.ip}]:{PORT}", f"[{embed(SERVER4.ip)}]:{PORT}")["steps"][-1]
    assert (out["object"], out["reason"]) == ("NAT46Gateway/lab", "SG_OK_64")
    assert out["after"] == f"udp {pool}:{pool_port} → {SERVER4.ip}:{PORT}, hop limit 63"
    back = trace(stage, f"{SERVER4.ip}:{PORT}", f"{pool}:{pool_port}")
    step = back["steps"][-1]
    assert step["reason"] == "SG_OK_46"
    assert step["after"] == f"udp [{embed(SERVER4.ip)}]:{PORT} → [{CLIENT6.ip}]:{PORT}, hop limit 63"
    assert CLIENT6.ip in back["route"]
    assert stage.nat("stats")["objects"] == counted


def test_a_session_that_is_still_to_begin(stage: Stage) -> None:
    before = stage.stat("sessions")
    found = trace(stage, f"[{CLIENT6.ip}]:{PORT + 2}", f"[{embed(SERVER4.ip)}]:{PORT}", proto="tcp")
    assert "begins a session to 203.0.113.20" in " ".join(found["sentences"])
    assert "its program is not run" in " ".join(found["sentences"])
    assert SERVER4.ip in found["route"]
    assert stage.stat("sessions") == before


def test_what_belongs_to_no_session_is_dropped(stage: Stage) -> None:
    amid = trace(stage, f"[{CLIENT6.ip}]:{PORT + 2}", f"[{embed(SERVER4.ip)}]:{PORT}", "--flags", "ack", proto="tcp")
    assert (amid["dropped"], amid["steps"][-1]["reason"]) == (True, "SG_DROP_ST_NO_STATE")
    outside = trace(stage, f"{SERVER4.ip}:1", "198.51.100.1:9")
    assert (outside["dropped"], outside["steps"][-1]["reason"]) == (True, "SG_DROP_ST_NO_STATE")


def test_a_virtual_address(stage: Stage) -> None:
    found = trace(stage, f"{CLIENT4.ip}:{PORT}", f"{VIP}:53")
    step = found["steps"][-1]
    assert (step["object"], step["reason"]) == ("LoadBalancer/web", "SG_OK_LB")
    assert f"with udp {CLIENT4.ip}:{PORT} → {VIP}:53, hop limit" in step["after"]
    assert step["after"].startswith(("ipip ", "ip6ip ", "protocol 4 "))


def test_a_port_that_nobody_balances(stage: Stage) -> None:
    step = trace(stage, f"{CLIENT4.ip}:{PORT}", f"{VIP}:54")["steps"][-1]
    assert (step["object"], step["verdict"], step["reason"]) == ("LoadBalancer/web", "drop", "SG_DROP_LB_PORT")


def test_the_balancer_counts_nothing(stage: Stage) -> None:
    before = {r: c for r, c in stage.sixgate.status()["counters"].items() if "LB" in r}
    trace(stage, f"{CLIENT4.ip}:{PORT}", f"{VIP}:53")
    assert {r: c for r, c in stage.sixgate.status()["counters"].items() if "LB" in r} == before
