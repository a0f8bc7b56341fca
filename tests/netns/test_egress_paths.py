"""What happens on the way of a pod's packets beside plain ones: errors, small MTUs, fragments, no checksums, NAT64.

Behind the server is one more link with an MTU of its own, and hosts 203.0.113.50 and 2001:db8:f00d::50 on it.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

import pytest

from bench.nat_labs import gateway as nat_gateway
from e2e.lab import traffic
from e2e.lab.egress import GATEWAY_LABEL, SERVER, SERVER4, SOURCE4, SOURCE6, EgressLab, egress_gateway
from e2e.lab.run import LabRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PORT = 9000
FAR = "far"
FAR4, FAR6 = "203.0.113.50", "2001:db8:f00d::50"
POOL = "198.51.100.99"
VIP = "192.0.2.90"
TUNNEL_MTU = 1450
FAMILIES = pytest.mark.parametrize(("far", "source"), [(FAR4, SOURCE4), (FAR6, SOURCE6)], ids=["ipv4", "ipv6"])
PODS = pytest.mark.parametrize("pod", ["pay", "ongw"])
SO_NO_CHECK = 11
IP_RECVERR, IPV6_RECVERR = 11, 25
UNREACHABLE = {4: "203.0.113.60", 6: "2001:db8:f00d::60"}


@pytest.fixture(scope="module")
def lab() -> Iterator[EgressLab]:
    """One gateway that does stateful NAT64, too, with a pod of its own; a pod elsewhere; a far network."""
    with LabRun() as run:
        made = EgressLab(run)
        nat64 = nat_gateway({"prefix": "2001:db8:64::/96", "stateful": {"pools": [{"cidr": f"{POOL}/32"}]}}, "nat64")
        nat64["spec"]["nodeSelector"] = {"matchLabels": GATEWAY_LABEL}
        made.objects = {"payments": egress_gateway(nat={"maxSessions": 65536}), "nat64": nat64, "web": _balancer()}
        made.add_node("n1")
        made.add_node("g1", gateway=True)
        made.add_pod("pay", "n1")
        made.add_pod("ongw", "g1")
        made.add_pod("plain", "g1", "other")
        _far(made)
        made.start()
        for node in ("n1", "g1"):
            made.wait_pods(node, 1)
        made.wait_settled()
        yield made


def _balancer() -> dict[str, Any]:
    """A virtual address in front of the server, on the gateway."""
    spec = {
        "nodeSelector": {"matchLabels": GATEWAY_LABEL},
        "vips": [VIP],
        "ports": [{"port": PORT, "protocol": "UDP"}],
        "backends": [{"address": SERVER4}],
        "forwarding": {"mode": "NAT"},
    }
    return {"apiVersion": "sixgate.io/v1alpha1", "kind": "LoadBalancer", "metadata": {"name": "web"}, "spec": spec}


def _far(lab: EgressLab) -> None:
    run = lab.lab
    run.add_netns(FAR)
    run.add_veth(FAR, "up", SERVER, FAR)
    for key in ("ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"):
        run.sysctl(SERVER, f"net/{key}", "1")
    run.sysctl(SERVER, "net/ipv4/icmp_ratelimit", "0")
    run.sysctl(SERVER, "net/ipv6/icmp/ratelimit", "0")
    run.sysctl(FAR, "net/ipv4/icmp_ratelimit", "0")
    run.sysctl(FAR, "net/ipv6/icmp/ratelimit", "0")
    inside, outside = run.device("up"), run.device(FAR)
    run.ip(
        FAR,
        f"addr add {FAR4}/32 dev {inside}",
        f"addr add {FAR6}/128 dev {inside} nodad",
        f"route add 198.51.100.0/24 dev {inside}",
        f"route add ::/0 via fe80::1 dev {inside}",
    )
    run.ip(
        SERVER,
        f"addr add fe80::1/64 dev {outside} nodad",
        f"route add {FAR4}/32 dev {outside}",
        f"route add {FAR6}/128 dev {outside}",
        "route add unreachable 203.0.113.60/32",
        "route add unreachable 2001:db8:f00d::60/128",
        f"route add {POOL}/32 via 198.51.100.2",
    )
    run.sysctl(SERVER, f"net/ipv4/conf/{outside}/proxy_arp", "1")


def version(address: str) -> int:
    return 6 if ":" in address else 4


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def set_far_mtu(lab: EgressLab, mtu: int) -> None:
    """Of the last link; what hosts have learnt of it is forgotten."""
    lab.lab.ip(SERVER, f"link set {lab.lab.device(FAR)} mtu {mtu}")
    lab.lab.ip(FAR, f"link set {lab.lab.device('up')} mtu {mtu}")
    for pod in ("pay", "ongw"):
        lab.lab.run(pod, ["ip", "route", "flush", "cache"])
        lab.lab.run(pod, ["ip", "-6", "route", "flush", "cache"])


def listener(lab: EgressLab, role: str, address: str, timeout: float = 20.0) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(family(address), socket.SOCK_DGRAM)
        made.bind((address, PORT))
        made.settimeout(timeout)
        return made

    return lab.lab.call(role, make)


def talker(lab: EgressLab, role: str, address: str, set_up: Callable[[socket.socket], None] | None = None) -> Any:
    """A UDP socket that is connected to an address, from a pod."""

    def make() -> socket.socket:
        made = socket.socket(family(address), socket.SOCK_DGRAM)
        if set_up is not None:
            set_up(made)
        made.connect((address, PORT))
        made.settimeout(15)
        return made

    return lab.lab.call(role, make)


def whole(made: socket.socket) -> None:
    """Its packets are not fragmented, by nobody (IP_MTU_DISCOVER, IPV6_MTU_DISCOVER)."""
    made.setsockopt(*((socket.IPPROTO_IPV6, 23, 2) if made.family == socket.AF_INET6 else (socket.IPPROTO_IP, 10, 2)))


def _must_be_size(error: OSError) -> None:
    if error.errno != errno.EMSGSIZE:
        raise error


def send(made: socket.socket, size: int) -> None:
    """Errors about former packets, of which there may be several, come with any later one."""
    for _ in range(50):
        try:
            made.send(bytes(size))
        except OSError as error:
            _must_be_size(error)
        else:
            return
    raise AssertionError(f"{size} bytes are too long")


def learnt_mtu(made: socket.socket, size: int) -> int:
    """What the socket's host thinks of the path (IP_MTU, IPV6_MTU) after packets that were too large; 0: nothing."""
    for _ in range(40):
        try:
            made.send(bytes(size))
        except OSError as error:
            _must_be_size(error)
            option = (socket.IPPROTO_IPV6, 24) if made.family == socket.AF_INET6 else (socket.IPPROTO_IP, 14)
            return made.getsockopt(*option)
        time.sleep(0.05)
    return 0


@FAMILIES
@PODS
@pytest.mark.parametrize("mtu", [1280, 1400])
def test_a_pod_learns_of_a_small_mtu_behind_the_server(
    lab: EgressLab, pod: str, far: str, source: str, mtu: int
) -> None:
    """What comes back is an error about a packet of the gateway; the pod must see its own in it."""
    set_far_mtu(lab, mtu)
    header = 48 if version(far) == 6 else 28
    with listener(lab, FAR, far) as receiver, talker(lab, pod, far) as sender:
        whole(sender)
        assert learnt_mtu(sender, 1440 - header) == mtu
        send(sender, mtu - header)
        data, (address, *_) = receiver.recvfrom(2048)
        assert (len(data), address) == (mtu - header, source)
    set_far_mtu(lab, 1500)


@FAMILIES
@PODS
def test_a_closed_port_is_heard_of_in_the_pod(lab: EgressLab, pod: str, far: str, source: str) -> None:
    del source
    with talker(lab, pod, far) as sender:
        sender.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            sender.recv(16)


@pytest.mark.parametrize("number", [4, 6], ids=["ipv4", "ipv6"])
@PODS
def test_an_unreachable_host_is_heard_of_in_the_pod(lab: EgressLab, pod: str, number: int) -> None:
    def set_up(made: socket.socket) -> None:
        made.setsockopt(*((socket.IPPROTO_IPV6, IPV6_RECVERR, 1) if number == 6 else (0, IP_RECVERR, 1)))

    with talker(lab, pod, UNREACHABLE[number], set_up) as sender:
        sender.send(b"x")
        with pytest.raises(OSError, match=r"No route to host|Network is unreachable"):
            sender.recv(16)


@PODS
@pytest.mark.parametrize(("far", "hops"), [(FAR4, "198.51.100.200"), (FAR6, "2001:db8:e::200")], ids=["ipv4", "ipv6"])
def test_a_router_on_the_way_answers_for_a_packet_that_ends_there(
    lab: EgressLab, pod: str, far: str, hops: str
) -> None:
    """Time exceeded, of an echo request: the number inside is the pod's own."""
    words = ["ping", "-n", "-c", "1", "-W", "20", "-t", "2", far]
    said = lab.lab.run(pod, words, check=False).stdout
    assert re.search(rf"From {re.escape(hops)}.*[Tt]ime", said), said


def through(sender: Any, payload: bytes, receiver: socket.socket) -> tuple[bytes, Any]:
    """A datagram that gets through; of IPv6 the first one may be what tells the sender how small its fragments are."""
    receiver.settimeout(0.5)
    for _ in range(60):
        try:
            sender(payload)
            return receiver.recvfrom(65536)
        except TimeoutError:
            continue
        except OSError as error:
            _must_be_size(error)
    raise AssertionError("nothing arrived")


@FAMILIES
@PODS
@pytest.mark.parametrize("size", [3000, 8000])
def test_fragments_go_and_come(lab: EgressLab, pod: str, far: str, source: str, size: int) -> None:
    payload = os.urandom(size)
    with listener(lab, FAR, far) as receiver, talker(lab, pod, far) as sender:
        sender.setsockopt(*((socket.IPPROTO_IPV6, 23, 0) if version(far) == 6 else (socket.IPPROTO_IP, 10, 0)))
        data, peer = through(sender.send, payload, receiver)
        assert (data, peer[0]) == (payload, source)
        receiver.connect(peer)
        assert through(receiver.send, payload[::-1], sender)[0] == payload[::-1]


def fragments(source: str, target: str, payload: bytes, ports: tuple[int, int]) -> list[bytes]:
    """An IPv4 UDP datagram without checksum in two fragments."""
    body = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
    made = []
    for start, end, more in ((0, 1000, 0x2000), (1000, len(body), 0)):
        part = body[start:end]
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(part), 4711, more | start // 8, 64, 17, 0)
        made.append(head + socket.inet_aton(source) + socket.inet_aton(target) + part)
    return made


@PODS
@pytest.mark.parametrize("turned", [False, True], ids=["in-order", "last-first"])
def test_fragments_in_any_order_and_without_a_checksum(lab: EgressLab, pod: str, turned: bool) -> None:
    payload = os.urandom(1800)
    packets = fragments(lab.pods[pod].ipv4, FAR4, payload, (40000, PORT))

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for packet in packets[::-1] if turned else packets:
                raw.sendto(packet, (FAR4, 0))
                time.sleep(0.05)

    with listener(lab, FAR, FAR4) as receiver:
        lab.lab.call(pod, send)
        data, (address, _) = receiver.recvfrom(4096)
    assert (data, address) == (payload, SOURCE4)


@PODS
def test_udp_without_a_checksum_goes_and_comes_without_one(lab: EgressLab, pod: str) -> None:
    def no_sum(made: socket.socket) -> None:
        made.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)

    with listener(lab, FAR, FAR4) as receiver, talker(lab, pod, FAR4, no_sum) as sender:
        no_sum(receiver)
        for _ in range(3):
            sender.send(b"question")
            data, peer = receiver.recvfrom(64)
            assert (data, peer[0]) == (b"question", SOURCE4)
            receiver.sendto(b"answer", peer)
            assert sender.recv(64) == b"answer"


@FAMILIES
def test_a_server_learns_of_the_tunnels_mtu(lab: EgressLab, far: str, source: str) -> None:
    """A reply that fits the server's path but not the tunnel, and must not be fragmented."""
    header = 48 if version(far) == 6 else 28
    with listener(lab, FAR, far) as receiver, talker(lab, "pay", far) as sender:
        sender.send(b"x")
        peer = receiver.recvfrom(64)[1]
        assert peer[0] == source
        receiver.connect(peer)
        whole(receiver)
        assert learnt_mtu(receiver, 1500 - header) == TUNNEL_MTU
        send(receiver, TUNNEL_MTU - header)
        assert len(sender.recv(4096)) == TUNNEL_MTU - header


@pytest.mark.parametrize("pod", ["plain", "ongw"])
def test_pods_of_a_gateway_node_have_its_nat64(lab: EgressLab, pod: str) -> None:
    """Egress has their devices' hook; what it lets pass is asked for by NAT64."""
    with listener(lab, SERVER, SERVER4) as receiver, talker(lab, pod, f"2001:db8:64::{SERVER4}") as sender:
        sender.send(b"question")
        data, peer = receiver.recvfrom(64)
        assert (data, peer[0]) == (b"question", POOL)
        receiver.sendto(b"answer", peer)
        assert sender.recv(64) == b"answer"
    assert traffic.ping(lab.lab, pod, f"2001:db8:64::{SERVER4}", count=2).received == 2


@pytest.mark.parametrize("pod", ["plain", "ongw"])
def test_pods_of_a_gateway_node_reach_its_virtual_addresses(lab: EgressLab, pod: str) -> None:
    """The balancer is asked for what egress lets pass, as NAT64 is."""
    with listener(lab, SERVER, SERVER4) as receiver, talker(lab, pod, VIP) as sender:
        sender.send(b"question")
        data, peer = receiver.recvfrom(64)
        assert (data, peer[0]) == (b"question", f"198.51.100.{lab.nodes['g1']}")
        receiver.sendto(b"answer", peer)
        assert sender.recv(64) == b"answer"
