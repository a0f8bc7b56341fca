"""DNS64's resolvers, as the node agent runs them, for labs that have no agent."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

from sixgate.dns64.pool import ResolverPool

if TYPE_CHECKING:
    from pathlib import Path


class PoolThread:
    """A pool of resolvers on a thread of its own, in the network namespace of who makes it, until `close`."""

    def __init__(self, directory: Path) -> None:
        self.pool = ResolverPool(directory, lambda: None)
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self.pool.run())
        self._thread = threading.Thread(target=self._run, name="resolvers")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            self._loop.close()

    def close(self) -> None:
        """Ends the resolvers."""
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
