"""TCP of some megabytes through the gateway finds the MTU of its path, whichever side the narrow hop is on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab import topology
from e2e.lab.run import LabRun
from e2e.lab.topology import SERVER4, SERVER6, Host
from tests.netns.paths import DISTANT, WIDE, add_distant, set_gateway_hop, set_hop
from tests.netns.streams import random_data, start_gateway, tcp_transfer
from tests.netns.taps import Tap
from tests.rfc.oracle import verify_packet
from tests.rfc.wire import ICMP4, ICMP6

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 4_000_000


WAYS = pytest.mark.parametrize(("sender", "receiver"), [(SERVER6, SERVER4), (SERVER4, SERVER6)], ids=["6to4", "4to6"])
# With addresses for routers that have none in IPv4 (RFC 6791), and without.
POOLS: dict[str, dict[str, Any]] = {"pool": {"icmpSourceCIDR": "198.51.100.128/28"}, "none": {}}


@pytest.fixture(scope="module", params=POOLS)
def lab(request: pytest.FixtureRequest) -> Iterator[LabRun]:
    """server6 ── far6 ── near6 ── gw ── near4 ── far4 ── server4"""
    with LabRun() as run:
        topology.build_gateway(run)
        for host in DISTANT:
            add_distant(run, host)
        start_gateway(run, **POOLS[request.param])
        yield run


@WAYS
@pytest.mark.parametrize(
    ("side", "mtu"),
    [
        *((SERVER6, mtu) for mtu in (1280, 1400, 9000)),
        *((SERVER4, mtu) for mtu in (9000, 1400, 1280, 1270, 1260, 1000, 576)),
    ],
    ids=lambda value: value.role if isinstance(value, Host) else str(value),
)
def test_a_transfer_over_a_narrow_hop_does_not_stall(
    lab: LabRun, sender: Host, receiver: Host, side: Host, mtu: int
) -> None:
    set_hop(lab, side, mtu)
    errors = transfer(lab, sender, receiver)
    set_hop(lab, side, WIDE)
    assert {told_mtu(each) for each in errors} == {expected_mtu(sender, side, mtu)}


@WAYS
@pytest.mark.parametrize(
    ("side", "mtu"),
    [*((SERVER6, mtu) for mtu in (1280, 1400, 9000)), *((SERVER4, mtu) for mtu in (9000, 1400, 1000, 576))],
    ids=lambda value: value.role if isinstance(value, Host) else str(value),
)
def test_nor_does_it_where_the_gateway_itself_is_the_narrow_hop(
    lab: LabRun, sender: Host, receiver: Host, side: Host, mtu: int
) -> None:
    set_gateway_hop(lab, side, mtu)
    errors = transfer(lab, sender, receiver)
    set_gateway_hop(lab, side, WIDE)
    if side is receiver:
        assert {told_mtu(each) for each in errors} == {expected_mtu(sender, side, mtu)}


def expected_mtu(sender: Host, side: Host, mtu: int) -> int:
    """What the sender must be told of the hop, in its own family's terms, and never less than IPv6 allows."""
    if side.family == sender.family:
        return mtu
    return max(1280, mtu + 20) if sender.family == 6 else mtu - 20


def transfer(lab: LabRun, sender: Host, receiver: Host) -> list[bytes]:
    """Sends SIZE bytes, which must arrive; the ICMP messages that the sender got, whose checksums must hold."""
    data, expected = random_data(SIZE)
    with Tap(lab, sender.role, "up") as answers:
        assert tcp_transfer(lab, sender, receiver, data) == expected
        errors = [each.data for each in answers.packets() if each.protocol in (ICMP4, ICMP6)]
    assert [verify_packet(each) for each in errors] == [[]] * len(errors)
    return errors


def told_mtu(error: bytes) -> int:
    """The MTU in a Packet Too Big or Fragmentation Needed; 0 in any other error."""
    if error[0] >> 4 == 6:
        return int.from_bytes(error[44:48], "big") if error[40] == 2 else 0
    return int.from_bytes(error[26:28], "big") if error[20:22] == b"\3\4" else 0
