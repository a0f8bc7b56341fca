"""A few objects of the API server kept as they are there: one list with one selector, followed by a watch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sixgate.kube import ApiError, KubeClient
from sixgate.kube.reflector import Listed, Reflector

log = logging.getLogger(__name__)

NOT_FOUND = 404
ABSENT_S = 600.0

Json = Mapping[str, Any]
Key = tuple[str, str]
T = TypeVar("T")


@dataclass(slots=True)
class Mirror(Generic[T]):
    """`read` turns an object into what is kept of it; `changed` is called after the first list and for all news.

    A server that does not know the resource (`optional`) is one that has no such object; it is asked again now and
    then.
    """

    client: KubeClient
    path: str
    params: dict[str, str]
    read: Callable[[Json], T]
    changed: Callable[[], None]
    optional: bool = False
    items: dict[Key, T] = field(default_factory=dict, init=False)
    listed: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def run(self) -> None:
        """Until cancelled; what fails is tried again."""
        while self.optional and await self._absent():
            self.listed.set()
            await asyncio.sleep(ABSENT_S)
        async for event in Reflector(self.client, self.path, self.params).events():
            if isinstance(event, Listed):
                self._replace({_key(item): self.read(item) for item in event.items})
            elif event.kind == "DELETED":
                if self.items.pop(_key(event.item), None) is not None:
                    self.changed()
            else:
                key, value = _key(event.item), self.read(event.item)
                if self.items.get(key) != value:
                    self.items[key] = value
                    self.changed()

    def _replace(self, items: dict[Key, T]) -> None:
        news = items != self.items or not self.listed.is_set()
        self.items = items
        self.listed.set()
        if news:
            self.changed()

    async def _absent(self) -> bool:
        """Whether the server says that there is no such resource; any other failure is the watch's to deal with."""
        try:
            await self.client.request("GET", self.path, params={"limit": "1", "resourceVersion": "0"})
        except ApiError as error:
            if error.status == NOT_FOUND:
                log.info("The API server has no %s; going on without them.", self.path)
                return True
        return False


def _key(item: Json) -> Key:
    meta = item["metadata"]
    return str(meta.get("namespace", "")), str(meta["name"])
