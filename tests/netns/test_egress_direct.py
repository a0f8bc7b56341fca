"""`transport: Direct`: frames instead of a tunnel between nodes of one segment, and super-packets of any size whole."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from e2e.lab import traffic
from e2e.lab.egress import LAN, SERVER, SERVER4, SERVER6, SOURCE4, SOURCE6, EgressLab, egress_gateway
from e2e.lab.run import LabRun
from sixgate.node.egress.direct import pair_mac
from sixgate.node.selftest import Counter
from tests.bpf.harness import OBJECTS
from tests.netns.test_bigtcp_transfer import set_sizes
from tests.netns.test_egress import sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

BIG, DATA_BYTES = 196_608, 60_000_000
FAMILIES = pytest.mark.parametrize(("server", "source"), [(SERVER4, SOURCE4), (SERVER6, SOURCE6)], ids=["ipv4", "ipv6"])
POLICY: dict[str, Any] = {
    "apiVersion": "sixgate.io/v1alpha1",
    "kind": "BIGTCPPolicy",
    "metadata": {"name": "big"},
    "spec": {
        "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "n1"}},
        "ipv6": {"maxSize": BIG},
        "ipv4": {"maxSize": BIG},
        "devices": {"include": ["auto"]},
        "pods": "Live",
    },
}


@pytest.fixture(scope="module")
def lab() -> Iterator[EgressLab]:
    with LabRun() as run:
        made = EgressLab(run)
        made.objects = {"payments": egress_gateway(transport="Direct", nat={"maxSessions": 65536})}
        made.add_node("n1")
        made.add_node("g1", gateway=True)
        made.add_node("g2", gateway=True)
        made.add_pod("pay", "n1")
        made.add_pod("plain", "n1", "other")
        made.start()
        made.wait_pods("n1", 1)
        made.wait_settled()
        yield made


def explained(lab: EgressLab) -> str:
    return lab.command("n1", ["egress", "explain", "pay/pay", SERVER4]).stdout


@FAMILIES
def test_a_selected_pod_leaves_with_the_declared_address_and_is_answered(
    lab: EgressLab, server: str, source: str
) -> None:
    assert "Packets go straight to" in explained(lab)
    assert "up to 1500 bytes" in explained(lab)
    assert sources(lab, "pay", server) == {source}
    assert traffic.ping(lab.lab, "pay", server, count=2).received == 2


def test_a_packet_as_large_as_the_segment_allows_goes_through_and_larger_ones_are_answered(lab: EgressLab) -> None:
    whole = lab.lab.run("pay", ["ping", "-c", "1", "-M", "do", "-s", "1472", "-W", "20", SERVER4])
    assert "1 received" in whole.stdout
    inside, outside = lab.lab.device("eth0"), lab.lab.device("pay")
    lab.lab.ip("pay", f"link set {inside} mtu 9000")
    lab.lab.ip("n1", f"link set {outside} mtu 9000")
    try:
        told = lab.lab.run("pay", ["ping", "-c", "2", "-M", "do", "-s", "4000", "-W", "20", SERVER4], check=False)
        assert "mtu = 1500" in told.stdout or "mtu=1500" in told.stdout + told.stderr
        # What may be fragmented is, in the tunnel, whatever the transport.
        lab.lab.run("pay", ["ip", "route", "flush", "cache"])
        assert datagram(lab, 4000) == (4000, SOURCE4)
    finally:
        lab.lab.ip("pay", f"link set {inside} mtu 1500")
        lab.lab.ip("n1", f"link set {outside} mtu 1500")


def datagram(lab: EgressLab, size: int) -> tuple[int, str]:
    """Size and source of a datagram of the pod that may be fragmented, as the server gets it."""

    def listen() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((SERVER4, 0))
        made.settimeout(60)
        return made

    def send(port: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER, IP_PMTUDISC_DONT
            sender.sendto(bytes(size), (SERVER4, port))

    with lab.lab.call(SERVER, listen) as receiver:
        lab.lab.call("pay", lambda: send(receiver.getsockname()[1]))
        data, (source, _) = receiver.recvfrom(65535)
    return len(data), source


def test_frames_to_gateways_are_taken_by_their_devices_and_by_no_others(lab: EgressLab) -> None:
    pair = lab.reports("n1")[0]["pair"]
    for node, number in lab.nodes.items():
        taken = lab.lab.run(node, ["bridge", "fdb", "show"]).stdout
        assert (pair_mac(f"198.51.100.{number}", pair).hex(":") in taken) == (node in lab.gateways)


def test_a_gateway_behind_a_router_is_reached_through_the_tunnel(lab: EgressLab) -> None:
    owner = lab.wait_settled()
    address = f"198.51.100.{lab.nodes[owner]}"
    lab.lab.sysctl(SERVER, "net/ipv4/conf/all/forwarding", "1")
    lab.lab.ip("n1", f"route add {address}/32 via 198.51.100.200")
    try:
        lab.wait(lambda: "through the tunnel" in explained(lab), lambda: explained(lab))
        assert sources(lab, "pay", SERVER4) == {SOURCE4}
        assert traffic.ping(lab.lab, "pay", SERVER4, count=2).received == 2
    finally:
        lab.lab.ip("n1", f"route del {address}/32")
    lab.wait(lambda: "Packets go straight" in explained(lab), lambda: explained(lab))


def test_connections_survive_a_planned_move(lab: EgressLab) -> None:
    with connected(lab, SERVER4) as (mine, theirs):
        old = lab.wait_settled()
        lab.cordoned = {old}
        lab.write()
        try:
            lab.wait(lambda: lab.owner("n1") not in ("", old), lambda: f"the pair stays at {old}\n{lab.tail(old)}")
            for end, other in ((mine, theirs), (theirs, mine)):
                for _ in range(20):
                    end.sendall(b"x")
                    assert other.recv(1) == b"x"
        finally:
            lab.cordoned = set()
            lab.write()
            lab.wait_settled()


@contextlib.contextmanager
def connected(lab: EgressLab, server: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection: the pod's end and the server's."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET

    def dial() -> socket.socket:
        made = socket.socket(family)
        made.settimeout(20)
        made.connect(listener.getsockname()[:2])
        return made

    with lab.lab.call(SERVER, lambda: socket.create_server((server, 0), family=family)) as listener:
        listener.settimeout(20)
        mine = lab.lab.call("pay", dial)
        theirs, _ = listener.accept()
    theirs.settimeout(20)
    with mine, theirs:
        yield mine, theirs


class Room:
    """A namespace of the lab, for `Counter.on`."""

    def __init__(self, lab: LabRun, role: str) -> None:
        self._lab, self._role = lab, role

    def do(self, function: Callable[[], Any]) -> Any:
        return self._lab.call(self._role, function)


@pytest.fixture(scope="module")
def big(lab: EgressLab) -> EgressLab:
    """The same with a policy for every node, and what is no node's made to fit."""
    names = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": sorted(lab.nodes)}]}
    try:
        for role, device in ((SERVER, "up"), *((LAN, name) for name in (SERVER, *lab.nodes))):
            set_sizes(lab.lab, role, device, BIG)
    except AssertionError as error:
        pytest.skip(f"This kernel has no BIG TCP for both families: {error}")
    lab.objects["big"] = {**POLICY, "spec": {**POLICY["spec"], "nodeSelector": names}}
    lab.write()
    lab.wait(lambda: sizes(lab, "n1", "pay") == sizes(lab, "n1", "up") == (BIG, BIG), lambda: lab.tail("n1"))
    lab.wait(lambda: sizes(lab, "pay", "eth0") == (BIG, BIG), lambda: lab.tail("n1"))
    lab.wait(lambda: all(sizes(lab, each, "up") == (BIG, BIG) for each in lab.gateways), lambda: lab.tail("g1"))
    return lab


def sizes(lab: EgressLab, role: str, device: str) -> tuple[int, int]:
    """gso_max_size and gro_max_size."""
    words = lab.lab.run(role, ["ip", "-d", "link", "show", lab.lab.device(device)]).stdout.split()
    return int(words[words.index("gso_max_size") + 1]), int(words[words.index("gro_max_size") + 1])


@FAMILIES
@pytest.mark.parametrize("upload", [True, False], ids=["requests", "replies"])
def test_super_packets_of_more_than_64_kb_stay_whole(big: EgressLab, server: str, source: str, upload: bool) -> None:
    del source
    data = random.Random(1).randbytes(DATA_BYTES)
    role, device = (SERVER, "up") if upload else ("pay", "eth0")
    counter = Counter(OBJECTS)
    with contextlib.closing(counter), connected(big, server) as (mine, theirs):
        sender, receiver = (mine, theirs) if upload else (theirs, mine)
        with counter.on(Room(big.lab, role), big.lab.device(device)):
            thread = threading.Thread(target=sender.sendall, args=(data,))
            thread.start()
            seen = hashlib.sha256()
            left = DATA_BYTES
            while left:
                got = receiver.recv(min(left, 1 << 20))
                assert got
                seen.update(got)
                left -= len(got)
            thread.join()
            packets, total, large, _ = counter.read(6 if ":" in server else 4)
    assert seen.digest() == hashlib.sha256(data).digest()
    assert large > packets / 2
    assert total / packets > 65_536
