"""Super-packets stay whole and become, byte for byte, what their segments would have become one by one."""

from __future__ import annotations

import os
import socket
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from e2e.lab import topology, traffic
from e2e.lab.run import LabRun
from e2e.lab.topology import CLIENT4, CLIENT6, GATEWAY, SERVER4, SERVER6, Host
from tests.netns.streams import (
    IP_MTU_DISCOVER,
    NODE,
    PORT,
    UDP_SEGMENT,
    bind,
    offloads,
    random_data,
    start_gateway,
    switched,
    tcp_transfer,
    with_mtus,
)
from tests.netns.taps import Tap, compare, of_protocol
from tests.rfc.oracle import verify_packet
from tests.rfc.wire import ICMP4, TCP, UDP

if TYPE_CHECKING:
    from collections.abc import Iterator


IP_PMTUDISC_DONT = 0
WAYS = pytest.mark.parametrize(("sender", "receiver"), [(CLIENT6, SERVER4), (CLIENT4, SERVER6)], ids=["6to4", "4to6"])


@pytest.fixture(scope="module")
def lab() -> Iterator[LabRun]:
    """The four hosts; what leaves the gateway is segmented and summed before it reaches a host's tap."""
    with LabRun() as lab:
        topology.build(lab)
        start_gateway(lab)
        for host in topology.HOSTS:
            offloads(lab, GATEWAY, host.role, "tso", "off", "gso", "off", "tx", "off")
            offloads(lab, host.role, "up", "gro", "off")
        for sender, receiver in ((CLIENT6, SERVER4), (CLIENT4, SERVER6)):
            assert traffic.ping(lab, sender.role, receiver.seen_from(sender.family), count=2).received
        yield lab


@WAYS
@pytest.mark.parametrize("tx", ["on", "off"], ids=["partial checksums", "complete checksums"])
def test_tcp_super_packets(lab: LabRun, sender: Host, receiver: Host, tx: str) -> None:
    data, expected = random_data(3_000_000)
    features = ("tx", "tso") if tx == "off" else ()
    with (
        switched(lab, sender.role, "up", *features, on=False),
        Tap(lab, GATEWAY, sender.role) as before,
        Tap(lab, receiver.role, "up") as after,
    ):
        assert tcp_transfer(lab, sender, receiver, data) == expected
        came, left = of_protocol(before.packets(), TCP), of_protocol(after.packets(), TCP)
    seen = compare(NODE, came, left)
    assert seen.faults == []
    assert seen.segments > 2000
    assert (seen.supers > 40) == (tx == "on")
    assert any(each.needs_csum for each in came) == (tx == "on")


def send_datagrams(lab: LabRun, sender: Host, receiver: Host, sizes: tuple[int, ...], unit: int) -> list[list[int]]:
    """Sends super-packets of `sizes` bytes in datagrams of `unit`; numbers of each one's datagrams as they arrived.

    Linux sends IPv4 datagrams of a super-packet longer than the MTU without DF.
    """
    data, _ = random_data(max(sizes))
    arrived = []
    with bind(lab, receiver, socket.SOCK_DGRAM) as far, bind(lab, sender, socket.SOCK_DGRAM, 0) as near:
        near.setsockopt(socket.SOL_UDP, UDP_SEGMENT, unit)
        near.connect((receiver.seen_from(sender.family), PORT))
        for size in sizes:
            near.send(data[:size])
            parts = [data[:size][at : at + unit] for at in range(0, size, unit)]
            arrived.append([parts.index(far.recv(65536)) for _ in parts])
    return arrived


@contextmanager
def one_cpu() -> Iterator[None]:
    """Keeps this thread, and so what it sends, on one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def in_order(arrived: list[list[int]]) -> list[list[int]]:
    return [sorted(numbers) for numbers in arrived]


@WAYS
def test_udp_super_packets(lab: LabRun, sender: Host, receiver: Host) -> None:
    with Tap(lab, GATEWAY, sender.role) as before, Tap(lab, receiver.role, "up") as after:
        arrived = send_datagrams(lab, sender, receiver, (44_600, 30_000, 1_201, 2_400, 1_200, 5), 1200)
        came, left = of_protocol(before.packets(), UDP), of_protocol(after.packets(), UDP)
    assert arrived == in_order(arrived)
    seen = compare(NODE, came, left)
    assert seen.faults == []
    assert (seen.supers, seen.segments) == (4, 38 + 25 + 2 + 2 + 1 + 1)
    assert all(each.needs_csum for each in came)


def test_no_two_segments_that_may_be_fragmented_share_an_identification(lab: LabRun) -> None:
    """RFC 6864 4.3: a router that fragments two of them would have them put together crosswise."""
    with one_cpu(), Tap(lab, SERVER4.role, "up") as after:  # each CPU counts for itself
        for _ in range(3):
            send_datagrams(lab, CLIENT6, SERVER4, (44_600, 30_000, 12_000, 1_200, 24_000), 1200)
        left = [each.data for each in of_protocol(after.packets(), UDP)]
    assert not any(packet[6] & 0x40 for packet in left)
    most = max(Counter(packet[4:6] for packet in left).values())
    assert (len(left), most) == (3 * (38 + 25 + 10 + 1 + 20), 1)


@pytest.mark.parametrize(("sender", "receiver", "pieces"), [(CLIENT6, SERVER4, 1), (CLIENT4, SERVER6, 2)])
def test_udp_super_packets_without_df(lab: LabRun, sender: Host, receiver: Host, pieces: int) -> None:
    """RFC 7915 4.1: without DF, what exceeds the IPv6 minimum MTU leaves in fragments, with its segment's id."""
    with Tap(lab, GATEWAY, sender.role) as before, Tap(lab, receiver.role, "up") as after:
        arrived = send_datagrams(lab, sender, receiver, (44_600, 2_801), 1400)
        came, left = of_protocol(before.packets(), UDP), of_protocol(after.packets(), UDP)
    # Fragments take a longer way than the short last datagram, and may arrive behind it.
    assert [sorted(numbers) for numbers in arrived] == [list(range(32)), list(range(3))]
    seen = compare(NODE, came, left)
    assert seen.faults == []
    assert (seen.supers, seen.segments) == (2, 31 * pieces + 1 + 2 * pieces + 1)


@WAYS
def test_what_the_gateway_itself_put_together(lab: LabRun, sender: Host, receiver: Host) -> None:
    """GRO on the gateway's device: single packets come from the sender, super-packets meet the program."""
    data, expected = random_data(3_000_000)
    with (
        switched(lab, sender.role, "up", "tx", "tso", "gso", on=False),
        switched(lab, GATEWAY, sender.role, "gro", on=True),
        Tap(lab, GATEWAY, sender.role) as before,
        Tap(lab, receiver.role, "up") as after,
    ):
        assert tcp_transfer(lab, sender, receiver, data) == expected
        came, left = of_protocol(before.packets(), TCP), of_protocol(after.packets(), TCP)
    seen = compare(NODE, came, left)
    assert seen.faults == []
    assert seen.supers > 40


@pytest.mark.parametrize("option", ["rx-udp-gro-forwarding", "rx-gro-list"])
@WAYS
def test_udp_that_the_gateway_put_together(lab: LabRun, sender: Host, receiver: Host, option: str) -> None:
    with (
        switched(lab, sender.role, "up", "tx", "tx-udp-segmentation", on=False),
        switched(lab, GATEWAY, sender.role, "gro", option, on=True),
        Tap(lab, GATEWAY, sender.role) as before,
        Tap(lab, receiver.role, "up") as after,
    ):
        arrived = send_datagrams(lab, sender, receiver, (44_600, 30_000, 2_401), 1200)
        came, left = of_protocol(before.packets(), UDP), of_protocol(after.packets(), UDP)
    assert arrived == in_order(arrived)
    seen = compare(NODE, came, left)
    assert seen.faults == []
    assert seen.supers > 0


# More than the next hop takes: through sg-slow0, where the kernel cuts, to sg-slow1.


@pytest.fixture
def narrow(lab: LabRun) -> Iterator[LabRun]:
    """The IPv6 server's hop takes 1280 bytes, and the gateway knows."""
    device = lab.device(SERVER6.role)
    lab.ip(GATEWAY, f"link set {device} mtu 1280")
    yield lab
    lab.ip(GATEWAY, f"link set {device} mtu 1500")


def test_tcp_super_packets_without_df_leave_in_fragments(lab: LabRun) -> None:
    data, expected = random_data(1_000_000)
    no_df = (socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
    with Tap(lab, GATEWAY, CLIENT4.role) as before, Tap(lab, SERVER6.role, "up") as after:
        assert tcp_transfer(lab, CLIENT4, SERVER6, data, options=(no_df,)) == expected
        came, left = of_protocol(before.packets(), TCP), of_protocol(after.packets(), TCP)
    seen = compare(NODE, came, left)
    assert seen.faults == []
    assert seen.supers > 10
    assert seen.segments > 2 * len(data) // 1460


@pytest.mark.usefixtures("narrow")
def test_tcp_super_packets_with_df_are_refused_segment_by_segment(lab: LabRun) -> None:
    """RFC 7915 4.4: each segment that is too long is answered; what the answers say lets the transfer go on."""
    data, expected = random_data(1_000_000)
    with (
        Tap(lab, GATEWAY, CLIENT4.role) as before,
        Tap(lab, SERVER6.role, "up") as after,
        Tap(lab, CLIENT4.role, "up") as answers,
    ):
        assert tcp_transfer(lab, CLIENT4, SERVER6, data) == expected
        came, left = of_protocol(before.packets(), TCP), of_protocol(after.packets(), TCP)
        errors = of_protocol(answers.packets(), ICMP4)
    seen = compare(with_mtus(NODE, mtu6=1280), came, left)
    assert seen.faults == []
    assert seen.supers > 10
    assert len(seen.answers) > 5
    owed = [each.data for each in seen.answers]
    assert [verify_packet(each.data) for each in errors] == [[]] * len(errors)
    assert Counter(map(without_ident, owed)) == Counter(without_ident(each.data) for each in errors)
    assert {int.from_bytes(each.data[26:28], "big") for each in errors} == {1260}


def without_ident(error: bytes) -> bytes:
    """An ICMP error without what its sender may choose: TOS, identification, and so the header's checksum."""
    return error[:1] + error[2:4] + error[6:10] + error[12:]
