"""Which backends a balancer uses, and what its node says of the others."""

from __future__ import annotations

import pytest

from sixgate.api.nodeconfig_lb import Balancer
from sixgate.node.lb import layout
from sixgate.node.lb.want import MAX_REPORTED, MAX_REPORTED_OF_NODE, Health, bounded, report_of, use_of
from tests.unit.balancers import CHECK, balancer


def health(*addresses: str) -> Health:
    return Health({("LoadBalancer/web", address): "port 80: connection refused" for address in addresses})


def active(item: Balancer, known: Health = Health()) -> list[str]:  # noqa: B008 - frozen and empty
    return [layout.unmapped(key) for key, _ in use_of(item, known).active]


def test_only_active_backends_with_a_weight_that_answer_are_used() -> None:
    states = [("Active", 1), ("Active", 0), ("Terminating", 1), ("Maintenance", 1), ("Active", 7)]
    backends = [{"address": f"203.0.113.{n}", "state": s, "weight": w} for n, (s, w) in enumerate(states, 11)]
    item = balancer(backends=backends, check=CHECK)
    assert active(item) == ["203.0.113.11", "203.0.113.15"]
    assert active(item, health("203.0.113.15")) == ["203.0.113.11"]
    report = report_of(item, health("203.0.113.15"), frozenset(), ())
    assert (report.backends, report.active, report.quarantined, report.draining) == (5, 1, 1, 3)
    assert report.message == (
        "1 of 5 backends does not answer health checks: 203.0.113.15 (port 80: connection refused)."
    )


@pytest.mark.parametrize(("policy", "count"), [("Open", 3), ("Closed", 0)])
def test_all_backends_failing(policy: str, count: int) -> None:
    item = balancer(check={**CHECK, "whenAllFail": policy})
    use = use_of(item, health("203.0.113.11", "203.0.113.12", "203.0.113.13"))
    assert len(use.active) == count
    assert use.fallback.startswith("No backend answers")


def test_reports_are_bounded() -> None:
    backends = [{"address": f"2001:db8::{number:x}", "weight": 0} for number in range(1, 100)]
    reports = [
        report_of(
            balancer(name=f"LoadBalancer/b{n}", owners=[f"LoadBalancer/b{n}"], backends=backends),
            Health(),
            frozenset(),
            (),
        )
        for n in range(300)
    ]
    made = bounded(reports)
    assert len(made) == 200
    assert max(len(report.not_active) for report in made) == MAX_REPORTED
    assert sum(len(report.not_active) for report in made) == MAX_REPORTED_OF_NODE
    assert made[0].draining == 99
