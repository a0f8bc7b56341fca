"""A look that costs microseconds, for what the kernel tells nobody: pins that go, links that are detached.

Netlink tells of devices, addresses, routes, qdiscs and sysctls. Of a tcx link that somebody detaches, of a pin that
somebody removes, and of a second bpffs over the first it does not tell, and until the next look without a cause packets
would pass untranslated. Contents of maps are not looked at: only that whole look sees what others wrote into them.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from sixgate.node import names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sixgate.node.sight import Sight

PERIOD_S = 0.5
SHARE = 0.01  # of one core, at most: a link costs 25 us, so with a thousand of them a glance comes every few seconds
_DIRECTORIES = (names.MAPS, names.PROGS, names.LINKS, names.INNER)


class Glance:
    """Remembers directories of pins as they were left, and says whether they still are, and whether links are as a
    sight has read them. Blocks; one thread at a time, the sight's."""

    def __init__(self, bpffs: Path) -> None:
        self._bpffs = bpffs
        self._seen: tuple[object, ...] = ()
        self._sight: Sight | None = None
        self._took_s = 0.0

    @property
    def pause_s(self) -> float:
        """Seconds to the next glance."""
        return max(PERIOD_S, self._took_s / SHARE)

    def remember(self, sight: Sight) -> None:
        """What is there now is about to be looked at whole, by `sight`."""
        self._seen, self._sight = tuple(self._directories()), sight

    def changed(self) -> bool:
        """Whether anything differs from what was remembered; then the sight's next look is at everything."""
        if self._sight is None:
            return False
        began = time.thread_time()
        differs = tuple(self._directories()) != self._seen or self._sight.is_outdated()
        self._took_s = time.thread_time() - began
        if differs:
            self._sight.forget()
        return differs

    def _directories(self) -> Iterator[object]:
        """Which file system each directory is of, and when an entry was last made or removed in it."""
        for name in _DIRECTORIES:
            try:
                found = os.stat(self._bpffs / name)
            except OSError as error:
                yield error.errno
            else:
                yield found.st_dev, found.st_ino, found.st_mtime_ns
