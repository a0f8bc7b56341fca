"""Which backend a new session of mode NAT gets, live: the client's own (affinity), or the one a QUIC packet names."""

from __future__ import annotations

import socket
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from e2e.lab.balance import BALANCER, address
from tests.netns.test_lb_live import BACKENDS, Site, vip
from tests.netns.test_lb_nat import NAT, backends, site, udp_client

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["site"]  # a fixture
HEAVY = 65535


@pytest.mark.parametrize(("family", "behind"), [(4, 4), (4, 6)])
def test_a_client_stays_with_its_backend_until_the_timeout(site: Site, family: int, behind: int) -> None:
    """Or until that takes nothing new: in maintenance, or declared no more. Where weights leave it one slot of many
    thousand, nobody comes to it by chance."""

    def put(roles: Collection[str] = BACKENDS, timeout_s: int = 3600, **more: dict[str, Any]) -> None:
        listed = [each for role, each in zip(BACKENDS, backends(behind, **more), strict=True) if role in roles]
        site.put(family, backends=listed, sessionAffinity={"timeoutSeconds": timeout_s}, **NAT)

    def shunned(role: str) -> dict[str, dict[str, Any]]:
        return {each: {"weight": 1 if each == role else HEAVY} for each in BACKENDS}

    put()
    (first,) = set(site.net.answers(12, vip(family)))
    put(**shunned(first))
    assert set(site.net.answers(12, vip(family))) == {first}
    put(**{**shunned(first), first: {"maintenance": True}})
    (second,) = set(site.net.answers(12, vip(family)))
    assert second != first
    put({*BACKENDS} - {second}, **shunned(first))
    (third,) = set(site.net.answers(12, vip(family)))
    assert third not in {first, second}
    put({*BACKENDS} - {second}, 1, **shunned(third))
    time.sleep(2.5)
    assert site.net.answers(1, vip(family)) == [first]


def short_header(backend: str, tail: bytes) -> bytes:
    """A QUIC packet of a connection that is there (RFC 9000 17.3): one byte of the connection id, and the server's."""
    return b"\x40\x01" + ip_address(backend).packed[-4:] + tail


@pytest.mark.parametrize(("family", "behind"), [(4, 4), (6, 6), (6, 4)])
def test_quic_goes_to_the_server_that_its_connection_id_names(site: Site, family: int, behind: int) -> None:
    """Whatever the client's port: a connection that moves to another one stays where it is."""
    port = {"port": 443, "protocol": "UDP", "targetPort": 4433}
    site.put(family, ports=[port], backends=backends(behind), quic={"offset": 1, "length": 4}, **NAT)

    def serving(role: str) -> Callable[[], socket.socket]:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET6 if behind == 6 else socket.AF_INET, socket.SOCK_DGRAM)
            made.settimeout(20)
            made.bind((address(role, behind), 4433))
            return made

        return make

    servers = {role: site.net.lab.call(role, serving(role)) for role in BACKENDS}
    try:
        for number in range(8):
            for role, server in servers.items():
                packet = short_header(address(role, behind), f"{role} {number}".encode())
                with udp_client(site, family, 443) as client:
                    client.send(packet)
                    got, peer = server.recvfrom(100)
                    assert got == packet
                    assert peer[0] == address(BALANCER, behind)
                    server.sendto(role.encode(), peer)
                    assert client.recv(100) == role.encode()
    finally:
        for server in servers.values():
            server.close()
