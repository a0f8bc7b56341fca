"""`-o wide` of the commands on a node: the columns of the table, and those that are left out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sixgate.cli import egress, lb, nat
from sixgate.node.lb.inspect import BackendRow, BalancerRow, Counted
from sixgate.node.nat import Session

if TYPE_CHECKING:
    from collections.abc import Callable

SESSION = Session(
    object="EgressGateway/pay/0",
    service="198.51.100.80:80",
    protocol="TCP",
    client="10.0.0.1",
    client_port=1000,
    pool="192.0.2.1",
    pool_port=2000,
    remote="203.0.113.5",
    remote_port=443,
    state="EST",
    age_s=71,
    left_s=72,
    packets_out=73,
    packets_in=74,
    bytes_out=75,
    bytes_in=76,
)
BACKEND = BackendRow(1, "2001:db8::1", "DSR", "Active", 251, 0, 1.0, Counted())
BALANCER = BalancerRow("LoadBalancer/web", table=77, size=251, drain_s=78.0, vips=(), backends=(BACKEND,))


@pytest.mark.parametrize(
    ("tell", "more"),
    [
        (lambda wide: nat._show_sessions([SESSION], 0, "wide" if wide else "table"), ("198.51.100.80:80", "75", "76")),
        (lambda wide: egress._show_flows([SESSION], wide=wide), ("71", "73", "74", "75", "76")),
        (lambda wide: lb._show_list([BALANCER], wide=wide), ("78", "77")),
    ],
    ids=["nat list", "egress flows", "lb list"],
)
def test_wide_has_what_the_table_leaves_out(
    tell: Callable[[bool], None], more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    tell(False)
    narrow = capsys.readouterr().out.splitlines()
    tell(True)
    wide = capsys.readouterr().out.splitlines()
    assert len(narrow) == len(wide) == 2
    assert all(b.startswith(a.rstrip()) for a, b in zip(narrow, wide, strict=True))
    assert set(more) <= set(wide[1].split())
    assert not set(more) & set(narrow[1].split())
