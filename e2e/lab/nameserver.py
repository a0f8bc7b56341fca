"""A name server with A records only, for the IPv4 side of a lab.

    python nameserver.py ADDRESS[@PORT] NAME=IPV4 ...

Names that it does not have do not exist; other types of those it has are empty.
"""

from __future__ import annotations

import ipaddress
import socket
import sys

A, IN = 1, 1
TTL_S = 300
NXDOMAIN = 3


def soa() -> bytes:
    """A SOA record of the root."""
    rdata = b"\0\0" + b"".join(number.to_bytes(4, "big") for number in (1, 3600, 600, 86400, TTL_S))
    return b"\0" + b"\0\6\0\1" + TTL_S.to_bytes(4, "big") + len(rdata).to_bytes(2, "big") + rdata


def answer(query: bytes, names: dict[str, bytes]) -> bytes:
    """The reply to one well-formed question."""
    labels, place = [], 12
    while query[place]:
        labels.append(query[place + 1 : place + 1 + query[place]].decode("ascii", "replace").lower())
        place += 1 + query[place]
    question = query[12 : place + 5]
    address = names.get(".".join(labels))
    if address is not None and question[-4:] == bytes([0, A, 0, IN]):
        record = b"\xc0\x0c\0\1\0\1" + TTL_S.to_bytes(4, "big") + b"\0\4" + address
        return query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question + record
    rcode = 0 if address is not None else NXDOMAIN
    return query[:2] + bytes([0x81, 0x80 | rcode]) + b"\0\1\0\0\0\1\0\0" + question + soa()


def main() -> None:
    pairs = (word.partition("=") for word in sys.argv[2:])
    names = {name: ipaddress.IPv4Address(address).packed for name, _, address in pairs}
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    address, _, port = sys.argv[1].partition("@")
    server.bind((address, int(port or 53)))
    while True:
        query, client = server.recvfrom(4096)
        try:
            server.sendto(answer(query, names), client)
        except IndexError:
            continue


if __name__ == "__main__":
    main()
