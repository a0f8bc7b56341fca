"""Packets of a trace: built from two ends, read back from what a program made of them. Pure.

Only what a trace shows is read: addresses, ports or identifier, hop limit, ICMP type, whether it is a fragment.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal, TypeAlias

from sixgate.errors import SixgateError

Address: TypeAlias = IPv4Address | IPv6Address
ProtocolName = Literal["tcp", "udp", "icmp"]

TTL = 64
_TCP, _UDP, _ICMP, _ICMP6 = 6, 17, 1, 58
_FRAGMENT_HEADER = 44
_ETHER_BYTES, _IPV4_BYTES, _IPV6_BYTES = 14, 20, 40
_SYN = 0x02
_ECHO, _ECHO6 = 8, 128
_IDENTIFIED = {(1, 0), (1, 8), (58, 128), (58, 129)}  # echo and its reply carry an identifier
_IN4, _IN6 = 4, 41  # IPv4 and IPv6 inside the packet
_NAMES = {_TCP: "tcp", _UDP: "udp", _ICMP: "icmp", _ICMP6: "icmpv6", _IN4: "ipip", _IN6: "ip6ip"}
_FLAGS = {"fin": 0x01, "syn": 0x02, "rst": 0x04, "psh": 0x08, "ack": 0x10}


@dataclass(frozen=True, slots=True)
class End:
    """An address and a port; of ICMP, the identifier of the echo. 0 where there is none."""

    address: Address
    port: int = 0

    def __str__(self) -> str:
        if not self.port:
            return str(self.address)
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Seen:
    """One packet as it is on the wire. `payload` are bytes of layer 4 with its header."""

    source: End
    target: End
    protocol: str
    ttl: int
    payload: int
    icmp: tuple[int, int] | None = None  # type and code
    fragment: bool = False
    inner: Seen | None = None  # of a tunnel packet, IP in IP
    begins: bool = True  # of TCP: a SYN

    def __str__(self) -> str:
        kind = f" type {self.icmp[0]} code {self.icmp[1]}" if self.icmp else ""
        cut = ", a fragment" if self.fragment else ""
        held = f", with {self.inner} inside" if self.inner else ""
        return f"{self.protocol}{kind} {self.source} → {self.target}, hop limit {self.ttl}{cut}{held}"


def parse_end(text: str) -> End:
    """`192.0.2.1:80`, `[2001:db8::1]:80`, or an address alone. SixgateError saying what was found."""
    address, port = text, ""
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
        if rest and not rest.startswith(":"):
            port = "?"
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    try:
        number = int(port) if port else 0
        if not 0 <= number <= 65535:
            raise ValueError
        return End(ip_address(address), number)
    except ValueError:
        raise SixgateError(
            f"An end of a flow must be ADDRESS or ADDRESS:PORT, with an IPv6 address in brackets, found {text!r}."
        ) from None


def build(
    source: End, target: End, protocol: ProtocolName, *, length: int = 0, flags: str = "syn", ttl: int = TTL
) -> bytes:
    """An Ethernet frame: a TCP segment with `flags`, a UDP datagram or an ICMP echo, `length` bytes of payload.

    SixgateError where the ends are of two families, the protocol needs ports that are missing, or it is too long.
    """
    if source.address.version != target.address.version:
        raise SixgateError(
            f"A packet has addresses of one family; {source.address} is IPv{source.address.version} and "
            f"{target.address} is IPv{target.address.version}. What the target is to the client is asked for: an IPv6 "
            "client of an IPv4 host sends to an address under the prefix."
        )
    if protocol != "icmp" and not target.port:
        raise SixgateError(f"A {protocol} packet needs the port that it is sent to; {target} has none.")
    version = source.address.version
    number = {"tcp": _TCP, "udp": _UDP, "icmp": _ICMP if version == 4 else _ICMP6}[protocol]
    body = _layer4(number, source.port or 40000, target.port, bytes(length), _flags(flags))
    if len(body) > 65535 - _IPV6_BYTES:
        raise SixgateError(f"A packet has at most 65,495 bytes behind its header; {len(body)} are asked for.")
    body = _with_checksum(number, source.address, target.address, body)
    header = (_header4 if version == 4 else _header6)(source.address, target.address, number, len(body), ttl)
    ether_type = 0x0800 if version == 4 else 0x86DD
    return struct.pack("!6s6sH", b"\x02\0\0\0\0\x02", b"\x02\0\0\0\0\x01", ether_type) + header + body


def _flags(text: str) -> int:
    value = 0
    for word in text.lower().replace("+", ",").split(","):
        if word not in _FLAGS:
            raise SixgateError(f"TCP flags are some of {', '.join(_FLAGS)}, separated by commas; found {text!r}.")
        value |= _FLAGS[word]
    return value


def _layer4(number: int, sport: int, dport: int, payload: bytes, flags: int) -> bytes:
    if number == _TCP:
        mss = b"\x02\x04\x05\xa0" if flags & _SYN else b""  # 1440, what an Ethernet host says
        return (
            struct.pack("!HHIIBBHHH", sport, dport, 1, 0, (5 + len(mss) // 4) << 4, flags, 65535, 0, 0) + mss + payload
        )
    if number == _UDP:
        return struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload
    return struct.pack("!BBHHH", _ECHO if number == _ICMP else _ECHO6, 0, 0, sport, 1) + payload


def _with_checksum(number: int, source: Address, target: Address, body: bytes) -> bytes:
    pseudo = b"" if number == _ICMP else source.packed + target.packed + struct.pack("!II", len(body), number)
    value = _checksum(pseudo + body)
    if number == _UDP and not value:
        value = 0xFFFF
    at = {_TCP: 16, _UDP: 6}.get(number, 2)
    return body[:at] + struct.pack("!H", value) + body[at + 2 :]


def _header4(source: Address, target: Address, number: int, length: int, ttl: int) -> bytes:
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, _IPV4_BYTES + length, 1, 0x4000, ttl, number, 0, source.packed, target.packed
    )
    return header[:10] + struct.pack("!H", _checksum(header)) + header[12:]


def _header6(source: Address, target: Address, number: int, length: int, ttl: int) -> bytes:
    return struct.pack("!IHBB16s16s", 6 << 28, length, number, ttl, source.packed, target.packed)


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def read(frame: bytes) -> Seen | None:
    """What an Ethernet frame holds; None of one that is neither IPv4 nor IPv6 or too short to tell."""
    if len(frame) < _ETHER_BYTES:
        return None
    ether_type = int.from_bytes(frame[12:14], "big")
    packet = frame[_ETHER_BYTES:]
    if ether_type == 0x0800 and len(packet) >= _IPV4_BYTES:
        return _read4(packet)
    if ether_type == 0x86DD and len(packet) >= _IPV6_BYTES:
        return _read6(packet)
    return None


def _read4(packet: bytes) -> Seen:
    fragment = int.from_bytes(packet[6:8], "big") & 0x3FFF  # more fragments, and the offset
    number, body = packet[9], packet[(packet[0] & 0x0F) * 4 :]
    name, sport, dport, icmp = _upper(number, b"" if fragment & 0x1FFF else body)
    source, target = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
    return Seen(
        End(source, sport),
        End(target, dport),
        name,
        packet[8],
        len(body),
        icmp,
        bool(fragment),
        None if fragment & 0x1FFF else _inside(number, body),
        number != _TCP or _begins(body),
    )


def _read6(packet: bytes) -> Seen:
    number, body = packet[6], packet[_IPV6_BYTES:]
    fragment = number == _FRAGMENT_HEADER and len(body) >= 8
    later = fragment and int.from_bytes(body[2:4], "big") & 0xFFF8
    if fragment:
        number, body = body[0], body[8:]
    name, sport, dport, icmp = _upper(number, b"" if later else body)
    source, target = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    return Seen(
        End(source, sport),
        End(target, dport),
        name,
        packet[7],
        len(body),
        icmp,
        fragment,
        None if later else _inside(number, body),
        number != _TCP or _begins(body),
    )


def _inside(number: int, body: bytes) -> Seen | None:
    """The packet in a tunnel packet, IP in IP."""
    if number == _IN4 and len(body) >= _IPV4_BYTES:
        return _read4(body)
    return _read6(body) if number == _IN6 and len(body) >= _IPV6_BYTES else None


def _begins(segment: bytes) -> bool:
    return len(segment) > 13 and segment[13] & (_SYN | _FLAGS["rst"]) == _SYN


def _upper(number: int, body: bytes) -> tuple[str, int, int, tuple[int, int] | None]:
    """Name of the protocol, two ports or an identifier, ICMP type and code; of a later fragment only the name."""
    name = _NAMES.get(number, f"protocol {number}")
    if len(body) < 8:
        return name, 0, 0, None
    first, second = (int.from_bytes(body[at : at + 2], "big") for at in (0, 2))
    if number in {_TCP, _UDP}:
        return name, first, second, None
    if number in {_ICMP, _ICMP6}:
        identifier = int.from_bytes(body[4:6], "big") if (number, body[0]) in _IDENTIFIED else 0
        return name, identifier, 0, (body[0], body[1])
    return name, 0, 0, None
