"""Weighted Maglev tables (Eisenbud et al., NSDI 2016), built by a BPF program that the kernel runs for us.

    with Maglev(load_manifest(objects)) as maglev:
        table = maglev.build([(b"2001:db8::1", 10), (b"2001:db8::2", 20)], size=1021, seed=7)
        # array("H") of 1021 indexes into the list

Why not in Python: 65,537 slots take a million dependent steps, 0.3 s; a numeric library cannot do dependent steps. Why
not a shared library: nodes have no compiler, and a binary would have to be packaged for every machine, while the
BPF object is there anyhow. A table depends on the set of (key, weight), the size and the seed alone.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from sixgate.errors import BpfError
from sixgate.node.bpf import BpfObject, Manifest

OBJECT, PROGRAM = "sg_maglev", "sg_mg_build"
MAX_SIZE, MAX_BACKENDS, MAX_WEIGHT = 65537, 4096, 65535
COMPLETE = 2  # XDP_PASS
_ZERO = struct.pack("=I", 0)
_BLANK = b"\xff" * (2 * (MAX_SIZE + 1))  # SG_MG_FREE
_FRAME = bytes(64)
# A round of turns visits every backend and fills at least one slot; a slot is found after at most `size` questions.
_MOST_RUNS = 64


class Maglev:
    """The loaded program with maps of its own, which nobody else sees; not for two threads at once."""

    def __init__(self, manifest: Manifest) -> None:
        """Raises BpfError where the kernel refuses the program."""
        self._object = BpfObject.open(OBJECT, data=manifest.read(OBJECT))
        try:
            self._object.load()
            self._program = self._object.program(PROGRAM)
            self._backends = self._object.map("sg_mg_backend")
            self._state = self._object.map("sg_mg_state")
            self._table = self._object.map("sg_mg_table")
        except BaseException:
            self._object.close()
            raise

    def build(self, backends: Sequence[tuple[bytes, int]], size: int, seed: int) -> array[int]:
        """`size` indexes into `backends`, which are distinct keys with weights of 1 to 65535, in any order.

        `size` is a prime, 3 to 65537, and not below the number of backends; `seed` is 64 bits, the same on all nodes.
        Raises ValueError for what is outside these bounds, BpfError where the kernel refuses.
        """
        _check(backends, size)
        order = sorted(range(len(backends)), key=lambda index: backends[index][0])
        walks = [_walk(backends[index][0], size, seed) for index in order]
        weights = [backends[index][1] for index in order]
        self._table.set_raw(_ZERO, _BLANK)
        # Half a slot in advance rounds shares to the nearest slot.
        entries = (
            struct.pack("=4I", *walk, weight, max(weights) // 2) for walk, weight in zip(walks, weights, strict=True)
        )
        self._backends.set_raw(_ZERO, b"".join(entries).ljust(16 * MAX_BACKENDS, b"\0"))
        self._state.set_raw(_ZERO, struct.pack("=6I", size, len(order), 0, 0, max(weights), 0))
        for _ in range(_MOST_RUNS):
            if self._program.test_run(_FRAME).retval == COMPLETE:
                return self._read(order, size)
        raise BpfError(f"A Maglev table of {size} slots for {len(order)} backends was not complete in time.")

    def _read(self, order: list[int], size: int) -> array[int]:
        raw = self._table.get_raw(_ZERO)
        if raw is None:
            raise BpfError("The map of the Maglev program has no entry.")
        turns = memoryview(raw)[: 2 * size].cast("H")
        return array("H", map(order.__getitem__, turns))

    def close(self) -> None:
        for each in (self._program, self._backends, self._state, self._table, self._object):
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check(backends: Sequence[tuple[bytes, int]], size: int) -> None:
    if not 1 <= len(backends) <= min(size, MAX_BACKENDS):
        most = min(size, MAX_BACKENDS)
        raise ValueError(f"A Maglev table of {size} slots takes 1 to {most} backends, not {len(backends)}.")
    if not 3 <= size <= MAX_SIZE:
        raise ValueError(f"A Maglev table has 3 to {MAX_SIZE} slots, not {size}.")
    if len({key for key, _ in backends}) != len(backends):
        raise ValueError("A Maglev table was asked for with one backend twice.")
    if wrong := [weight for _, weight in backends if not 1 <= weight <= MAX_WEIGHT]:
        raise ValueError(f"A backend of a Maglev table has a weight of 1 to {MAX_WEIGHT}, not {wrong[0]}.")


def _walk(key: bytes, size: int, seed: int) -> tuple[int, int]:
    """First slot and stride of a backend."""
    digest = hashlib.blake2b(key, digest_size=16, key=seed.to_bytes(8, "big")).digest()
    first, stride = struct.unpack(">QQ", digest)
    return first % size, stride % (size - 1) + 1
