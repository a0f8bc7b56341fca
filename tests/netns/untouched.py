"""What packets change on a node: every entry of every map, to be compared before and after something that must not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sixgate.node.bpf.mapspec import MapType
from sixgate.node.observe import open_raw

if TYPE_CHECKING:
    from pathlib import Path

# What goes on by itself: counters of packets that are none of ours (the kernel asks for neighbours), clocks and
# heartbeats of the node, what a sweeper in the kernel notes of its own rounds.
LIVELY = frozenset({"sg_metrics", "sg_eg_own", "sg_st_sweep", "sg_st_desk", "sg_obs_cpu", "sg_obs_conf"})
_NOT_READ = frozenset({MapType.RINGBUF, MapType.PROG_ARRAY, MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS})


def contents(bpffs: Path) -> dict[str, tuple[tuple[bytes, bytes], ...]]:
    """Entries by map, of the pins below `bpffs`."""
    found = {}
    for path in sorted((bpffs / "maps").iterdir()):
        with open_raw(path) as table:
            kind = table.info.type
            if path.name not in LIVELY and kind not in _NOT_READ and "work" not in path.name:
                found[path.name] = tuple(sorted(table.lookup_batch()))
    return found
