"""Whole packets made by hand, with right checksums."""

from __future__ import annotations

import ipaddress
import struct

UDP = 17
SPORT, DPORT = 4000, 4001


def internet_checksum(data: bytes) -> int:
    """RFC 1071 sum over `data`: 0 where a checksum inside it holds."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(padded[i : i + 2], "big") for i in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp_packet(
    source: str, destination: str, payload: bytes, ttl: int = 64, ports: tuple[int, int] = (SPORT, DPORT)
) -> bytes:
    """UDP between two addresses of one family; an IPv4 packet may be fragmented and has identification 1."""
    src, dst = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    length = 8 + len(payload)
    if src.version == 6:
        head = struct.pack("!IHBB", 6 << 28, length, UDP, ttl) + src.packed + dst.packed
    else:
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + length, 1, 0, ttl, UDP, 0, src.packed, dst.packed)
        head = head[:10] + internet_checksum(head).to_bytes(2, "big") + head[12:]
    return head + _udp_segment(src.packed + dst.packed, payload, ports)


def _udp_segment(addresses: bytes, payload: bytes, ports: tuple[int, int]) -> bytes:
    """UDP header and payload between `addresses`, source and destination after each other."""
    length = 8 + len(payload)
    head = struct.pack("!HHHH", *ports, length, 0)
    total = internet_checksum(addresses + struct.pack("!HH", UDP, length) + head + payload) or 0xFFFF
    return head[:6] + total.to_bytes(2, "big") + payload
