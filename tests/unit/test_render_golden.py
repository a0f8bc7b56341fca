"""One golden document per template: what the node gets for known plans, byte by byte.

To write them anew after a wanted change: SIXGATE_GOLDEN=write pytest tests/unit/test_render_golden.py; read the diff.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from sixgate.api import NodeConfigSpec, UserObject, parse_object
from sixgate.api.nodeconfig_base import Owned
from sixgate.node.bpf import decode, encode, layouts
from sixgate.node.fill import Filler
from sixgate.node.numbers import hand_out
from sixgate.plan import NodeInfo, Snapshot, plan
from sixgate.plan.nodeplan import EMPTY
from sixgate.render import Renderer
from tests.unit.objects import DIGESTS, gateway, make, on

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"


def lab() -> UserObject:
    parsed = parse_object(yaml.safe_load((ROOT / "examples" / "nat46gateway" / "lab.yaml").read_text()))
    assert isinstance(parsed, UserObject)
    return parsed


CASES: dict[str, tuple[UserObject, ...]] = {
    "lab": (lab(),),
    "full": (
        gateway(
            "first",
            ["gw-1"],
            age=2,
            prefix="2001:db8:122::/48",
            devices=["eth0", "eth1.100"],
            acceleration="Native",
            icmpRateLimit={"perSecond": 10, "burst": 20},
            ipv4CIDRs=[f"10.{number}.0.0/16" for number in range(18)],
            mappings=[{"ipv4": "192.0.2.64/28", "ipv6": "2001:db8:46::/120"}],
            trafficClass="Zero",
            tos=184,
            lowestIPv6MTU=1400,
            udpZeroChecksum="Compute",
            mssClamp=True,
            icmpErrors="Quiet",
            icmpSourceCIDR="203.0.113.0/28",
            icmpSourceIPv6CIDR="2001:db8:9::/64",
            hairpinning=False,
        ),
        gateway(
            "second",
            ["gw-1"],
            age=1,
            devices=["eth2"],
            acceleration="BestEffort",
            mappings=[{"ipv4": "198.51.100.1/32", "ipv6": "2001:db8:47::1/128"}],
        ),
    ),
    "bigtcp": (
        make(
            "BIGTCPPolicy",
            "storage",
            {
                "nodeSelector": on("gw-1"),
                "ipv6": {"maxSize": 131072},
                "devices": {"include": ["bond*"]},
                "pods": "Live",
            },
        ),
        make(
            "BIGTCPPolicy", "base", {"nodeSelector": on("gw-1"), "ipv4": {"enabled": True}, "ipv6": {}, "priority": 1}
        ),
    ),
    "balancer": (
        make(
            "LoadBalancer",
            "web",
            {
                "nodeSelector": on("gw-1"),
                "vips": ["192.0.2.80", "2001:db8:80::80"],
                "ports": [
                    {"port": 80, "targetPort": 8080},
                    {"port": 8000, "endPort": 8099},
                    {"port": 443, "protocol": "UDP"},
                ],
                "backends": [
                    {"address": "203.0.113.11", "weight": 100},
                    {"address": "2001:db8:5::12", "maintenance": True},
                ],
                "devices": ["eth0"],
                "acceleration": "Native",
                "forwarding": {"outerSourceIPv4CIDR": "10.9.0.0/16", "outerSourceIPv6CIDR": "2001:db8:9::/64"},
                "healthCheck": {"type": "HTTP", "port": 8081, "path": "/healthz", "host": "web.example"},
                "drainSeconds": 60,
                "sourceRanges": {"allow": ["0.0.0.0/0"], "deny": ["198.51.100.0/24"]},
                "sessionAffinity": {"timeoutSeconds": 600},
                "quic": {"offset": 1, "length": 4},
                "newFlowsPerSecond": 10000,
                "icmpEcho": False,
                "announce": "L2",
            },
        ),
    ),
    "balancer-nat": (
        make(
            "LoadBalancer",
            "web",
            {
                "nodeSelector": on("gw-1"),
                "vips": ["192.0.2.80", "2001:db8:80::80"],
                "ports": [{"port": 80, "targetPort": 8080}],
                "backends": [{"address": "203.0.113.11"}, {"address": "2001:db8:5::12"}],
                "forwarding": {"mode": "NAT", "nat": {"maxSessions": 4096}},
            },
        ),
        make(
            "LoadBalancer",
            "one",
            {
                "nodeSelector": on("gw-1"),
                "vips": ["192.0.2.81"],
                "allPorts": True,
                "backends": [{"address": "203.0.113.11"}],
                "forwarding": {"mode": "NAT", "nat": {"sourceAddresses": ["203.0.113.200"]}},
            },
        ),
    ),
    "nothing": (),
}


def rendered(objects: tuple[UserObject, ...]) -> NodeConfigSpec:
    labels = {"kubernetes.io/hostname": "gw-1", "name": "gw-1"}
    result = plan(Snapshot(objects, (NodeInfo("gw-1", labels),), digests=DIGESTS))
    assert not result.problems
    return Renderer().render(result.nodes["gw-1"])


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    text = json.dumps(rendered(CASES[name]).model_dump(mode="json", by_alias=True), indent=2) + "\n"
    path = GOLDEN / f"{name}.json"
    if os.environ.get("SIXGATE_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()


def test_documents_are_hashed() -> None:
    spec = rendered(CASES["lab"])
    assert spec.revision == spec.hashed().revision != rendered(CASES["full"]).revision
    assert len(spec.revision) == 32


def test_everything_has_its_owners() -> None:
    spec = rendered(CASES["full"])
    items: list[Owned] = [*spec.objects, *spec.tables, *spec.links, *spec.sysctls]
    both = ("NAT46Gateway/first", "NAT46Gateway/second")
    assert {item.owners for item in items} == {both}


def test_owners_of_the_table_name_its_gateways() -> None:
    (table,) = [table for table in rendered(CASES["full"]).tables if table.map == "sg_nat"]
    value = table.entries[0].value
    assert isinstance(value, dict)
    assert isinstance(value["gw"], list)
    assert len(value["gw"]) == value["n_gw"] == len(table.owners)


def test_nothing_wanted_is_an_empty_document() -> None:
    spec = Renderer().render(EMPTY)
    assert spec == NodeConfigSpec(format_version=1).hashed()


@pytest.mark.parametrize("name", CASES)
def test_tables_are_what_the_objects_take(name: str) -> None:
    """Keys and values encode by the layouts that were generated from the objects, and come back as they were."""
    spec = rendered(CASES[name])
    filler = Filler(hand_out(spec.numbers, {})[0], {4: "198.51.100.1", 6: "2001:db8::1"})
    for table in spec.tables:
        layout = layouts.MAPS[table.map]
        made = layout.inner if table.swap else layout
        assert made is not None
        for entry in table.entries:
            for ctype, value in ((made.key, filler.fill(entry.key)), (made.value, filler.fill(entry.value))):
                assert covers(decode(ctype, encode(ctype, value)), value)


def covers(whole: object, part: object) -> bool:
    """Whether `whole` has all that `part` says; fields and items that `part` leaves out are not compared."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(covers(whole[key], value) for key, value in part.items())
    if isinstance(whole, list | tuple) and isinstance(part, list):
        return len(whole) >= len(part) and all(covers(a, b) for a, b in zip(whole, part, strict=False))
    return whole == part
