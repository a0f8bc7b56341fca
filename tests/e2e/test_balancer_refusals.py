"""What is wrong with a LoadBalancer is said at once, by the API server, with the value that it found."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import digests
from tests.unit.cases_api import BALANCER

if TYPE_CHECKING:
    from e2e.apiserver import ApiServer
    from e2e.apiserver.cluster import Cluster
    from tests.e2e.conftest import StartOperator

PATH = "/apis/sixgate.io/v1alpha1/loadbalancers"
VIP = "192.0.2.80"
BASE: dict[str, Any] = {
    "nodeSelector": {"matchLabels": {"gateway": "yes"}},
    "vips": [VIP],
    "ports": [{"port": 80}],
    "backends": [{"address": "203.0.113.11"}],
}
MANY_BACKENDS = [{"address": f"10.0.{number // 256}.{number % 256}"} for number in range(1023)]
MANY_VIPS = [f"192.0.2.{number}" for number in range(1, 16)]


def natted(**nat: object) -> dict[str, Any]:
    return {"forwarding": {"mode": "NAT", "nat": nat}}


@pytest.mark.parametrize(
    ("spec", "field", "says"),
    [
        ({"backends": [{"address": "203.0.113.11", "weight": 65536}]}, "spec.backends[0].weight", "65536"),
        ({"backends": [{"address": "203.0.113.11", "weight": -1}]}, "spec.backends[0].weight", "-1"),
        (
            {"vips": [VIP, "2001:db8::80"], "backends": [{"address": "203.0.113.11"}, {"address": "2001:db8::80"}]},
            "spec.backends",
            "no backend may have the address of a VIP, found 2001:db8::80",
        ),
        (
            {"vips": [*MANY_VIPS, VIP], "backends": [*MANY_BACKENDS, {"address": VIP}]},
            "spec.backends",
            f"no backend may have the address of a VIP, found {VIP}",
        ),
        (
            {"ports": [{"port": 80}, {"port": 8000, "endPort": 8100}, {"port": 8050, "endPort": 8060}]},
            "spec.ports",
            "no two ports of one protocol may overlap",
        ),
        (
            {"ports": [{"port": 1000 + number} for number in range(63)] + [{"port": 1, "endPort": 1000}]},
            "spec.ports",
            "no two ports of one protocol may overlap",
        ),
        (
            {"ports": [{"port": 90, "endPort": 80}]},
            "spec.ports[0]",
            "endPort must not be below port",
        ),
        (
            {"ports": [{"port": 1, "endPort": 100, "targetPort": 65500}]},
            "spec.ports[0]",
            "the range that begins at targetPort must end at 65535 or before",
        ),
        ({"ports": []}, "spec", "exactly one of ports and allPorts: true must be given, found neither"),
        ({"allPorts": True}, "spec", "exactly one of ports and allPorts: true must be given, found both"),
        ({"backends": []}, "spec", "exactly one of backends and service must be given, found neither"),
        (
            {"service": {"namespace": "a", "name": "b"}},
            "spec",
            "exactly one of backends and service must be given, found both",
        ),
        (
            natted(sourceAddresses=["203.0.113.1", "203.0.113.11"]),
            "spec.forwarding",
            "may be that of a VIP or a backend, found 203.0.113.11",
        ),
        (
            {"vips": [VIP, "2001:db8::80"], **natted(preserveClientIP=True)},
            "spec.vips",
            f"found {VIP}, 2001:db8::80",
        ),
        (
            {"forwarding": {"mode": "DSR", "nat": {}}},
            "spec.forwarding",
            "nat says something of mode NAT only, found mode DSR",
        ),
        ({"vips": ["192.0.2.300"]}, "spec.vips[0]", "must be an IPv4 or an IPv6 address, found 192.0.2.300"),
        ({"vips": ["224.0.0.1"]}, "spec.vips[0]", "multicast or broadcast, found 224.0.0.1"),
        ({"sourceRanges": {"deny": ["10.1.2.3/8"]}}, "spec.sourceRanges.deny[0]", "its length, found 10.1.2.3/8"),
    ],
    ids=lambda each: each[-50:] if isinstance(each, str) else "",
)
def test_the_api_server_names_what_it_found(server: ApiServer, spec: dict[str, Any], field: str, says: str) -> None:
    document = {**BALANCER, "spec": {**BASE, **spec}}
    status, answer = server.request("POST", f"{PATH}?fieldValidation=Strict&dryRun=All", document)
    causes = [(each["field"], each["message"]) for each in answer["details"]["causes"]]
    assert status == 422
    assert [said for where, said in causes if where == field and says in said], causes


def test_a_vip_of_another_object_is_told_with_its_name(cluster: Cluster, operator: StartOperator) -> None:
    cluster.node("n1", {"gateway": "yes"})
    operator(digests=digests())
    for name in ("first", "second"):
        cluster.apply({**BALANCER, "metadata": {"name": name}, "spec": BASE})
        cluster.wait(f"a status of {name}", partial(_conditions, cluster, name))

    def told() -> str:
        return str(_conditions(cluster, "second").get("Conflicted", ""))

    said = cluster.wait("the conflict", told)
    assert VIP in said
    assert "LoadBalancer/first is older and has" in said
    assert "Conflicted" not in _conditions(cluster, "first")


def _conditions(cluster: Cluster, name: str) -> dict[str, str]:
    status = (cluster.get("LoadBalancer", name) or {}).get("status", {})
    return {each["type"]: each["message"] for each in status.get("conditions", []) if each["status"] == "True"}
