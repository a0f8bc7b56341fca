"""Objects of users, right and wrong: what the models say of each, and whether the API server can tell as well.

tests/unit runs them through the models, tests/e2e through a real API server with the CRDs: the two must agree.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
PLURALS = {
    "NAT46Gateway": "nat46gateways",
    "EgressGateway": "egressgateways",
    "BIGTCPPolicy": "bigtcppolicies",
    "LoadBalancer": "loadbalancers",
}


class _Absent:
    pass


ABSENT = _Absent()


@dataclass(frozen=True)
class Case:
    """`says` is part of the sentence, empty where the object is right; `api` False: only a condition can tell."""

    name: str
    raw: dict[str, Any]
    field: str = ""
    says: str = ""
    api: bool = True

    def __str__(self) -> str:
        return self.name


def example(folder: str) -> dict[str, Any]:
    """The one object of a folder under examples/."""
    (path,) = (ROOT / "examples" / folder).glob("*.yaml")
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded


def changed(raw: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of `raw` with the field at `path` (`spec.pods.0.allPods`) set, or removed for ABSENT."""
    made = copy.deepcopy(raw)
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    inner: Any = made
    for step in steps:
        inner = inner[step]
    if value is ABSENT:
        del inner[last]
    else:
        inner[last] = value
    return made


GATEWAY = example("nat46gateway")
STATEFUL = example("nat46gateway-stateful")
EGRESS = example("egressgateway")
BIGTCP = example("bigtcppolicy")
BALANCER = example("loadbalancer")
PREFIX, STATELESS, SELECTOR = "spec.prefix", "spec.stateless", "spec.nodeSelector"
SOME_NODES = GATEWAY["spec"]["nodeSelector"]
MAPPINGS = GATEWAY["spec"]["stateless"]["mappings"]


NAT_VIP = {"mode": "NAT", "nat": {"sourceAddresses": ["203.0.113.1", "192.0.2.80"]}}
NAT_BACKEND = {"mode": "NAT", "nat": {"sourceAddresses": ["2001:db8:b::2"]}}
NAT_FEW = {"mode": "NAT", "nat": {"maxSessions": 1023}}
KEPT = {"mode": "NAT", "nat": {"preserveClientIP": True}}
KEPT_FROM = {"mode": "NAT", "nat": {"preserveClientIP": True, "sourceAddresses": ["203.0.113.1"]}}
TLS_IDLE = {"type": "HTTPS", "tls": {"verify": False, "caFile": "/etc/ca.pem"}}
TLS_TWO = {"type": "GRPC", "tls": {"caBundle": "-----BEGIN CERTIFICATE-----", "caFile": "/etc/ca.pem"}}


def _good(name: str, raw: dict[str, Any], path: str = "", value: object = None) -> Case:
    return Case(name, changed(raw, path, value) if path else raw)


def _bad(raw: dict[str, Any], path: str, value: object, field: str, says: str, *, api: bool = True) -> Case:
    shown = "absent" if value is ABSENT else str(value)[:60]
    return Case(f"{raw['kind']} {path} {shown}: {says}", changed(raw, path, value), field, says, api)


GOOD = (
    _good("stateless gateway", GATEWAY),
    _good("stateful gateway", STATEFUL),
    _good("egress gateway", EGRESS),
    _good("policy", BIGTCP),
    _good("balancer", BALANCER),
    _good("balancer through NAT", example("loadbalancer-nat")),
    _good("prefix of 32 bits", GATEWAY, PREFIX, "2001:db8::/32"),
    _good("prefix in capitals", GATEWAY, PREFIX, "2001:DB8:64::/96"),
    _good("prefix of 96 bits, non-zero beside the u octet", GATEWAY, PREFIX, "2001:db8:0:0:ff::/96"),
    _good("explicit mappings only", GATEWAY, "spec", {"nodeSelector": SOME_NODES, "stateless": {"mappings": MAPPINGS}}),
    _good("unequal suffixes", GATEWAY, f"{STATELESS}.mappings", [{"ipv4": "10.0.0.0/24", "ipv6": "2001:db8::/32"}]),
    _good("no ranges beside mappings", GATEWAY, f"{STATELESS}.ipv4CIDRs", []),
    _good("lowest TOS", GATEWAY, f"{STATELESS}.tos", 0),
    _good("highest TOS", GATEWAY, f"{STATELESS}.tos", 255),
    _good("TOS of null", GATEWAY, f"{STATELESS}.tos", None),
    _good("null where there is a default", GATEWAY, f"{STATELESS}.trafficClass", None),
    _good("an integer with a point", GATEWAY, f"{STATELESS}.tos", 3.0),
    _good("lowest MTU", GATEWAY, f"{STATELESS}.lowestIPv6MTU", 1280),
    _good("default rate", GATEWAY, "spec.icmpRateLimit", {}),
    _good("selector by existence", GATEWAY, SELECTOR, {"matchExpressions": [{"key": "a", "operator": "Exists"}]}),
    _good("IPv6 source pool", GATEWAY, f"{STATELESS}.icmpSourceIPv6CIDR", "2001:db8::/64"),
    _good("range of ports", BALANCER, "spec.ports.0.endPort", 90),
    _good("largest table", BALANCER, "spec.maglev", {"tableSize": 65537}),
)

ONE_LABEL = "must name at least one label"
SIX = "an IPv6 CIDR"
UNICAST = "must be unicast"
BAD = (
    _bad(GATEWAY, PREFIX, "2001:db8::/33", PREFIX, "must be of length 32, 40, 48, 56, 64 or 96"),
    _bad(GATEWAY, PREFIX, "2001:db8:1::/32", PREFIX, "must have no bits beyond its length"),
    _bad(GATEWAY, PREFIX, "2001:db8:0:0:100::/96", PREFIX, "must have bits 64 to 71 zero"),
    _bad(GATEWAY, PREFIX, "2001:db8::8000:0:0:0/96", PREFIX, "must have bits 64 to 71 zero"),
    *(
        _bad(GATEWAY, PREFIX, text, PREFIX, SIX)
        for text in ("10.0.0.0/8", "::ffff:0:0/96", "x", "2001:db8::", "2001:db8::/032", "2001:db8::%1/32", "::/96 ")
    ),
    _bad(GATEWAY, PREFIX, 5, PREFIX, SIX),
    *(_bad(GATEWAY, PREFIX, text, PREFIX, UNICAST) for text in ("ff00::/32", "fe80::/64", "::/96")),
    *(_bad(GATEWAY, f"{STATELESS}.ipv4CIDRs", [text], f"{STATELESS}.ipv4CIDRs[0]", UNICAST)
      for text in ("0.0.0.0/0", "127.0.0.0/8", "224.0.0.0/4", "169.254.0.0/16", "255.255.255.255/32")),
    _bad(GATEWAY, f"{STATELESS}.mappings.0.ipv6", "::1/128", f"{STATELESS}.mappings[0].ipv6", UNICAST),
    _bad(BALANCER, "spec.vips", ["0.0.0.0"], "spec.vips[0]", UNICAST),
    _bad(BALANCER, "spec.backends.0.address", "ff02::1", "spec.backends[0].address", UNICAST),
    _bad(EGRESS, "spec.addresses.0.ipv4", "127.0.0.1", "spec.addresses[0].ipv4", UNICAST),
    _bad(STATEFUL, "spec.stateful.pools.0.cidr", "224.0.0.0/24", "spec.stateful.pools[0].cidr", UNICAST),
    _bad(GATEWAY, PREFIX, ABSENT, "spec", "prefix must be given"),
    _bad(GATEWAY, PREFIX, "64:ff9b::/96", "spec", "must be global addresses (RFC 6052 3.1)"),
    _bad(GATEWAY, f"{STATELESS}.ipv4CIDRs", ["1.2.3.1/24"], f"{STATELESS}.ipv4CIDRs[0]", "no bits beyond its length"),
    _bad(GATEWAY, f"{STATELESS}.ipv4CIDRs", ["1.2.3.4"], f"{STATELESS}.ipv4CIDRs[0]", "must be an IPv4 CIDR"),
    _bad(GATEWAY, f"{STATELESS}.ipv4CIDRs", ["01.2.3.0/24"], f"{STATELESS}.ipv4CIDRs[0]", "must be an IPv4 CIDR"),
    _bad(GATEWAY, f"{STATELESS}.ipv4CIDRs", ["1.2.3.0/24"] * 2, STATELESS, "ipv4CIDRs[1] repeats ipv4CIDRs[0]"),
    _bad(GATEWAY, f"{STATELESS}.ipv4CIDRs", ["1.2.0.0/16", "1.2.3.0/24"], STATELESS, "no two of ipv4CIDRs may overlap"),
    _bad(GATEWAY, SELECTOR, {}, SELECTOR, ONE_LABEL),
    _bad(GATEWAY, SELECTOR, ABSENT, SELECTOR, "is required"),
    _bad(GATEWAY, SELECTOR, None, SELECTOR, "is required"),
    _bad(GATEWAY, SELECTOR, {"matchExpressions": [{"key": "a", "operator": "In"}]}, f"{SELECTOR}.matchExpressions[0]",
         "values must be given with In"),
    _bad(GATEWAY, SELECTOR, {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]},
         f"{SELECTOR}.matchExpressions[0]", "values must be given with In"),
    _bad(GATEWAY, "spec.stateful", {"pools": [{"cidr": "1.2.3.4/32"}]}, "spec", "exactly one of stateless"),
    _bad(GATEWAY, STATELESS, ABSENT, "spec", "exactly one of stateless"),
    _bad(GATEWAY, STATELESS, {}, STATELESS, "at least one of ipv4CIDRs and mappings"),
    _bad(GATEWAY, f"{STATELESS}.mappings", [{"ipv4": "10.0.0.0/8", "ipv6": "2001:db8::/120"}],
         f"{STATELESS}.mappings[0]", "RFC 7757 3.2"),
    _bad(GATEWAY, f"{STATELESS}.mappings", [{"ipv4": "10.0.0.0/8", "ipv6": "2000::/3"}], f"{STATELESS}.mappings[0]",
         "a length of at least 32"),
    _bad(GATEWAY, f"{STATELESS}.mappings",
         [{"ipv4": "10.0.0.0/24", "ipv6": "2001:db8::/64"}, {"ipv4": "10.0.0.0/24", "ipv6": "2001:db8:1::/64"}],
         STATELESS, "mappings[1] repeats mappings[0] in ipv4"),
    _bad(GATEWAY, f"{STATELESS}.mappings",
         [{"ipv4": "10.0.0.0/24", "ipv6": "2001:db8::/64"}, {"ipv4": "10.0.1.0/24", "ipv6": "2001:db8::/64"}],
         STATELESS, "same ipv6 prefix", api=False),
    *(_bad(GATEWAY, f"{STATELESS}.tos", value, f"{STATELESS}.tos", says) for value, says in (
        (256, "at most 255"), (-1, "at least 0"), ("3", "must be an integer"), (1.5, "must be an integer"),
        (True, "must be an integer"))),
    _bad(GATEWAY, f"{STATELESS}.lowestIPv6MTU", 1279, f"{STATELESS}.lowestIPv6MTU", "at least 1280"),
    _bad(GATEWAY, f"{STATELESS}.lowestIPv6MTU", 65536, f"{STATELESS}.lowestIPv6MTU", "at most 65535"),
    _bad(GATEWAY, f"{STATELESS}.hairpinning", "yes", f"{STATELESS}.hairpinning", "must be true or false"),
    _bad(GATEWAY, f"{STATELESS}.icmpSourceIPv6CIDR", "2001:db8::/32", STATELESS, "a length of at least 64"),
    _bad(GATEWAY, "spec.icmpRateLimit", {"burst": 0}, "spec.icmpRateLimit.burst", "at least 1"),
    _bad(GATEWAY, "spec.devices", [], "spec.devices", "at least 1 item"),
    _bad(GATEWAY, "spec.devices", ["a/b"], "spec.devices[0]", "must match"),
    _bad(GATEWAY, "spec.devices", ["x" * 16], "spec.devices[0]", "at most 15 characters"),
    _bad(GATEWAY, "spec.devices", ["eth0", "eth0"], "spec", "devices[1] repeats devices[0]"),
    _bad(GATEWAY, "spec.devices", "eth0", "spec.devices", "must be a list"),
    _bad(GATEWAY, "spec.devices", [5], "spec.devices[0]", "must be a string"),
    _bad(GATEWAY, "spec.acceleration", "native", "spec.acceleration", "'Disabled', 'BestEffort' or 'Native'"),
    _bad(GATEWAY, "spec.bogus", 1, "spec.bogus", "is not a field of this kind"),
    _bad(GATEWAY, "spec.bogus", None, "spec.bogus", "is not a field of this kind"),
    _bad(STATEFUL, "spec.services.0.backends.0.address", "1.2.3.5", "spec.services[0]", "of the other family"),
    _bad(STATEFUL, "spec.services.0.backends", [{"address": "::5", "port": 1, "weight": 0}], "spec.services[0]",
         "weight above 0"),
    _bad(STATEFUL, "spec.services", STATEFUL["spec"]["services"] * 2, "spec", "services[1] repeats services[0]"),
    _bad(STATEFUL, "spec.services.0.backends.0.address", "::ffff:1.2.3.4", "spec.services[0].backends[0].address",
         "an IPv4 or an IPv6 address"),
    _bad(STATEFUL, "spec.stateful.pools.0.ports", {"first": 2000, "last": 100}, "spec.stateful.pools[0].ports",
         "first must not be above last"),
    _bad(STATEFUL, "spec.stateful.pools", [{"cidr": "1.2.3.4/32"}, {"cidr": "1.2.3.0/24"}], "spec.stateful",
         "no two pools"),
    _bad(STATEFUL, "spec.stateful.lifetimes", {"udp": 60}, "spec.stateful.lifetimes.udp", "at least 120"),
    _bad(STATEFUL, "spec.dns64.neverSynthesize", ["a b"], "spec.dns64.neverSynthesize[0]", "must match"),
    _bad(STATEFUL, "spec.dns64.upstreams", [], "spec.dns64.upstreams", "at least 1 item"),
    _bad(EGRESS, "spec.transport", "IPIP", "spec.transport", "'VXLAN' or 'Direct'"),
    _bad(EGRESS, "spec.pods.0.allPods", True, "spec.pods[0]", "exactly one of podSelector and allPods"),
    _bad(EGRESS, "spec.pods.0.podSelector", ABSENT, "spec.pods[0]", "exactly one of podSelector and allPods"),
    _bad(EGRESS, "spec.pods.0.podSelector", {}, "spec.pods[0].podSelector", ONE_LABEL),
    _bad(EGRESS, "spec.pods.0.namespaceSelector", ABSENT, "spec.pods[0].namespaceSelector", "is required"),
    _bad(EGRESS, "spec.addresses", [{"ipv4": "1.2.3.4"}], "spec", "every family of destinationCIDRs"),
    _bad(EGRESS, "spec.addresses", [{}], "spec.addresses[0]", "at least one of ipv4 and ipv6"),
    _bad(EGRESS, "spec.addresses", [{"ipv4": "1.2.3.4", "ipv6": "::9"}, {"ipv4": "1.2.3.4"}], "spec", "listed twice"),
    _bad(GATEWAY, SELECTOR, {"matchLabels": {"a b": "c"}}, f"{SELECTOR}.matchLabels.a b.[key]", "must match",
         api=False),
    _bad(BIGTCP, "spec.ipv6.maxSize", 65535, "spec.ipv6.maxSize", "at least 65536"),
    _bad(BIGTCP, "spec.ipv6.maxSize", 524281, "spec.ipv6.maxSize", "at most 524280"),
    _bad(BIGTCP, "spec.ipv6.maxSize", "196608", "spec.ipv6.maxSize", "integer"),
    _bad(BIGTCP, "spec.forwarding", "Always", "spec.forwarding", "'Auto', 'Redirect' or 'Kernel'"),
    _bad(BIGTCP, "spec", {"nodeSelector": SOME_NODES, "ipv6": {"enabled": False}}, "spec", "ipv6 and ipv4"),
    _bad(BALANCER, "spec.backends.0.weight", 65536, "spec.backends[0].weight", "at most 65535"),
    _bad(BALANCER, "spec.backends.0.address", "192.0.2.80", "spec", "no backend may have the address of a VIP"),
    _bad(BALANCER, "spec.forwarding", {"nat": {"maxSessions": 2048}}, "spec.forwarding", "of mode NAT only"),
    _bad(BALANCER, "spec.forwarding", NAT_VIP, "spec", "may be that of a VIP or a backend"),
    _bad(BALANCER, "spec.forwarding", NAT_BACKEND, "spec", "may be that of a VIP or a backend"),
    _bad(BALANCER, "spec.forwarding", KEPT, "spec", "all vips must be of one family"),
    _bad(BALANCER, "spec.forwarding", KEPT_FROM, "spec.forwarding.nat", "no use for sourceAddresses"),
    _bad(BALANCER, "spec.forwarding", NAT_FEW, "spec.forwarding.nat.maxSessions", "at least 1024"),
    _bad(BALANCER, "spec.service", {"namespace": "a", "name": "b"}, "spec", "exactly one of backends and service"),
    _bad(BALANCER, "spec.allPorts", True, "spec", "exactly one of ports and allPorts"),
    _bad(BALANCER, "spec.ports.0.endPort", 79, "spec.ports[0]", "endPort must not be below port"),
    _bad(BALANCER, "spec.ports.0.endPort", 500, "spec", "no two ports of one protocol may overlap"),
    _bad(BALANCER, "spec.ports.0", {"port": 9000, "endPort": 65535, "targetPort": 9001}, "spec.ports[0]",
         "end at 65535"),
    _bad(BALANCER, "spec.maglev", {"tableSize": 1000}, "spec.maglev.tableSize", "must be 251, 509"),
    _bad(BALANCER, "spec.healthCheck.timeoutMilliseconds", 5000, "spec.healthCheck", "timeoutMilliseconds"),
    _bad(BALANCER, "spec.healthCheck.type", "TCP", "spec.healthCheck", "HTTP and HTTPS only"),
    _bad(BALANCER, "spec.healthCheck.tls", {}, "spec.healthCheck", "HTTPS and GRPC only"),
    _bad(BALANCER, "spec.healthCheck", TLS_IDLE, "spec.healthCheck.tls", "with verify: true only"),
    _bad(BALANCER, "spec.healthCheck", TLS_TWO, "spec.healthCheck.tls", "at most one of caBundle and caFile"),
    _bad(BALANCER, "spec.healthCheck.path", "/a b", "spec.healthCheck.path", "must match"),
    _bad(BALANCER, "spec.vips", ["1.2.3.4", "1.2.3.4"], "spec", "vips[1] repeats vips[0]"),
)  # fmt: skip
CASES = GOOD + BAD
