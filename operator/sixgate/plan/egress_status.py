"""Who has the addresses of an EgressGateway, from what nodes report. Pure.

Every node that claims a pair says in which epoch it took it. A node that was cut off goes on claiming what it had, and
the status of a dead one stays as it was: the highest epoch is the truth, unless its node is dead and nobody took over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from sixgate.api.nodeconfig import EgressReport, NodeConfigStatus
from sixgate.api.status import MAX_MESSAGE, EgressAddressStatus

MAX_REASON = 512
COPIED = "Copied"
COPYING = "Copying"
NOT_COPIED = "NotCopied"
NO_OWNER = "NoOwner"
ONE_GATEWAY = "OneGateway"


def holders(
    name: str, reports: Iterable[tuple[str, NodeConfigStatus]], dead: Collection[str]
) -> tuple[EgressAddressStatus, ...]:
    """Pairs of the object called `name` in the order of their addresses; `reports` are those of its nodes, by node."""
    pairs: dict[int, EgressReport] = {}
    claims: dict[int, tuple[int, str, EgressReport]] = {}
    hindrances: dict[int, dict[str, str]] = {}
    for node, status in reports:
        for row in status.egress:
            if row.object != name:
                continue
            pairs.setdefault(row.pair, row)
            if row.hindrance and node not in dead:
                hindrances.setdefault(row.pair, {})[node] = row.hindrance
            if row.here:
                claims[row.pair] = max(claims.get(row.pair, (-1, "", row)), (row.epoch, node, row), key=_rank)
    made = []
    for number, pair in pairs.items():
        epoch, node, row = claims.get(number, (0, "", pair))
        living = node if node not in dead else ""
        reason = row.reason if living else _told_by(hindrances.get(number, {}))
        standby = row.standby if living and not row.uncopied else ""
        made.append(
            EgressAddressStatus(
                ipv4=pair.ipv4, ipv6=pair.ipv6, node=living, epoch=epoch, reason=reason[:MAX_REASON], standby=standby
            )
        )
    return tuple(sorted(made, key=lambda each: (each.ipv4, each.ipv6)))


def _told_by(hindrances: Mapping[str, str]) -> str:
    return "; ".join(f"{node} says that {why}" for node, why in sorted(hindrances.items()))


def _rank(claim: tuple[int, str, EgressReport]) -> tuple[int, str]:
    return claim[:2]


def copied(
    name: str, reports: Iterable[tuple[str, NodeConfigStatus]], dead: Collection[str]
) -> tuple[str, str, str, str]:
    """The condition that says whether connections through the object would outlive their gateway: type, status, reason
    and message. Unknown while copies may come soon, or nobody has an address."""
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    claims: dict[int, tuple[int, str, EgressReport]] = {}
    for node, status in reports:
        for row in status.egress:
            if row.object == name and row.here:
                claims[row.pair] = max(claims.get(row.pair, (-1, "", row)), (row.epoch, node, row), key=_rank)
    for _, node, row in claims.values():
        if node not in dead:
            reason = (row.uncopied_reason or NOT_COPIED) if row.uncopied else ""
            key = (reason, row.uncopied, node, row.standby)
            groups.setdefault(key, []).extend(text for text in (row.ipv4, row.ipv6) if text)
    if not groups:
        return (COPIED, "Unknown", NO_OWNER, "No living node has an address, so there is nothing to copy.")
    lacking = sorted(key for key in groups if key[0])
    if not lacking:
        found = sorted(f"Connections through {k[2]} ({_listed(of)}) are copied to {k[3]}." for k, of in groups.items())
        return (COPIED, "True", COPIED, _cut(" ".join(found)))
    said = (
        f"Connections through {n} ({_listed(groups[r, why, n, to])}) should be copied to another gateway, so that they "
        f"outlive it: {why}"
        for r, why, n, to in lacking
    )
    reasons = sorted({key[0] for key in lacking} - {COPYING})
    state, reason = ("False", reasons[0]) if reasons else ("Unknown", COPYING)
    return (COPIED, state, reason, _cut(" ".join(said)))


def _listed(addresses: list[str]) -> str:
    return ", ".join(sorted(addresses))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 3] + "..."


def told(addresses: Iterable[EgressAddressStatus]) -> str:
    """Who has what, in sentences."""
    groups: dict[tuple[str, str], list[str]] = {}
    for each in addresses:
        why = "" if each.node else each.reason
        groups.setdefault((each.node, why), []).extend(text for text in (each.ipv4, each.ipv6) if text)
    return "".join(
        f" {node or 'No living node'} has {', '.join(found)}{why and f': {why}'}."
        for (node, why), found in sorted(groups.items())
    )


def moves(
    before: Iterable[Mapping[str, object]], after: Iterable[Mapping[str, object]]
) -> Iterable[tuple[bool, str, str]]:
    """What two statuses of one object say of moved addresses: whether that was a failure, why, and the sentence."""
    old = {_pair(each): each for each in before}
    for each in after:
        was, now = str(old.get(_pair(each), {}).get("node", "")), str(each.get("node", ""))
        if _pair(each) not in old or was == now:
            continue
        named = " and ".join(text for text in _pair(each) if text)
        reason = str(each.get("reason", ""))
        if not now:
            why = f": {reason}" if reason else ""
            yield True, "EgressAddressLost", f"No living node has {named}, which {was} had{why}."
        elif was:
            planned = "has released it" in reason
            told_by = f": {reason}" if reason else ""
            yield (
                not planned,
                "EgressMoved" if planned else "EgressFailover",
                f"{named} went from {was} to {now}{told_by}.",
            )
        else:
            yield False, "EgressAddressBack", f"{now} has {named}."


def _pair(each: Mapping[str, object]) -> tuple[str, str]:
    return str(each.get("ipv4", "")), str(each.get("ipv6", ""))
