"""Frames of either family, built and read with `struct`; every checksum made is right, every one read is verified."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from tests.rfc.wire import ones_sum

LINK = bytes.fromhex("020000000001020000000002")
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
FIN, SYN, RST, ACK = 1, 2, 4, 16
PREFIX = "64:ff9b:1::"


@lru_cache(maxsize=65536)
def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def embed(address: str, prefix: str = PREFIX) -> str:
    """RFC 6052 with a prefix of 96 bits."""
    return str(IPv6Address(int(IPv6Address(prefix)) | int(IPv4Address(address))))


def pseudo(src: bytes, dst: bytes, length: int, proto: int) -> bytes:
    if len(src) == 4:
        return src + dst + struct.pack("!HH", proto, length)
    return src + dst + struct.pack("!II", length, proto)


def frame(src: str, dst: str, proto: int, body: bytes, *, ttl: int = 64, extra: bytes = b"", ident: int = 0) -> bytes:
    """A frame around layer 4, which is whole; `extra` are IPv6 extension headers whose first one is a fragment header,
    or for IPv4 the two bytes of flags and offset."""
    a, b = packed(src), packed(dst)
    if len(a) == 16:
        first = 44 if extra else proto
        head = struct.pack("!IHBB", 6 << 28, len(extra) + len(body), first, ttl) + a + b
        return LINK + b"\x86\xdd" + head + extra + body
    flags = extra or b"\x40\0"
    head = struct.pack("!BBHH2sBBH", 0x45, 0, 20 + len(body), ident, flags, ttl, proto, 0) + a + b
    head = head[:10] + struct.pack("!H", ~ones_sum(head) & 0xFFFF) + head[12:]
    return LINK + b"\x08\0" + head + body


def summed(src: str, dst: str, proto: int, body: bytes, at: int) -> bytes:
    """Layer 4 with the checksum at `at`, which holds zero."""
    value = ~ones_sum(pseudo(packed(src), packed(dst), len(body), proto) + body) & 0xFFFF
    if proto == UDP and not value:
        value = 0xFFFF
    return body[:at] + struct.pack("!H", value) + body[at + 2 :]


def udp_body(src: str, sport: int, dst: str, dport: int, payload: bytes = b"sixgate!") -> bytes:
    body = struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    return summed(src, dst, UDP, body, 6)


def udp(src: str, sport: int, dst: str, dport: int, payload: bytes = b"sixgate!", *, ttl: int = 64) -> bytes:
    return frame(src, dst, UDP, udp_body(src, sport, dst, dport, payload), ttl=ttl)


def tcp_body(src: str, sport: int, dst: str, dport: int, flags: int, *, payload: bytes = b"") -> bytes:
    body = struct.pack("!HHIIBBHHH", sport, dport, 1, 1, 0x50, flags, 8192, 0, 0) + payload
    return summed(src, dst, TCP, body, 16)


def tcp(src: str, sport: int, dst: str, dport: int, flags: int, *, payload: bytes = b"") -> bytes:
    return frame(src, dst, TCP, tcp_body(src, sport, dst, dport, flags, payload=payload))


def echo_body(src: str, dst: str, ident: int, *, reply: bool = False, payload: bytes = b"ping") -> bytes:
    six = ":" in src
    kind = (129 if reply else 128) if six else (0 if reply else 8)
    body = struct.pack("!BBHHH", kind, 0, 0, ident, 1) + payload
    if six:
        return summed(src, dst, ICMP6, body, 2)
    return body[:2] + struct.pack("!H", ~ones_sum(body) & 0xFFFF) + body[4:]


def echo(src: str, dst: str, ident: int, *, reply: bool = False) -> bytes:
    return frame(src, dst, ICMP6 if ":" in src else ICMP, echo_body(src, dst, ident, reply=reply))


def icmp_error(src: str, dst: str, kind: int, code: int, inner: bytes, *, info: int = 0) -> bytes:
    """An ICMP error of `src` about `inner`, a frame whose link header is left out."""
    six = ":" in src
    body = struct.pack("!BBHI", kind, code, 0, info) + inner[14:]
    if six:
        return frame(src, dst, ICMP6, summed(src, dst, ICMP6, body, 2))
    body = body[:2] + struct.pack("!H", ~ones_sum(body) & 0xFFFF) + body[4:]
    return frame(src, dst, ICMP, body)


@dataclass(frozen=True, slots=True)
class Out:
    """What a frame holds. ICMP: `sport` and `dport` are the identifier."""

    src: str
    dst: str
    proto: int
    sport: int
    dport: int
    ttl: int
    flags: int
    sound: bool  # every checksum is right
    body: bytes


def read(data: bytes) -> Out:
    """Reads a frame; later fragments have ports 0 and are sound where their header is."""
    layer3 = data[14:]
    if layer3[0] >> 4 == 6:
        src, dst = layer3[8:24], layer3[24:40]
        proto, ttl, body = layer3[6], layer3[7], layer3[40:]
        offset, sound = 0, True
        if proto == 44:
            proto, offset, body = body[0], struct.unpack("!H", body[2:4])[0], body[8:]
    else:
        src, dst = layer3[12:16], layer3[16:20]
        proto, ttl, body = layer3[9], layer3[8], layer3[20 : struct.unpack("!H", layer3[2:4])[0]]
        offset = struct.unpack("!H", layer3[6:8])[0] & 0x3FFF
        sound = ones_sum(layer3[:20]) == 0xFFFF
    a, b = (socket.inet_ntop(socket.AF_INET6 if len(x) == 16 else socket.AF_INET, x) for x in (src, dst))
    if offset:
        return Out(a, b, proto, 0, 0, ttl, 0, sound, body)
    head = b"" if proto == ICMP else pseudo(src, dst, len(body), proto)
    sound = sound and ones_sum(head + body) == 0xFFFF
    if proto in (ICMP, ICMP6):
        ident = struct.unpack("!H", body[4:6])[0]
        return Out(a, b, proto, ident, ident, ttl, body[0], sound, body)
    sport, dport = struct.unpack("!HH", body[:4])
    return Out(a, b, proto, sport, dport, ttl, body[13] if proto == TCP else 0, sound, body)
