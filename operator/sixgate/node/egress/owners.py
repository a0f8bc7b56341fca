"""Who owns a pair of addresses: preference, heartbeats, epochs and the fence. Pure: time is an argument, effects data.

docs/design/egress.md says why. Times are monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.node.egress.tables import rendezvous

if TYPE_CHECKING:
    from collections.abc import Iterable

SETTLE_S = 3.0  # a gateway must be alive that long before a pair moves to it from a living one
PROBE_PAUSE_S = 0.05
ANSWERED_PAUSE_S = 0.2
DOUBTS = 5  # probes in a row that a gateway without an agent must leave unanswered
ASK_PAUSE_S = 0.1
ISOLATED_S = 0.4  # silence after the first question to witnesses
GRANT_S = 1.0  # a gateway that does not take what it was granted in that time does not get it
WITNESS_S = 10.0  # a witness counts that was heard this recently
LACKING_S = 2.0  # a pair that nobody has claimed for so long lacks an owner, whatever is being tried


@dataclass(frozen=True, slots=True)
class PairWant:
    """A pair as the NodeConfig has it; `members` are names of gateways, `fenced`: the segment can be asked."""

    id: int
    members: tuple[str, ...]
    leaving: frozenset[str] = frozenset()
    fenced: bool = True
    interval_s: float = 0.05
    missed: int = 4

    @property
    def timeout_s(self) -> float:
        return self.interval_s * self.missed


@dataclass(frozen=True, slots=True)
class Claim:
    """Take the pair: nobody else has it."""

    pair: int
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class Yield:
    """Give the pair up at once: somebody else has it, or this node is cut off."""

    pair: int
    reason: str


@dataclass(frozen=True, slots=True)
class Move:
    """Hand the pair over to a living gateway, sessions first; `grant` is to be called when that is done."""

    pair: int
    to: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask the segment whether anybody has the pair's addresses; `answer` is to be called with what came back."""

    pair: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask every witness for a sign of life."""


Effect = Claim | Yield | Move | Probe | Ask


@dataclass(slots=True)
class _State:
    want: PairWant
    mine: bool = False
    epoch: int = 0
    holder: str = ""  # who claimed it last
    claimed_at: float = -1e9  # when that was heard last
    released: bool = False
    probed_at: float = -1.0
    probing: bool = False
    quiet_at: float = -1.0  # when a probe was left without an answer, or as many as are asked for
    quiet: int = 0  # probes in a row without an answer
    answered_at: float = -1.0
    pause_until: float = 0.0
    moving: bool = False
    granted_at: float = -1.0  # the preferred gateway may take it; this node keeps it until it does


@dataclass(slots=True)
class Owners:
    """Every pair that this node, `me`, is a gateway of or sends packets to."""

    me: str
    started: float
    _pairs: dict[int, _State] = field(default_factory=dict)
    _heard: dict[str, float] = field(default_factory=dict)  # members
    _since: dict[str, float] = field(default_factory=dict)  # alive without a gap since then
    _witnesses: dict[str, float] = field(default_factory=dict)  # everybody else who was heard
    _static: dict[int, set[str]] = field(default_factory=dict)
    _asked_at: float = -1.0
    _alone_since: float = -1.0  # since when nobody has answered; negative while somebody does
    _sure_since: float = -1e9  # when somebody answered after a doubt

    # -- what happens ----------------------------------------------------------------------------------------------

    def configure(self, wants: Iterable[PairWant]) -> None:
        """Pairs that are not wanted any more are forgotten; hand them over first."""
        new = {}
        for want in wants:
            state = self._pairs.get(want.id) or _State(want)
            state.want = want
            if not want.members and not state.mine:
                state.holder = ""
            new[want.id] = state
        self._pairs = new

    def adopt(self, pair: int, epoch: int) -> None:
        """This node had the pair before its agent was restarted, and the addresses are still there."""
        state = self._pairs[pair]
        state.mine, state.epoch, state.holder = True, max(epoch, state.epoch), self.me

    def static(self, pair: int, here: bool) -> None:
        """The addresses are on this node by somebody else's hand, or not any more."""
        holders = self._static.setdefault(pair, set())
        (holders.add if here else holders.discard)(self.me)

    def hear(self, node: str, claims: Iterable[tuple[int, int, bool, bool]], now: float) -> list[Effect]:
        """A heartbeat of a member: (pair, epoch, released, static) for what it owns or has just released."""
        timeout = max((s.want.timeout_s for s in self._pairs.values() if node in s.want.members), default=1.0)
        if now - self._heard.get(node, -1e9) > timeout:
            self._since[node] = now
        self._heard[node] = self._witnesses[node] = now
        effects: list[Effect] = []
        for pair, epoch, released, static in claims:
            state = self._pairs.get(pair)
            if state is None:
                continue
            holders = self._static.setdefault(pair, set())
            (holders.add if static else holders.discard)(node)
            if released:
                if state.holder == node and not state.mine:
                    state.released, state.epoch, state.claimed_at = True, max(epoch, state.epoch), now
                elif not state.mine and now - state.claimed_at > state.want.timeout_s:
                    self._lose(state, node, max(epoch, state.epoch), now)
            elif state.mine:
                if (epoch, self._preference(state, node)) > (state.epoch, self._preference(state, self.me)):
                    effects.append(Yield(pair, f"{node} has it in epoch {epoch}, which is above {state.epoch}"))
                    self._lose(state, node, epoch, now)
            elif epoch > state.epoch or node == state.holder or now - state.claimed_at > state.want.timeout_s:
                # Of a holder that is heard no more, a later one may have fewer epochs behind it.
                self._lose(state, node, max(epoch, state.epoch), now)
            elif epoch == state.epoch and self._preference(state, node) > self._preference(state, state.holder):
                self._lose(state, node, epoch, now)
        return effects

    def witness(self, who: str, now: float) -> None:
        """A sign of life of a node with selected pods."""
        self._witnesses[who] = now

    def answer(self, pair: int, answered: bool, now: float) -> None:
        """What a probe brought."""
        state = self._pairs.get(pair)
        if state is None:
            return
        state.probing = False
        if answered:
            state.quiet_at, state.pause_until = -1.0, now + ANSWERED_PAUSE_S
            state.quiet, state.answered_at = 0, now
            return
        state.quiet += 1
        # Who was silent and answered all the same has lost its agent only: one lost answer then proves nothing.
        if state.quiet >= (DOUBTS if state.answered_at >= max(self.started, state.claimed_at) else 1):
            state.quiet_at = now

    def grant(self, pair: int, now: float) -> None:
        """The sessions are where the pair goes: whoever it is for may take it. Until then it stays here."""
        state = self._pairs.get(pair)
        if state is not None and state.mine:
            state.granted_at = now

    def stays(self, pair: int) -> None:
        """The gateway that the pair was to go to is none any more."""
        state = self._pairs.get(pair)
        if state is not None:
            state.moving, state.granted_at = False, -1.0

    # -- what is so ------------------------------------------------------------------------------------------------

    def mine(self) -> dict[int, int]:
        """Pairs of this node and their epochs."""
        return {pair: state.epoch for pair, state in self._pairs.items() if state.mine}

    def granted(self, pair: int) -> bool:
        state = self._pairs.get(pair)
        return state is not None and state.granted_at >= 0

    def holder(self, pair: int) -> str:
        """Who has the pair as far as is known, empty for nobody."""
        state = self._pairs.get(pair)
        return state.holder if state is not None else ""

    def epoch(self, pair: int) -> int:
        state = self._pairs.get(pair)
        return state.epoch if state is not None else 0

    def alive(self, node: str, timeout_s: float, now: float) -> bool:
        return node == self.me or now - self._heard.get(node, -1e9) <= timeout_s

    def is_static(self, pair: int) -> bool:
        return self.me in self._static.get(pair, ())

    def lacking(self, pair: int, now: float) -> bool:
        """Whether this node should have the pair, has not, and nobody else has claimed it for long."""
        state = self._pairs.get(pair)
        if state is None or state.mine or self.me not in state.want.members:
            return False
        return now - max(self.started, state.claimed_at) >= LACKING_S and self.preferred(pair, now) == self.me

    def hindrance(self, pair: int, now: float) -> str:
        """Why this node does not take a pair that is `lacking`, as far as others decide it; empty if they don't."""
        state = self._pairs[pair]
        want = state.want
        if self._alone_since >= 0 and now - self._alone_since >= ISOLATED_S:
            return "no other gateway and no node with pods answers: this node is cut off"
        if not want.fenced and not self._majority(want, now):
            living = sum(self.alive(node, want.timeout_s, now) for node in want.members)
            return (
                f"{living} of {len(want.members)} gateways are alive, and more than half should be where the "
                "address is not announced: nobody else can be asked whether it is in use"
            )
        if now - state.answered_at <= LACKING_S:
            return "another machine on the segment answers for the address"
        return ""

    def preferred(self, pair: int, now: float, without: str = "") -> str:
        """The gateway that should have the pair, empty where none is alive. Leaving ones come last."""
        state = self._pairs[pair]
        want = state.want
        living = [node for node in want.members if node != without and self.alive(node, want.timeout_s, now)]
        staying = [node for node in living if node not in want.leaving]
        return max(staying or living, key=lambda node: self._preference(state, node), default="")

    def _preference(self, state: _State, node: str) -> tuple[bool, int, str]:
        return (node in self._static.get(state.want.id, ()), rendezvous(node, state.want.id), node)

    # -- what to do ------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Effect]:
        """To be called several times within a heartbeat."""
        effects: list[Effect] = []
        alone = self._alone(now, effects)
        for pair, state in self._pairs.items():
            if self.me not in state.want.members and not state.mine:
                continue
            if state.mine:
                effects += self._keep(pair, state, alone, now)
            elif not alone:
                effects += self._seek(pair, state, now, doubt=self._alone_since >= 0)
        return effects

    def _alone(self, now: float, effects: list[Effect]) -> bool:
        """Whether this node is cut off: at least two others were there lately, and nobody answers any more. One silent
        other is more likely dead itself. They are asked before an owner's silence has lasted long enough to take over,
        so that a node whose own link is down takes nothing."""
        mine = [state for state in self._pairs.values() if self.me in state.want.members]
        if not mine:
            return False
        patience = max(state.want.timeout_s - 2 * state.want.interval_s for state in mine)
        members = {node for state in mine for node in state.want.members if node != self.me}
        known = [at for at in self._witnesses.values() if now - at <= WITNESS_S]
        silent = all(now - self._heard.get(node, -1e9) > patience for node in members)
        if len(known) < 2 or not silent or self._fresh(now, patience):
            if self._alone_since >= 0:
                self._sure_since = now
            self._alone_since = -1.0
            return False
        if self._alone_since < 0:
            self._alone_since = now
        if now - self._asked_at >= ASK_PAUSE_S:
            self._asked_at = now
            effects.append(Ask())
        return now - self._alone_since >= ISOLATED_S

    def _fresh(self, now: float, patience: float) -> bool:
        """Whether anybody was heard since the last question, or so recently that nobody needs to be asked."""
        latest = max(self._witnesses.values(), default=-1e9)
        return now - latest <= patience or (self._alone_since >= 0 and latest >= self._alone_since)

    def _keep(self, pair: int, state: _State, alone: bool, now: float) -> list[Effect]:
        want = state.want
        if alone and want.fenced:
            self._lose(state, "", state.epoch, now)
            return [Yield(pair, "no other gateway and no node with pods answers: this node is cut off")]
        best = self.preferred(pair, now)
        if not best:
            self._lose(state, "", state.epoch, now)
            return [Yield(pair, "no node is a gateway for it any more")]
        settled = now - self._since.get(best, now) >= SETTLE_S or self.me in want.leaving or self.me not in want.members
        if state.granted_at >= 0 and now - state.granted_at > GRANT_S:
            state.moving, state.granted_at = False, -1.0
        if best in ("", self.me) or state.moving or not settled:
            return []
        state.moving = True
        return [Move(pair, best)]

    def _seek(self, pair: int, state: _State, now: float, *, doubt: bool) -> list[Effect]:
        """In `doubt` whether anybody can be heard, the holder's silence says nothing, and neither would a probe's."""
        want = state.want
        last = max(self.started, state.claimed_at)
        silence = now - last
        suspect = silence >= want.timeout_s - want.interval_s  # time enough to ask before it is over
        if self.preferred(pair, now, without=state.holder if suspect and state.holder != self.me else "") != self.me:
            state.probed_at = state.quiet_at = -1.0
            return []
        if state.released or state.holder == self.me:
            return [self._take(pair, state, f"{state.holder or 'nobody'} has released it", now)]
        if not suspect:
            state.probed_at = state.quiet_at = -1.0
            return []
        who = state.holder or "nobody"
        reason = f"{who} was silent for {silence * 1000:.0f} ms" if state.holder else "nobody has it"
        if not want.fenced:
            heard = not doubt and now - self._sure_since >= 2 * want.interval_s  # the holder, too, had it been there
            over = silence >= want.timeout_s and heard and self._majority(want, now)
            return [self._take(pair, state, reason, now)] if over else []
        if silence >= want.timeout_s and state.quiet_at >= last and now - state.quiet_at <= want.timeout_s:
            return [self._take(pair, state, f"{reason}, and the segment does not know the address", now)]
        if doubt or state.probing or now < state.pause_until or now - state.probed_at < PROBE_PAUSE_S:
            return []
        state.probing, state.probed_at = True, now
        return [Probe(pair)]

    def _majority(self, want: PairWant, now: float) -> bool:
        living = sum(self.alive(node, want.timeout_s, now) for node in want.members)
        return len(want.members) < 3 or 2 * living > len(want.members)

    def _take(self, pair: int, state: _State, reason: str, now: float) -> Claim:
        state.mine, state.released, state.moving, state.granted_at = True, False, False, -1.0
        state.epoch += 1
        state.holder, state.claimed_at = self.me, now
        state.probed_at = state.quiet_at = -1.0
        state.quiet = 0
        return Claim(pair, state.epoch, reason)

    def _lose(self, state: _State, holder: str, epoch: int, now: float) -> None:
        state.mine, state.moving, state.released, state.granted_at = False, False, False, -1.0
        state.holder, state.epoch, state.claimed_at = holder, epoch, now
        state.probed_at = state.quiet_at = -1.0
        state.quiet = 0
