"""`acceleration: BestEffort`: XDP translates plain packets, tc the others, and both write the same bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from e2e.lab import topology, traffic
from e2e.lab.run import LabRun
from e2e.lab.topology import CLIENT4, CLIENT6, GATEWAY, SERVER4, SERVER6, Host
from tests.netns.streams import NODE, counters, moved, offloads, random_data, start_gateway, tcp_transfer
from tests.netns.taps import Tap, compare, of_protocol, segmented
from tests.rfc.wire import TCP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.lab.sixgate import Sixgate

WAYS = pytest.mark.parametrize(("sender", "receiver"), [(CLIENT6, SERVER4), (CLIENT4, SERVER6)], ids=["6to4", "4to6"])
FEW = 8  # of packets that meet no remembered next hop, at the start and once a second


@pytest.fixture(scope="module")
def gateway() -> Iterator[tuple[LabRun, Sixgate]]:
    """The four hosts as a wire would have them: whole checksums from senders, receivers that poll."""
    with LabRun() as lab:
        topology.build(lab)
        for host in topology.HOSTS:
            offloads(lab, host.role, "up", "tx", "off", "tso", "off", "gso", "off", "gro", "on")
        sixgate = start_gateway(lab, acceleration="BestEffort")
        for sender, receiver in ((CLIENT6, SERVER4), (CLIENT4, SERVER6)):
            assert traffic.ping(lab, sender.role, receiver.seen_from(sender.family), count=2).received
        yield lab, sixgate


@WAYS
def test_plain_packets_never_reach_tc(gateway: tuple[LabRun, Sixgate], sender: Host, receiver: Host) -> None:
    lab, sixgate = gateway
    data, expected = random_data(2_000_000)
    before = counters(sixgate)
    with (
        Tap(lab, sender.role, "up", sent=True) as sent,
        Tap(lab, GATEWAY, sender.role) as passed_up,
    ):
        assert tcp_transfer(lab, sender, receiver, data) == expected
        came, missed = of_protocol(sent.packets(), TCP), of_protocol(passed_up.packets(), TCP)
    grown = moved(before, counters(sixgate))
    translated = grown["OK_64" if sender.family == 6 else "OK_46"]
    assert len(came) > 1300
    assert len(missed) < FEW + len(came) // 100
    assert translated >= len(came)


@WAYS
def test_what_xdp_sends_is_what_the_rfc_says(gateway: tuple[LabRun, Sixgate], sender: Host, receiver: Host) -> None:
    lab = gateway[0]
    data, expected = random_data(500_000)
    with Tap(lab, sender.role, "up", sent=True) as sent, Tap(lab, receiver.role, "up") as after:
        assert tcp_transfer(lab, sender, receiver, data) == expected
        came, left = of_protocol(sent.packets(), TCP), of_protocol(after.packets(), TCP)
    seen = compare(NODE, came, segmented(left))  # the receiver put them together
    assert seen.faults == []
    assert seen.segments > 300


@WAYS
def test_what_xdp_cannot_do_goes_on_in_tc(gateway: tuple[LabRun, Sixgate], sender: Host, receiver: Host) -> None:
    """Fragments and their answers, and ICMP errors of the gateway's own."""
    lab, sixgate = gateway
    before = counters(sixgate)
    address = receiver.seen_from(sender.family)
    assert traffic.ping(lab, sender.role, address, count=3, size=1452).received == 3
    assert traffic.traceroute(lab, sender.role, address) == (sender.gateway, address)
    grown = moved(before, counters(sixgate))
    assert grown["SLOW_XDP"] >= 1
    assert grown["OK_ICMP_SENT"] == 1
