"""`acceleration: BestEffort`: XDP translates plain packets, tc the others, and both write the same bytes."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import pytest

from e2e.lab import topology, traffic
from e2e.lab.balance import BALANCER, CLIENT, BalancerLab, address
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


@pytest.mark.parametrize("polls", [True, False], ids=["peer-polls", "peer-does-not"])
def test_a_gateway_with_one_arm_of_veth_loses_nothing(polls: bool) -> None:
    """What goes back out of the device it came from: redirected where the other end takes that, else left to tc."""
    inside, server = CLIENT6.address, str(topology.embed(ipaddress.IPv4Address(address("b1", 4))))
    with LabRun() as lab:
        net = BalancerLab(lab, ("b1",))
        net.build()
        lab.run("br", ["ethtool", "-K", lab.device(BALANCER), "gro", "on" if polls else "off"])
        for key in ("ipv4", "ipv6"):
            lab.sysctl(BALANCER, f"net/{key}/conf/all/forwarding", "1")
        lab.ip(CLIENT, f"addr add {inside}/128 dev {lab.device('up')} nodad")
        lab.ip(CLIENT, f"route add {topology.PREFIX} via {address(BALANCER, 6)} src {inside}")
        lab.ip(BALANCER, f"route add {inside}/128 via {address(CLIENT, 6)}")
        lab.ip("b1", f"route add {topology.TRANSLATABLE} via {address(BALANCER, 4)}")
        net.serve("b1")
        sixgate = start_gateway(lab, acceleration="BestEffort", role=BALANCER)
        assert traffic.ping(lab, CLIENT, server, count=2).received  # the neighbours are known now
        before = counters(sixgate)
        assert net.answers(20, server) == ["b1"] * 20
        assert traffic.ping(lab, CLIENT, server, count=10).received == 10
        grown = moved(before, counters(sixgate))
    assert min(grown["OK_64"], grown["OK_46"]) >= 10 + 20 * 3  # how often TCP acknowledges is its own affair
    done, slow = grown["OK_64"] + grown["OK_46"], grown.get("SLOW_XDP", 0) + grown.get("SLOW_NEIGH", 0)
    assert (2 * slow < done) if polls else (slow >= done)
