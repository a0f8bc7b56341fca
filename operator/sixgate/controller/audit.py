"""Compares what is known with what the API server lists, and fetches the difference.

It makes the first list, and later it is the safety net under every watch: it finds deletions that happened while a
watch was broken (kopf's new list does not tell them) and changes that a silent watch never delivered. A round lists
names and resourceVersions only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sixgate.kube import ApiError, KubeClient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sixgate.controller.store import Store

log = logging.getLogger(__name__)

METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
PAGE = 1000
ONE_BY_ONE = 20


@dataclass(frozen=True, slots=True)
class Collection:
    """One kind, where its objects are listed."""

    kind: str
    api_version: str
    path: str


@dataclass(slots=True)
class Audit:
    client: KubeClient
    store: Store
    collections: tuple[Collection, ...]
    changed: Callable[[], None]
    clock: Callable[[], float] = time.monotonic
    synced: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set once everything has been listed: before that nothing may be concluded from an absence."""
    missed: dict[str, int] = field(default_factory=dict, init=False)
    """Changes by kind that the last round found and no watch had delivered."""

    async def first(self) -> None:
        """List everything whole. Raises ApiError where the server refuses or is away."""
        await asyncio.gather(*(self._load(collection) for collection in self.collections))
        self.synced.set()
        self.changed()

    async def round(self) -> float:
        """One comparison; returns how many seconds it took. Raises ApiError."""
        started = self.clock()
        for collection in self.collections:
            found = await self._compare(collection)
            self.missed[collection.kind] = found
            if found:
                log.warning("%d changes of %s were not delivered by its watch; fetched.", found, collection.kind)
                self.changed()
        took = self.clock() - started
        log.debug("Compared everything with the API server in %.2f s.", took)
        return took

    async def _load(self, collection: Collection) -> None:
        async for page, at in self._pages(collection, "application/json"):
            for item in page:
                # Items of a list carry neither kind nor apiVersion.
                self.store.put({**item, "kind": collection.kind, "apiVersion": collection.api_version})
            log.debug("Listed %d of %s at %s.", len(page), collection.kind, at)

    async def _compare(self, collection: Collection) -> int:
        """Fetch what is newer than known, drop what is gone; returns how many there were of both."""
        before = self.store.versions(collection.kind)
        present: list[str] = []
        stale: list[str] = []
        version = 0
        async for page, at in self._pages(collection, METADATA_ONLY):
            version = at
            for item in page:
                name = item["metadata"]["name"]
                present.append(name)
                if before.get(name, -1) < int(item["metadata"]["resourceVersion"]):
                    stale.append(name)
        await asyncio.sleep(1.0 if stale else 0)  # events of the last moment are on their way
        known = self.store.versions(collection.kind)
        stale = [name for name in stale if known.get(name, -1) == before.get(name, -1)]
        if len(stale) > ONE_BY_ONE:
            await self._load(collection)
        else:
            for name in stale:
                await self._fetch(collection, name)
        return len(stale) + len(self.store.prune(collection.kind, present, version))

    async def _fetch(self, collection: Collection, name: str) -> None:
        try:
            self.store.put(await self.client.request("GET", f"{collection.path}/{name}"))
        except ApiError as error:
            if error.status != 404:
                raise

    async def _pages(self, collection: Collection, accept: str) -> Any:
        """Pages of items with the resourceVersion of the whole list."""
        params: dict[str, str] = {"limit": str(PAGE)}
        while True:
            document: Mapping[str, Any] = await self.client.request(
                "GET", collection.path, params=params, accept=accept, timeout_s=30
            )
            meta = document["metadata"]
            yield document.get("items") or (), int(meta["resourceVersion"])
            if not meta.get("continue"):
                return
            params["continue"] = meta["continue"]
