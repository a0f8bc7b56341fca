"""A few rounds of the long benchmark: what it changes and breaks is taken back and mended; nothing is left behind."""

from __future__ import annotations

from bench import soak
from bench.nat64_labs import CLIENT, SERVER
from e2e.lab import stamp

ROUNDS = 2
PACKETS = 2_000


def as_before(now: soak.Count, before: soak.Count) -> bool:
    """What was broken last may just be mended."""
    kept = (now.pins, now.files, now.threads) == (before.pins, before.files, before.threads)
    return kept and now.descriptors <= before.descriptors


def test_rounds_of_changes_and_disturbances_leave_nothing_behind() -> None:
    with soak.prepared() as (running, _):
        running.round()
        before = running.count()
        for _ in range(ROUNDS):
            running.round()
        soak.until(lambda: as_before(running.count(), before), f"the gateway holds what it held before: {before}")
        with stamp.Receiver(running.lab, SERVER.role, 4, PACKETS) as receiver:
            stamp.send(running.lab, CLIENT.role, CLIENT.address, SERVER.seen_from(6), count=PACKETS)
            tally = receiver.result()
    assert len(running.repairs) == 3 * (ROUNDS + 1)
    assert (tally.received + tally.missed_by_receiver, tally.untranslated) == (PACKETS, 0)
