"""Which backends a balancer uses just now, and what its node says of the others. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.api.nodeconfig_lb import BackendReport, Balancer, BalancerReport
from sixgate.node.lb.layout import mapped, unmapped

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_REPORTED = 20
MAX_REPORTED_OF_NODE = 200
MAX_BALANCERS = 200


@dataclass(frozen=True, slots=True)
class Health:
    """Backends that health checks found not to work: (balancer, address) to what the last check found."""

    quarantined: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def why(self, balancer: str, address: str) -> str | None:
        return self.quarantined.get((balancer, address))


@dataclass(frozen=True, slots=True)
class Use:
    """`active` are keys (mapped addresses) and weights of the backends that get new flows; `down` keys of those that
    are known not to work. `fallback` says that none works and what is done about it, empty otherwise."""

    active: tuple[tuple[bytes, int], ...]
    down: frozenset[bytes]
    fallback: str = ""


def use_of(item: Balancer, health: Health) -> Use:
    """The backends of `item` that its table is built of."""
    wanted = {mapped(b.address): b for b in item.backends}
    candidates = {key: b.weight for key, b in wanted.items() if b.state == "Active" and b.weight}
    down = frozenset(key for key, b in wanted.items() if health.why(item.name, b.address) is not None)
    working = {key: weight for key, weight in candidates.items() if key not in down}
    if working or not candidates:
        return Use(tuple(sorted(working.items())), down)
    if item.check is not None and item.check.when_all_fail == "Closed":
        return Use((), down, "No backend answers its health checks; new flows are refused.")
    text = "No backend answers its health checks; all of them are used."
    return Use(tuple(sorted(candidates.items())), frozenset(), text)


def report_of(item: Balancer, health: Health, leaving: frozenset[bytes], announced: tuple[str, ...]) -> BalancerReport:
    """What the node says of `item`; `leaving` are backends that still have flows and are wanted no more."""
    use = use_of(item, health)
    active = {key for key, _ in use.active}
    rows = []
    for backend in item.backends:
        why = health.why(item.name, backend.address)
        if backend.state != "Active":
            rows.append(BackendReport(address=backend.address, state=backend.state))
        elif why is not None:
            rows.append(BackendReport(address=backend.address, state="Quarantined", message=why))
        elif mapped(backend.address) not in active:
            rows.append(BackendReport(address=backend.address, state="Draining", message="Its weight is 0."))
    rows += [BackendReport(address=unmapped(key), state="Draining") for key in sorted(leaving)]
    quarantined = [row for row in rows if row.state == "Quarantined"]
    rows.sort(key=lambda row: row.state != "Quarantined")
    return BalancerReport(
        owner=item.owners[0] if item.owners else f"LoadBalancer/{item.name}",
        backends=len(item.backends),
        active=len(active),
        quarantined=len(quarantined),
        draining=len(rows) - len(quarantined),
        not_active=tuple(rows[:MAX_REPORTED]),
        announced=announced,
        message=_fallen(use.fallback, quarantined) or _sentence(quarantined, len(item.backends)),
    )


def _fallen(fallback: str, quarantined: list[BackendReport]) -> str:
    """What is done, and what the first one's check found."""
    if not fallback or not quarantined:
        return fallback
    return f"{fallback} The check of {quarantined[0].address} found: {quarantined[0].message}."


def _sentence(quarantined: list[BackendReport], backends: int) -> str:
    if not quarantined:
        return ""
    first = quarantined[0]
    more = f" and {len(quarantined) - 1} more" if len(quarantined) > 1 else ""
    return (
        f"{len(quarantined)} of {backends} backends {'does' if len(quarantined) == 1 else 'do'} not answer health "
        f"checks: {first.address}{more} ({first.message})."
    )


def bounded(reports: list[BalancerReport]) -> tuple[BalancerReport, ...]:
    """Reports as one status carries them: those with something to say first, so many rows and no more."""
    reports.sort(key=lambda report: (not report.not_active, report.owner))
    room = MAX_REPORTED_OF_NODE
    made = []
    for report in reports[:MAX_BALANCERS]:
        rows = report.not_active[:room]
        room -= len(rows)
        made.append(report if rows == report.not_active else report.model_copy(update={"not_active": rows}))
    return tuple(made)
