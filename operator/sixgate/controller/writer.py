"""Carries out writes: so many at once, so many per second, only while we lead."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sixgate.api.parse import KINDS
from sixgate.controller.events import Bucket, EventPoster
from sixgate.controller.store import NODE_CONFIG, Store
from sixgate.controller.writes import ApplyConfig, ApplyResolvers, ApplyStatus, DeleteConfig, Write
from sixgate.kube import ApiError, KubeClient
from sixgate.kube.client import object_path
from sixgate.render.dns64 import CONFIG_MAP

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

log = logging.getLogger(__name__)

CONFIG_MANAGER = "sixgate-operator"
STATUS_MANAGER = "sixgate-operator-status"
MANY = 100
_KINDS: Mapping[type[Write], str] = {
    ApplyConfig: "config",
    DeleteConfig: "deletion",
    ApplyStatus: "status",
    ApplyResolvers: "resolvers",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """How hard the API server may be hit: requests at once, and per second in the long run."""

    concurrency: int = 16
    per_s: float = 200.0
    burst: float = 100.0


@dataclass(frozen=True, slots=True)
class Outcome:
    written: int
    failed: int
    left: int


@dataclass(slots=True)
class Writer:
    """`may_write` is asked before every request; `changed` is told of a change by others that an answer shows."""

    client: KubeClient
    store: Store
    events: EventPoster
    may_write: Callable[[], bool]
    changed: Callable[[], None]
    limits: Limits = field(default_factory=Limits)
    tally: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How many writes there were, by what is written (config, deletion, status, resolvers) and how it ended (ok,
    overtaken, failed)."""
    _bucket: Bucket = field(init=False)

    def __post_init__(self) -> None:
        self._bucket = Bucket(self.limits.burst, self.limits.per_s)

    async def write_all(self, writes: Sequence[Write], hurry: Callable[[], bool]) -> Outcome:
        """As many of `writes` as may be written; those not begun when `hurry` turns true are left."""
        if len(writes) > MANY:
            configs = sum(not isinstance(w, ApplyStatus) for w in writes)
            log.info(
                "Writing %d NodeConfigs and %d statuses, at most %.0f per second, %d at once.",
                configs, len(writes) - configs, self.limits.per_s, self.limits.concurrency,
            )  # fmt: skip
        pending = iter(writes)
        results: list[bool] = []

        async def work() -> None:
            for write in pending:
                while (wait := self._bucket.wait_s()) > 0:
                    await asyncio.sleep(wait)
                if not self.may_write():
                    return
                results.append(await self._one(write))
                if hurry():
                    return

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.limits.concurrency, len(writes))):
                group.create_task(work())
        written = sum(results)
        return Outcome(written, len(results) - written, len(writes) - len(results))

    async def _one(self, write: Write) -> bool:
        """True if it is written or has become pointless; False if it should be tried again."""
        try:
            match write:
                case ApplyConfig():
                    path = _path(NODE_CONFIG, write.node)
                    self._learn(await self.client.apply(path, write.body(), manager=CONFIG_MANAGER))
                    log.info("Wrote NodeConfig %s, revision %s.", write.node, write.document.revision)
                case DeleteConfig():
                    await self.client.request("DELETE", _path(NODE_CONFIG, write.node), body=write.body())
                    self.store.drop(NODE_CONFIG, write.node, write.version)
                    log.info("Deleted NodeConfig %s: nothing is wanted of that node.", write.node)
                case ApplyResolvers():
                    path = object_path("configmaps", CONFIG_MAP, group="v1", namespace=write.namespace)
                    await self.client.apply(path, write.body(), manager=CONFIG_MANAGER)
                    log.info("Wrote the files of the resolvers to the ConfigMap %s.", CONFIG_MAP)
                case ApplyStatus():
                    path = _path(write.ref.kind, write.ref.name)
                    answer = await self.client.apply(path, write.body(), manager=STATUS_MANAGER, subresource="status")
                    self._learn(answer)
                    log.debug("Wrote the status of %s.", write.ref)
                    await self.events.post(write)
        except ApiError as error:
            if error.status in {404, 409}:
                log.debug("Overtaken by a change: %s", error)  # its event brings the next look
                self.tally[_KINDS[type(write)], "overtaken"] += 1
                return True
            log.log(logging.WARNING if error.temporary else logging.ERROR, "%s", error)
            self.tally[_KINDS[type(write)], "failed"] += 1
            return False
        self.tally[_KINDS[type(write)], "ok"] += 1
        return True

    def _learn(self, answer: Mapping[str, Any]) -> None:
        """What the server stored is known at once; the watch brings the same later and changes nothing."""
        if self.store.put_answer(answer):
            self.changed()


def _path(kind: str, name: str) -> str:
    plural = "nodeconfigs" if kind == NODE_CONFIG else KINDS[kind].info.plural
    return object_path(plural, name)
