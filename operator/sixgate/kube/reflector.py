"""Lists once, then watches for ever, and says what it sees.

A broken watch is resumed where it stopped; a new list is made only when the server no longer has the history (410).
Reconnects wait with jitter between 0.1 and 2 s, so that thousands of clients of a server that comes back do not arrive
together. A watch on which not even a bookmark (one a minute) arrived for 70 s is taken for dead.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sixgate.kube.client import ApiError, KubeClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

log = logging.getLogger(__name__)

FORBIDDEN, GONE = 403, 410


@dataclass(frozen=True, slots=True)
class Listed:
    """Everything that there is; what was known before and is not in it is gone."""

    items: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Change:
    """One object was `ADDED`, `MODIFIED` or `DELETED`."""

    kind: str
    item: dict[str, Any]


@dataclass(slots=True)
class Backoff:
    """Doubling pauses with full jitter in their upper half; `reset` after success."""

    first_s: float = 0.1
    last_s: float = 2.0
    random: Callable[[], float] = random.random
    _next_s: float = field(default=0.0, init=False)

    def reset(self) -> None:
        self._next_s = 0.0

    def pause_s(self) -> float:
        self._next_s = min(self.last_s, max(self.first_s, self._next_s * 2))
        return self._next_s * (0.5 + 0.5 * self.random())


@dataclass(slots=True)
class Reflector:
    """One collection with one selector. `heard_at` is when anything was last heard, by `clock`, for liveness."""

    client: KubeClient
    path: str
    params: dict[str, str] = field(default_factory=dict)
    inactivity_s: float = 70.0
    backoff: Backoff = field(default_factory=Backoff)
    connected: bool = field(default=False, init=False)
    _refused: bool = field(default=False, init=False)

    async def events(self) -> AsyncIterator[Listed | Change]:
        """Never ends and raises nothing but cancellation; what fails is logged once per outage and tried again."""
        version = ""
        while True:
            try:
                if not version:
                    document = await self._list()
                    version = document["metadata"]["resourceVersion"]
                    self._up()
                    yield Listed(tuple(document.get("items") or ()))
                query = {**self.params, "resourceVersion": version}
                async for event in self.client.watch(self.path, query, inactivity_s=self.inactivity_s):
                    if event["type"] == "ERROR":
                        code = int(event["object"].get("code", 0))
                        raise ApiError(f"WATCH {self.path}: {event['object'].get('message')}", code)
                    self._up()
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        yield Change(event["type"], event["object"])
                await asyncio.sleep(self.backoff.pause_s())  # the server ended it, as it does every 30 to 60 minutes
            except ApiError as error:
                if error.status == GONE:
                    version = ""
                self._down(error)
                await asyncio.sleep(self.backoff.pause_s())

    async def _list(self) -> dict[str, Any]:
        """From the server's cache (resourceVersion 0): a start of all clients at once must not reach etcd."""
        return await self.client.request("GET", self.path, params={**self.params, "resourceVersion": "0"})

    def _up(self) -> None:
        if not self.connected:
            log.info("Watching %s.", self.path)
        self.connected, self._refused = True, False
        self.backoff.reset()

    def _down(self, error: ApiError) -> None:
        if self.connected and error.status != GONE:
            log.warning("%s; going on with what is known.", error)
        elif error.status == FORBIDDEN and not self._refused:
            self._refused = True
            log.warning("%s; trying again.", error)
        else:
            log.debug("%s", error)
        self.connected = self.connected and error.status == GONE
