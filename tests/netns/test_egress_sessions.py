"""Sessions of a pod of one node through a gateway on another, in both families and by both transports."""

from __future__ import annotations

import hashlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from e2e.lab.egress import SERVER, SERVER4, SERVER6, SOURCE4, SOURCE6, EgressLab, egress_gateway
from e2e.lab.run import LabRun

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 7007
PATIENCE_S = 60.0
BYTES = 1 << 20
FAMILIES = pytest.mark.parametrize(("server", "source"), [(SERVER4, SOURCE4), (SERVER6, SOURCE6)], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module", params=["VXLAN", "Direct"])
def lab(request: pytest.FixtureRequest) -> Iterator[EgressLab]:
    """A node with a selected pod, and a gateway."""
    with LabRun() as run:
        made = EgressLab(run)
        made.objects = {"payments": egress_gateway(transport=request.param, nat={"maxSessions": 65536})}
        made.add_node("n1")
        made.add_node("g1", gateway=True)
        made.add_pod("pay", "n1")
        made.start()
        made.wait_pods("n1", 1)
        made.wait_settled()
        shown = made.command("n1", ["egress", "explain", "pay/pay", SERVER4]).stdout
        assert ("Packets go straight to" in shown) == (request.param == "Direct")
        yield made


def socket_of(server: str, kind: socket.SocketKind) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, kind)
    made.settimeout(PATIENCE_S)
    return made


@FAMILIES
def test_a_connection_carries_data_both_ways_and_ends(lab: EgressLab, server: str, source: str) -> None:
    """The server sends back what it gets, and sees the gateway's address; both ends read to the end."""
    data = hashlib.shake_128(server.encode()).digest(BYTES)
    seen: list[str] = []

    def listen() -> socket.socket:
        made = socket_of(server, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((server, PORT))
        made.listen()
        return made

    def answer(listener: socket.socket) -> None:
        made, peer = listener.accept()
        seen.append(peer[0])
        with made:
            made.settimeout(PATIENCE_S)
            while chunk := made.recv(65536):
                made.sendall(chunk)

    def upload(client: socket.socket) -> None:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)

    with (
        lab.lab.call(SERVER, listen) as listener,
        lab.lab.call("pay", lambda: socket_of(server, socket.SOCK_STREAM)) as client,
    ):
        serving = threading.Thread(target=answer, args=(listener,), daemon=True)
        serving.start()
        client.connect((server, PORT))
        sending = threading.Thread(target=upload, args=(client,), daemon=True)
        sending.start()
        back = bytearray()
        while chunk := client.recv(65536):
            back += chunk
        sending.join(PATIENCE_S)
        serving.join(PATIENCE_S)
    assert bytes(back) == data
    assert seen == [source]


@FAMILIES
def test_datagrams_are_answered_from_outside_by_one_port(lab: EgressLab, server: str, source: str) -> None:
    """One socket of the pod has one mapping, by which every answer finds it."""

    def listen() -> socket.socket:
        made = socket_of(server, socket.SOCK_DGRAM)
        made.bind((server, PORT))
        return made

    peers = set()
    with (
        lab.lab.call(SERVER, listen) as listener,
        lab.lab.call("pay", lambda: socket_of(server, socket.SOCK_DGRAM)) as client,
    ):
        for number in range(5):
            client.sendto(b"%d" % number, (server, PORT))
            told, peer = listener.recvfrom(64)
            peers.add(peer[:2])
            listener.sendto(told + b"!", peer)
            assert client.recv(64) == b"%d!" % number
    assert len(peers) == 1
    assert peers.pop()[0] == source
