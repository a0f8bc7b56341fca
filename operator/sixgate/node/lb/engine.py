"""Keeps the balancer's maps as `balancers` of a NodeConfig and the state of the backends want them.

One object per node, used from one thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sixgate.errors import ApplyError, BpfError, Problem
from sixgate.node.bpf.manifest import load_manifest
from sixgate.node.findings import owner_ref
from sixgate.node.lb import layout
from sixgate.node.lb.draft import Draft, UnfitError
from sixgate.node.lb.env import Env
from sixgate.node.lb.mirror import Mirror, State, rows_of
from sixgate.node.lb.numbers import OutOfNumbersError
from sixgate.node.lb.store import Store, identify, table_pins
from sixgate.node.lb.want import Health, bounded, report_of, use_of
from sixgate.node.maglev import Maglev

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from sixgate.api.nodeconfig_lb import Balancer, BalancerReport

NS = 1_000_000_000


class Engine:
    """`root` is the bpffs directory, `objects` that of the object files, `clock_ns` CLOCK_MONOTONIC."""

    def __init__(self, root: Path, objects: Path, clock_ns: Callable[[], int]) -> None:
        self._root, self._objects, self._clock_ns = root, objects, clock_ns
        self._maglev: Maglev | None = None
        self._mirror = Mirror()
        self._maps: tuple[int, ...] = ()
        self._done: tuple[object, ...] = ()
        self._given: tuple[Balancer, ...] = ()
        self._texts: dict[str, tuple[str, Balancer]] = {}
        self._numbered: tuple[object, dict[tuple[str, str], int]] = (None, {})
        self._reported: dict[str, tuple[State | None, Health, tuple[str, ...], BalancerReport]] = {}
        self.wanted: tuple[Balancer, ...] = ()
        self.health = Health()
        self.env = Env()
        self.announced: frozenset[str] = frozenset()  # addresses that this node announces
        self.troubles: Mapping[str, str] = {}  # address that it cannot announce to a sentence
        self.problems: tuple[Problem, ...] = ()

    # What is to be done, and when

    def want(self, balancers: tuple[Balancer, ...], env: Env) -> bool:
        """Take a new want; whether `sync` has something to do."""
        self.wanted, self.env = self._interned(balancers), env
        if not balancers and not self._mirror.states and not self._maps and not table_pins(self._root):
            return False
        return self._current() != self._done or identify(self._root) != self._maps or self.due_s() == 0

    def settled(self) -> bool:
        """Whether the maps are there and were as they were wanted last."""
        return bool(self._maps and self._done)

    def _interned(self, balancers: tuple[Balancer, ...]) -> tuple[Balancer, ...]:
        """The same, with the very objects of the former want where they are equal: most of a thousand are, and to
        compare models field by field takes longer than everything else together."""
        if balancers is self._given:
            return self.wanted
        known, self._texts = self._texts, {}
        for item in balancers:
            text = item.model_dump_json()
            old = known.get(item.name)
            self._texts[item.name] = old if old is not None and old[0] == text else (text, item)
        self._given = balancers
        return tuple(self._texts[item.name][1] for item in balancers)

    def due_s(self) -> float | None:
        """Seconds until a drain is over; None where there is none."""
        ends = [s.table.head.drain_until_ns for s in self._mirror.states.values() if not s.table.steady()]
        return max(0.0, (min(ends) - self._clock_ns()) / NS) if ends else None

    def _current(self) -> tuple[object, ...]:
        return (self.wanted, self.env, self.health)

    def sync(self) -> None:
        """Make the maps as they are wanted. ApplyError or BpfError where the kernel refuses; the next call begins from
        what is there then."""
        current = self._current()
        try:
            maps = identify(self._root)
            if not maps:
                if self.wanted:
                    raise ApplyError("The maps of the balancer should be there, but are not: no program has them.")
                self._forget()
            else:
                with Store.open(self._root) as store:
                    if maps != self._maps:
                        self._adopt(store)
                        self._maps = maps
                    self._sync(store)
        except BaseException:
            self._maps, self._done = (), ()
            raise
        self._done = current

    def _forget(self) -> None:
        """The maps are gone, and so is everything that stood in them."""
        for path in table_pins(self._root):
            path.unlink(missing_ok=True)
        self._mirror.clear()
        self._maps = ()

    def _adopt(self, store: Store) -> None:
        """Begin from what packets meet now; who was out before is out until it is seen to answer."""
        down = self._mirror.adopt(store, self.wanted)
        why = "It did not answer before the agent was restarted."
        checked = {item.name for item in self.wanted if item.check is not None}
        known = {target: why for target in down if target[0] in checked}
        self.health = Health({**known, **self.health.quarantined})

    def _builder(self) -> Maglev:
        if self._maglev is None:
            self._maglev = Maglev(load_manifest(self._objects))
        return self._maglev

    # One step

    def _sync(self, store: Store) -> None:
        draft = Draft(self._mirror, self._builder, self.env, self.health, self._clock_ns())
        problems: list[Problem] = []
        names = {item.name for item in self.wanted}
        gone = [state for name, state in self._mirror.states.items() if name not in names]
        nexts: dict[str, State] = {}
        for item in self.wanted:
            try:
                nexts[item.name] = draft.next(item)
            except OutOfNumbersError:
                text = f"{item.name} needs more backends, tables or counters than this node has numbers for"
                problems += _problems(item, "TooMany", f"{text} ({layout.MAX_BACKEND - 1} of each).")
            except UnfitError as error:
                problems += _problems(item, error.reason, str(error))
            except BpfError as error:
                problems += _problems(item, "KernelRefused", f"The table of {item.name} could not be made: {error}")
            if item.name not in nexts and item.name in self._mirror.states:
                nexts[item.name] = self._mirror.states[item.name]
        rows = rows_of(nexts)
        self._mirror.write(store, draft.change, rows)
        self._mirror.delete(store, rows, nexts, gone)
        self._mirror.states = nexts
        self.problems = tuple(problems)

    # What is said of it

    def numbered(self) -> dict[tuple[str, str], int]:
        """Balancer and address of its backends to their numbers in the maps, the same object while they are the same.
        May be asked from any thread."""
        given = self._mirror.keys.given.copy(), self._mirror.ids.given.copy()
        if self._numbered[0] != given:
            named = {number: name for name, number in given[0].items()}
            found = {
                (named[table], layout.unmapped(address)): number
                for (table, address), number in given[1].items()
                if table in named
            }
            self._numbered = given, found
        return self._numbered[1]

    def reports(self) -> tuple[BalancerReport, ...]:
        known, self._reported = self._reported, {}
        for item in self.wanted:
            state = self._mirror.states.get(item.name)
            announced = tuple(vip.address for vip in item.vips if vip.address in self.announced)
            old = known.get(item.name)
            if old is None or old[0] is not state or old[1] is not self.health or old[2] != announced:
                report = report_of(item, self.health, self._leaving(item, state), announced)
                old = (state, self.health, announced, report)
            self._reported[item.name] = old
        return bounded([report for _, _, _, report in self._reported.values()])

    def _leaving(self, item: Balancer, state: State | None) -> frozenset[bytes]:
        """Backends that still have flows and are wanted no more."""
        if state is None:
            return frozenset()
        named = {
            self._mirror.backends[number].addr for number in state.table.formers() if number in self._mirror.backends
        }
        return frozenset(named - {layout.mapped(backend.address) for backend in item.backends})

    def tables(self) -> dict[str, int]:
        """Names of balancers and the keys of their tables."""
        return {name: state.key for name, state in sorted(self._mirror.states.items())}

    def faults(self) -> tuple[Problem, ...]:
        """What could not be done, and balancers without a backend that answers."""
        dead = ((item, use_of(item, self.health).fallback) for item in self.wanted if item.check is not None)
        return (
            *self.problems,
            *(problem for item, text in dead if text for problem in _problems(item, "NoBackend", text)),
            *(
                problem
                for item in self.wanted
                for text in dict.fromkeys(self.troubles[v.address] for v in item.vips if v.address in self.troubles)
                for problem in _problems(item, "NotAnnounced", text)
            ),
        )

    def notes(self) -> tuple[Problem, ...]:
        """Balancers that work without some of their backends."""
        return tuple(
            Problem(owner_ref(report.owner), "BackendsDown", report.message)
            for report in self.reports()
            if report.message
        )

    def close(self) -> None:
        if self._maglev is not None:
            self._maglev.close()
            self._maglev = None


def _problems(item: Balancer, reason: str, message: str) -> list[Problem]:
    return [Problem(owner_ref(owner), reason, message) for owner in item.owners or ("",)]
