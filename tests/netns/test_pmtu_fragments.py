"""What senders fragment, in any order; datagrams without checksum; and the way that traceroute shows."""

from __future__ import annotations

import os
import socket
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from e2e.lab import topology, traffic
from e2e.lab.run import LabRun
from e2e.lab.stamp import hardware_address
from e2e.lab.topology import CLIENT4, CLIENT6, GATEWAY, SERVER4, SERVER6, Host
from tests.netns.paths import DISTANT, add_distant
from tests.netns.streams import PORT, bind, start_gateway, wait_for
from tests.netns.taps import ones_sum
from tests.rfc.wire import FRAGMENT, UDP, pseudo4, pseudo6

if TYPE_CHECKING:
    from collections.abc import Iterator

WAYS = pytest.mark.parametrize(("sender", "receiver"), [(CLIENT6, SERVER4), (CLIENT4, SERVER6)], ids=["6to4", "4to6"])
SO_NO_CHECK, UNIT = 11, 1200
MORE = 0x2000


@pytest.fixture(scope="module", params=["Compute", "Drop"])
def lab(request: pytest.FixtureRequest) -> Iterator[tuple[LabRun, str]]:
    with LabRun() as run:
        topology.build(run)
        start_gateway(run, udpZeroChecksum=request.param)
        yield run, request.param


def test_a_datagram_without_checksum_gets_one_or_is_dropped(lab: tuple[LabRun, str]) -> None:
    """RFC 7915 4.5; the second datagram, which has one, shows that the first would have arrived by then."""
    run, zero = lab
    with bind(run, SERVER6, socket.SOCK_DGRAM) as far, bind(run, CLIENT4, socket.SOCK_DGRAM, 0) as near:
        near.connect((SERVER6.seen_from(4), PORT))
        near.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        near.send(b"without")
        near.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 0)
        if zero == "Compute":
            assert far.recv(100) == b"without"
            near.send(b"with")
        else:
            wait_for(lambda: _error(near), "nobody told the sender that its datagram was prohibited")
            near.send(b"with")
        assert far.recv(100) == b"with"


def _error(sock: socket.socket) -> int:
    """What an ICMP error said to the socket, once."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


@WAYS
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 1, 1, 2), (2, 0, 2, 1)], ids=str)
def test_fragments_in_any_order(lab: tuple[LabRun, str], sender: Host, receiver: Host, order: tuple[int, ...]) -> None:
    run = lab[0]
    body = os.urandom(2 * UNIT + 500)
    fragments = fragments_of(sender, receiver, body, int.from_bytes(os.urandom(2), "big"))
    with bind(run, receiver, socket.SOCK_DGRAM) as far:
        send_frames(run, sender, [fragments[number] for number in order])
        assert far.recv(65536) == body


@WAYS
def test_overlapping_fragments_make_no_datagram(lab: tuple[LabRun, str], sender: Host, receiver: Host) -> None:
    """Each is translated; the receiver discards them all (RFC 5722), or takes nothing of the second copy."""
    run = lab[0]
    body, other = os.urandom(2 * UNIT + 500), os.urandom(2 * UNIT + 500)
    ident = int.from_bytes(os.urandom(2), "big")
    first = fragments_of(sender, receiver, body, ident)
    second = fragments_of(sender, receiver, other, ident, shift=8)
    with bind(run, receiver, socket.SOCK_DGRAM) as far:
        send_frames(run, sender, [first[0], second[1], first[1], first[2]])
        far.settimeout(0.5)
        with pytest.raises(TimeoutError):
            far.recv(65536)


def fragments_of(sender: Host, receiver: Host, body: bytes, ident: int, *, shift: int = 0) -> list[bytes]:
    """A UDP datagram in three fragments of the sender's family; the later ones begin `shift` bytes too early."""
    family = sender.family
    source, destination = ip_address(sender.address).packed, ip_address(receiver.seen_from(family)).packed
    head = struct.pack("!HHHH", 9, PORT, 8 + len(body), 0)
    pseudo = (pseudo6 if family == 6 else pseudo4)(source, destination, 8 + len(body), UDP)
    whole = head[:6] + (~ones_sum(pseudo + head + body) & 0xFFFF or 0xFFFF).to_bytes(2, "big") + body
    found = []
    for at in range(0, len(whole), UNIT):
        part, more = whole[at : at + UNIT], at + UNIT < len(whole)
        start = at - shift if at else 0
        if family == 6:
            extension = struct.pack("!BBHI", UDP, 0, start | more, ident)
            fixed = struct.pack("!IHBB", 6 << 28, 8 + len(part), FRAGMENT, 64)
            found.append(fixed + source + destination + extension + part)
        else:
            flags = start // 8 | (MORE if more else 0)
            fixed = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(part), ident, flags, 64, UDP, 0) + source + destination
            found.append(fixed[:10] + (~ones_sum(fixed) & 0xFFFF).to_bytes(2, "big") + fixed[12:] + part)
    return found


def send_frames(lab: LabRun, sender: Host, packets: list[bytes]) -> None:
    """Puts packets on the sender's wire as they are."""
    macs = hardware_address(lab, GATEWAY, sender.role) + hardware_address(lab, sender.role, "up")
    head = bytes.fromhex(macs.replace(":", "")) + (b"\x86\xdd" if sender.family == 6 else b"\x08\x00")

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
            sock.bind((lab.device("up"), 0))
            for packet in packets:
                sock.send(head + packet)

    lab.call(sender.role, send)


@pytest.mark.parametrize(
    ("sender", "receiver", "hops"),
    [
        # An IPv4 router is seen under the prefix; an IPv6 router, which has no IPv4 address, under one of the pool.
        (SERVER6, SERVER4, ("2001:db8:aa::2", "2001:db8:aa::1", "2001:db8:6:2::1", "203.0.113.2", "203.0.113.6")),
        (SERVER4, SERVER6, ("203.0.113.17", "203.0.113.5", "203.0.113.1", "pool", "pool")),
    ],
    ids=["6to4", "4to6"],
)
def test_traceroute_shows_every_router(sender: Host, receiver: Host, hops: tuple[str, ...]) -> None:
    with LabRun() as run:
        topology.build_gateway(run)
        for host in DISTANT:
            add_distant(run, host)
        start_gateway(run, icmpSourceCIDR="198.51.100.128/28")
        seen = traffic.traceroute(run, sender.role, receiver.seen_from(sender.family))
    shown = tuple(as_seen(address) for address in seen)
    assert shown == (*hops, str(receiver.ipv4))


def as_seen(address: str) -> str:
    """An address of the lab's prefix as the IPv4 address that it stands for; one of the RFC 6791 pool by that name."""
    parsed = ip_address(address)
    if parsed.version == 6 and parsed in topology.PREFIX:
        parsed = ip_address(int(parsed) & 0xFFFFFFFF)
    if parsed.version == 4 and str(parsed).startswith("198.51.100.1") and int(parsed) & 0xF0 == 128:
        return "pool"
    return str(parsed)
