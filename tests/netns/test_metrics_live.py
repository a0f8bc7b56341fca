"""What a gateway with sessions and virtual addresses tells Prometheus, after traffic that is counted by hand."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from e2e.lab.natlab import CLIENT4, CLIENT6, SERVER4, embed
from e2e.lab.topology import GATEWAY
from sixgate.node.bpf import missing_permission
from tests.netns.nat import Stage, nat64, staged

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 9464
VIP = "198.51.100.90"
BALANCER: dict[str, Any] = {
    "apiVersion": "sixgate.io/v1alpha1",
    "kind": "LoadBalancer",
    "metadata": {"name": "web"},
    "spec": {
        "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "gw-1"}},
        "vips": [VIP],
        "ports": [{"name": "dns", "protocol": "UDP", "port": 53}],
        "backends": [{"address": "203.0.113.20"}, {"address": "2001:db8:6:2::20"}],
    },
}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    if reason := missing_permission():
        pytest.skip(reason)
    objects = (nat64(pools=[{"cidr": "198.51.100.0/30"}]), BALANCER)
    with staged(*objects, more=("--metrics", f"127.0.0.1:{PORT}")) as made:
        made.lab.ip(GATEWAY, "link set lo up")
        yield made


def scrape(stage: Stage) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    families = text_string_to_metric_families(stage.lab.call(GATEWAY, read))
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(found: dict[tuple[str, frozenset[tuple[str, str]]], float], metric: str, /, **labels: str) -> float:
    return found[metric, frozenset(labels.items())]


def test_sessions_of_a_gateway(stage: Stage) -> None:
    client, server = stage.udp(CLIENT6), stage.udp(SERVER4, 4500)
    for _ in range(3):
        client.sendto(b"question", (embed(SERVER4.ip), 4500))
        _, seen = server.recvfrom(100)
    server.sendto(b"answer", seen)
    client.recvfrom(100)
    found = scrape(stage)
    assert value(found, "sixgate_nat_sessions", object="lab") == 1
    assert value(found, "sixgate_nat_mappings", object="lab") == 1
    assert value(found, "sixgate_nat_new_sessions_total", object="lab") == 1
    assert value(found, "sixgate_nat_packets_total", object="lab", direction="from_clients") == 3
    assert value(found, "sixgate_nat_packets_total", object="lab", direction="to_clients") == 1
    assert value(found, "sixgate_nat_refused_total", object="lab", reason="no_port") == 0
    assert value(found, "sixgate_nat_table_sessions") >= value(found, "sixgate_nat_max_sessions", object="lab") > 0
    assert value(found, "sixgate_scrape_errors_total", part="the node") == 0


def test_virtual_addresses_and_backends(stage: Stage) -> None:
    for _ in range(8):
        stage.udp(CLIENT4).sendto(b"question", (VIP, 53))
    found = scrape(stage)
    assert value(found, "sixgate_lb_packets_total", name="web", vip=VIP) == 8
    assert value(found, "sixgate_lb_bytes_total", name="web", vip=VIP) == 8 * 36
    assert value(found, "sixgate_lb_backends", name="web", state="wanted") == 2
    backends = ("203.0.113.20", "2001:db8:6:2::20")
    assert all(value(found, "sixgate_lb_backend_up", name="web", backend=each) == 1 for each in backends)
    got = [value(found, "sixgate_lb_backend_bytes_total", name="web", backend=each) for each in backends]
    assert sum(got) == 8 * 36


def test_a_port_that_nobody_balances(stage: Stage) -> None:
    before = value(scrape(stage), "sixgate_lb_drops_total", name="web", vip=VIP)
    stage.udp(CLIENT4).sendto(b"question", (VIP, 54))
    reasons = scrape(stage)
    assert value(reasons, "sixgate_packets_total", verdict="drop", reason="lb_port") == 1
    assert value(reasons, "sixgate_lb_drops_total", name="web", vip=VIP) == before + 1
