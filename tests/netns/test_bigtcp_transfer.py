"""BIG TCP: super-packets of more than 64 KB go through the gateway whole, in both directions."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from e2e.lab import topology, traffic
from e2e.lab.run import LabRun
from e2e.lab.stamp import hardware_address
from e2e.lab.topology import CLIENT4, CLIENT6, GATEWAY, SERVER4, SERVER6
from tests.netns.streams import NODE, random_data, start_gateway, tcp_transfer
from tests.netns.taps import Tap, compare, inject, of_protocol, ones_sum, segmented
from tests.rfc.wire import TCP, pseudo6

if TYPE_CHECKING:
    from collections.abc import Iterator

BIG = 196_608
RTM_NEWLINK, NLM_F_REQUEST, NLM_F_ACK = 16, 1, 4
# IFLA_GSO_MAX_SIZE, IFLA_GRO_MAX_SIZE, and the same for IPv4, which neither iproute2 6.1 nor pyroute2 0.9.7 knows.
SIZES = (41, 58, 63, 64)


def set_sizes(lab: LabRun, role: str, device: str, size: int) -> None:
    """Largest super-packets that a device sends and makes, of both families."""

    def change() -> None:
        index = socket.if_nametoindex(lab.device(device))
        body = struct.pack("=BxHiII", 0, 0, index, 0, 0)
        body += b"".join(struct.pack("=HHI", 8, kind, size) for kind in SIZES)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
            link.send(struct.pack("=IHHII", 16 + len(body), RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0) + body)
            (error,) = struct.unpack_from("=i", link.recv(4096), 16)
        assert not error, f"{device} of {role} refused {size} bytes with error {-error}"

    lab.call(role, change)


@pytest.fixture(scope="module")
def lab() -> Iterator[LabRun]:
    """The four hosts, every device for super-packets of up to BIG bytes."""
    with LabRun() as lab:
        topology.build(lab)
        try:
            for host in topology.HOSTS:
                set_sizes(lab, host.role, "up", BIG)
                set_sizes(lab, GATEWAY, host.role, BIG)
        except AssertionError as error:
            pytest.skip(f"This kernel has no BIG TCP for both families: {error}")
        start_gateway(lab)
        for sender, receiver in ((CLIENT6, SERVER4), (CLIENT4, SERVER6)):
            assert traffic.ping(lab, sender.role, receiver.seen_from(sender.family), count=2).received
        yield lab


def test_super_packets_of_more_than_64_kb_from_ipv6_stay_whole(lab: LabRun) -> None:
    data, expected = random_data(60_000_000)
    with Tap(lab, GATEWAY, CLIENT6.role) as before, Tap(lab, SERVER4.role, "up") as after:
        assert tcp_transfer(lab, CLIENT6, SERVER4, data) == expected
        came, left = (of_protocol(tap.packets(), TCP) for tap in (before, after))
    for side in (came, left):
        sizes = [len(each.data) for each in side if each.gso_size]
        assert sum(sizes) / len(sizes) > 65_536
        assert max(sizes) <= BIG
    seen = compare(NODE, came, segmented(left))
    assert seen.faults == []
    assert seen.cut > 30_000


def test_super_packets_of_more_than_64_kb_from_ipv4_are_cut(lab: LabRun) -> None:
    """Linux takes the jumbo header from what a program has sent to a veth, and the receiver would drop what is left."""
    data, expected = random_data(20_000_000)
    with Tap(lab, GATEWAY, CLIENT4.role) as before, Tap(lab, SERVER6.role, "up") as after:
        assert tcp_transfer(lab, CLIENT4, SERVER6, data) == expected
        came, left = (of_protocol(tap.packets(), TCP) for tap in (before, after))
    assert max(len(each.data) for each in came) > 65_535
    assert max(len(each.data) for each in left) <= 65_575
    seen = compare(NODE, came, segmented(left))
    assert seen.faults == []


@pytest.mark.parametrize("length", [65_515, 65_516, 65_535])
def test_the_longest_super_packets_that_ipv6_can_say(lab: LabRun, length: int) -> None:
    """Some of them are too long for IPv4 to say; remembered translations (the second packet) know that, too."""
    body = struct.pack("!HHIIBBHHH", 5000, 9, 1, 1, 0x50, 0x10, 512, 0, 0) + bytes(length - 20)
    source, destination = ip_address(CLIENT6.address).packed, ip_address(SERVER4.seen_from(6)).packed
    packet = struct.pack("!IHBB", 6 << 28, length, TCP, 64) + source + destination
    pseudo = ones_sum(pseudo6(source, destination, length, TCP))
    packet += body[:16] + pseudo.to_bytes(2, "big") + body[18:]
    macs = hardware_address(lab, GATEWAY, CLIENT6.role) + hardware_address(lab, CLIENT6.role, "up")
    link_header = bytes.fromhex(macs.replace(":", "")) + b"\x86\xdd"
    with Tap(lab, GATEWAY, CLIENT6.role) as before, Tap(lab, SERVER4.role, "up") as after:
        for _ in range(3):
            inject(lab, CLIENT6.role, "up", link_header, packet)
        came, left = (of_protocol(tap.packets(), TCP) for tap in (before, after))
    assert [len(each.data) for each in left] == [20 + length] * 3
    said = 0 if 20 + length > 65_535 else 20 + length
    assert [int.from_bytes(each.data[2:4], "big") for each in left] == [said] * 3
    assert compare(NODE, came, segmented(left)).faults == []
