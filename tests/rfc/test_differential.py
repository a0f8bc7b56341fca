"""Random packets: the real gateway against the model. `python -m tests.rfc.differential --packets N` runs more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.rfc.differential import run

if TYPE_CHECKING:
    from tests.rfc.live import LiveGateway

PACKETS, SEED = 10_000, 20160601


def test_gateway_agrees_with_the_model(gateway: LiveGateway) -> None:
    tally = run(gateway, PACKETS, SEED)
    assert tally.faults == []
    assert tally.packets >= PACKETS
    assert tally.sent > PACKETS // 3, "most packets are valid, so many must have come out"
    assert {"OK_64", "OK_46", "OK_66", "DROP_TTL", "DROP_TOO_BIG"} <= set(tally.kinds)
