"""ICMP and ICMPv6 messages: types, codes, pointers, MTUs, RFC 4884 extensions (RFC 7915 4.2, 4.3, 5.2, 5.3).

Choices where the text leaves one:
* Time Exceeded: "the Code is unchanged", so any code is copied, not only 0 and 1.
* Packet Too Big: RFC 4443 3.2 says that receivers ignore the code, so any code is translated.
* Echo: the code is copied (only 0 has a meaning).
* A Packet Too Big below 1280 counts as 1280: RFC 8201 4 tells a node to ignore smaller ones, every IPv6 link carries
  1280 (RFC 8200 5), and an attacker must not push IPv4 senders below it.
* A plateau (RFC 1191 7) goes into the MTU field as it is: 4.2 says "include that path MTU in the ICMPv6 packet".
* With a Fragment Header in the packet in error, 8 bytes more are taken off the two IPv6 figures; the IPv4 next hop's
  MTU already is an IPv4 figure.
* RFC 4884: the original datagram is zero-padded to the other side's unit and to 128 bytes, never cut for alignment.
  Where the target type cannot carry an extension (RFC 4884 4: ICMPv6 types 2 and 4), the extension goes.
* Too long a message is cut at its end (4.2: an extension "SHOULD be simply truncated"); a length attribute that no
  extension follows any more is 0.
* A length attribute beyond the message, or below RFC 4884's 128 bytes, is ignored: no extension.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.rfc.wire import Malformed

if TYPE_CHECKING:
    from collections.abc import Callable

ERROR4 = frozenset({3, 4, 5, 11, 12})  # RFC 1122 3.2.2
MAX6 = 1280 - 40  # RFC 4443 2.4 (c): an error does not exceed the minimum IPv6 MTU
MAX4 = 576 - 20  # RFC 1812 4.3.2.3

# RFC 7915 4.2: Destination Unreachable codes with a code of ICMPv6 type 1; 2 (protocol) and 4 (MTU) have rules of
# their own.
UNREACHABLE46 = {0: 0, 1: 0, 3: 4, 5: 0, 6: 0, 7: 0, 8: 0, 9: 1, 10: 1, 11: 0, 12: 0, 13: 1, 15: 1}
# RFC 7915 5.2: ICMPv6 Destination Unreachable codes to codes of ICMPv4 type 3.
UNREACHABLE64 = {0: 1, 1: 10, 2: 1, 3: 1, 4: 3}
# RFC 7915 figure 3: pointers into an IPv4 header that have an equivalent.
POINTER46 = {0: 0, 1: 1, 2: 4, 3: 4, 8: 7, 9: 6} | dict.fromkeys(range(12, 16), 8) | dict.fromkeys(range(16, 20), 24)
# RFC 7915 figure 6: pointers into an IPv6 header that have an equivalent.
POINTER64 = {0: 0, 1: 1, 4: 2, 5: 2, 6: 9, 7: 8} | dict.fromkeys(range(8, 24), 12) | dict.fromkeys(range(24, 40), 16)
# RFC 1191 7.1.
PLATEAUS = (65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68)


@dataclass(frozen=True, slots=True)
class Message:
    """An ICMP error on the way: new type and code, the four bytes behind the checksum, and whether RFC 4884 applies."""

    type: int
    code: int
    rest: bytes
    extensible: bool = False


def mtu46(advertised: int, total: int, next4: int, next6: int) -> int:
    """RFC 7915 4.2, code 4; `total` is the total length of the packet in error, for routers older than RFC 1191."""
    if advertised == 0:
        likely = next((p for p in PLATEAUS if 1280 <= p < total), 1280)
        return max(1280, min(likely, next6, next4 + 20))
    return max(1280, min(advertised + 20, next6, next4 + 20))


def mtu64(advertised: int, fragment_header: bool, next4: int, next6: int) -> int:
    """RFC 7915 5.2, type 2, "taking into account whether or not the packet in error includes a Fragment Header"."""
    less = 28 if fragment_header else 20
    return min(max(advertised, 1280) - less, next4, next6 - less)


def error46(payload: bytes, inner_total: int, next4: int, next6: int) -> Message:
    """The ICMPv6 error for an ICMPv4 error. Raises Malformed where RFC 7915 4.2 has it silently dropped."""
    kind, code = payload[0], payload[1]
    zero = bytes(4)
    if kind == 11:
        return Message(3, code, zero, extensible=True)
    if kind == 12 and code in (0, 2):
        pointer = POINTER46.get(payload[4])
        if pointer is None:
            raise Malformed("DROP_ICMP_POINTER")
        return Message(4, 0, struct.pack("!I", pointer))
    if kind == 3 and code == 2:
        return Message(4, 1, struct.pack("!I", 6))
    if kind == 3 and code == 4:
        advertised = struct.unpack_from("!H", payload, 6)[0]
        return Message(2, 0, struct.pack("!I", mtu46(advertised, inner_total, next4, next6)))
    if kind == 3 and code in UNREACHABLE46:
        return Message(1, UNREACHABLE46[code], zero, extensible=True)
    raise Malformed("DROP_ICMP_TYPE")


def error64(payload: bytes, fragment_header: bool, next4: int, next6: int) -> Message:
    """The ICMPv4 error for an ICMPv6 error. Raises Malformed where RFC 7915 5.2 has it silently dropped."""
    kind, code = payload[0], payload[1]
    zero = bytes(4)
    value = struct.unpack_from("!I", payload, 4)[0]
    if kind == 1 and code in UNREACHABLE64:
        return Message(3, UNREACHABLE64[code], zero, extensible=True)
    if kind == 2:
        mtu = mtu64(value, fragment_header, next4, next6)
        return Message(3, 4, struct.pack("!HH", 0, min(mtu, 65535)))
    if kind == 3:
        return Message(11, code, zero, extensible=True)
    if kind == 4 and code == 0:
        pointer = POINTER64.get(value)
        if pointer is None:
            raise Malformed("DROP_ICMP_POINTER")
        return Message(12, 0, bytes((pointer, 0, 0, 0)))
    if kind == 4 and code == 1:
        return Message(3, 2, zero)
    raise Malformed("DROP_ICMP_TYPE")


def split_extension(payload: bytes, attribute: int, unit: int, capable: bool) -> tuple[bytes, bytes]:
    """RFC 4884 4: (original datagram, extension) of an ICMP error; no extension where the length attribute is
    unusable.
    """
    length = attribute * unit
    body = payload[8:]
    if not capable or length < 128 or length > len(body):
        return body, b""
    return body[:length], body[length:]


def assemble(message: Message, inner: bytes, extension: bytes, *, unit: int, length_at: int, limit: int) -> bytes:
    """The new message with checksum 0, at most `limit` bytes long; `length_at` is where RFC 4884 has its attribute."""
    rest = bytearray(message.rest)
    body = inner
    if extension and message.extensible:
        size = max(128, -(-len(inner) // unit) * unit)
        body = inner.ljust(size, b"\0")
        if 8 + size < limit:
            rest[length_at - 4] = size // unit
        body += extension
    return (struct.pack("!BBH", message.type, message.code, 0) + bytes(rest) + body)[:limit]


def put_checksum(message: bytes, compute: Callable[[bytes], int]) -> bytes:
    """The message with its checksum field, bytes 2 and 3, filled in over the field's zero."""
    return message[:2] + struct.pack("!H", compute(message)) + message[4:]
