"""Limits of a stateful gateway, live: what happens at them, and how it is told."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from e2e.lab.natlab import CLIENT4, CLIENT6, SERVER4, SERVER6, embed
from sixgate.node.bpf import missing_permission
from tests.netns.nat import Stage, nat64, quiet, staged

IPV6_RECVERR = 25  # errors that are not final are told, too
ONE = "198.51.100.9/32"


def small(ports: int, **more: object) -> dict[str, object]:
    return nat64(pools=[{"cidr": ONE, "ports": {"first": 2048, "last": 2048 + ports - 1}}], **more)


@pytest.fixture(scope="module")
def one_stage() -> Iterator[Stage]:
    if reason := missing_permission():
        pytest.skip(reason)
    with staged(small(64)) as stage:
        yield stage


@pytest.fixture
def stage(one_stage: Stage) -> Iterator[Stage]:
    one_stage.sixgate.command(["nat", "flush", "--all"])
    yield one_stage
    one_stage.close_sockets()


def eventually(look: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if look():
            return True
        time.sleep(0.2)
    return look()


def send(client: socket.socket, host_ip: str, port: int) -> None:
    client.sendto(b"packet", (embed(host_ip), port))


def refused(client: socket.socket) -> bool:
    """Whether the gateway answers a packet with an ICMP error that the socket sees."""
    client.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
    client.connect((embed(SERVER4.ip), 4600))
    client.settimeout(10)
    client.send(b"packet")
    try:
        client.recv(100)
    except TimeoutError:
        return False
    except OSError as error:
        return error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNREFUSED)
    return False


def test_no_port_is_free_any_more(stage: Stage) -> None:
    """6146-FULL: the new flow is refused with ICMPv6 1/3, nothing leaves untranslated, a condition says so."""
    stage.apply(small(64))
    server = stage.udp(SERVER4, 4600)
    clients = [stage.udp(CLIENT6) for _ in range(64)]
    seen = set()
    for client in clients:
        send(client, SERVER4.ip, 4600)
        seen.add(server.recvfrom(100)[1])
    assert seen == {("198.51.100.9", port) for port in range(2048, 2112)}, "every port was given, each to one client"
    late = stage.udp(SERVER6)
    assert refused(late)
    assert quiet(server)
    assert stage.stat("no_port") > 0
    send(clients[0], SERVER4.ip, 4600)
    assert server.recvfrom(100)[0] == b"packet", "whoever has a port keeps it"
    assert eventually(lambda: "had no free port for" in stage.message())
    states = {row["owner"]: row["state"] for row in stage.sixgate.status()["objects"]}
    assert states["NAT46Gateway/lab"] == "Degraded"


def test_the_table_is_full(stage: Stage) -> None:
    """6146-FULL, for sessions: 1024 of 1024, one more is refused, and none of them goes for it."""
    stage.apply(nat64(maxSessions=1024))
    client, server = stage.udp(CLIENT6), stage.udp(SERVER4, 4600)

    def filled() -> bool:
        """Of a burst like this one a busy kernel may lose some; those that are there begin no second session."""
        for port in range(5001, 5001 + 1024):
            send(client, SERVER4.ip, port)
        return stage.stat("sessions") == 1024

    assert eventually(filled), stage.nat("stats")
    send(client, SERVER4.ip, 4600)
    assert quiet(server)
    assert stage.stat("full") > 0
    assert len(stage.sessions("--limit", "0")) == 1024
    assert eventually(lambda: "has 1024 of 1024 sessions that it may have, and has refused" in stage.message())


def test_a_client_has_no_more_ports_than_it_may(stage: Stage) -> None:
    """6888-4: ports per client; another client is not concerned."""
    stage.apply(nat64(clientLimits={"ports": 8, "prefixLength": 64}))
    server = stage.udp(SERVER4, 4600)
    for number in range(12):
        send(stage.udp(CLIENT6), SERVER4.ip, 4600)
        if number < 8:
            server.recvfrom(100)
    assert quiet(server)
    assert stage.stat("client_ports") >= 4
    send(stage.udp(SERVER6), SERVER4.ip, 4600)
    assert server.recvfrom(100)[0] == b"packet"


def test_a_client_has_no_more_sessions_than_it_may(stage: Stage) -> None:
    stage.apply(nat64(clientLimits={"sessions": 4}))
    client, server = stage.udp(CLIENT6), stage.udp(SERVER4, 4600)
    for port in range(5001, 5005):
        send(client, SERVER4.ip, port)
    send(client, SERVER4.ip, 4600)
    assert quiet(server)
    assert stage.stat("client_sessions") > 0


def test_only_those_who_were_sent_to_may_answer(stage: Stage) -> None:
    """6146-3.5.1-FILT: address-dependent filtering."""
    stage.apply(nat64(filtering="AddressDependent"))
    client, server = stage.udp(CLIENT6), stage.udp(SERVER4, 4600)
    send(client, SERVER4.ip, 4600)
    seen = server.recvfrom(100)[1]
    stage.udp(SERVER4).sendto(b"another port", seen)
    assert client.recvfrom(100)[0] == b"another port"
    stage.udp(CLIENT4).sendto(b"another address", seen)
    assert quiet(client)
    assert stage.stat("filtered") > 0


def test_hairpinning_may_be_off(stage: Stage) -> None:
    stage.apply(nat64(hairpinning=False))
    client, other, server = stage.udp(CLIENT6), stage.udp(SERVER6), stage.udp(SERVER4, 4600)
    send(client, SERVER4.ip, 4600)
    seen = server.recvfrom(100)[1]
    other.sendto(b"hairpin", (embed(seen[0]), seen[1]))
    assert quiet(client)


def test_a_released_port_rests(stage: Stage) -> None:
    """6888-8: a port that was released is not given out again before its rest is over."""
    stage.apply(small(64, lifetimes={"portRest": 600}))
    server = stage.udp(SERVER4, 4600)
    first = stage.udp(CLIENT6)
    send(first, SERVER4.ip, 4600)
    seen = server.recvfrom(100)[1]
    assert stage.sixgate.command(["nat", "flush", "--object", "lab"]).stdout == "1 session ended.\n"
    others = set()
    for _ in range(63):
        send(stage.udp(CLIENT6), SERVER4.ip, 4600)
        others.add(server.recvfrom(100)[1])
    assert seen not in others
    assert len(others) == 63
    send(stage.udp(CLIENT6), SERVER4.ip, 4600)
    assert quiet(server)
