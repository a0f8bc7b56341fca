"""What egress adds to a node's report. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sixgate.api.nodeconfig import EgressReport, ItemResult


def with_owned(items: tuple[ItemResult, ...], reports: tuple[EgressReport, ...]) -> tuple[ItemResult, ...]:
    """Results of objects with the addresses that this node has for them: people read there who has which."""
    owned: dict[str, list[str]] = {}
    for row in reports:
        if row.here:
            owned.setdefault(f"EgressGateway/{row.object}", []).extend(text for text in (row.ipv4, row.ipv6) if text)
    return tuple(
        item.model_copy(update={"message": f"has {', '.join(owned[item.owner])}"})
        if item.owner in owned and item.state == "Programmed" and not item.message
        else item
        for item in items
    )
