"""Real programs talk through `sixgate standalone` on the gateway example, both ways."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from e2e.lab import stamp, topology, traffic
from e2e.lab.run import LabRun
from e2e.lab.sixgate import ROOT, Sixgate
from e2e.lab.topology import CLIENT4, CLIENT6, SERVER4, SERVER6, Host

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAYS = pytest.mark.parametrize(("client", "server"), [(CLIENT6, SERVER4), (CLIENT4, SERVER6)], ids=["6to4", "4to6"])
STAMPS = 20_000
RATE = 20_000


@pytest.fixture(scope="module")
def gateway() -> Iterator[tuple[LabRun, Sixgate]]:
    """The four hosts of the lab around a running gateway."""
    with LabRun() as lab:
        topology.build(lab)
        sixgate = Sixgate(lab, ROOT / "examples" / "nat46gateway")
        sixgate.start()
        sixgate.wait_ready()
        yield lab, sixgate


def serve_file(lab: LabRun, server: Host, size_bytes: int) -> Path:
    """A file of random bytes in a directory of its own."""
    root = lab.workdir / f"www-{server.role}-{size_bytes}"
    root.mkdir()
    (root / "file").write_bytes(os.urandom(size_bytes))
    return root / "file"


@WAYS
def test_ping_is_answered(gateway: tuple[LabRun, Sixgate], client: Host, server: Host) -> None:
    got = traffic.ping(gateway[0], client.role, server.seen_from(client.family), count=3)
    assert got.received == 3


@WAYS
def test_the_largest_ping_in_one_packet_is_answered(
    gateway: tuple[LabRun, Sixgate], client: Host, server: Host
) -> None:
    size = 1500 - 40 - 8  # 1500 bytes of IPv6, 1480 of IPv4
    got = traffic.ping(gateway[0], client.role, server.seen_from(client.family), count=2, size=size)
    assert got.received == 2


@WAYS
def test_traceroute_names_gateway_and_server(gateway: tuple[LabRun, Sixgate], client: Host, server: Host) -> None:
    address = server.seen_from(client.family)
    assert traffic.traceroute(gateway[0], client.role, address) == (client.gateway, address)


@WAYS
def test_a_download_arrives_unchanged(gateway: tuple[LabRun, Sixgate], client: Host, server: Host) -> None:
    lab = gateway[0]
    file = serve_file(lab, server, 20_000_000)
    with traffic.http_server(lab, server, file.parent, sys.executable):
        url = f"http://{traffic.url_host(server.seen_from(client.family))}:{traffic.HTTP_PORT}/file"
        got = traffic.curl(lab, client.role, url, lab.workdir / "received")
    assert (got.status, got.sha256) == (200, traffic.file_sha256(file))


@WAYS
def test_stamped_packets_arrive_translated_once_and_in_order(
    gateway: tuple[LabRun, Sixgate], client: Host, server: Host
) -> None:
    lab = gateway[0]
    destination = server.seen_from(client.family)
    traffic.ping(lab, client.role, destination, count=1)
    with stamp.Receiver(lab, server.role, server.family, STAMPS) as receiver:
        stamp.send(lab, client.role, client.address, destination, count=STAMPS, rate=RATE)
        tally = receiver.result()
    assert tally == stamp.Tally(STAMPS, 0, 0, 0, 0, 0, 0)


def test_nothing_is_lost_while_the_process_is_dead_and_while_it_comes_back(gateway: tuple[LabRun, Sixgate]) -> None:
    lab, sixgate = gateway
    destination = SERVER4.seen_from(6)
    traffic.ping(lab, CLIENT6.role, destination, count=1)
    packets = 3 * STAMPS
    with stamp.Receiver(lab, SERVER4.role, 4, packets) as receiver:
        argv = stamp.send_command(lab, CLIENT6.role, CLIENT6.address, destination, count=packets, rate=RATE)
        sender = lab.spawn(CLIENT6.role, argv)
        sixgate.kill()
        assert not sixgate.running()
        sixgate.start()
        assert sender.wait(timeout=60) == 0
        tally = receiver.result()
    sixgate.wait_ready()
    assert (tally.lost, tally.untranslated, tally.damaged) == (0, 0, 0)
