"""From what is known to what is written, whenever something has changed.

Decides nothing: plan, render and status are pure functions, and what they want is compared with what is stored.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sixgate.controller.statuses import Desired, Statuses
from sixgate.controller.writes import Document, Write, config_writes, resolver_writes
from sixgate.kube import Backoff
from sixgate.metrics import Timing
from sixgate.plan.dns64 import cluster_resolvers
from sixgate.plan.memo import PlanMemo
from sixgate.plan.planner import plan
from sixgate.render.dns64 import RESOLVER_DIR, render_cluster

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from sixgate.controller.resolvers import Resolvers
    from sixgate.controller.store import ConfigEntry, Store
    from sixgate.controller.trigger import Trigger
    from sixgate.controller.writer import Writer
    from sixgate.errors import Problem, Ref
    from sixgate.health import Pulse
    from sixgate.plan.snapshot import Snapshot
    from sixgate.plan.status import ResolverReport
    from sixgate.render.renderer import Renderer

log = logging.getLogger(__name__)

HURRY_AFTER_S = 1.0
BEAT_S = 10.0


@dataclass(slots=True)
class Reconciler:
    """One worker. `leading` is asked before every look: a follower only watches."""

    store: Store
    renderer: Renderer
    digests: Mapping[str, str]
    trigger: Trigger
    writer: Writer
    leading: Callable[[], bool]
    pulse: Pulse
    known: Callable[[], Awaitable[bool]]
    """Waits until all that objects refer to is known; False where it is not."""
    resolvers: Resolvers
    backoff: Backoff = field(default_factory=Backoff)
    statuses: Statuses = field(default_factory=Statuses)
    memo: PlanMemo = field(default_factory=PlanMemo)
    looked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a look has come to its end."""
    took: Timing = field(
        default_factory=lambda: Timing(
            "sixgate_operator_look_seconds", "Time to compare what is wanted with what is stored, and to write it."
        )
    )
    _desired: Desired | None = field(default=None, init=False)
    _idle: bool = field(default=False, init=False)
    reports: Mapping[Ref, ResolverReport] = field(default_factory=dict, init=False)
    """Resolvers of the gateways that want some, as the last look found them."""
    _told: float = field(default=float("-inf"), init=False)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.pulse.beat("the reconciler", 60 + BEAT_S)
            if await self.trigger.wait(BEAT_S) and self.leading():
                started = time.monotonic()
                await self.look()
                self.looked.set()
                self.took.observe(time.monotonic() - started)
                self.trigger.looked(time.monotonic() - started)

    def problems(self) -> tuple[Problem, ...]:
        """Problems of the last look, in planning and in rendering."""
        last = self._desired
        return () if last is None else last.problems

    async def look(self) -> None:
        """Compare what is wanted with what is stored, and write the difference: NodeConfigs, then statuses."""
        if not await self.known():
            self.trigger.fire()
            return
        inputs = self.store.inputs
        if self._desired is None or self._desired.inputs != inputs:
            snapshot, addresses = self.store.snapshot(self.digests), self.store.resolver_addresses
            self._desired = await asyncio.to_thread(self._compute, inputs, snapshot, addresses)
        desired, started = self._desired, time.monotonic()

        def hurry() -> bool:
            """Only what changes a plan is worth leaving writes for; reports, our own among them, come all the time."""
            return self.store.inputs != inputs and time.monotonic() - started > HURRY_AFTER_S

        files = resolver_writes(desired.resolvers, self.resolvers.stored, self.resolvers.namespace)
        configs = await self.writer.write_all((*_config_writes(desired, self.store.configs()), *files), hurry)
        if self.store.inputs != desired.inputs and started - self._told < HURRY_AFTER_S:
            self.trigger.fire()  # nodes first: what is new goes to them before anybody is told of what is old
            return
        self._told = started
        users, stored = self.store.users(), self.store.configs()
        self.reports = resolvers = {ref: self.resolvers.report(ref) for ref in desired.resolved}
        writes = await asyncio.to_thread(self.statuses.writes, desired, users, stored, resolvers, _now())
        statuses = await self.writer.write_all(writes, hurry)
        written, failed = configs.written + statuses.written, configs.failed + statuses.failed
        left = configs.left + statuses.left
        if written:
            log.info("%d writes in %.2f s, %d left.", written, time.monotonic() - started, left)
        elif not failed and not left and not self._idle:
            log.info("Nothing to write: %d objects, %d NodeConfigs are as they should be.", len(users), len(stored))
        self._idle = not written
        if failed:
            await asyncio.sleep(self.backoff.pause_s())
        else:
            self.backoff.reset()
        if failed or left:
            self.trigger.fire()

    def _compute(self, inputs: int, snapshot: Snapshot, addresses: Mapping[str, tuple[str, ...]]) -> Desired:
        result = plan(snapshot, self.memo)
        rendered = self.renderer.render_all(result)
        known = {} if self._desired is None else {d.revision: d for d in self._desired.documents.values()}
        for spec in {id(spec): spec for spec in rendered.specs.values()}.values():
            if spec.revision not in known:
                known[spec.revision] = Document.of(spec)
        plans, unfit = cluster_resolvers(snapshot.objects, result.programmed)
        resolvers = render_cluster(plans, RESOLVER_DIR, addresses, self.renderer.overrides)
        return Desired(
            inputs,
            result,
            rendered,
            {node: known[spec.revision] for node, spec in rendered.specs.items()},
            tuple(plan.owner for plan in plans),
            resolvers,
            (*result.problems, *rendered.problems, *unfit, *resolvers.problems),
        )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _config_writes(desired: Desired, configs: Mapping[str, ConfigEntry]) -> tuple[Write, ...]:
    keep = frozenset(desired.result.nodes) - frozenset(desired.documents)
    return config_writes(desired.documents, keep, configs)
