"""The MSS of real connections, with clamping and without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from e2e.lab import topology
from e2e.lab.run import LabRun
from e2e.lab.topology import CLIENT4, CLIENT6, GATEWAY, SERVER4, SERVER6, Host
from tests.netns.streams import NODE, offloads, random_data, start_gateway, tcp_transfer, with_mtus
from tests.netns.taps import Tap, compare, of_protocol
from tests.rfc.wire import TCP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.netns.taps import Tapped

NARROW = 1400  # of the links to IPv4 hosts, as the gateway alone knows


@pytest.fixture(scope="module", params=[True, False], ids=["clamped", "as it is"])
def lab(request: pytest.FixtureRequest) -> Iterator[tuple[LabRun, bool]]:
    with LabRun() as lab:
        topology.build(lab)
        for host in (CLIENT4, SERVER4):
            lab.ip(GATEWAY, f"link set {lab.device(host.role)} mtu {NARROW}")
        start_gateway(lab, mssClamp=request.param)
        for host in topology.HOSTS:
            offloads(lab, GATEWAY, host.role, "tso", "off", "gso", "off", "tx", "off")
        yield lab, request.param


@pytest.mark.parametrize(("sender", "receiver"), [(CLIENT6, SERVER4), (CLIENT4, SERVER6)], ids=["6to4", "4to6"])
def test_both_ends_are_told_what_the_path_carries(lab: tuple[LabRun, bool], sender: Host, receiver: Host) -> None:
    run, clamped = lab
    data, expected = random_data(1_000_000)
    with (
        Tap(run, GATEWAY, sender.role) as before,
        Tap(run, receiver.role, "up") as after,
        Tap(run, sender.role, "up") as back,
    ):
        assert tcp_transfer(run, sender, receiver, data) == expected
        came, left = of_protocol(before.packets(), TCP), of_protocol(after.packets(), TCP)
        told = {"receiver": offered_mss(left), "sender": offered_mss(of_protocol(back.packets(), TCP))}
    own = {6: 1440, 4: 1460}  # of hosts whose own MTU is 1500
    both = dict.fromkeys(told, NARROW - 40)
    assert told == (both if clamped else {"receiver": own[sender.family], "sender": own[receiver.family]})
    seen = compare(with_mtus(NODE, mtu4=NARROW, mss_clamp=clamped), came, left)
    assert seen.faults == []


def offered_mss(packets: list[Tapped]) -> int:
    """The MSS in the one SYN among packets."""
    (mss,) = {
        int.from_bytes(tcp[22:24], "big")
        for each in packets
        for tcp in [each.data[20 if each.data[0] >> 4 == 4 else 40 :]]
        if tcp[13] & 2 and tcp[20:22] == b"\2\4"
    }
    return mss
