"""Virtual addresses of one family in front of backends of the other, live."""

from __future__ import annotations

import select
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from bench.nat_labs import gateway
from e2e.lab.natlab import CLIENT4, CLIENT6, SERVER4, SERVER6, VIP4, VIP6, NatHost
from sixgate.node.bpf import missing_permission
from tests.netns.nat import Stage, staged

SECOND6 = "2001:db8:6:2::21"  # another address of server6: a second backend
PORT, BACKEND_PORT = 80, 8080


def services(*weights: int, protocol: str = "TCP") -> dict[str, Any]:
    """IPv4 VIP in front of two IPv6 backends, and the mirror with one."""
    backends = [
        {"address": a, "port": BACKEND_PORT, "weight": w} for a, w in zip((SERVER6.ip, SECOND6), weights, strict=True)
    ]
    mirror = [{"address": SERVER4.ip, "port": BACKEND_PORT}]
    return gateway(
        {
            "services": [
                {"vip": VIP4, "port": PORT, "protocol": protocol, "backends": backends},
                {"vip": VIP6, "port": PORT, "protocol": protocol, "backends": mirror},
                {"vip": VIP4, "port": 53, "protocol": "UDP", "backends": [{"address": SERVER6.ip, "port": 5353}]},
            ]
        }
    )


@pytest.fixture(scope="module")
def one_stage() -> Iterator[Stage]:
    if reason := missing_permission():
        pytest.skip(reason)
    with staged(services(1, 1)) as stage:
        lab = stage.lab
        lab.ip(SERVER6.role, f"addr add {SECOND6}/64 dev {lab.device('up')} nodad")
        yield stage


@pytest.fixture
def stage(one_stage: Stage) -> Iterator[Stage]:
    # A connection that its client has forgotten and the backend has not pins the port to that backend.
    one_stage.sixgate.command(["nat", "flush", "--all"])
    yield one_stage
    one_stage.close_sockets()


def listen(stage: Stage, host: NatHost, address: str = "") -> socket.socket:
    def make() -> socket.socket:
        family = socket.AF_INET6 if host.family == 6 else socket.AF_INET
        made = socket.create_server((address or host.ip, BACKEND_PORT), family=family, backlog=128)
        made.settimeout(20)
        return made

    made = stage.lab.call(host.role, make)
    stage.sockets.append(made)
    return made


def connect(stage: Stage, host: NatHost, vip: str) -> socket.socket:
    caller = stage.tcp(host)
    caller.connect((vip, PORT))
    return caller


def accepted_at(listeners: dict[str, socket.socket], count: int) -> tuple[Counter[str], list[socket.socket]]:
    """Where `count` connections ended up."""
    where: Counter[str] = Counter()
    found = []
    while len(found) < count:
        ready = select.select(listeners.values(), [], [], 20)[0]
        if not ready:
            break  # the caller says what is missing
        for name in (name for name, listener in listeners.items() if listener in ready):
            found.append(listeners[name].accept()[0])
            where[name] += 1
    return where, found


@pytest.mark.parametrize(
    ("client", "vip", "server", "source"),
    [(CLIENT4, VIP4, SERVER6, "2001:db8:6:"), (CLIENT6, VIP6, SERVER4, "203.0.113.")],
    ids=["IPv4 to IPv6", "IPv6 to IPv4"],
)
def test_a_vip_leads_to_the_other_family(stage: Stage, client: NatHost, vip: str, server: NatHost, source: str) -> None:
    """The backend sees an address of the gateway; both ends talk."""
    stage.apply(services(1, 0))
    listener = listen(stage, server)
    caller = connect(stage, client, vip)
    accepted, peer = listener.accept()
    assert peer[0].startswith(source)
    caller.sendall(b"question" * 1000)
    got = b""
    while len(got) < 8000:
        got += accepted.recv(65536)
    accepted.sendall(got)
    back = b""
    while len(back) < 8000:
        back += caller.recv(65536)
    assert back == b"question" * 1000
    (row,) = stage.sessions("--protocol", "tcp", "--client", client.ip, "--state", "est")
    assert row["service"] == f"{vip} TCP {PORT}"
    assert (row["remote"], row["remotePort"]) == (server.ip, BACKEND_PORT)
    assert row["pool"] == peer[0]


def test_udp_of_a_service(stage: Stage) -> None:
    backend, client = stage.udp(SERVER6, 5353), stage.udp(CLIENT4)
    client.sendto(b"question", (VIP4, 53))
    data, seen = backend.recvfrom(100)
    assert data == b"question"
    backend.sendto(b"answer", seen)
    data, source = client.recvfrom(100)
    assert (data, source) == (b"answer", (VIP4, 53))


def test_backends_get_connections_by_weight(stage: Stage) -> None:
    stage.apply(services(3, 1))
    listeners = {name: listen(stage, SERVER6, name) for name in (SERVER6.ip, SECOND6)}
    for _ in range(80):
        connect(stage, CLIENT4, VIP4)
    where, _ = accepted_at(listeners, 80)
    assert sum(where.values()) == 80
    assert 35 <= where[SERVER6.ip] < 80, where  # anything else is chance once in 10^9


def test_a_backend_drains(stage: Stage) -> None:
    """Weight 0: what is connected goes on, what is new goes elsewhere."""
    stage.apply(services(0, 1))
    listeners = {name: listen(stage, SERVER6, name) for name in (SERVER6.ip, SECOND6)}
    caller = connect(stage, CLIENT4, VIP4)
    where, (old,) = accepted_at(listeners, 1)
    assert where == {SECOND6: 1}
    stage.apply(services(1, 0))
    for _ in range(10):
        connect(stage, CLIENT4, VIP4)
    where, _ = accepted_at(listeners, 10)
    assert where == {SERVER6.ip: 10}
    caller.sendall(b"still here")
    assert old.recv(100) == b"still here"
    old.sendall(b"so am I")
    assert caller.recv(100) == b"so am I"


def test_a_drained_backend_gets_no_port_that_is_used_again(stage: Stage) -> None:
    """The same port of the client, seconds after its last connection ended: a new one, for the backend that is left."""
    stage.apply(services(0, 1))
    listeners = {name: listen(stage, SERVER6, name) for name in (SERVER6.ip, SECOND6)}
    caller = connect(stage, CLIENT4, VIP4)
    port = caller.getsockname()[1]
    where, (old,) = accepted_at(listeners, 1)
    assert where == {SECOND6: 1}
    old.close()  # first, so that the client's port rests nowhere
    assert caller.recv(1) == b""
    caller.close()
    stage.apply(services(1, 0))
    (row,) = stage.sessions("--protocol", "tcp", "--client", CLIENT4.ip)
    assert row["remote"] == SECOND6
    assert row["state"] == "BOTH_FIN"
    again = stage.tcp(CLIENT4, port)
    again.connect((VIP4, PORT))
    where, _ = accepted_at(listeners, 1)
    assert where == {SERVER6.ip: 1}


def test_ports_of_the_gateway_itself_are_kept_apart(stage: Stage) -> None:
    """Backends see the gateway's own addresses, whose ports it uses itself: no session has one of those."""
    stage.apply(services(1, 0))
    listener = listen(stage, SERVER6)
    low, high = 32768, 60999
    ports = []
    for _ in range(40):
        connect(stage, CLIENT4, VIP4)
        accepted, peer = listener.accept()
        ports.append(peer[1])
        accepted.close()
    assert not [port for port in ports if low <= port <= high]
    assert "is an address of this host; its ports" in stage.message()
    assert "32768-60999" in stage.message()
    outward = stage.lab.run("gw", ["ping", "-c", "1", "-W", "20", SERVER6.ip])
    assert "1 received" in outward.stdout, "the host's own traffic is left to it"


def test_a_port_without_a_service_is_left_alone(stage: Stage) -> None:
    caller = stage.tcp(CLIENT4)
    caller.settimeout(1)
    with pytest.raises(OSError, match=r"timed out|unreachable|refused"):
        caller.connect((VIP4, 81))


def test_a_service_that_goes_ends_nothing_of_another(stage: Stage) -> None:
    stage.apply(services(1, 0))
    listener = listen(stage, SERVER6)
    caller = connect(stage, CLIENT4, VIP4)
    accepted, _ = listener.accept()
    fewer = services(1, 0)
    del fewer["spec"]["services"][2]
    stage.apply(fewer)
    caller.sendall(b"still here")
    assert accepted.recv(100) == b"still here"
    stage.apply(services(1, 0))
    caller.sendall(b"and here")
    assert accepted.recv(100) == b"and here"
