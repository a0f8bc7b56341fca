"""Nodes that have IPv6 only among themselves: the tunnel goes over IPv6, pods speak both families all the same."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import pytest

from e2e.lab import traffic
from e2e.lab.egress import SERVER, SERVER4, SERVER6, SOURCE4, SOURCE6, EgressLab, settled
from e2e.lab.run import LabRun

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 9000
TUNNEL_MTU = 1430
FAMILIES = pytest.mark.parametrize(("server", "source"), [(SERVER4, SOURCE4), (SERVER6, SOURCE6)], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def lab() -> Iterator[EgressLab]:
    with LabRun() as run:
        yield settled(run, "g1", "g2", underlay=6)


def talk(lab: EgressLab, server: str, size: int = 16, *, whole: bool = False) -> tuple[int, str]:
    """Length and source of a datagram of the pod as the server has it; its answer must come back."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET

    def listen() -> socket.socket:
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.bind((server, PORT))
        made.settimeout(1)
        return made

    def speak() -> socket.socket:
        made = socket.socket(family, socket.SOCK_DGRAM)
        made.connect((server, PORT))
        made.settimeout(2)
        if whole:
            made.setsockopt(*((socket.IPPROTO_IPV6, 23, 2) if ":" in server else (socket.IPPROTO_IP, 10, 2)))
        return made

    with lab.lab.call(SERVER, listen) as receiver, lab.lab.call("pay", speak) as sender:
        for _ in range(60):
            try:
                sender.send(bytes(size))
                data, peer = receiver.recvfrom(65536)
            except TimeoutError:
                continue
            except OSError as error:
                if error.errno != errno.EMSGSIZE:
                    raise
                if not whole:
                    continue  # now it knows how small its fragments must be
                return sender.getsockopt(*((socket.IPPROTO_IPV6, 24) if ":" in server else (socket.IPPROTO_IP, 14))), ""
            receiver.sendto(b"answer", peer)
            sender.settimeout(20)
            assert sender.recv(64) == b"answer"
            return len(data), peer[0]
    raise AssertionError("nothing arrived")


@FAMILIES
def test_pods_leave_with_the_declared_address_over_an_ipv6_tunnel(lab: EgressLab, server: str, source: str) -> None:
    assert talk(lab, server) == (16, source)
    assert talk(lab, server, 4000) == (4000, source)
    (row,) = [row for row in lab.reports("n1") if row["ipv4"] == SOURCE4]
    assert row["owner"] in {"g1", "g2"}


@FAMILIES
def test_the_tunnel_says_its_size(lab: EgressLab, server: str, source: str) -> None:
    del source
    header = 48 if ":" in server else 28
    assert talk(lab, server, 1500 - header, whole=True) == (TUNNEL_MTU, "")


@FAMILIES
def test_streams_flow_both_ways(lab: EgressLab, server: str, source: str) -> None:
    del source
    with traffic.iperf_server(lab.lab, SERVER):
        for reverse in (False, True):
            assert traffic.iperf(lab.lab, "pay", server, seconds=1, reverse=reverse).bits_per_second > 0


def test_another_gateway_takes_over(lab: EgressLab) -> None:
    owner = lab.wait_settled()
    lab.cut(owner)
    try:
        lab.wait(lambda: lab.owner("n1") not in ("", owner), lambda: lab.tail("n1"))
        assert talk(lab, SERVER4) == (16, SOURCE4)
        assert talk(lab, SERVER6) == (16, SOURCE6)
    finally:
        lab.cut(owner, up=True)
    lab.wait_settled()
