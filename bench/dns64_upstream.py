"""A fast authoritative server for measurements: what a name answers is in its first letter.

    python -m bench.dns64_upstream ADDRESS

v: A only. n: AAAA, too. s: never answered. f: an answer with random octets changed.
"""

from __future__ import annotations

import random
import socket
import sys

AAAA, A = 28, 1
TTL_S = 86400


def records(rtype: int) -> tuple[int, bytes]:
    """Count and wire form of the answer to a question of `rtype` for a name at offset 12."""
    data = {A: bytes([192, 88, 98, 33]), AAAA: bytes.fromhex("20010db8000000000000000000000007")}[rtype]
    return 1, b"\xc0\x0c" + rtype.to_bytes(2) + b"\0\1" + TTL_S.to_bytes(4) + len(data).to_bytes(2) + data


def negative() -> bytes:
    """A SOA record of the root, its TTL as long as that of the others."""
    rdata = b"\0\0" + b"".join(number.to_bytes(4) for number in (1, 3600, 600, 86400, TTL_S))
    return b"\0" + b"\0\6\0\1" + TTL_S.to_bytes(4) + len(rdata).to_bytes(2) + rdata


def answer(query: bytes, chance: random.Random) -> bytes | None:
    """The reply to one question; None for none."""
    end = 12
    while query[end]:
        end += 1 + query[end]
    end += 5
    rtype = int.from_bytes(query[end - 4 : end - 2])
    kind = chr(query[13]).lower()
    if kind == "s":
        return None
    positive = rtype == A or (rtype == AAAA and kind == "n")
    body = records(rtype)[1] if positive else negative()
    counts = b"\0\1" + (b"\0\1\0\0" if positive else b"\0\0\0\1") + b"\0\0"
    reply = query[:2] + b"\x81\x80" + counts + query[12:end] + body
    return mutated(reply, chance, 2) if kind == "f" else reply


def mutated(message: bytes, chance: random.Random, first: int = 0) -> bytes:
    """`message` with some octets changed, cut or added, from the octet `first` on."""
    changed = bytearray(message)
    for _ in range(chance.randrange(1, 6)):
        what = chance.random()
        if what < 0.7 and len(changed) > first:
            changed[chance.randrange(first, len(changed))] = chance.randrange(256)
        elif what < 0.85 and len(changed) > first:
            del changed[chance.randrange(first, len(changed)) :]
        else:
            changed += chance.randbytes(chance.randrange(1, 40))
    return bytes(changed)


def main() -> None:
    chance = random.Random(6147)
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    server.bind((sys.argv[1], 53))
    while True:
        query, client = server.recvfrom(4096)
        reply = answer(query, chance) if len(query) > 16 else None
        if reply:
            server.sendto(reply, client)


if __name__ == "__main__":
    main()
