"""What RFC 7915 wants to be seen one by one reaches the log of a running gateway: 4.5 and 5.1.1."""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from e2e.lab import topology
from e2e.lab.run import LabRun
from e2e.lab.topology import CLIENT4, CLIENT6, SERVER4, SERVER6
from tests.netns.streams import start_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.lab.sixgate import Sixgate
    from e2e.lab.topology import Host

PATIENCE_S = 60.0
SO_NO_CHECK = 11
DESTINATION_OPTIONS, FRAGMENT, UDP = 60, 44, 17


@dataclass(frozen=True)
class Lab:
    """Hosts of both families around a gateway that drops UDP without checksum, as it does unless told otherwise."""

    run: LabRun
    sixgate: Sixgate
    quiet: bool

    def device(self, host: Host) -> str:
        """Pattern of the device that a packet of `host` was dropped on. A packet that is answered by an ICMP error is
        handed to sg-slow1, and may be dropped there."""
        uplink = self.run.device(host.role)
        return uplink if self.quiet else f"({uplink}|sg-slow1)"


@pytest.fixture(scope="module", params=["Quiet", "Enabled"])
def gateway(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Without and with ICMP errors for what cannot be translated."""
    with LabRun() as run:
        topology.build(run)
        yield Lab(run, start_gateway(run, icmpErrors=request.param), request.param == "Quiet")


def send_unchecked(lab: LabRun, sport: int) -> None:
    """One UDP packet without checksum from the IPv4 host to the IPv6 host."""

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
            sock.bind((CLIENT4.address, sport))
            sock.sendto(b"no checksum", (SERVER6.seen_from(4), 5353))

    lab.call(CLIENT4.role, send)


def send_fragment_with_options(lab: LabRun) -> None:
    """A first fragment from the IPv6 host to the IPv4 host that has destination options behind its fragment header."""
    options = bytes((UDP, 0, 1, 4, 0, 0, 0, 0))  # PadN
    payload = options + bytes(8) + b"x" * 40
    fragment = bytes((DESTINATION_OPTIONS, 0, 0, 1)) + bytes(4) + payload  # offset 0, more to come
    source, target = (socket.inet_pton(socket.AF_INET6, address) for address in (CLIENT6.address, SERVER4.seen_from(6)))
    header = b"\x60\0\0\0" + len(fragment).to_bytes(2, "big") + bytes((FRAGMENT, 64)) + source + target

    def send() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
            sock.sendto(header + fragment, (SERVER4.seen_from(6), 0))

    lab.call(CLIENT6.role, send)


def wait_line(sixgate: Sixgate, part: str) -> str:
    """The one line of the log that has `part`, as soon as there is one."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = [line for line in sixgate.log.read_text().splitlines() if part in line]
        if found:
            (line,) = found
            return line
        time.sleep(0.02)
    raise AssertionError(f"No line of the log has {part!r}:\n{sixgate.log_tail()}")


def test_rfc7915_4_5_udp_without_checksum(gateway: Lab) -> None:
    """Addresses and ports, as the RFC asks for, and where it came in."""
    send_unchecked(gateway.run, 4001)
    line = wait_line(gateway.sixgate, "port 4001 ")
    assert re.search(
        r" INFO sixgate\.node\.discard_log: "
        r"Packet dropped: SG_DROP_UDP_ZERO \(RFC 7915 4\.5: IPv4 UDP without checksum\): UDP "
        rf"from {CLIENT4.address} port 4001 to {SERVER6.ipv4} port 5353 on {gateway.device(CLIENT4)}\.$",
        line,
    ), line


def test_rfc7915_5_1_1_extension_header_behind_the_fragment_header(gateway: Lab) -> None:
    send_fragment_with_options(gateway.run)
    line = wait_line(gateway.sixgate, "SG_DROP_FRAGMENT_EXTHDR")
    assert re.search(rf" from {CLIENT6.address} to {SERVER4.seen_from(6)} on {gateway.device(CLIENT6)}\.$", line), line


def test_a_dead_agent_costs_nothing_and_the_next_one_reads_on(gateway: Lab) -> None:
    gateway.sixgate.kill()
    send_unchecked(gateway.run, 4002)
    gateway.sixgate.start()
    late = wait_line(gateway.sixgate, "port 4002 ")
    send_unchecked(gateway.run, 4003)
    wait_line(gateway.sixgate, "port 4003 ")
    assert re.search(rf" on {gateway.device(CLIENT4)}(, \d+ s ago)?\.$", late), late
