"""Bent packets through the live gateway. `python -m tests.rfc.fuzz --packets N` sends more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.rfc.fuzz import run

if TYPE_CHECKING:
    from tests.rfc.live import LiveGateway

PACKETS, SEED = 120_000, 7915


def test_nothing_leaves_damaged(gateway: LiveGateway) -> None:
    result = run(gateway, PACKETS, SEED)
    assert result.damaged == 0, result.said
    assert result.warnings == ()
    assert result.sent >= PACKETS
    assert result.clean > PACKETS // 4
    assert result.received > result.clean // 2, "most faultless packets must have come out"
