"""LoadBalancers in mode NAT, live: backends of either family that know nothing of the virtual address."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab.balance import VIP4, VIP6, address
from e2e.lab.run import LabRun
from tests.netns.test_lb_live import BACKENDS, Site, vip

if TYPE_CHECKING:
    from collections.abc import Iterator

PAIRS = pytest.mark.parametrize(("family", "behind"), [(4, 4), (6, 6), (4, 6), (6, 4)])
NAT = {"forwarding": {"mode": "NAT"}}


def backends(behind: int, **more: dict[str, Any]) -> list[dict[str, Any]]:
    """All backends by addresses of one family; `more` by role."""
    return [{"address": address(role, behind), **more.get(role, {})} for role in BACKENDS]


@pytest.fixture
def site() -> Iterator[Site]:
    with LabRun() as lab:
        made = Site(lab)
        for role in BACKENDS:
            lab.ip(role, f"addr del {VIP4}/32 dev lo", f"addr del {VIP6}/128 dev lo")
            made.net.serve(role)
        yield made


@PAIRS
def test_backends_of_either_family_need_nothing(site: Site, family: int, behind: int) -> None:
    site.put(family, backends=backends(behind), **NAT)
    told = Counter(site.net.answers(60, vip(family)))
    assert set(told) == set(BACKENDS), told
