"""An independent model of a stateless IPv4/IPv6 translator: RFC 7915, 6052, 6791, 7757, with the ICMP rules they lean
on.

`translate(node, packet)` takes the bytes of one layer-3 packet and gives the right outcomes, ours first. The model
is written from the RFCs' texts, not from the data plane, and exists to be compared with it. The modules:

    wire        headers and checksums                 to_v4      RFC 7915 section 5
    addresses   RFC 6052, 7757 3.3, illegal sources   to_v6      RFC 7915 section 4
    icmp        types, codes, pointers, MTUs, 4884    inner      RFC 7915 4.3, 5.3
    own_errors  ICMP errors of our own                verdict    outcomes and their comparison

Their docstrings list the choices made where the texts leave one. Those of this page:
* The translator decrements TTL or hop limit by one, once, also when a packet is hairpinned; 1 or 0 is time exceeded.
* A malformed packet may be dropped or left to the kernel; it is never translated. One that no gateway claims is left
  to it.
* An explicitly mapped address is a host's own, which may be reached without a translator: a packet to it whose source
  cannot be mapped may be refused, as RFC 7915 has it, or left to routing.
* Several reasons to drop one packet are all right, each with its own answer.
* Not modelled: rate limits, routing beyond MTUs, multicast, local delivery.
"""

from __future__ import annotations

from dataclasses import replace

from tests.rfc.addresses import best_eam4, best_eam6, claim46, claim64, map46, map64
from tests.rfc.config import Gateway, Node
from tests.rfc.inner import update_l4
from tests.rfc.own_errors import PROHIBITED6, TOO_BIG, own6
from tests.rfc.to_v4 import Draft4, destination64, draft64, finish64, is_error6, maybe_neighbour_discovery
from tests.rfc.to_v6 import Draft6, draft46, finish46, may_drop, pieces
from tests.rfc.verdict import Drop, Out, Outcome, Pass, Sent
from tests.rfc.wire import (
    FRAGMENT,
    HIP,
    ICMP4,
    ICMP6,
    MOBILITY,
    SHIM6,
    SKIPPED,
    Ip4,
    Ip6,
    Malformed,
    adjust,
    base6,
    parse4,
    parse6,
)

__all__ = ["Node", "translate"]

ONLY_IPV6 = SKIPPED | {FRAGMENT, ICMP6, MOBILITY, HIP, SHIM6}


def translate(node: Node, packet: bytes) -> Outcome:
    """What may become of `packet`, bytes from the network header on (trailing link-layer padding is ignored)."""
    version = packet[0] >> 4 if packet else 0
    if version == 6:
        return _from_v6(node, packet)
    if version == 4:
        return _from_v4(node, packet)
    return _malformed("DROP_BAD_HEADER")


def _malformed(reason: str) -> Outcome:
    others = {"DROP_TRUNCATED", "DROP_BAD_HEADER"} - {reason}
    return (Drop(reason), Pass(), *(Drop(o) for o in sorted(others)))


def _from_v6(node: Node, packet: bytes) -> Outcome:
    try:
        _, _, dst = base6(packet)
    except Malformed as e:
        return _malformed(e.reason)
    gw = claim64(node, dst)
    if gw is None:
        # A packet that is not ours may still be found malformed before that is known.
        return (Pass(),) if _wellformed6(packet) else (Pass(), *_malformed("DROP_TRUNCATED"), Drop("DROP_BAD_EXTHDR"))
    try:
        ip = parse6(packet)
    except Malformed as e:
        return (*_malformed(e.reason), Drop("DROP_BAD_EXTHDR", _prohibited(node, packet), required=False))
    if _hairpins(gw, ip.dst):
        return _hairpin(node, gw, ip, packet)
    left = (Pass(),) if best_eam6(gw, ip.dst) and map64(gw, ip.src) is None else ()
    faults, draft = draft64(node, gw, ip, packet, hairpin=False)
    if draft is None:
        return (
            *unless_query(faults, ip),
            *maybe_neighbour_discovery(ip),
            *class_e(destination64(node, gw, ip, packet)[0]),
            *foreign(ip.proto, {ICMP4}),
            *left,
        )
    may = (*class_e(draft.src), *class_e(draft.dst), *foreign(ip.proto, {ICMP4}), *left)
    return (*finish64(node, ip, packet, draft), *may)


def _wellformed6(packet: bytes) -> bool:
    try:
        parse6(packet)
    except Malformed:
        return False
    return True


def _prohibited(node: Node, packet: bytes) -> Out | None:
    """RFC 7915 5.4 about a packet whose chain of headers cannot be walked: only the fixed header is known."""
    length, src, dst = base6(packet)
    if len(packet) < 40 + length:
        return None
    ip = Ip6(0, packet[7], src, dst, 255, b"", length, 40 + length, None, None, False)
    return own6(node, ip, packet, PROHIBITED6)


def _from_v4(node: Node, packet: bytes) -> Outcome:
    try:
        ip = parse4(packet)
    except Malformed as e:
        return _malformed(e.reason)
    gw = claim46(node, ip.dst)
    if gw is None:
        return (Pass(),) if ip.header_ok else (Pass(), Drop("DROP_BAD_HEADER"))
    faults, draft = draft46(node, gw, ip, packet, hairpin=False)
    if draft is None:
        alone = best_eam4(gw, ip.dst) and map46(gw, ip.src) is None
        left = () if ip.header_ok and not alone else (Pass(),)
        return (*unless_query(faults, ip), *may_drop(ip), *class_e(ip.src), *foreign(ip.proto, ONLY_IPV6), *left)
    return (*finish46(node, gw, ip, packet, draft), *may_drop(ip), *class_e(ip.src), *foreign(ip.proto, ONLY_IPV6))


def unless_query(faults: list[Drop], ip: Ip4 | Ip6) -> Outcome:
    """RFC 1122 3.2.2 and RFC 4443 2.4 (e) forbid errors about errors; of a type that nobody knows, none is required."""
    known = {ICMP4: (0, 8), ICMP6: (128, 129)}.get(ip.proto)
    if known is None or ip.payload[:1] in {bytes([kind]) for kind in known}:
        return tuple(faults)
    return tuple(replace(fault, required=False) for fault in faults)


def foreign(proto: int, numbers: frozenset[int] | set[int]) -> Outcome:
    """Numbers that mean something in the other family only, extension headers above all.

    RFC 7915 4.1 and 5.1 copy them like every protocol; a gateway that wants no forged headers may drop them.
    """
    reasons = ("DROP_ICMP_TYPE", "DROP_BAD_EXTHDR", "DROP_BAD_HEADER")
    return tuple(Drop(reason) for reason in reasons) if proto in numbers else ()


def class_e(addr: bytes, answer: Out | None = None) -> Outcome:
    """RFC 1112 4 keeps 240.0.0.0/4 for the future: routers differ in whether it is a legal address, so may we."""
    return (Drop("DROP_SRC_ILLEGAL"), Drop("DROP_MAPPING", answer, required=False)) if addr[0] >= 240 else ()


def _hairpins(gw: Gateway, dst: bytes) -> bool:
    """RFC 7757 4.2.2: the destination was translated with the prefix, and its IPv4 form is in an explicit mapping."""
    mapped = map64(gw, dst)
    return gw.hairpin and mapped is not None and mapped.via_prefix and best_eam4(gw, mapped.addr) is not None


def _hairpin(node: Node, gw: Gateway, ip: Ip6, packet: bytes) -> Outcome:
    """Translated to IPv4 and at once back: RFC 7757 4.2.2. The intermediate packet has no size limit of its own."""
    faults, first = draft64(node, replace(gw, mss_clamp=False), ip, packet, hairpin=True)
    if first is None:
        return tuple(faults)
    between = first.build(first.payload, first.offset, first.mf)
    ip4 = parse4(between)
    faults, second = draft46(node, gw, ip4, between, hairpin=True)
    if second is None:
        return tuple(replace(fault, answer=None) for fault in faults)
    mtu = node.mtu_to6(second.dst)
    whole = pieces(second, ip4, 65575)
    if len(whole[0].data) > mtu:
        return (Drop("DROP_TOO_BIG", own6(node, ip, packet, TOO_BIG, mtu)),)
    verdicts = [Sent(_free_source(whole, first, second), 6)]
    if (same := direct(ip, packet, second)) is not None:
        verdicts.append(Sent((same,), 6))
    if first.was_fragment and len(whole[0].data) > gw.low_mtu:
        verdicts.append(Sent(pieces(second, ip4, min(gw.low_mtu, mtu)), 6))
    return tuple(verdicts)


def direct(ip: Ip6, packet: bytes, target: Draft6) -> Out | None:
    """The same hairpin done in IPv6 alone: new addresses, all else kept, flow label and extension headers too.

    RFC 7757 4.2.2 describes two translations; hosts cannot tell what they drop from what a router keeps. None for ICMP
    errors, whose embedded packet needs more.
    """
    whole = ip.fragment is None or ip.fragment.offset == 0
    if is_error6(ip):
        return None
    head = bytearray(packet[: ip.total - len(ip.payload)])
    head[7] -= 1
    head[8:40] = target.src + target.dst
    payload = ip.payload
    if whole and ip.proto == ICMP6:
        value = adjust(int.from_bytes(payload[2:4], "big"), ip.src + ip.dst, target.src + target.dst)
        payload = payload[:2] + value.to_bytes(2, "big") + payload[4:]
    elif whole:
        payload = update_l4(payload, ip.proto, ip.src + ip.dst, target.src + target.dst)
    return Out.exact(bytes(head) + payload)


def _free_source(packets: tuple[Out, ...], first: Draft4, second: Draft6) -> tuple[Out, ...]:
    """The source chosen from an RFC 6791 pool, and the ICMPv6 checksum that covers it, are the translator's choice."""
    if not first.pool_bits:
        return packets
    assert second.payload, "only ICMP errors use the pool"
    return tuple(Out.free(p.data, (8, 24), (42, 44)) for p in packets)
