"""What stands in the maps for one balancer, beside its table. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Network, ip_network
from typing import TYPE_CHECKING

from sixgate.node.bpf.layouts import SgLbFlag as Flag
from sixgate.node.lb import layout
from sixgate.node.lb.layout import VipValue

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sixgate.api.nodeconfig_lb import Balancer

NS = 1_000_000_000
BURST_NS = 100_000_000  # new flows may run ahead by a tenth of a second
_MAPPED_BITS = 96
_V4 = IPv6Network("::ffff:0:0/96")

Rows = dict[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Entries:
    """Contents by map: `vips` and `ranges` of ports, `addresses` of whole addresses, which several balancers may share,
    `sources` of client ranges."""

    vips: Rows = field(default_factory=dict)
    ranges: Rows = field(default_factory=dict)
    addresses: Mapping[bytes, VipValue] = field(default_factory=dict)
    sources: Rows = field(default_factory=dict)


def entries_of(
    item: Balancer,
    table: int,
    stats: Mapping[bytes, int],
    local: frozenset[bytes],
    services: Mapping[bytes, int] | None = None,
) -> Entries:
    """`table` is the key of its table, `stats` its counters by address, `local` the addresses that this host has by
    somebody else's hand: there, ports that are not balanced stay the host's. With mode NAT, `services` are the numbers
    of its addresses in sg_st_svcs."""
    sources, generation = source_rows(item.allow, item.deny)
    flags = 0
    if sources:
        flags |= Flag.SG_LB_SOURCES | (Flag.SG_LB_SOURCE_DENY if item.allow else 0)
    if item.affinity_s:
        flags |= Flag.SG_LB_AFFINITY
    if item.new_flows_per_s:
        flags |= Flag.SG_LB_LIMIT
    if services is not None:
        flags |= Flag.SG_LB_NATTED
    vips: Rows = {}
    ranges: Rows = {}
    addresses: dict[bytes, VipValue] = {}
    for vip in item.vips:
        address = layout.mapped(vip.address)

        svc = services[address] if services is not None else 0

        def value(protocol: int, delta: int, stat: int = stats[address], svc: int = svc) -> bytes:
            return replace(_service(item, table, stat, generation, flags, protocol, delta), svc=svc).pack()

        for port in item.ports:
            protocol, delta = layout.PROTOCOLS[port.protocol], (port.target - port.first) & 0xFFFF
            if port.first == port.last:
                vips[layout.vip_key(address, port.first, protocol)] = value(protocol, delta)
            else:
                keys = layout.range_keys(address, protocol, port.first, port.last)
                ranges.update(dict.fromkeys(keys, value(protocol, delta)))
        whole = _address(item, table, stats[address], generation, flags, address in local)
        addresses[address] = replace(whole, svc=svc)
    return Entries(vips, ranges, addresses, sources)


def _service(  # noqa: PLR0917 - the fields of one value
    item: Balancer, table: int, stat: int, generation: int, flags: int, protocol: int, delta: int
) -> VipValue:
    gap = max(1, NS // item.new_flows_per_s) if item.new_flows_per_s else 0
    quic = item.quic_length > 0 and protocol in (0, layout.PROTOCOLS["UDP"])
    return VipValue(
        seed=item.seed,
        table=table,
        size=item.table_size,
        stat=stat,
        flags=flags | Flag.SG_LB_SERVICE | (Flag.SG_LB_QUIC if quic else 0),
        source_gen=generation,
        affinity=_group(item.name) if item.affinity_s else 0,
        affinity_s=item.affinity_s,
        limit=table if item.new_flows_per_s else 0,
        limit_gap_ns=gap,
        limit_burst_ns=max(gap, BURST_NS) if gap else 0,
        quic=table if quic else 0,
        port_delta=delta,
        quic_off=item.quic_offset if quic else 0,
        quic_len=item.quic_length if quic else 0,
    )


def _address(  # noqa: PLR0917 - the fields of one value
    item: Balancer, table: int, stat: int, generation: int, flags: int, is_local: bool
) -> VipValue:
    own = int(Flag.SG_LB_ECHO) if item.icmp_echo else 0
    if any(port.first != port.last for port in item.ports):
        own |= Flag.SG_LB_RANGES
    if is_local:
        own |= Flag.SG_LB_PASS_OTHER
    own |= flags & Flag.SG_LB_NATTED  # the engine knows fragments
    if not item.all_ports:
        return VipValue(stat=stat, flags=own)
    made = _service(item, table, stat, generation, flags, 0, 0)
    return VipValue(**{name: getattr(made, name) for name in made.__slots__} | {"flags": made.flags | own})


def merged(values: Iterable[VipValue]) -> VipValue:
    """The entry of an address whose ports belong to several balancers: the first one's, with what any of them asks."""
    first, *others = values
    flags = int(first.flags)
    for other in others:
        flags |= other.flags
    base = next((value for value in (first, *others) if value.flags & Flag.SG_LB_SERVICE), first)
    through_nat = next((value for value in (base, first, *others) if value.flags & Flag.SG_LB_NATTED), base)
    return replace(base, flags=flags, svc=through_nat.svc)


def source_rows(allow: tuple[str, ...], deny: tuple[str, ...]) -> tuple[Rows, int]:
    """Entries of sg_lb_source, and their generation, 0 for none. Of a range in both lists the denial counts.

    In the map IPv4 addresses lie inside ::/0, so an IPv6 range that covers them gets an exception for them.
    """
    if not allow and not deny:
        return {}, 0
    verdicts = {ip_network(cidr): 1 for cidr in allow} | {ip_network(cidr): 0 for cidr in deny}
    generation = int.from_bytes(hashlib.sha256(repr((sorted(allow), sorted(deny))).encode()).digest()[:4], "big") or 1
    bits: dict[tuple[int, bytes], int] = {}
    if any(isinstance(net, IPv6Network) and net.prefixlen <= _MAPPED_BITS and _V4.subnet_of(net) for net in verdicts):
        bits[_MAPPED_BITS, _V4.network_address.packed] = 0 if allow else 1
    for net, verdict in verdicts.items():
        length = net.prefixlen + (_MAPPED_BITS if net.version == 4 else 0)
        bits[length, layout.mapped(net.network_address)] = verdict
    rows = {
        layout.SOURCE_KEY.pack(32 + length, generation, address): layout.U32.pack(verdict)
        for (length, address), verdict in bits.items()
    }
    return rows, generation


def quic_row(table: int, server_id: str, backend: int) -> tuple[bytes, bytes]:
    """Key and value of a server id in sg_lb_quic."""
    raw = bytes.fromhex(server_id)
    return layout.QUIC_KEY.pack(table, len(raw), raw), layout.U32.pack(backend)


def _group(name: str) -> int:
    """Clients of one balancer: a number that no other one is likely to have, whatever numbers are free."""
    return int.from_bytes(hashlib.sha256(f"affinity {name}".encode()).digest()[:4], "big") or 1
