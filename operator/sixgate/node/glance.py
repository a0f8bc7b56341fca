"""A look that costs microseconds, for what the kernel tells nobody: pins that go, links that are detached.

Netlink tells of devices, addresses, routes, qdiscs and sysctls. Of a tcx link that somebody detaches, of a pin that
somebody removes, and of a second bpffs over the first it does not tell, and until the next look without a cause packets
would pass untranslated. Contents of maps are not looked at: only that whole look sees what others wrote into them.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from sixgate.errors import BpfError
from sixgate.node import names
from sixgate.node.bpf import info

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PERIOD_S = 0.5
SHARE = 0.01  # of one core, at most: a link costs 25 us, so with a thousand of them a glance comes every few seconds
_DIRECTORIES = (names.MAPS, names.PROGS, names.LINKS, names.INNER)

Seen = tuple[object, ...]


class Glance:
    """Remembers pins and links as they were left, and says whether they still are. Blocks; one thread at a time."""

    def __init__(self, bpffs: Path) -> None:
        self._bpffs = bpffs
        self._seen: Seen | None = None
        self._took_s = 0.0

    @property
    def pause_s(self) -> float:
        """Seconds to the next glance."""
        return max(PERIOD_S, self._took_s / SHARE)

    def remember(self) -> None:
        """What is there now is about to be looked at whole."""
        self._seen = self._look()

    def changed(self) -> bool:
        """Whether anything differs from what was remembered; False where nothing was."""
        return self._seen is not None and self._look() != self._seen

    def _look(self) -> Seen:
        began = time.thread_time()
        seen = (*self._directories(), *self._links())
        self._took_s = time.thread_time() - began
        return seen

    def _directories(self) -> Iterator[object]:
        """Which file system each directory is of, and when an entry was last made or removed in it."""
        for name in _DIRECTORIES:
            try:
                found = os.stat(self._bpffs / name)
            except OSError as error:
                yield error.errno
            else:
                yield found.st_dev, found.st_ino, found.st_mtime_ns

    def _links(self) -> Iterator[object]:
        """Each pinned link with its program and its device, which is 0 once it is detached."""
        try:
            pins = sorted(os.listdir(self._bpffs / names.LINKS))
        except OSError:
            return
        for pin in pins:
            try:
                fd = info.open_pin(self._bpffs / names.LINKS / pin, "link")
            except BpfError as error:
                yield pin, error.errno
                continue
            try:
                found = info.link_info(fd)
            finally:
                os.close(fd)
            yield pin, found.id, found.prog_id, found.ifindex
