"""EgressGateway: selected pods reach selected destinations with fixed source addresses."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sixgate.api.addr import AnyCidr, Ipv4, Ipv6
from sixgate.api.base import (
    OBJECT,
    SET,
    Column,
    DevicePattern,
    KindInfo,
    KindSpec,
    LabelSelector,
    Rule,
    Spec,
    StrictBool,
    StrictInt,
    UserObject,
    standing,
)
from sixgate.api.stateful import ClientLimitsSpec, LifetimesSpec


class PodsSpec(Spec):
    """Pods of selected namespaces. What is left out never means everything: all pods are asked for by `allPods`."""

    rules = (
        Rule(
            "has(self.podSelector) != (has(self.allPods) && self.allPods)",
            "exactly one of podSelector and allPods: true must be given",
            lambda pods: (pods.pod_selector is not None) != pods.all_pods,
        ),
    )

    namespace_selector: LabelSelector = Field(description="Namespaces of the pods; must name at least one label.")
    pod_selector: LabelSelector | None = Field(
        default=None, description="Pods within these namespaces; must name at least one label."
    )
    all_pods: StrictBool = Field(default=False, description="True selects every pod of these namespaces.")
    node_selector: LabelSelector | None = Field(
        default=None, description="Narrows the selection to pods on these nodes; must name at least one label."
    )


class EgressAddressSpec(Spec):
    """A source address, or a pair of both families that goes to the same pods."""

    rules = (
        Rule(
            "has(self.ipv4) || has(self.ipv6)",
            "at least one of ipv4 and ipv6 must be given",
            lambda pair: pair.ipv4 is not None or pair.ipv6 is not None,
        ),
    )

    ipv4: Ipv4 | None = Field(default=None, description="IPv4 source address.")
    ipv6: Ipv6 | None = Field(default=None, description="IPv6 source address.")


class FailoverSpec(Spec):
    """How fast a dead gateway is noticed, and how slowly a living one is left."""

    heartbeat_milliseconds: Annotated[StrictInt, Field(ge=20, le=10000)] = Field(
        default=50, description="Time between two heartbeats of a gateway, milliseconds."
    )
    missed_heartbeats: Annotated[StrictInt, Field(ge=2, le=100)] = Field(
        default=4, description="Heartbeats in a row whose loss means that a gateway is dead."
    )
    drain_seconds: Annotated[StrictInt, Field(ge=0, le=86400)] = Field(
        default=300, description="How long old connections stay at the former gateway after a planned move, seconds."
    )


class EgressLifetimesSpec(LifetimesSpec):
    """How long an idle session is kept, in seconds; no value is below the minimum of its RFC."""

    port_rest: Annotated[StrictInt, Field(ge=0, le=3600)] = Field(
        default=0,
        description="How long a released port rests before reuse, seconds; none needs to, because only who was sent to "
        "may answer (RFC 6888 REQ-8 C).",
    )


class EgressNatSpec(Spec):
    """The source NAT of this gateway."""

    max_sessions: Annotated[StrictInt, Field(ge=1024, le=16777216)] = Field(
        default=1048576, description="Sessions per node; a full table refuses new ones and never evicts."
    )
    port_block_size: Annotated[StrictInt, Field(ge=0, le=32768)] = Field(
        default=0,
        description="Ports per block of a pod (RFC 7422), so that its ports follow from its address; a pod has 16 "
        "blocks at most. 0: single ports.",
    )
    lifetimes: EgressLifetimesSpec = Field(
        default_factory=EgressLifetimesSpec, description="How long idle sessions are kept.", json_schema_extra=OBJECT
    )
    client_limits: ClientLimitsSpec = Field(
        default_factory=ClientLimitsSpec, description="Limits per client.", json_schema_extra=OBJECT
    )


def _families_served(spec: Any) -> bool:
    served = {4: any(pair.ipv4 for pair in spec.addresses), 6: any(pair.ipv6 for pair in spec.addresses)}
    return all(served[cidr.version] for cidr in spec.destination_cidrs)


def _addresses_distinct(spec: Any) -> bool:
    listed = [address for pair in spec.addresses for address in (pair.ipv4, pair.ipv6) if address is not None]
    return len(listed) == len(set(listed))


class EgressGatewaySpec(KindSpec):
    """Who leaves where, for which destinations, with which address."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.destinationCIDRs.all(d, !isCIDR(d) || (cidr(d).ip().family() == 4 ? "
            "self.addresses.exists(a, has(a.ipv4)) : self.addresses.exists(a, has(a.ipv6))))",
            "every family of destinationCIDRs must have an address of that family",
            _families_served,
        ),
        Rule(
            "self.addresses.all(a, "
            "(!has(a.ipv4) || self.addresses.exists_one(b, has(b.ipv4) && b.ipv4 == a.ipv4)) && "
            "(!has(a.ipv6) || self.addresses.exists_one(b, has(b.ipv6) && b.ipv6 == a.ipv6)))",
            "no address may be listed twice",
            _addresses_distinct,
            ".addresses",
        ),
    )

    pods: tuple[PodsSpec, ...] = Field(
        min_length=1,
        max_length=64,
        description="Pods that leave through this gateway.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    destination_cidrs: tuple[AnyCidr, ...] = Field(
        alias="destinationCIDRs",
        min_length=1,
        max_length=256,
        description="Destinations that are reached through this gateway; the longest match counts between objects.",
        json_schema_extra=SET,
    )
    excluded_cidrs: tuple[AnyCidr, ...] = Field(
        default=(),
        alias="excludedCIDRs",
        max_length=256,
        description="Destinations inside destinationCIDRs that are reached as if this object were not there.",
        json_schema_extra=SET,
    )
    addresses: tuple[EgressAddressSpec, ...] = Field(
        min_length=1,
        max_length=64,
        description="Source addresses; with several, each pod keeps one pair.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    device: DevicePattern = Field(
        default="auto", description="Device of the gateway that carries the addresses, or `auto` for its uplink."
    )
    announce: Literal["L2", "None"] = Field(
        default="L2", description="L2: gratuitous ARP and unsolicited NA by the owner; None: routed by somebody else."
    )
    transport: Literal["VXLAN", "Direct"] = Field(
        default="VXLAN",
        description="How packets come from a pod's node to the gateway. Direct: without a tunnel where both are on one "
        "segment, by VXLAN elsewhere.",
    )
    mss_clamp: StrictBool = Field(default=True, description="Lowers the MSS of TCP SYNs to what the transport carries.")
    new_pods: Literal["Drop", "Hold"] = Field(
        default="Drop",
        description="Traffic of a new pod until its rule is in place; it never leaves by another way. Drop refuses it: "
        "the pod is told (ICMP, administratively prohibited), and connections fail with their first SYN or the second. "
        "Hold discards it without a word: connections wait, and stand when the pod has sent its next SYN.",
    )
    no_gateway: Literal["Drop", "Hold"] = Field(
        default="Drop",
        description="Traffic while no gateway is known; it never leaves by another way. Drop refuses it and tells the "
        "pod, Hold discards it without a word, as with newPods.",
    )
    failover: FailoverSpec = Field(
        default_factory=FailoverSpec, description="When addresses move between gateways.", json_schema_extra=OBJECT
    )
    nat: EgressNatSpec = Field(
        default_factory=EgressNatSpec, description="The source NAT of this gateway.", json_schema_extra=OBJECT
    )


class EgressGateway(UserObject):
    """Fixed source addresses for what selected pods send to selected destinations."""

    info: ClassVar[KindInfo] = KindInfo(
        plural="egressgateways",
        singular="egressgateway",
        short="egw",
        columns=(
            Column("IPv4", ".spec.addresses[0].ipv4", description="First IPv4 source address"),
            Column("IPv6", ".spec.addresses[0].ipv6", description="First IPv6 source address"),
            *standing("Nodes that are gateways"),
        ),
    )

    api_version: Literal["sixgate.io/v1alpha1"]
    kind: Literal["EgressGateway"]
    spec: EgressGatewaySpec = Field(description="What is wanted.")
