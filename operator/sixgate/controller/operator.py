"""The operator process: starts the parts, and ends with all of them when one of them ends.

Order: credentials, first whole list, then watches, lease and worker. On SIGTERM the lease is given back before
anything else is stopped, so that the other replica goes on at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import kopf

from sixgate.controller import watch
from sixgate.controller.audit import Audit
from sixgate.controller.events import EventPoster
from sixgate.controller.leader import Leader, LeaseTimes
from sixgate.controller.metrics import OperatorMetrics
from sixgate.controller.reconcile import Reconciler
from sixgate.controller.resolvers import Resolvers
from sixgate.controller.store import Store
from sixgate.controller.surroundings import Surroundings
from sixgate.controller.trigger import Trigger
from sixgate.controller.writer import Limits, Writer
from sixgate.errors import SixgateError
from sixgate.exposition import Exposition, MetricsServer
from sixgate.health import HealthServer, Pulse
from sixgate.kube import ApiError, Backoff, KubeClient
from sixgate.render.renderer import Renderer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

LEASE = "sixgate-operator"
SILENT_ROUNDS = 4
_LIST = "the first list"


class WatchDead(SixgateError):
    """A watch has delivered nothing of what the API server has for several rounds: only a new process helps."""


@dataclass(frozen=True, slots=True)
class OperatorOptions:
    """What the operator is told by its command line. `kubeconfig` None means the pod's service account; an empty
    `identity` is made up; `health` and `metrics` are host and port, None for no endpoint; `audit_s` are the seconds
    between two comparisons with the API server."""

    digests: Mapping[str, str]
    kubeconfig: Path | None = None
    namespace: str = "sixgate-system"
    identity: str = ""
    templates: Path | None = None
    health: tuple[str, int] | None = None
    metrics: tuple[str, int] | None = None
    limits: Limits = field(default_factory=Limits)
    lease: LeaseTimes = field(default_factory=LeaseTimes)
    audit_s: float = 30.0


async def run(options: OperatorOptions) -> int:
    """Until a signal, then 0; 1 when a part has ended by itself, so that the process is started anew."""
    pulse = Pulse()
    pulse.expect(_LIST, "The first list of what the API server has is not complete yet.")
    server = HealthServer(*options.health, pulse.late, pulse.unready) if options.health else None
    try:
        async with await KubeClient.connect(options.kubeconfig, agent="sixgate-operator") as client:
            return await _Operator(options, client, pulse).run()
    finally:
        if server is not None:
            server.close()


class _Operator:
    def __init__(self, options: OperatorOptions, client: KubeClient, pulse: Pulse) -> None:
        self.options = options
        identity = options.identity or f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        self.pulse = pulse
        self.store = Store()
        self.trigger = Trigger()
        self.stop = asyncio.Event()
        self.audit = Audit(client, self.store, watch.collections(), self.trigger.fire)
        self.leader = Leader(
            client, options.namespace, LEASE, identity, lambda held: self.trigger.fire(), options.lease
        )
        events = EventPoster(client, identity)
        writer = Writer(client, self.store, events, self.leader.held, self.trigger.fire, options.limits)
        self.surroundings = Surroundings(client, self.store, self.trigger.fire)
        self.resolvers = Resolvers(client, options.namespace, self.store, self.trigger.fire)
        self.reconciler = Reconciler(
            self.store, Renderer(options.templates), options.digests, self.trigger, writer, self.leader.held, pulse,
            self.surroundings.known, self.resolvers,
        )  # fmt: skip
        self.metrics = OperatorMetrics(self.store, self.reconciler, writer, self.leader.held)
        self.client = client

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        address = self.options.metrics
        served = MetricsServer(*address, Exposition({"the operator": self.metrics})) if address else None
        heart = asyncio.create_task(self.pulse.keep())
        try:
            if not await self._until_stopped(self._listed()):
                return 0
            self.pulse.come(_LIST)
            return await self._serve()
        finally:
            heart.cancel()
            if served is not None:
                served.close()

    async def _listed(self) -> None:
        """The first list, tried until it succeeds: the API server or our CRDs may come later than we do."""
        backoff, said = Backoff(), ""
        while True:
            try:
                return await self.audit.first()
            except ApiError as error:
                if str(error) != said:
                    said = str(error)
                    hint = " Are the CRDs installed?" if error.status == 404 else ""
                    log.warning("The first list must succeed: %s%s Trying again.", error, hint)
                await asyncio.sleep(backoff.pause_s())

    async def _until_stopped(self, work: Awaitable[None]) -> bool:
        """False if told to stop before `work` was done."""
        task, stopped = asyncio.ensure_future(work), asyncio.create_task(self.stop.wait())
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if task.done():
            task.result()
            return True
        task.cancel()
        return False

    async def _serve(self) -> int:
        parts: set[asyncio.Task[Any]] = {
            asyncio.create_task(self.leader.run(), name="leader election"),
            asyncio.create_task(self.surroundings.run(), name="the watches of endpoints"),
            asyncio.create_task(self.resolvers.run(), name="the watches of resolvers"),
            asyncio.create_task(self.reconciler.run(), name="the reconciler"),
            asyncio.create_task(self.stop.wait(), name="stop"),
        }
        await self._first_look(parts)
        stop_kopf, before = asyncio.Event(), asyncio.all_tasks()
        roots = await watch.spawn(self.store, self.client, self.trigger.fire, stop_kopf)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)  # kopf has put its own there
        watches = asyncio.create_task(kopf.run_tasks(roots, ignored=before), name="the watches")
        parts.add(asyncio.create_task(self._audit(), name="the audit"))
        done, _ = await asyncio.wait({watches, *parts}, return_when=asyncio.FIRST_COMPLETED)
        await self.leader.release()
        code = 0 if self.stop.is_set() else self._blame(done)
        await _cancel(parts)
        stop_kopf.set()
        await asyncio.wait({watches}, timeout=5)
        await _cancel({watches})
        return code

    async def _first_look(self, parts: set[asyncio.Task[Any]]) -> None:
        """Converge on what was listed before kopf lists it again: with thousands of objects both at once take twice
        as long. What changes meanwhile is in kopf's list; a follower does not look and does not wait long."""
        looked = asyncio.create_task(self.reconciler.looked.wait())
        await asyncio.wait({looked, *parts}, timeout=1, return_when=asyncio.FIRST_COMPLETED)
        if self.leader.held():
            await asyncio.wait({looked, *parts}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        await _cancel({looked})

    @staticmethod
    def _blame(done: set[asyncio.Task[Any]]) -> int:
        for task in done:
            error = None if task.cancelled() else task.exception()
            log.critical("%s ended, so the operator ends: %s", task.get_name(), error or "no error", exc_info=error)
        return 1

    async def _audit(self) -> None:
        """Rounds for ever; a round that the API server does not answer proves nothing and is not counted."""
        silent: dict[str, int] = {}
        pause = min(5.0, self.options.audit_s)  # soon: what was deleted between our list and kopf's, neither tells
        while True:
            self.pulse.beat("the audit", 3 * self.options.audit_s + 120)
            await asyncio.sleep(pause)
            try:
                took = await self.audit.round()
            except ApiError as error:
                log.debug("No comparison with the API server: %s", error)
                pause = self.options.audit_s
                continue
            silent = {kind: silent.get(kind, 0) + 1 for kind, missed in self.audit.missed.items() if missed}
            for kind, rounds in silent.items():
                if rounds >= SILENT_ROUNDS:
                    raise WatchDead(f"The watch of {kind} must deliver changes, and it missed some {rounds} times.")
            pause = max(self.options.audit_s, 20 * took)


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
