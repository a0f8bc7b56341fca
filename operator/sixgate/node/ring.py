"""Weighted Maglev rings (Eisenbud et al., NSDI 2016) of services with up to 128 backends. Pure."""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache


@lru_cache(maxsize=512)
def maglev_ring(backends: tuple[tuple[str, int], ...], size: int) -> tuple[int, ...]:
    """`size` (a prime) indexes into `backends`, which are distinct keys with weights; one of weight 0 gets no place.

    The ring depends on keys and weights alone, not on their order: every gateway node makes the same.
    """
    order = sorted((key, weight, index) for index, (key, weight) in enumerate(backends) if weight)
    if not order:
        return ()
    most = max(weight for _, weight, _ in order)
    at: list[int] = []
    strides: list[int] = []
    for key, _, _ in order:
        first, stride = struct.unpack(">QQ", hashlib.blake2b(key.encode(), digest_size=16).digest())
        at.append(first % size)
        strides.append(stride % (size - 1) + 1)
    ring = [-1] * size
    credit = [most // 2] * len(order)  # half a place in advance rounds shares to the nearest place
    left = size
    while True:
        for turn, (_, weight, index) in enumerate(order):
            credit[turn] += weight
            if credit[turn] < most:
                continue
            credit[turn] -= most
            place = at[turn]
            while ring[place] >= 0:
                place = (place + strides[turn]) % size
            ring[place] = index
            at[turn] = (place + strides[turn]) % size
            left -= 1
            if not left:
                return tuple(ring)
