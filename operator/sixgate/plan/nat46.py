"""NAT46Gateways of one node, in order of name, as tables of the data plane."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Network, IPv6Network

from sixgate.api.nat46gateway import NAT46Gateway, StatelessSpec
from sixgate.plan.natplan import (
    KIND_EAM,
    KIND_RANGE,
    MAX_RANGES,
    MAX_STATS,
    GatewayFlag,
    GatewayPlan,
    MappingPlan,
    NatPlan,
    RangePlan,
)
from sixgate.plan.nodeplan import AttachmentPlan, ConfigPlan, Feature, NodePlan, ObjectPlan
from sixgate.plan.stateful import StatefulPart, has_bits, state_maps, stateful_plan, writer
from sixgate.plan.stateplan import StatefulPlan

PODS = "pods"
SLOW_DEVICE = "sg-slow0"
SLOW_PEER = "sg-slow1"
ETHERNET_HEADER_BYTES = 14
DEFAULT_ICMP_RATE = 100
DEFAULT_ICMP_BURST = 100


def gateway_node(items: tuple[NAT46Gateway | StatefulPart, ...], digests: Mapping[str, str]) -> NodePlan:
    """The plan of a node that does `items`, stateless gateways and parts of stateful ones, compatible, oldest first.

    Age decides only who keeps its counter's slot; in the tables gateways stand by name.
    """
    stat_of = dict(zip((item.ref for item in items), stat_indexes(tuple(item.ref.name for item in items)), strict=True))
    items = tuple(sorted(items, key=lambda item: item.ref))
    gateways = tuple(item.gateway if isinstance(item, StatefulPart) else item for item in items)
    parts = tuple(item for item in items if isinstance(item, StatefulPart))
    stats = tuple(stat_of[item.ref] for item in items)
    writers = tuple(
        writer(gateway, stat) for gateway, stat in zip(gateways, stats, strict=True) if gateway.spec.stateless is None
    )
    stateful = stateful_plan(parts, writers) if parts else None
    return NodePlan(
        objects=_objects(gateways, digests, stateful),
        config=_config(gateways, stateful),
        nat=_nat(gateways, stats, stateful),
        stateful=stateful,
    )


def objects_needed(gateway: NAT46Gateway) -> tuple[str, ...]:
    """Names of the BPF objects without which this gateway cannot work."""
    return ("sg_tc", "sg_slow") if gateway.spec.acceleration == "Disabled" else ("sg_tc", "sg_slow", "sg_xdp")


def _objects(
    gateways: tuple[NAT46Gateway, ...], digests: Mapping[str, str], stateful: StatefulPlan | None
) -> tuple[ObjectPlan, ...]:
    owners = tuple(gateway.ref for gateway in gateways)
    uplink = [AttachmentPlan("sg_uplink_tc", "tc-ingress", _devices(gateways), super_packets="Translated")]
    if any(gateway.spec.stateful is not None for gateway in gateways):
        # Pods of the gateway node itself come in by no uplink.
        uplink.append(AttachmentPlan("sg_uplink_tc", "tc-ingress", (PODS,), required=False, super_packets="Translated"))
    maps = state_maps(stateful) if stateful else ()
    slow = AttachmentPlan("sg_slow_tc", "tc-ingress", (SLOW_PEER,))
    objects = [
        ObjectPlan("sg_tc", digests["sg_tc"], owners, tuple(uplink), maps=maps),
        ObjectPlan("sg_slow", digests["sg_slow"], owners, (slow,), maps=maps),
    ]
    native = tuple(gateway for gateway in gateways if gateway.spec.acceleration == "Native")
    willing = tuple(gateway for gateway in gateways if gateway.spec.acceleration == "BestEffort")
    must = _devices(native)
    may = tuple(device for device in _devices(willing) if device not in must)
    attachments = tuple(
        AttachmentPlan("sg_uplink_xdp", "xdp", devices, required)
        for devices, required in ((must, True), (may, False))
        if devices
    )
    if attachments:
        accelerated = tuple(gateway.ref for gateway in gateways if gateway.spec.acceleration != "Disabled")
        objects.append(ObjectPlan("sg_xdp", digests["sg_xdp"], accelerated, attachments, maps=maps))
    return tuple(objects)


def _devices(gateways: tuple[NAT46Gateway, ...]) -> tuple[str, ...]:
    return tuple(sorted({device for gateway in gateways for device in gateway.spec.devices}))


def _config(gateways: tuple[NAT46Gateway, ...], stateful: StatefulPlan | None) -> ConfigPlan:
    limits = [gateway.spec.icmp_rate_limit for gateway in gateways if gateway.spec.icmp_rate_limit is not None]
    return ConfigPlan(
        features=Feature.NAT | Feature.STATEFUL if stateful else Feature.NAT,
        slow_device=SLOW_DEVICE,
        slow_peer=SLOW_PEER,
        l2_len=ETHERNET_HEADER_BYTES,
        icmp_rate=min((limit.per_second for limit in limits), default=DEFAULT_ICMP_RATE),
        icmp_burst=min((limit.burst for limit in limits), default=DEFAULT_ICMP_BURST),
        st_ids=stateful.ids if stateful else 0,
    )


def _nat(gateways: tuple[NAT46Gateway, ...], stats: tuple[int, ...], stateful: StatefulPlan | None) -> NatPlan:
    planned: list[GatewayPlan] = []
    cidrs: list[tuple[IPv4Network, int]] = []
    mappings: list[MappingPlan] = []
    for gateway, stat in zip(gateways, stats, strict=True):
        stateless, index = gateway.spec.stateless, len(planned)
        if stateless is None:
            planned += [writer(gateway, stat)] if gateway.spec.stateful is not None else []
            continue
        planned.append(_gateway(gateway, stateless, stat))
        cidrs.extend((network, index) for network in sorted(stateless.ipv4_cidrs))
        mappings.extend(_explicit(stateless, index))
    planned = _joined(planned)
    ranges = tuple(
        RangePlan(int(network.network_address), int(network.netmask), index) for network, index in cidrs[:MAX_RANGES]
    )
    mappings.extend(_range_mapping(network, index) for network, index in cidrs[MAX_RANGES:])
    ordered = tuple(sorted(mappings, key=lambda m: (m.addr, m.length)))
    generation = number_of(ordered) if ordered else 0
    has = has_bits(stateful) if stateful else 0
    return NatPlan(
        owners=tuple(gateway.ref for gateway in gateways),
        gateways=tuple(planned),
        ranges=ranges,
        mappings=ordered,
        generation=generation,
        version=number_of((tuple(planned), ranges, generation, has)),
        has=has,
    )


def _gateway(gateway: NAT46Gateway, stateless: StatelessSpec, stat: int) -> GatewayPlan:
    prefix = gateway.spec.prefix
    flags = {
        GatewayFlag.PREFIX: prefix is not None,
        GatewayFlag.WKP_STRICT: stateless.strict_well_known_prefix,
        GatewayFlag.ZERO_TC: stateless.traffic_class == "Zero",
        GatewayFlag.FIXED_TOS: stateless.tos is not None,
        GatewayFlag.UDP_ZERO_CALC: stateless.udp_zero_checksum == "Compute",
        GatewayFlag.MSS_CLAMP: stateless.mss_clamp,
        GatewayFlag.ICMP_QUIET: stateless.icmp_errors == "Quiet",
        GatewayFlag.HAIRPIN_OFF: not stateless.hairpinning,
    }
    source4, source6 = stateless.icmp_source_cidr, stateless.icmp_source_ipv6_cidr
    return GatewayPlan(
        owner=gateway.ref,
        prefix=str(prefix.network_address) if prefix else "::",
        mask=str(prefix.netmask) if prefix else "::",
        prefix_len=prefix.prefixlen if prefix else 0,
        pool6791=str(source4.network_address) if source4 else "::",
        pool6791_len=source4.prefixlen if source4 else 0,
        pool6791_6=str(source6.network_address) if source6 else "::",
        pool6791_6_len=source6.prefixlen if source6 else 0,
        flags=int(sum(flag for flag, is_set in flags.items() if is_set)),
        low_mtu=stateless.lowest_ipv6_mtu,
        stat=stat,
        tos=stateless.tos or 0,
    )


def _joined(planned: list[GatewayPlan]) -> list[GatewayPlan]:
    """Stateless gateways without a prefix have that of the only one with a prefix: an address that one of them maps has
    one IPv4 address towards all of them. With two prefixes an answer could come from the wrong one, so each stands
    alone."""
    stateless = [item for item in planned if not item.flags & GatewayFlag.STATEFUL]
    lenders = [item for item in stateless if item.flags & GatewayFlag.PREFIX]
    if len(lenders) != 1 or len(stateless) == 1:
        return planned
    lender = lenders[0]
    lent = partial(replace, prefix=lender.prefix, mask=lender.mask, prefix_len=lender.prefix_len)
    return [
        item if item.flags & GatewayFlag.STATEFUL else lent(item, flags=item.flags | GatewayFlag.JOINED)
        for item in planned
    ]


def _explicit(stateless: StatelessSpec, gateway: int) -> Iterator[MappingPlan]:
    for mapping in stateless.mappings:
        yield _entry(mapping.ipv4, mapping.ipv6, KIND_EAM, gateway)
        yield _entry(mapping.ipv6, mapping.ipv4, KIND_EAM, gateway)


def _range_mapping(network: IPv4Network, gateway: int) -> MappingPlan:
    return _entry(network, None, KIND_RANGE, gateway)


def _entry(this: IPv4Network | IPv6Network, that: IPv4Network | IPv6Network | None, kind: int, gw: int) -> MappingPlan:
    length = _bits128(this)
    return MappingPlan(
        addr=str(this.network_address),
        length=length,
        to=str(that.network_address) if that is not None else "::",
        to_length=_bits128(that) if that is not None else 0,
        kind=kind,
        gateway=gw,
        key_length=32 + length,
    )


def _bits128(network: IPv4Network | IPv6Network) -> int:
    return network.prefixlen + (96 if network.version == 4 else 0)


def number_of(contents: tuple[object, ...]) -> int:
    """A number of 32 bits for these very contents (frozen dataclasses); never 0, which means none."""
    return int.from_bytes(hashlib.sha256(repr(contents).encode()).digest()[:4], "big") or 1


def stat_indexes(names: tuple[str, ...]) -> tuple[int, ...]:
    """Counter slots of a node's gateways: by hash of the name, the next free one where two hashes meet.

    Older gateways come first, so a younger one that goes never moves an older one's counters.
    """
    taken: set[int] = set()
    indexes = []
    for name in names:
        index = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % MAX_STATS
        while index in taken:
            index = (index + 1) % MAX_STATS
        taken.add(index)
        indexes.append(index)
    return tuple(indexes)
