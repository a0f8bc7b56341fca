"""NAT46Gateway: translation between IPv6 and IPv4 on the gateway nodes."""

from __future__ import annotations

from itertools import combinations
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sixgate.api.addr import (
    NON_GLOBAL_IPV4,
    WELL_KNOWN_PREFIX,
    HostIpv4Cidr,
    HostIpv6Cidr,
    Prefix6052,
    is_global_ipv4,
)
from sixgate.api.base import (
    SET,
    Acceleration,
    Column,
    Devices,
    KindInfo,
    KindSpec,
    Rule,
    Spec,
    StrictBool,
    StrictInt,
    UserObject,
    keyed_by,
    standing,
)
from sixgate.api.dns64 import Dns64Spec
from sixgate.api.stateful import NatServiceSpec, StatefulSpec

MAX_IPV4_CIDRS = 256
MAX_MAPPINGS = 1024


def _suffix_fits(mapping: Any) -> bool:
    return bool(32 - mapping.ipv4.prefixlen <= 128 - mapping.ipv6.prefixlen)


class MappingSpec(Spec):
    """One explicit address mapping (RFC 7757)."""

    rules = (
        Rule(
            "!isCIDR(self.ipv4) || !isCIDR(self.ipv6) || "
            "32 - cidr(self.ipv4).prefixLength() <= 128 - cidr(self.ipv6).prefixLength()",
            "ipv6 must leave at least as many bits as ipv4 does (RFC 7757 3.2)",
            _suffix_fits,
        ),
        Rule(
            "!isCIDR(self.ipv6) || cidr(self.ipv6).prefixLength() >= 32",
            "ipv6 must have a length of at least 32",
            lambda mapping: mapping.ipv6.prefixlen >= 32,
        ),
    )

    ipv4: HostIpv4Cidr = Field(description="IPv4 prefix; a single address has length 32.")
    ipv6: HostIpv6Cidr = Field(description="IPv6 prefix whose remaining bits carry those that follow the IPv4 prefix.")


def _no_overlap(spec: Any) -> bool:
    return not any(a.overlaps(b) for a, b in combinations(spec.ipv4_cidrs, 2))


def _distinct_ipv6(spec: Any) -> bool:
    return len({mapping.ipv6 for mapping in spec.mappings}) == len(spec.mappings)


class StatelessSpec(Spec):
    """Stateless translation (RFC 7915) by prefix (RFC 6052), by explicit mappings (RFC 7757), or both."""

    rules = (
        Rule(
            "(has(self.ipv4CIDRs) && size(self.ipv4CIDRs) > 0) || (has(self.mappings) && size(self.mappings) > 0)",
            "at least one of ipv4CIDRs and mappings must be given",
            lambda spec: bool(spec.ipv4_cidrs or spec.mappings),
        ),
        Rule(
            "!has(self.ipv4CIDRs) || self.ipv4CIDRs.all(a, !isCIDR(a) || "
            "self.ipv4CIDRs.all(b, a == b || !isCIDR(b) || !cidr(a).containsCIDR(b)))",
            "no two of ipv4CIDRs may overlap",
            _no_overlap,
            ".ipv4CIDRs",
        ),
        Rule(
            "",
            "no two mappings may have the same ipv6 prefix",
            _distinct_ipv6,
            ".mappings",
        ),
        Rule(
            "!has(self.icmpSourceIPv6CIDR) || !isCIDR(self.icmpSourceIPv6CIDR) || "
            "cidr(self.icmpSourceIPv6CIDR).prefixLength() >= 64",
            "icmpSourceIPv6CIDR must have a length of at least 64",
            lambda spec: spec.icmp_source_ipv6_cidr is None or spec.icmp_source_ipv6_cidr.prefixlen >= 64,
        ),
    )

    ipv4_cidrs: tuple[HostIpv4Cidr, ...] = Field(
        default=(),
        alias="ipv4CIDRs",
        max_length=MAX_IPV4_CIDRS,
        description="IPv4 addresses that IPv6 hosts hold under the prefix (IPv4-translatable addresses): what IPv4 "
        "hosts send to them is translated to IPv6.",
        json_schema_extra=SET,
    )
    mappings: tuple[MappingSpec, ...] = Field(
        default=(),
        max_length=MAX_MAPPINGS,
        description="Explicit address mappings; they go before the prefix, and the longest match counts. Packets to "
        "a mapped IPv6 address whose source is neither mapped nor under the prefix are native traffic and pass.",
        json_schema_extra=keyed_by("ipv4"),
    )
    traffic_class: Literal["Copy", "Zero"] = Field(
        default="Copy", description="Traffic class of IPv6 packets: a copy of TOS, or zero (RFC 7915 4.1)."
    )
    tos: Annotated[StrictInt, Field(ge=0, le=255)] | None = Field(
        default=None, description="TOS of IPv4 packets; left out, a copy of the traffic class (RFC 7915 5.1)."
    )
    lowest_ipv6_mtu: Annotated[StrictInt, Field(ge=1280, le=65535)] = Field(
        default=1280,
        alias="lowestIPv6MTU",
        description="Lowest MTU of the IPv6 network, bytes: IPv4 packets that may be fragmented are cut to fit it.",
    )
    udp_zero_checksum: Literal["Drop", "Compute"] = Field(
        default="Drop",
        alias="udpZeroChecksum",
        description="What becomes of an IPv4 UDP packet without checksum (RFC 7915 4.5).",
    )
    strict_well_known_prefix: StrictBool = Field(
        default=True,
        description="Under the prefix 64:ff9b::/96, IPv4 addresses that are not global are refused (RFC 6052 3.1).",
    )
    mss_clamp: StrictBool = Field(
        default=False, description="Lowers the MSS option of TCP SYNs to what both networks carry."
    )
    icmp_errors: Literal["Enabled", "Quiet"] = Field(
        default="Enabled", description="Quiet: no ICMP error for packets that cannot be translated (RFC 7915 4.4)."
    )
    icmp_source_cidr: HostIpv4Cidr | None = Field(
        default=None,
        alias="icmpSourceCIDR",
        description="IPv4 sources of ICMP errors that come from IPv6 routers without IPv4 address (RFC 6791).",
    )
    icmp_source_ipv6_cidr: HostIpv6Cidr | None = Field(
        default=None,
        alias="icmpSourceIPv6CIDR",
        description="IPv6 sources of ICMP errors that come from IPv4 routers that the gateway cannot represent.",
    )
    hairpinning: StrictBool = Field(
        default=True,
        description="Packets between two hosts with explicit mappings, sent to the prefix, return through the gateway "
        "(RFC 7757 4.2).",
    )


class IcmpRateLimitSpec(Spec):
    """How many ICMP errors of its own a gateway node sends, per source."""

    per_second: Annotated[StrictInt, Field(ge=0, le=100000)] = Field(
        default=100, description="ICMP errors per second and source; 0 sends none."
    )
    burst: Annotated[StrictInt, Field(ge=1, le=100000)] = Field(
        default=100, description="How many may follow each other at once."
    )


def _one_mode(spec: Any) -> bool:
    return (spec.stateless is not None) != (spec.stateful is not None or bool(spec.services))


def _has_prefix_where_needed(spec: Any) -> bool:
    needed = spec.stateful is not None or (spec.stateless is not None and bool(spec.stateless.ipv4_cidrs))
    return spec.prefix is not None or not needed


def _obeys_well_known_prefix(spec: Any) -> bool:
    if spec.prefix != WELL_KNOWN_PREFIX or spec.stateless is None or not spec.stateless.strict_well_known_prefix:
        return True
    stateless = spec.stateless
    inside = [mapping.ipv4 for mapping in stateless.mappings if mapping.ipv6.overlaps(WELL_KNOWN_PREFIX)]
    return all(is_global_ipv4(network) for network in (*stateless.ipv4_cidrs, *inside))


# Written out network by network: the API server cannot bound the cost of a loop over literals. Mappings are left to
# the condition for the same reason.
_GLOBAL_CEL = " && ".join(
    f"!cidr('{network}').containsCIDR(c) && !cidr(c).containsCIDR('{network}')" for network in NON_GLOBAL_IPV4
)
_WELL_KNOWN_CEL = (
    "!has(self.prefix) || !isCIDR(self.prefix) || !cidr('64:ff9b::/96').containsCIDR(self.prefix) || "
    "!has(self.stateless) || !has(self.stateless.ipv4CIDRs) || "
    "(has(self.stateless.strictWellKnownPrefix) && !self.stateless.strictWellKnownPrefix) || "
    f"self.stateless.ipv4CIDRs.all(c, !isCIDR(c) || ({_GLOBAL_CEL}))"
)


class NAT46GatewaySpec(KindSpec):
    """What is translated, where, and how."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.stateless) != (has(self.stateful) || (has(self.services) && size(self.services) > 0))",
            "exactly one of stateless, and stateful or services, must be given",
            _one_mode,
        ),
        Rule(
            "has(self.prefix) || !(has(self.stateful) || (has(self.stateless) && has(self.stateless.ipv4CIDRs) && "
            "size(self.stateless.ipv4CIDRs) > 0))",
            "prefix must be given with stateful and with stateless.ipv4CIDRs",
            _has_prefix_where_needed,
            ".prefix",
        ),
        Rule(
            "has(self.stateless) == has(oldSelf.stateless)",
            "a stateless gateway cannot become a stateful one, nor the other way round; make a new object",
        ),
        Rule(
            "!has(self.dns64) || has(self.prefix) || (has(self.dns64.prefixes) && size(self.dns64.prefixes) > 0)",
            "dns64 needs prefix or dns64.prefixes",
            lambda spec: spec.dns64 is None or spec.prefix is not None or bool(spec.dns64.prefixes),
            ".dns64",
        ),
        Rule(
            _WELL_KNOWN_CEL,
            "ipv4CIDRs and mappings under the prefix 64:ff9b::/96 must be global addresses (RFC 6052 3.1); choose "
            "another prefix, or set stateless.strictWellKnownPrefix to false",
            _obeys_well_known_prefix,
        ),
    )

    devices: Devices = Field(
        default=("auto",),
        description="Devices whose packets are translated: names, shell patterns, or `auto` for every uplink. Those of "
        "all gateways of a node are one set, in which each gateway translates at each.",
    )
    acceleration: Acceleration = "Disabled"
    prefix: Prefix6052 | None = Field(
        default=None, description="IPv6 prefix under which IPv4 addresses are represented (RFC 6052 2.2)."
    )
    icmp_rate_limit: IcmpRateLimitSpec | None = Field(
        default=None,
        description="Limits the gateway's own ICMP errors. It holds for the whole node: of several gateways the lowest "
        "value counts; where none is given, 100 per second.",
    )
    stateless: StatelessSpec | None = Field(default=None, description="Translation without state.")
    stateful: StatefulSpec | None = Field(default=None, description="NAT64 with an IPv4 pool (RFC 6146).")
    services: tuple[NatServiceSpec, ...] = Field(
        default=(),
        max_length=256,
        description="Virtual addresses of one family in front of backends of the other.",
        json_schema_extra=keyed_by("vip", "port", "protocol"),
    )
    announce: Literal["L2", "None"] = Field(
        default="None",
        description="L2: IPv4 addresses of pools, ipv4CIDRs and mappings, and addresses of services, are answered for "
        "(ARP, neighbour discovery) on the device whose subnet has them, each by one node; None: routed by somebody "
        "else.",
    )
    dns64: Dns64Spec | None = Field(default=None, description="DNS64 for the clients of this gateway (RFC 6147).")


class NAT46Gateway(UserObject):
    """A gateway between IPv6 and IPv4."""

    info: ClassVar[KindInfo] = KindInfo(
        plural="nat46gateways",
        singular="nat46gateway",
        short="n46",
        columns=(
            Column("Prefix", ".spec.prefix", description="Prefix that represents IPv4 addresses"),
            *standing("Nodes that translate"),
        ),
    )

    api_version: Literal["sixgate.io/v1alpha1"]
    kind: Literal["NAT46Gateway"]
    spec: NAT46GatewaySpec = Field(description="What is wanted.")
