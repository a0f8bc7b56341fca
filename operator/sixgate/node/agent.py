"""NodeAgent: the one way into the node package for standalone mode and for the in-cluster watch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from sixgate.api.nodeconfig import FORMAT_VERSION, EgressReport, ItemResult, NodeConfigSpec, NodeConfigStatus
from sixgate.errors import ApplyError, BpfError
from sixgate.node.announcer import Announcer, announced_by
from sixgate.node.discard_log import BlockLog, DiscardLog
from sixgate.node.egress.keeper import EgressKeeper
from sixgate.node.events import KernelEvents
from sixgate.node.lb.balancing import Balancing
from sixgate.node.lb.metrics import BalancerMetrics
from sixgate.node.lock import NodeLock
from sixgate.node.metrics import Meter, NodeMetrics
from sixgate.node.netfilter import RuleEvents
from sixgate.node.reconcile import Around, Reconciler
from sixgate.node.sight import Sight
from sixgate.node.statedir import StateDir

if TYPE_CHECKING:
    from sixgate.node.egress.pods import PodSource
    from sixgate.node.options import NodeOptions

log = logging.getLogger(__name__)

BROKEN_RETRY_S = 1.0
MAX_SETTLE_S = 0.2
StatusSink = Callable[[NodeConfigStatus], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Work:
    """The thread that works on the kernel, and what it has seen of it."""

    pool: ThreadPoolExecutor
    sight: Sight


class NodeAgent:
    """Keeps this node as its NodeConfig wants it.

    `apply` and `down` block and must not run at the same time as each other; `run` calls `apply` in a thread of its
    own, so it may be awaited beside other tasks. Only one process at a time keeps a node, from its first `apply` on.
    Dying at any point is safe: all state is in pins and in the state directory; the next `apply` goes on from there.
    """

    def __init__(
        self,
        options: NodeOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
        around: Around | None = None,
        pods: PodSource | None = None,
    ) -> None:
        """`clock` is monotonic seconds; `around` wraps the interpreter of actions; `pods` says who lives here."""
        self._options = options
        self._clock = clock
        self._pods = pods
        self._reconciler = Reconciler(options, clock=clock, around=around)
        self._lock = NodeLock(options.state_dir)
        # Never without anything of the kernel: of an object that has lost all its fields, server-side apply makes null,
        # which the schema refuses, and the sentence in `message` with it.
        self._status = NodeConfigStatus(kernel={"release": os.uname().release})
        self._results: tuple[ItemResult, ...] = ()  # as applied, without what egress has to say
        self._broken = False
        self.metrics = NodeMetrics(
            options.bpffs,
            Meter(),
            state_dir=options.state_dir,
            balancer=BalancerMetrics(options.bpffs, self._reconciler.balancer),
        )

    @property
    def status(self) -> NodeConfigStatus:
        """What the last `apply` reported."""
        return self._status

    def apply(self, spec: NodeConfigSpec, sight: Sight | None = None) -> NodeConfigStatus:
        """Make the node as `spec` says and report. Never raises for what the kernel refuses: that is in the status.
        Without `sight` everything is looked at."""
        started = self._clock()
        try:
            self._lock.acquire()
            self._status = self._reconciler.reconcile(spec, sight)
            self.metrics.meter.missed = self._reconciler.missed
            self._results = self._status.objects
            self.metrics.spec = spec
            self._broken = False
        except (ApplyError, BpfError, OSError) as error:
            if not self._broken or str(error) != self._status.message:
                log.error("NodeConfig not applied: %s", error)
            self._broken = True
            self._status = self._status.model_copy(update={"ready": False, "message": str(error)})
        self.metrics.status = self._status
        self.metrics.meter.applied(self._clock() - started, self._status.ready)
        return self._status

    def apply_document(self, document: Mapping[str, Any]) -> NodeConfigStatus:
        """The same for the `spec` of a NodeConfig that was not parsed yet; a document that cannot be read is refused
        whole, and what runs keeps running."""
        version = document.get("formatVersion")
        if version != FORMAT_VERSION:
            return self._refuse(
                f"The NodeConfig has format version {version!r}; this node reads version {FORMAT_VERSION}, "
                "so nothing was changed."
            )
        try:
            spec = NodeConfigSpec.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            return self._refuse(
                f"The NodeConfig cannot be read: spec.{where}: {first['msg']}, found {first['input']!r:.80}; "
                "nothing was changed."
            )
        return self.apply(spec)

    def down(self) -> list[str]:
        """Take everything of sixgate off this node; returns a sentence for each thing that could not be removed.

        ApplyError where another process keeps the node.
        """
        self._lock.acquire()
        left = self._reconciler.down()
        if not left:
            self._lock.remove()
        return left

    def acquire(self) -> None:
        """Become the process that keeps this node before the first `apply`; ApplyError naming the one that does."""
        self._lock.acquire()

    def close(self) -> None:
        """Let another process keep this node; the data plane stays. Twice is fine."""
        self._lock.release()

    def __enter__(self) -> NodeAgent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def run(self, source: AsyncIterator[NodeConfigSpec], on_status: StatusSink | None = None) -> None:
        """Apply every spec of `source`, the newest one again whenever the kernel reports a change, a failed action is
        due for another try, a glance finds a pin or a link changed, or `resync_s` passed. Returns when `source` ends or
        the task is cancelled; the data plane stays as it is. `on_status` gets each report that differs from the one
        before. Meanwhile packets that the data plane discards and wants to be seen are logged."""
        wake = asyncio.Event()
        latest: list[NodeConfigSpec] = []
        reader = asyncio.create_task(self._read(source, latest, wake))
        loop = asyncio.get_running_loop()
        # One thread for all kernel work: netlink sockets of pyroute2 belong to the thread that made them.
        with (
            KernelEvents() as events,
            RuleEvents() as rules,
            DiscardLog(self._options.bpffs, loop, self._clock) as discards,
            BlockLog(self._options.bpffs, loop, self._clock, self._object_name) as blocks,
            Sight(self._options.bpffs) as sight,
            ThreadPoolExecutor(max_workers=1, thread_name_prefix="sixgate-node") as pool,
        ):
            work = _Work(pool, sight)

            def heard(source: KernelEvents | RuleEvents) -> None:
                if source.drain():
                    wake.set()

            glances = asyncio.create_task(self._look_often(work, wake))
            heard_of = [source for source in (events, rules) if source.fileno() >= 0]
            for source_of_events in heard_of:
                loop.add_reader(source_of_events.fileno(), heard, source_of_events)
            try:
                await self._serve(reader, latest, wake, work, logs=(discards, blocks), on_status=on_status)
            finally:
                for source_of_events in heard_of:
                    loop.remove_reader(source_of_events.fileno())
                for task in (glances, reader):
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task

    async def _look_often(self, work: _Work, wake: asyncio.Event) -> None:
        """Wakes where something was changed that no event tells of. On the thread that applies, never beside it."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._reconciler.glance.pause_s)
            if await loop.run_in_executor(work.pool, self._reconciler.glance.changed):
                wake.set()

    @staticmethod
    async def _read(source: AsyncIterator[NodeConfigSpec], latest: list[NodeConfigSpec], wake: asyncio.Event) -> None:
        async for spec in source:
            latest[:] = [spec]
            wake.set()

    async def _serve(
        self,
        reader: asyncio.Task[None],
        latest: list[NodeConfigSpec],
        wake: asyncio.Event,
        work: _Work,
        *,
        logs: tuple[DiscardLog, ...],
        on_status: StatusSink | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        reported: NodeConfigStatus | None = None
        applied: NodeConfigSpec | None = None
        anew_due, took_s = self._clock(), 0.0
        told = asyncio.Event()  # egress has something to say, and nothing is to be applied
        egress = EgressKeeper(self._options, self._pods, self._clock, told.set)
        balancing = Balancing(self._reconciler.balancer, wake.set, self._clock)

        def announced() -> None:
            self._reconciler.announced(announcer.held, announcer.troubles)
            wake.set()

        announcer = Announcer(self._options.node, announced)
        try:
            while True:
                waiters = [asyncio.create_task(event.wait()) for event in (wake, told)]
                await asyncio.wait({*waiters, reader}, timeout=self._pause(), return_when=asyncio.FIRST_COMPLETED)
                for waiter in waiters:
                    waiter.cancel()
                if latest and (wake.is_set() or not told.is_set()):
                    event = latest[0] is applied and wake.is_set()
                    if event:
                        # Events come in bursts, and a storm of them gets a share of the CPU and no more.
                        await asyncio.sleep(max(self._options.settle_s, min(MAX_SETTLE_S, took_s)))
                    if not event or latest[0] is not applied or self._clock() >= anew_due:
                        anew_due = self._clock() + self._options.resync_s
                        work.sight.forget(routine=latest[0] is applied)
                    wake.clear()
                    applied = latest[0]
                    await egress.prepare(applied)
                    began = self._clock()
                    await loop.run_in_executor(work.pool, self.apply, applied, work.sight)
                    took_s = self._clock() - began
                    if self._lock.held and not self._broken:
                        for each in logs:
                            each.follow()
                        await egress.follow(applied)
                        balancing.follow(applied)
                        announcer.follow(announced_by(applied))
                told.clear()
                self._status = self._with_egress(egress.reports())
                self.metrics.status = self._status
                if latest and on_status is not None and self._status != reported:
                    await on_status(self._status)
                reported = self._status
                if reader.done():
                    reader.result()
                    return
        finally:
            await egress.stop()
            await balancing.stop()
            await announcer.stop()

    def _object_name(self, number: int) -> str:
        """The gateway whose stateful object has this number."""
        space = StateDir(self._options.state_dir).numbers().get("obj")
        given = space.given if space is not None else {}
        return next((name for name, (first, _) in given.items() if first == number), f"object {number}")

    def _with_egress(self, reports: tuple[EgressReport, ...]) -> NodeConfigStatus:
        """What was applied last, and what egress has made of it."""
        return self._status.model_copy(update={"egress": reports, "objects": self._results})

    def _pause(self) -> float:
        due = BROKEN_RETRY_S if self._broken else self._reconciler.next_retry_s()
        return self._options.resync_s if due is None else max(0.05, min(due, self._options.resync_s))

    def _refuse(self, message: str) -> NodeConfigStatus:
        log.error("%s", message)
        self._status = self._status.model_copy(update={"ready": False, "message": message})
        return self._status
