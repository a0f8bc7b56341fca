"""The checksum oracle: what must be true of every packet that leaves, whatever it was made from."""

from __future__ import annotations

import struct

from tests.rfc.wire import (
    ICMP4,
    ICMP6,
    TCP,
    UDP,
    Malformed,
    ones_sum,
    parse4,
    parse6,
    pseudo4,
    pseudo6,
)


def verify_packet(packet: bytes, *, l4: bool = True) -> list[str]:
    """Faults of a layer-3 packet, empty where there are none. `l4`: the upper layer's checksum is expected to be
    right.
    """
    if not packet:
        return ["empty packet"]
    try:
        return _verify4(packet, l4) if packet[0] >> 4 == 4 else _verify6(packet, l4)
    except Malformed as e:
        return [f"malformed: {e.reason}"]


def _verify4(packet: bytes, l4: bool) -> list[str]:
    ip = parse4(packet)
    faults = []
    if not ip.header_ok:
        faults.append("IPv4 header checksum is wrong")
    if len(packet) != ip.total:
        faults.append(f"{len(packet)} bytes, total length says {ip.total}")
    if ip.ttl == 0:
        faults.append("TTL is 0")
    if ip.df and ip.is_fragment:
        faults.append("a fragment has DF set")  # RFC 7915 5.1.1 clears it
    if ip.offset + len(ip.payload) > 65515:
        faults.append("fragment ends beyond the largest packet")
    if l4 and not ip.is_fragment:
        faults += _upper(ip.proto, ip.payload, pseudo4(ip.src, ip.dst, len(ip.payload), ip.proto), 4)
    return faults


def _verify6(packet: bytes, l4: bool) -> list[str]:
    ip = parse6(packet)
    faults = []
    if len(packet) != ip.total:
        faults.append(f"{len(packet)} bytes, payload length says {ip.total - 40}")
    if ip.hop_limit == 0:
        faults.append("hop limit is 0")
    fragment = ip.fragment
    if fragment is not None:
        if fragment.atomic:
            faults.append("atomic fragment")  # RFC 8021
        if fragment.offset + len(ip.payload) > 65535:
            faults.append("fragment ends beyond the largest packet")
    elif l4:
        faults += _upper(ip.proto, ip.payload, pseudo6(ip.src, ip.dst, len(ip.payload), ip.proto), 6)
    return faults


def _upper(proto: int, payload: bytes, pseudo: bytes, family: int) -> list[str]:
    if proto == UDP:
        return _udp(payload, pseudo, family)
    if proto == TCP:
        if len(payload) < 20:
            return ["TCP header is cut"]
        return [] if ones_sum(pseudo + payload) == 0xFFFF else ["TCP checksum is wrong"]
    if proto == ICMP4 and family == 4:
        return [] if ones_sum(payload) == 0xFFFF else ["ICMP checksum is wrong"]
    if proto == ICMP6 and family == 6:
        return [] if ones_sum(pseudo + payload) == 0xFFFF else ["ICMPv6 checksum is wrong"]
    return []


def _udp(payload: bytes, pseudo: bytes, family: int) -> list[str]:
    if len(payload) < 8:
        return ["UDP header is cut"]
    length, value = struct.unpack_from("!HH", payload, 4)
    if length != len(payload):
        return [f"UDP length is {length}, {len(payload)} bytes are there"]
    if value == 0:
        return [] if family == 4 else ["UDP over IPv6 without checksum"]
    return [] if ones_sum(pseudo + payload) == 0xFFFF else ["UDP checksum is wrong"]
