"""Who owns a pair: gateways in simulated time, on a segment that can be asked."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from sixgate.node.egress.owners import Ask, Claim, Move, Owners, PairWant, Probe, Yield
from sixgate.node.egress.tables import rendezvous
from sixgate.node.egress.wire import MAX_RECORDS, Kind, Message, Record, datagrams, pack, unpack

PAIR = 4711
STEP_S = 0.01


@dataclass
class Gateway:
    """A gateway whose agent and kernel can die apart, and whose inside and outside links can be cut apart."""

    name: str
    owners: Owners
    agent: bool = True
    kernel: bool = True
    inside: bool = True
    outside: bool = True
    has: bool = False  # the addresses, as the kernel has them
    taken: list[str] = field(default_factory=list)


class Segment:
    """Gateways a, b, c ... and a clock. `step` lets everybody send, hear and act once."""

    def __init__(self, count: int = 2, *, leaving: frozenset[str] = frozenset(), fenced: bool = True) -> None:
        self.now = 100.0
        names = tuple("abcdef"[:count])
        self.want = PairWant(PAIR, names, leaving, fenced)
        self.gateways = {name: Gateway(name, Owners(name, self.now)) for name in names}
        self.most_owners = 0
        self.beat_at = 0.0
        for gateway in self.gateways.values():
            gateway.owners.configure([self.want])

    @property
    def best(self) -> str:
        return max(self.want.members, key=lambda name: rendezvous(name, PAIR))

    def owners(self) -> list[str]:
        return [g.name for g in self.gateways.values() if g.has]

    def reconfigure(self, **changes: object) -> None:
        values = {"id": PAIR, "members": self.want.members, "leaving": self.want.leaving, "fenced": self.want.fenced}
        self.want = PairWant(**{**values, **changes})  # type: ignore[arg-type]
        for gateway in self.gateways.values():
            gateway.owners.configure([self.want])

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.step()

    def step(self) -> None:
        self.now += STEP_S
        living = [g for g in self.gateways.values() if g.agent and g.kernel]
        if self.now >= self.beat_at:
            self.beat_at = self.now + 0.05
            for sender in living:
                mine = sender.owners.mine()
                claims = [(p, e, sender.owners.granted(p), False) for p, e in mine.items()]
                for hearer in living:
                    if hearer is not sender and sender.inside and hearer.inside:
                        self.act(hearer, hearer.owners.hear(sender.name, claims, self.now))
        for gateway in living:
            self.act(gateway, gateway.owners.tick(self.now))
        self.most_owners = max(self.most_owners, sum(g.has and g.kernel and g.outside for g in self.gateways.values()))

    def act(self, gateway: Gateway, effects: list[object]) -> None:
        for effect in effects:
            match effect:
                case Claim():
                    gateway.has = True
                    gateway.taken.append(effect.reason)
                case Yield():
                    gateway.has = False
                case Move():
                    gateway.owners.grant(PAIR, self.now)
                case Probe():
                    others = (g for g in self.gateways.values() if g is not gateway)
                    known = any(g.has and g.kernel and g.outside for g in others) and gateway.outside
                    gateway.owners.answer(PAIR, known, self.now)
                case Ask():
                    pass


def test_the_preferred_gateway_takes_a_pair_that_nobody_has() -> None:
    segment = Segment(3)
    segment.run(4.0)
    assert segment.owners() == [segment.best]
    assert segment.most_owners == 1


def test_a_dead_gateway_is_followed_within_300_ms() -> None:
    segment = Segment(2)
    segment.run(5.0)
    dead = segment.gateways[segment.best]
    dead.agent = dead.kernel = dead.inside = dead.outside = False
    segment.run(0.3)
    assert [name for name in segment.owners() if name != dead.name]


def test_a_dead_agent_moves_nothing_while_the_kernel_answers() -> None:
    segment = Segment(3)
    segment.run(5.0)
    owner = segment.gateways[segment.owners()[0]]
    owner.agent = False
    segment.run(60.0)
    assert segment.owners() == [owner.name]
    assert all(len(g.taken) <= 1 for g in segment.gateways.values())


def test_answers_that_get_lost_now_and_then_move_nothing_away_from_a_living_kernel() -> None:
    """A busy machine answers late. Of a gateway that has answered while its agent was silent that proves nothing; a
    kernel that stays silent does."""
    segment = Segment()
    segment.run(2)
    owner = segment.gateways[segment.best]
    owner.agent = False
    segment.run(1)
    for _ in range(20):
        owner.outside = False
        segment.run(0.15)
        owner.outside = True
        segment.run(0.5)
        assert segment.owners() == [owner.name]
    owner.kernel = False
    segment.run(2)
    (other,) = (gateway for gateway in segment.gateways.values() if gateway is not owner)
    assert other.has


def test_gateways_that_cannot_hear_each_other_do_not_share_an_address() -> None:
    segment = Segment(2)
    segment.run(5.0)
    owner = segment.owners()
    segment.gateways[segment.best].inside = False
    segment.run(30.0)
    assert segment.owners() == owner
    assert segment.most_owners == 1


def test_an_owner_that_is_cut_off_inside_gives_up_and_a_standby_takes_over() -> None:
    """Three gateways, so that two witnesses fall silent at once."""
    segment = Segment(3)
    segment.run(5.0)
    cut = segment.gateways[segment.best]
    cut.inside = False
    segment.run(1.0)
    assert segment.owners() != [cut.name]
    assert len(segment.owners()) == 1
    assert segment.most_owners == 1


@pytest.mark.parametrize("fenced", [True, False])
@pytest.mark.parametrize("away_ms", range(50, 1000, 50))
def test_a_standby_whose_link_was_down_for_a_moment_moves_nothing(away_ms: int, fenced: bool) -> None:
    """It hears nobody and nobody answers its probes, and what it hears first need not be of the owner."""
    for phase in range(5):
        segment = Segment(3, fenced=fenced)
        segment.run(5.0 + phase * STEP_S)
        owner = segment.best
        epoch = segment.gateways[owner].owners.epoch(PAIR)
        standby = max(segment.gateways.keys() - {owner}, key=lambda name: rendezvous(name, PAIR))
        standby_link = segment.gateways[standby]
        standby_link.inside = standby_link.outside = False
        segment.run(away_ms / 1000)
        standby_link.inside = standby_link.outside = True
        for gateway in segment.gateways.values():
            if gateway.name not in (owner, standby):
                segment.act(standby_link, standby_link.owners.hear(gateway.name, (), segment.now))
        segment.act(standby_link, standby_link.owners.tick(segment.now))
        segment.run(5.0)
        assert segment.owners() == [owner]
        assert segment.gateways[owner].owners.epoch(PAIR) == epoch


def test_a_segment_in_two_parts_has_one_owner_again_when_it_is_whole() -> None:
    segment = Segment(2)
    segment.run(5.0)
    away = next(g for g in segment.gateways.values() if not g.has)
    away.inside = away.outside = False
    segment.run(1.0)
    assert len(segment.owners()) == 2  # each part has one, as it must
    away.inside = away.outside = True
    segment.run(0.2)
    assert len(segment.owners()) == 1
    segment.run(6.0)
    assert segment.owners() == [segment.best]


def test_a_cordoned_gateway_hands_its_pairs_over_without_a_gap() -> None:
    segment = Segment(2)
    segment.run(5.0)
    owner = segment.owners()[0]
    segment.reconfigure(leaving=frozenset({owner}))
    for _ in range(100):
        segment.step()
        assert segment.owners()  # at every moment somebody has it
    assert segment.owners() == [name for name in segment.want.members if name != owner]


def test_the_last_gateway_keeps_a_pair_though_it_is_leaving() -> None:
    segment = Segment(1, leaving=frozenset("a"))
    segment.run(5.0)
    assert segment.owners() == ["a"]


def test_a_gateway_that_comes_back_gets_its_pairs_when_it_has_settled() -> None:
    segment = Segment(2)
    segment.run(5.0)
    best = segment.gateways[segment.best]
    best.agent = best.kernel = False
    segment.run(1.0)
    best.has, best.kernel, best.agent = False, True, True
    best.owners = Owners(best.name, segment.now)
    best.owners.configure([segment.want])
    segment.run(1.0)
    assert segment.owners() != [best.name]
    segment.run(4.0)
    assert segment.owners() == [best.name]


def test_a_restarted_agent_keeps_what_its_kernel_has() -> None:
    segment = Segment(2)
    segment.run(5.0)
    owner = segment.gateways[segment.owners()[0]]
    epoch = owner.owners.mine()[PAIR]
    owner.owners = Owners(owner.name, segment.now)
    owner.owners.configure([segment.want])
    owner.owners.adopt(PAIR, epoch)
    segment.run(5.0)
    assert segment.owners() == [owner.name]
    assert owner.owners.mine() == {PAIR: epoch}


def test_an_address_that_somebody_else_put_on_a_gateway_stays_there() -> None:
    segment = Segment(3)
    holder = next(name for name in segment.want.members if name != segment.best)
    for gateway in segment.gateways.values():
        gateway.owners.hear(holder, [], segment.now)
    segment.gateways[holder].owners.static(PAIR, True)
    assert segment.gateways[holder].owners.preferred(PAIR, segment.now) == holder


def test_an_address_in_use_by_a_stranger_is_never_taken() -> None:
    segment = Segment(2)
    for gateway in segment.gateways.values():
        gateway.owners.tick(segment.now)
    stranger = Gateway("stranger", Owners("stranger", 0.0), agent=False, has=True)
    segment.gateways["stranger"] = stranger
    segment.run(20.0)
    assert segment.owners() == ["stranger"]
    best = segment.gateways[segment.best].owners
    assert best.lacking(PAIR, segment.now)
    assert best.hindrance(PAIR, segment.now) == "another machine on the segment answers for the address"
    (other,) = segment.gateways.keys() - {segment.best, "stranger"}
    assert not segment.gateways[other].owners.lacking(PAIR, segment.now)
    stranger.kernel = stranger.has = False
    segment.run(2.0)
    assert segment.owners() == [segment.best]
    assert not best.lacking(PAIR, segment.now)


def test_without_a_segment_to_ask_a_minority_takes_nothing() -> None:
    segment = Segment(3, fenced=False)
    segment.run(5.0)
    alone = next(g for g in segment.gateways.values() if not g.has)
    alone.inside = False
    segment.run(10.0)
    assert not alone.has
    assert alone.owners.hindrance(PAIR, segment.now).startswith(
        "1 of 3 gateways are alive, and more than half should be"
    )


def test_one_gateway_less_moves_only_its_own_pairs() -> None:
    names = ("a", "b", "c", "d")
    before = {pair: max(names, key=lambda name, pair=pair: rendezvous(name, pair)) for pair in range(1, 2000)}
    after = {pair: max(names[:3], key=lambda name, pair=pair: rendezvous(name, pair)) for pair in range(1, 2000)}
    assert {pair for pair in before if before[pair] != after[pair]} == {p for p, name in before.items() if name == "d"}


@pytest.mark.parametrize("seed", range(8))
def test_any_order_of_failures_ends_with_one_owner(seed: int) -> None:

    rng = random.Random(seed)
    segment = Segment(3)
    segment.run(4.0)
    for _ in range(12):
        gateway = segment.gateways[rng.choice("abc")]
        match rng.randrange(4):
            case 0:
                gateway.agent = not gateway.agent
            case 1:
                gateway.inside = gateway.outside = not gateway.inside
            case 2:
                gateway.kernel = gateway.agent = False
                gateway.has = False
            case 3:
                if not gateway.kernel or not gateway.agent:
                    gateway.kernel = gateway.agent = True
                    gateway.owners = Owners(gateway.name, segment.now)
                    gateway.owners.configure([segment.want])
                    gateway.has = False
        segment.run(rng.random() * 2)
    for gateway in segment.gateways.values():
        if not (gateway.agent and gateway.kernel):  # no agent outlives its kernel, or knows what it had
            gateway.has = False
            gateway.owners = Owners(gateway.name, segment.now)
            gateway.owners.configure([segment.want])
        gateway.agent = gateway.kernel = gateway.inside = gateway.outside = True
    segment.run(12.0)
    assert segment.owners() == [segment.best]


def test_messages_survive_the_wire_and_garbage_does_not() -> None:
    message = Message(Kind.HEARTBEAT, 7, (Record(1, 2, True, False), Record(0x3FFFFF, 9, False, True)))
    assert unpack(pack(message)) == message
    many = tuple(Record(number + 1, number) for number in range(2 * MAX_RECORDS + 1))
    parts = [unpack(data) for data in datagrams(Kind.HELLO, 1, many)]
    assert tuple(record for part in parts if part for record in part.records) == many
    good = pack(message)
    assert all(len(data) <= 1280 - 48 for data in datagrams(Kind.HELLO, 1, many))
    for bad in (b"", good[:-1], good + b"x", b"XXXX" + good[4:], good[:4] + b"\xff" + good[5:]):
        assert unpack(bad) is None
