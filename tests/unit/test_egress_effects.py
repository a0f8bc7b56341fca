"""What a gateway does when a pair is to move."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from sixgate.node.egress import owners as own
from sixgate.node.egress.effects import Effects

PAIR = 3


@pytest.mark.parametrize(
    ("gateways", "told"), [({"n2": "192.0.2.2"}, [("granted", PAIR)]), ({}, [("stays", PAIR)])], ids=["there", "gone"]
)
def test_a_pair_stays_where_its_next_gateway_is_none_any_more(
    gateways: dict[str, str], told: list[tuple[str, int]]
) -> None:
    """Else it would count as moving for ever, and never move again."""
    said: list[tuple[str, int]] = []

    async def give(pair: int, address: str) -> tuple[int, int]:
        assert address in gateways.values()
        return 1, 1

    pair = SimpleNamespace(addresses=("198.51.100.1",), policy=SimpleNamespace(name="payments"))
    parts: dict[str, Any] = {
        "known": SimpleNamespace(pairs={PAIR: pair}, gateways=gateways, peers=dict),
        "owners": SimpleNamespace(
            grant=lambda number, _now: said.append(("granted", number)),
            stays=lambda number: said.append(("stays", number)),
        ),
        "heart": SimpleNamespace(beat=lambda _peers: None),
        "handover": SimpleNamespace(give=give),
        "clock": lambda: 0.0,
    }
    others = dict.fromkeys(("maps", "ways", "floating", "tell", "wake"))
    effects = Effects(**parts, **others)  # type: ignore[arg-type]
    asyncio.run(effects.move(own.Move(PAIR, "n2")))
    assert said == told
