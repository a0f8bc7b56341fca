"""What packets change on a node: every entry of every map, to be compared before and after something that must not."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from sixgate.node.bpf.mapspec import MapType
from sixgate.node.observe import open_raw

if TYPE_CHECKING:
    from pathlib import Path

    from sixgate.node.bpf.map import Map

# What goes on by itself: counters of packets that are none of ours (the kernel asks for neighbours), clocks and
# heartbeats of the node, what a sweeper in the kernel notes of its own rounds, the packet that a program has at hand.
LIVELY = frozenset({"sg_metrics", "sg_eg_own", "sg_st_sweep", "sg_st_desk", "sg_obs_cpu", "sg_obs_conf", "sg_lb_nat"})
_NOT_READ = frozenset({MapType.RINGBUF, MapType.PROG_ARRAY, MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS})
PAUSE_S, ROUNDS = 0.3, 100


def contents(bpffs: Path) -> dict[str, bytes]:
    """A digest of the entries of each map that is pinned below `bpffs`."""
    found = {}
    for path in sorted((bpffs / "maps").iterdir()):
        with open_raw(path) as table:
            if path.name not in LIVELY and table.info.type not in _NOT_READ and "work" not in path.name:
                found[path.name] = _digest(table)
    return found


def settled(bpffs: Path) -> None:
    """Returns once nothing changes any more: a server closes its end of a connection after its client, some time."""
    last = contents(bpffs)
    for _ in range(ROUNDS):
        time.sleep(PAUSE_S)
        now = contents(bpffs)
        if now == last:
            return
        changed = {name for name in now if now[name] != last.get(name)}
        last = now
    raise AssertionError(f"maps should come to rest, and these do not: {sorted(changed)}")


def _digest(table: Map) -> bytes:
    """Arrays have millions of entries, which need not become as many objects of Python's."""
    found = hashlib.blake2b()
    if table.info.type == MapType.ARRAY:
        found.update(table.first_values(table.info.max_entries))
    else:
        for key, value in sorted(table.lookup_batch()):
            found.update(key + value)
    return found.digest()
