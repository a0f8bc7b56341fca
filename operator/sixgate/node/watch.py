"""The agent in a cluster: its own NodeConfig in, its status out, and a copy on disk for when the API server is away.

    Follower.specs()     what to apply: the last good one from disk at once, then whatever the API server has
    Follower.report()    keeps NodeConfig.status equal to what the node last said
    run_agent()          both, around one NodeAgent

Nothing here touches the kernel. The API server being away changes nothing but what is logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from sixgate.api.nodeconfig import API_VERSION, FORMAT_VERSION, NodeConfigSpec, NodeConfigStatus

if TYPE_CHECKING:
    from pathlib import Path

    from sixgate.kube import KubeClient

log = logging.getLogger(__name__)

MANAGER = "sixgate-agent"
COLLECTION = f"/apis/{API_VERSION}/nodeconfigs"
LAST_GOOD = "nodeconfig.json"
EMPTY = NodeConfigSpec.model_validate({"formatVersion": FORMAT_VERSION}).hashed()

Connect = Callable[[], Awaitable["KubeClient"]]


class Agent(Protocol):
    """What is needed of `NodeAgent`."""

    def apply_document(self, document: dict[str, Any]) -> NodeConfigStatus: ...
    async def run(
        self,
        source: AsyncIterator[NodeConfigSpec],
        on_status: Callable[[NodeConfigStatus], Awaitable[None]] | None = None,
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class LastGood:
    """The newest spec that this node has applied, in one file that is replaced whole."""

    path: Path

    def load(self) -> NodeConfigSpec | None:
        try:
            return NodeConfigSpec.model_validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.error("%s must hold the last good NodeConfig, and it cannot be read: %s", self.path, error)
            return None

    def save(self, spec: NodeConfigSpec) -> None:
        """Raises OSError where the disk refuses; the old file is then still whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(spec.model_dump_json(by_alias=True))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


@dataclass(slots=True)
class Follower:
    """Follows the NodeConfig called `node`. One instance per process; all methods belong to one event loop.

    `refuse` says what a document that cannot be read means for this node, as a status; it changes nothing.
    """

    node: str
    last_good: LastGood
    connect: Connect
    refuse: Callable[[dict[str, Any]], NodeConfigStatus]
    retry_s: float = 2.0
    settle_s: float = 0.1
    inactivity_s: float = 70.0
    _wanted: NodeConfigSpec | None = field(default=None, init=False)
    _uid: str = field(default="", init=False)
    _generation: int = field(default=0, init=False)
    _refusal: str = field(default="", init=False)
    _refused: NodeConfigStatus = field(default_factory=NodeConfigStatus, init=False)
    _said: NodeConfigStatus | None = field(default=None, init=False)
    _stored: NodeConfigStatus | None = field(default=None, init=False)
    _present: bool = field(default=False, init=False)
    _absent: bool = field(default=False, init=False)
    _dirty: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    async def specs(self) -> AsyncIterator[NodeConfigSpec]:
        """Specs to apply, for ever; the first comes from disk without asking anybody."""
        self._wanted = await asyncio.to_thread(self.last_good.load)
        if self._wanted is not None:
            log.info("Starting from the last good NodeConfig, revision %s.", self._wanted.revision)
            yield self._wanted
        # The client costs most of a second to import: what was applied last is applied first.
        from sixgate.kube import Listed, Reflector  # noqa: PLC0415

        client = await self._connected()
        reflector = Reflector(
            client, COLLECTION, {"fieldSelector": f"metadata.name={self.node}"}, inactivity_s=self.inactivity_s
        )
        reporter = asyncio.create_task(self.report(client))
        try:
            async for event in reflector.events():
                if isinstance(event, Listed):
                    wanted = self._see(event.items[0]) if event.items else self._gone()
                else:
                    wanted = self._gone() if event.kind == "DELETED" else self._see(event.item)
                if reporter.done():
                    reporter.result()
                if wanted is not None:
                    yield wanted
        finally:
            reporter.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reporter
            await client.close()

    @property
    def absent(self) -> bool:
        """Whether the API server has said, and not taken back, that there is no NodeConfig of this node."""
        return self._absent

    async def on_status(self, status: NodeConfigStatus) -> None:
        """To be called with every report of the node."""
        self._said = status
        if self._wanted is not None and status.applied_revision == self._wanted.revision:
            try:
                await asyncio.to_thread(self.last_good.save, self._wanted)
            except OSError as error:
                log.error("The last good NodeConfig must be kept in %s: %s", self.last_good.path, error)
        self._dirty.set()

    async def report(self, client: KubeClient) -> None:
        """Write the status whenever it differs from the stored one; what fails is tried again, newest only."""
        from sixgate.kube import ApiError, Backoff  # noqa: PLC0415

        backoff = Backoff(first_s=0.2, last_s=self.retry_s)
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            status = self._status()
            if status is None or status == self._stored:
                continue
            body = {
                "apiVersion": API_VERSION,
                "kind": "NodeConfig",
                "metadata": {"name": self.node, "uid": self._uid},
                "status": status.model_dump(mode="json", by_alias=True),
            }
            try:
                await client.apply(f"{COLLECTION}/{self.node}", body, manager=MANAGER, subresource="status")
                self._stored = status
                backoff.reset()
                log.info("Reported revision %s, ready=%s.", status.applied_revision, status.ready)
                await asyncio.sleep(self.settle_s)  # reports come in bursts, and thousands of nodes report
            except ApiError as error:
                if error.status in {404, 409}:
                    log.debug("The NodeConfig changed identity meanwhile: %s", error)  # its watch tells the rest
                    continue
                level = logging.DEBUG if error.temporary else logging.ERROR
                log.log(level, "The status of NodeConfig %s is not reported yet: %s", self.node, error)
                self._dirty.set()
                await asyncio.sleep(backoff.pause_s() if error.temporary else 30 * self.retry_s)

    async def _connected(self) -> KubeClient:
        """Credentials may appear later than we do; without them there is nothing to do but wait."""
        from sixgate.kube import ApiError  # noqa: PLC0415

        said = ""
        while True:
            try:
                return await self.connect()
            except ApiError as error:
                if str(error) != said:
                    said = str(error)
                    log.error("%s; trying again every %.0f s.", error, self.retry_s)
                await asyncio.sleep(self.retry_s)

    def _see(self, raw: dict[str, Any]) -> NodeConfigSpec | None:
        """A NodeConfig as the API server has it; returns its spec if that is new and can be read."""
        meta = raw["metadata"]
        uid, generation = str(meta["uid"]), int(meta.get("generation", 0))
        if uid == self._uid and generation < self._generation:
            return None  # a server whose cache lags behind another's
        known = uid == self._uid and generation == self._generation
        self._uid, self._generation, self._present, self._absent = uid, generation, True, False
        self._stored = _stored_status(raw)
        self._dirty.set()
        if known:
            return None
        document = raw.get("spec") or {}
        try:
            if document.get("formatVersion") != FORMAT_VERSION:
                raise ValueError
            spec = NodeConfigSpec.model_validate(document)
        except ValueError:  # pydantic's ValidationError is one
            self._refused = self.refuse(document)
            self._refusal = self._refused.message
            return None
        self._refusal = ""
        if self._wanted is not None and spec == self._wanted:
            return None
        log.info("NodeConfig %s, generation %d, revision %s.", self.node, generation, spec.revision)
        self._wanted = spec
        return spec

    def _gone(self) -> NodeConfigSpec | None:
        """The API server says that there is no NodeConfig: this node is to do nothing."""
        self._uid, self._generation, self._present, self._stored, self._refusal = "", 0, False, None, ""
        self._absent = True
        if self._wanted is None or self._wanted == EMPTY:
            return None
        log.info("NodeConfig %s is gone: nothing is wanted of this node any more.", self.node)
        self._wanted = EMPTY
        return EMPTY

    def _status(self) -> NodeConfigStatus | None:
        waiting = self._said is None and (self._wanted is not None or not self._refusal)
        if not self._present or waiting:
            return None
        said = self._said or self._refused
        if self._refusal:
            said = said.model_copy(update={"ready": False, "message": self._refusal})
        return said.model_copy(update={"observed_generation": self._generation})


def _stored_status(raw: dict[str, Any]) -> NodeConfigStatus | None:
    try:
        return NodeConfigStatus.model_validate_json(json.dumps(raw.get("status") or {}))
    except ValidationError:
        return None  # written by another version: to be overwritten


async def run_agent(agent: Agent, follower: Follower) -> None:
    """Until cancelled. What the node does stays as it is afterwards."""
    source = follower.specs()
    try:
        await agent.run(source, follower.on_status)
    finally:
        with contextlib.suppress(RuntimeError):  # still being read by the agent's own task, which was cancelled
            await source.aclose()  # type: ignore[attr-defined]
