"""Random life of a small gateway beside a model: hypothesis chooses what happens, the walk of nat_walk.py does it.

A million steps: `python -m tests.bpf.nat_walk --steps 1000000`.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.bpf.nat_walk import COMPARE, Walk
from tests.bpf.nat_walk import run as walk

STEPS = 40
CHOICES = st.randoms(use_true_random=False)
_shared: list[Walk] = []


class NatMachine(RuleBasedStateMachine):
    """Clients send, remotes answer, time passes; after every step the tables agree with the model."""

    @initialize()
    def start(self) -> None:
        if not _shared:  # making a gateway takes longer than a run
            _shared.append(Walk(0))
        self.walk = _shared[0]
        self.walk.begin()

    @rule(chosen=CHOICES)
    def outbound(self, chosen: random.Random) -> None:
        self.walk.random = chosen
        self.walk.outbound()

    @rule(chosen=CHOICES)
    def inbound(self, chosen: random.Random) -> None:
        self.walk.random = chosen
        self.walk.inbound()

    @rule(chosen=CHOICES)
    def time_passes(self, chosen: random.Random) -> None:
        self.walk.random = chosen
        self.walk.time_passes()

    @invariant()
    def tables_agree(self) -> None:
        if hasattr(self, "walk"):
            self.walk.check_counters()
            self.walk.compare()


def test_random_life_of_a_gateway() -> None:
    chosen = settings(
        max_examples=10,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),  # the tables outlive a run, so that shorter ones prove nothing
    )
    try:
        run_state_machine_as_test(NatMachine, settings=chosen)
    finally:
        while _shared:
            _shared.pop().lab.close()


@pytest.mark.parametrize("table", ["sg_st_fwd", "sg_st_find", "sg_st_sids", "sg_st_mids", "sg_st_port"])
def test_what_is_missing_or_too_much_would_be_seen(table: str) -> None:
    made = Walk(1)
    with made.lab:
        for _ in range(COMPARE - 1):
            made.step()
        made.compare()
        entries = made.lab.map(table)
        key, value = next((key, value) for key, value in entries.lookup_batch() if any(value))
        if table in ("sg_st_fwd", "sg_st_find"):
            entries.delete_raw(key)
        else:
            entries.set_raw(key, bytes([value[0] ^ 0x80]) + value[1:])
        with pytest.raises(AssertionError):
            made.compare()


def test_a_long_random_life_of_a_gateway() -> None:
    """Everything that can happen does."""
    counts = walk(4000, 7)
    assert min(counts[name] for name in ("opened", "translated", "refused", "given up", "jumps", "compared")) >= 10
