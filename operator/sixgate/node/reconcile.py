"""Observe, diff, execute, until the diff is empty or only failed actions are left; those are retried with backoff."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sixgate.api.nodeconfig import NodeConfigSpec, NodeConfigStatus
from sixgate.errors import ApplyError, BpfError, Problem
from sixgate.node import bpffs
from sixgate.node.actions import Action, Attach, Balance, UpdateLink
from sixgate.node.bpf.probe import missing_permission, too_old
from sixgate.node.catalogue import Catalogue
from sixgate.node.diff import diff
from sixgate.node.egress.direct import clear
from sixgate.node.execute import Executor
from sixgate.node.findings import owner_ref
from sixgate.node.glance import Glance
from sixgate.node.lb.engine import Engine
from sixgate.node.lb.env import environment
from sixgate.node.lb.store import ALL as BALANCER_MAPS
from sixgate.node.memo import TableMemo
from sixgate.node.nat_watch import NatWatch
from sixgate.node.netlink import Netlink, NetlinkError
from sixgate.node.observe import observe
from sixgate.node.quiet import Frame
from sixgate.node.report import Failure, report, sizes_report
from sixgate.node.resolve import ObjectFile, resolve
from sixgate.node.sight import Sight
from sixgate.node.statedir import BALANCERS, SIZES_REPORT, StateDir

if TYPE_CHECKING:
    from sixgate.node.model import Desired, Observed
    from sixgate.node.options import NodeOptions

log = logging.getLogger(__name__)

MAX_ROUNDS = 8
MAX_TOLD = 3  # addresses of one object that are not announced
_OCCUPIED_S = (0.25, 1.0, 2.0, 5.0, 10.0)
_BACKOFF_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)


Around = Callable[[Callable[[Action], None]], Callable[[Action], None]]


@dataclass(frozen=True, slots=True)
class _Retry:
    failure: Failure
    attempts: int
    due: float


class Reconciler:
    """Makes one node as a NodeConfig says. `clock` is monotonic seconds. `around` wraps the interpreter of actions and
    is how a test stops between two of them."""

    def __init__(
        self,
        options: NodeOptions,
        *,
        clock: Callable[[], float],
        clock_ns: Callable[[], int] = time.monotonic_ns,
        around: Around | None = None,
    ) -> None:
        """`clock_ns` is the clock that the kernel's programs have, CLOCK_MONOTONIC."""
        self._options = options
        self._clock = clock
        self._around = around
        self._state = StateDir(options.state_dir)
        self._catalogue = Catalogue(options.objects)
        self._memo = TableMemo()
        self._retries: dict[Action, _Retry] = {}
        self._revision = ""
        self._others: NodeConfigSpec | None = None  # what was wanted last, without balancers
        self.balancer = Engine(options.bpffs, options.objects, clock_ns)
        self._nat = NatWatch(options.bpffs, clock)
        self.glance = Glance(options.bpffs)
        self._troubles: Mapping[str, str] = {}
        self.missed = 0  # actions that only a look at everything found a reason for
        self._occupied = 0  # looks in a row that found a hook in other hands
        self._again = 0.0

    def announced(self, held: frozenset[str], troubles: Mapping[str, str]) -> None:
        """Addresses that this node announces, and why it does not announce others."""
        self.balancer.announced, self.balancer.troubles = held, troubles
        self._troubles = troubles

    def next_retry_s(self) -> float | None:
        """Seconds until a failed action is due again, a drain is over or an occupied hook should be looked at once
        more; None where there is nothing of it."""
        due = [retry.due - self._clock() for retry in self._retries.values()]
        if self._occupied:
            due.append(self._again - self._clock())
        drained = self.balancer.due_s()
        return min(due if drained is None else [*due, drained], default=None)

    def reconcile(self, spec: NodeConfigSpec, sight: Sight | None = None) -> NodeConfigStatus:
        """Apply `spec` and report. ApplyError or BpfError where nothing can be done at all: no permission, no bpffs, an
        object file that is not the one that is wanted; then nothing was changed. What `sight` has seen before is not
        looked at again if the kernel told of no change."""
        self._must_be_permitted()
        files = self._catalogue.files(spec)
        if spec.revision != self._revision:
            self._retries.clear()
            self._nat.forget()
            self._revision = spec.revision
        bpffs.ensure(self._options.bpffs, self._state, mount=self._options.mount_bpffs)
        return self._converge(spec, files, sight)

    def _converge(
        self, spec: NodeConfigSpec, files: Mapping[str, ObjectFile], sight: Sight | None = None
    ) -> NodeConfigStatus:
        if sight is None:
            with Sight(self._options.bpffs) as fresh:
                return self._converge(spec, files, fresh)
        try:
            return self._rounds(spec, files, sight)
        except NetlinkError as error:
            # A device went away between two questions about it, for example: the next look is in a second.
            raise ApplyError(f"The kernel's network state could not be read: {error.args[1]}.", error.code) from error

    def _rounds(self, spec: NodeConfigSpec, files: Mapping[str, ObjectFile], sight: Sight) -> NodeConfigStatus:
        with Netlink() as netlink:
            executor = Executor(self._options.bpffs, netlink, self._state, self._catalogue, self.balancer)

            def tried(action: Action) -> None:
                try:
                    executor.run(action)
                finally:
                    sight.touched(action)

            run = self._around(tried) if self._around else tried
            self._balance_first(spec, run)
            for _ in range(MAX_ROUNDS):
                have, want = self._compare(spec, files, netlink, sight)
                plan = diff(want, have, self._blocked())
                self._count_missed(sight.believed.missed(plan))
                self._retries = {action: retry for action, retry in self._retries.items() if action in plan}
                sight.settle(Frame.of(spec, want), want, have, plan)
                if not self._run(plan, run):
                    return self._report(spec, want, have, ())
            have, want = self._compare(spec, files, netlink, sight)
            return self._report(spec, want, have, diff(want, have, self._blocked()))

    def _compare(
        self, spec: NodeConfigSpec, files: Mapping[str, ObjectFile], netlink: Netlink, sight: Sight
    ) -> tuple[Observed, Desired]:
        """What the node has and what it should have, quiet devices left out of both."""
        have = self._observe(spec, netlink, sight)
        want = resolve(spec, have, files, self._memo)
        if not sight.fits(Frame.of(spec, want)):  # something else is wanted of quiet devices, too
            have = self._observe(spec, netlink, sight)
            want = resolve(spec, have, files, self._memo)
        return have, self._balance(spec, have, want)

    def _count_missed(self, missed: tuple[Action, ...]) -> None:
        for action in missed:
            log.warning("Nothing told of what the look at everything found to be done: %s", action)
        self.missed += len(missed)

    def _observe(self, spec: NodeConfigSpec, netlink: Netlink, sight: Sight) -> Observed:
        self.glance.remember(sight)  # before, not after: what breaks while we look, or later, differs from this
        return observe(spec, self._options, netlink, self._state, sight)

    def _balance_first(self, spec: NodeConfigSpec, run: Callable[[Action], None]) -> None:
        """Where only balancers differ from what was applied last, their tables need no look at the rest of the node:
        a backend that leaves should not wait for one."""
        others = spec.model_copy(update={"balancers": (), "revision": ""})
        same, self._others = others == self._others, others
        if same and self.balancer.settled() and self.balancer.want(spec.balancers, self.balancer.env):
            self._run((Balance(state=self._revision or "none", owners=_owners(spec)),), run)

    def _balance(self, spec: NodeConfigSpec, have: Observed, want: Desired) -> Desired:
        """`want` with what the balancer has to do: which of its maps are not as wanted only it knows."""
        if not self.balancer.want(spec.balancers, environment(have, want.numbers)):
            return want
        maps = tuple(name for item in want.objects for name, _ in item.maps if name in BALANCER_MAPS)
        return replace(want, balance=self._revision or "none", balance_owners=_owners(spec), balance_maps=maps)

    def down(self) -> list[str]:
        """Remove everything of sixgate; a sentence for each thing that stays."""
        self._must_be_permitted()
        # Without a bpffs there are no pins, but devices, routes and sysctls of ours may be left.
        status = self._converge(NodeConfigSpec(format_version=1), {})
        left = [] if status.ready else [status.message]
        if bpffs.exists(self._options.bpffs):
            left += bpffs.remove(self._options.bpffs, self._state)
        clear()
        if not left:
            self._state.forget()
        return left

    def _must_be_permitted(self) -> None:
        missing = too_old() or missing_permission()
        if missing:
            raise ApplyError(missing)

    def _blocked(self) -> frozenset[Action]:
        now = self._clock()
        return frozenset(action for action, retry in self._retries.items() if retry.due > now)

    def _run(self, plan: tuple[Action, ...], run: Callable[[Action], None]) -> bool:
        """Execute what can be executed; False when nothing was."""
        blocked = self._blocked()
        made: set[str] = set()
        lost: set[str] = set()
        executed = False
        for action in plan:
            if action in blocked or action.needs & (lost - made):
                lost |= action.makes
                continue
            try:
                run(action)
            except (ApplyError, BpfError) as error:
                lost |= action.makes
                self._failed(action, error)
            else:
                executed = True
                made |= action.makes
                self._retries.pop(action, None)
                log.info("%s", _sentence(action))
        return executed

    def _failed(self, action: Action, error: ApplyError | BpfError) -> None:
        before = self._retries.get(action)
        attempts = before.attempts + 1 if before else 0
        optional = isinstance(action, Attach | UpdateLink) and not action.required
        failure = Failure(action, str(error), error.errno, degrades=not optional)
        if before is None or before.failure.message != failure.message:
            log.warning("%s", failure.message)
        pause = _BACKOFF_S[min(attempts, len(_BACKOFF_S) - 1)]
        self._retries[action] = _Retry(failure, attempts, self._clock() + pause)

    def _report(
        self, spec: NodeConfigSpec, want: Desired, have: Observed, unsettled: tuple[Action, ...]
    ) -> NodeConfigStatus:
        self._prune(have)
        failures = [retry.failure for retry in self._retries.values()]
        failures += [
            Failure(action, f"After {MAX_ROUNDS} rounds this is still to be done: {action}.")
            for action in unsettled
            if action not in self._retries
        ]
        problems, notes = self._nat.look(want.numbers)
        want = replace(want, problems=(*want.problems, *problems), notes=(*want.notes, *notes))
        rows = sizes_report(want, have)
        if rows:
            self._state.write(SIZES_REPORT, [row.model_dump(mode="json", by_alias=True) for row in rows])
        else:
            self._state.remove(SIZES_REPORT)
        named = self.balancer.tables()
        if named:
            self._state.write(BALANCERS, named)
        else:
            self._state.remove(BALANCERS)
        want = replace(
            want,
            problems=(*want.problems, *self.balancer.faults(), *self._unannounced(spec)),
            notes=(*want.notes, *self.balancer.notes()),
        )
        self._look_again(want)
        made = report(spec, want, have, tuple(failures))
        return made.model_copy(update={"balancers": self.balancer.reports()})

    def _look_again(self, want: Desired) -> None:
        """A program leaves its hook some time after the pin of its link, when the kernel comes to it, and of that no
        event tells: what looks occupied may be free in a moment."""
        occupied = any(found.reason == "HookOccupied" for found in (*want.problems, *want.notes))
        self._again = self._clock() + _OCCUPIED_S[min(self._occupied, len(_OCCUPIED_S) - 1)]
        self._occupied = self._occupied + 1 if occupied else 0

    def _unannounced(self, spec: NodeConfigSpec) -> Iterator[Problem]:
        for item in spec.announcements:
            said = dict.fromkeys(self._troubles[a.address] for a in item.addresses if a.address in self._troubles)
            for text in list(said)[:MAX_TOLD]:
                yield from (Problem(owner_ref(owner), "NotAnnounced", text) for owner in item.owners)

    def _prune(self, have: Observed) -> None:
        """Forget ids of programs that are neither pinned nor on any hook, qdiscs of devices and layouts of maps that
        are gone."""
        alive = {pin.prog_id for pin in have.programs.values()} | {pin.prog_id for pin in have.links.values()}
        alive |= {seen.prog_id for programs in have.attached.values() for seen in programs}
        now = self._state.remembered()
        self._state.remember(
            replace(
                now,
                prog_ids=now.prog_ids & alive,
                qdiscs=now.qdiscs & (have.devices.keys() | have.quiet.keys()),
                filters=now.filters & (have.devices.keys() | have.quiet.keys()),
                layouts={pin: layout for pin, layout in now.layouts.items() if pin in have.maps},
            )
        )


def _owners(spec: NodeConfigSpec) -> tuple[str, ...]:
    """Of all balancers."""
    return tuple(dict.fromkeys(owner for item in spec.balancers for owner in item.owners))


def _sentence(action: Action) -> str:
    text = str(action)
    owners = f" (for {', '.join(action.owners)})" if action.owners else ""
    return f"{text[0].upper()}{text[1:]}{owners}"
