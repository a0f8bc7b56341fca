"""Which gateway node has which addresses of a pool.

Sessions live on one node, so no two nodes may give out the same address and port, and what comes back to an address
must reach the node that gave it out. Hence whole addresses are shared out: evenly, and so that a node that joins or
leaves moves as few of them as possible (rendezvous hashing with bounded load). A node that is merely not ready keeps
its addresses, because its data plane may well go on; only where there are fewer addresses than nodes do the ready ones
come first, or else a dead node would hold the last address.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network

MAX_BLOCKS = 256  # pieces that a pool is shared out in


@dataclass(frozen=True, slots=True, order=True)
class PoolSlice:
    """Addresses `first` to `last` (numbers in host order) with ports `first_port` to `last_port`."""

    first: int
    last: int
    first_port: int
    last_port: int

    def __str__(self) -> str:
        addresses = str(IPv4Address(self.first))
        if self.last != self.first:
            addresses += f" to {IPv4Address(self.last)}"
        return f"{addresses} ports {self.first_port} to {self.last_port}"

    @property
    def size(self) -> int:
        """How many addresses."""
        return self.last - self.first + 1


Pool = tuple[IPv4Network, int, int]  # addresses, first and last port
Shares = dict[str, tuple[PoolSlice, ...]]


@lru_cache(maxsize=256)
def share_out(pools: tuple[Pool, ...], nodes: tuple[str, ...], ready: frozenset[str]) -> Shares:
    """What each of `nodes` has of `pools`; nothing for those that get none. The order of `nodes` is of no matter."""
    length = _block_length(pools)
    blocks = sorted({number for pool in pools for number in _blocks_of(pool[0], length)})
    names = sorted(nodes)
    if len(blocks) < len(names):
        names = [name for name in names if name in ready] or names
    owner = _assign(blocks, names)
    pieces: dict[str, list[PoolSlice]] = {name: [] for name in nodes}
    for network, first_port, last_port in pools:
        for number in _blocks_of(network, length):
            start = number << (32 - length)
            first = max(start, int(network.network_address))
            last = min(start + (1 << (32 - length)) - 1, int(network.broadcast_address))
            if number in owner:
                pieces[owner[number]].append(PoolSlice(first, last, first_port, last_port))
    return {name: _joined(slices) for name, slices in pieces.items()}


def rendezvous(key: str, nodes: Sequence[str]) -> str:
    """The one of `nodes` that `key` belongs to: it stays the same as long as that node is among them."""
    return max(nodes, key=lambda name: _score(key, name))


def _score(key: str, name: str) -> bytes:
    return blake2b(f"{key}\0{name}".encode(), digest_size=8).digest()


def _block_length(pools: tuple[Pool, ...]) -> int:
    """The longest prefix length whose blocks cover the pools with at most MAX_BLOCKS of them."""
    for length in range(32, 0, -1):
        if sum(len(_blocks_of(network, length)) for network, _, _ in pools) <= MAX_BLOCKS:
            return length
    return 1


def _blocks_of(network: IPv4Network, length: int) -> range:
    shift = 32 - length
    return range(int(network.network_address) >> shift, (int(network.broadcast_address) >> shift) + 1)


def _assign(blocks: list[int], names: list[str]) -> dict[int, str]:
    """Each block goes to the node that scores highest for it and still has room: no node has two more than another."""
    if not names:
        return {}
    floor, extra = divmod(len(blocks), len(names))
    held = dict.fromkeys(names, 0)
    owner: dict[int, str] = {}
    for number in blocks:
        open_now = [name for name in names if held[name] < floor or (held[name] == floor and extra)]
        chosen = rendezvous(str(number), open_now)
        extra -= held[chosen] == floor
        held[chosen] += 1
        owner[number] = chosen
    return owner


def _joined(slices: list[PoolSlice]) -> tuple[PoolSlice, ...]:
    """Neighbours with the same ports made one."""
    joined: list[PoolSlice] = []
    for item in sorted(slices, key=lambda s: (s.first_port, s.last_port, s.first)):
        before = joined[-1] if joined else None
        ports = (item.first_port, item.last_port)
        if before and before.last + 1 == item.first and (before.first_port, before.last_port) == ports:
            joined[-1] = PoolSlice(before.first, item.last, *ports)
        else:
            joined.append(item)
    return tuple(sorted(joined))
