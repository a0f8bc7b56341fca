"""DSR end to end: a client, the balancer in XDP or tc, backends that unpack and answer by themselves."""

from __future__ import annotations

import errno
import hashlib
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from e2e.lab import traffic
from e2e.lab.run import LabRun
from sixgate.node import selftest
from sixgate.node.bpf.layouts import SgLbKind
from tests.bpf.balancer import Slots
from tests.bpf.harness import OBJECTS
from tests.netns.lb_lab import BACKENDS, OUTER4, OUTER6, VIP4, VIP6, LbLab, Servers, address, connect, transfer
from tests.netns.streams import switched
from tests.netns.taps import Tap
from tests.netns.test_bigtcp_transfer import BIG, set_sizes

TCP, UDP = 6, 17
INNER = pytest.mark.parametrize("v6", [False, True], ids=["v4", "v6"])
OUTER = pytest.mark.parametrize("outer6", [False, True], ids=["in-v4", "in-v6"])


@pytest.fixture(scope="module", params=[True, False], ids=["xdp", "tc"])
def lab(request: pytest.FixtureRequest) -> Iterator[LbLab]:
    """Without room in the MSS: what is too big has to be answered."""
    with LabRun() as run, LbLab(run, xdp=request.param) as made:
        yield made


def vip(v6: bool) -> str:
    return VIP6 if v6 else VIP4


def refused(client: socket.socket, data: bytes) -> bool:
    """Whether the kernel knows that this is too big."""
    try:
        client.send(data)
    except OSError as error:
        return error.errno == errno.EMSGSIZE
    return False


def until(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within 20 seconds, which is long beside any load."""
    for _ in range(1000):
        if condition():
            return True
        time.sleep(0.02)
    return False


def connect_all(lab: LbLab, stack: ExitStack, vip: str, port: int) -> tuple[list[str], socket.socket]:
    """16 connections, and more until both backends have one: which gets one is chance. Who has them, and the last."""
    named: list[str] = []
    while len(named) < 16 or (len(named) < 64 and set(named) != set(BACKENDS)):
        stream, name = connect(lab.lab, vip, port)
        stack.enter_context(stream)
        named.append(name)
    return named, stream


@INNER
@OUTER
def test_streams_reach_both_backends_and_arrive_whole(lab: LbLab, v6: bool, outer6: bool) -> None:
    port = 8000 + 2 * v6 + outer6
    lab.balance(v6, outer6, (port, port), TCP)
    data = random.Random(port).randbytes(300_000)
    with closing(Servers(lab.lab, vip(v6), port)) as servers, ExitStack() as stack:
        named, stream = connect_all(lab, stack, vip(v6), port)
        assert set(named) == set(BACKENDS)
        assert transfer(stream, data) == data
        assert servers.seen == Counter(named)
    reasons = lab.lb.reasons()
    assert reasons["SG_OK_LB"] > 200
    assert sum(each.reasons()["SG_OK_DECAP"] for each in lab.backends.values()) > 200


@INNER
@OUTER
def test_a_mapped_port_is_the_vips_port_again_in_replies(lab: LbLab, v6: bool, outer6: bool) -> None:
    port, target = 9000 + 2 * v6 + outer6, 80
    lab.balance(v6, outer6, (port, target), TCP)
    data = random.Random(port).randbytes(100_000)
    with closing(Servers(lab.lab, vip(v6), target)):
        stream, name = connect(lab.lab, vip(v6), port)
        with stream:
            assert name in BACKENDS
            assert transfer(stream, data) == data


@INNER
@OUTER
def test_datagrams_with_a_mapped_port(lab: LbLab, v6: bool, outer6: bool) -> None:
    port, target = 7000 + 2 * v6 + outer6, 70
    lab.balance(v6, outer6, (port, target), UDP)
    with closing(Servers(lab.lab, vip(v6), target, udp=True)):
        family = socket.AF_INET6 if v6 else socket.AF_INET
        client = lab.lab.call("client", lambda: socket.socket(family, socket.SOCK_DGRAM))
        with client:
            client.settimeout(20)
            client.connect((vip(v6), port))
            for length in (1, 100, 1000):
                client.send(b"x" * length)
                answer = client.recv(2000)
                assert answer[:3].decode() in BACKENDS
                assert answer[3:] == b"x" * length


@INNER
def test_ping_is_answered_by_the_balancer(lab: LbLab, v6: bool) -> None:
    lab.balance(v6, v6, (80, 80), TCP)
    before = lab.lb.reasons().get("SG_OK_LB_ECHO", 0)
    assert traffic.ping(lab.lab, "client", vip(v6), count=3, size=600).received == 3
    assert lab.lb.reasons()["SG_OK_LB_ECHO"] == before + 3


@INNER
def test_a_packet_too_big_for_the_outer_header_is_answered(lab: LbLab, v6: bool) -> None:
    """1,472 (1,452) bytes fit the client's link but not, with an outer header, the backend's."""
    port = 6000 + v6
    lab.balance(v6, v6, (port, port), UDP)
    with closing(Servers(lab.lab, vip(v6), port, udp=True)):
        family = socket.AF_INET6 if v6 else socket.AF_INET
        client = lab.lab.call("client", lambda: socket.socket(family, socket.SOCK_DGRAM))
        with client:
            client.settimeout(20)
            if v6:
                client.setsockopt(socket.IPPROTO_IPV6, 23, 2)  # IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO
            else:
                client.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
            client.connect((vip(v6), port))
            assert until(lambda: refused(client, b"x" * (1452 if v6 else 1472)))
            fits = b"z" * (1500 - 40 - (48 if v6 else 28))  # a client may have learnt of IPv6 before
            assert until(lambda: not refused(client, fits))  # the socket may still have to tell of another answer
            assert client.recv(2000)[3:] == fits
    assert lab.lb.reasons()["SG_OK_ICMP_SENT"] >= 1
    assert lab.tables.drops()["SG_DROP_TOO_BIG"] >= 1


@OUTER
@pytest.mark.parametrize("target", [0, 77], ids=["plain", "mapped"])
def test_datagrams_that_may_be_cut_are_cut_and_arrive_whole(lab: LbLab, outer6: bool, target: int) -> None:
    """One that is too long with its outer header, and ones that are fragments of that length already."""
    port = 6100 + 2 * bool(target) + outer6
    lab.balance(False, outer6, (port, target or port), UDP)
    lab.lab.ip("client", "route flush cache")  # what it was told of by another test would spare the balancer the work
    before = lab.lb.reasons().get("SG_OK_FRAGMENTED", 0)
    with closing(Servers(lab.lab, VIP4, target or port, udp=True)):
        client = lab.lab.call("client", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with client:
            client.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER, IP_PMTUDISC_DONT
            client.settimeout(20)
            client.connect((VIP4, port))
            for length in (1, 1472, 3000, 9000):
                data = random.Random(length).randbytes(length)
                client.send(data)
                answer = client.recv(10_000)
                assert answer[:3].decode() in BACKENDS
                assert answer[3:] == data
    assert lab.lb.reasons()["SG_OK_FRAGMENTED"] - before == 1 + 2 + 6


@INNER
@OUTER
def test_super_packets_stay_whole_in_tc(lab: LbLab, v6: bool, outer6: bool) -> None:
    """Their segments, made for the client's link, are cut smaller for the outer header; XDP meets none."""
    port = 5000 + 2 * v6 + outer6
    lab.balance(v6, outer6, (port, port), TCP)
    data = random.Random(port).randbytes(2_000_000)
    with closing(Servers(lab.lab, vip(v6), port)), ExitStack() as stack:
        stream, name = connect(lab.lab, vip(v6), port)
        stack.enter_context(stream)
        tap = stack.enter_context(Tap(lab.lab, "lb", name, sent=True))
        assert transfer(stream, data) == data
        outer = [each for each in tap.packets() if each.protocol in (4, 41)]
    if lab.xdp:
        assert [each for each in outer if len(each.data) > 1500] == []
        return
    assert max(len(each.data) for each in outer) > 10_000
    heads = (40 if outer6 else 20) + (40 if v6 else 20) + 20
    assert {each.gso_size + heads <= 1500 for each in outer} == {True}


@INNER
@pytest.mark.parametrize("target", [0, 44], ids=["plain", "mapped"])
def test_l2_leaves_packets_as_they_are(lab: LbLab, v6: bool, target: int) -> None:
    """A mapped port cannot travel along: the backends have it in a table."""
    port = 4000 + 2 * v6 + bool(target)
    for number in (1, 2):
        lab.tables.backend(30 + number, address(number, v6), SgLbKind.SG_LB_L2, version=port)
    lab.tables.table(30, Slots([(31 + slot % 2, 0) for slot in range(251)]))
    lab.tables.vip(vip(v6))
    delta = (target - port) & 0xFFFF if target else 0
    lab.tables.vip(vip(v6), port, TCP, table=30, port_delta=delta)
    if target:
        for each in lab.backends.values():
            each.maps["sg_decap_port"].set({"vip": vip(v6), "port": target, "proto": TCP}, port)
    data = random.Random(port).randbytes(100_000)
    with closing(Servers(lab.lab, vip(v6), target or port)), ExitStack() as stack:
        named, stream = connect_all(lab, stack, vip(v6), port)
        assert set(named) == set(BACKENDS)
        assert transfer(stream, data) == data


@INNER
def test_replies_ask_for_segments_with_room_for_an_outer_header(v6: bool) -> None:
    with LabRun() as run, LbLab(run, xdp=False, mtu=1500) as lab:
        lab.balance(v6, True, (80, 80), TCP)
        with closing(Servers(run, vip(v6), 80)):
            stream, _ = connect(run, vip(v6), 80)
            with stream:
                segment = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
                assert segment <= 1500 - 40 - (40 if v6 else 20) - 20
                data = bytes(100_000)
                assert transfer(stream, data) == data
        assert lab.lb.reasons().get("SG_OK_ICMP_SENT", 0) == 0


class Place:
    """A namespace of the lab, for `selftest.Counter.on`."""

    def __init__(self, lab: LabRun, role: str) -> None:
        self._lab, self._role = lab, role

    def do(self, function: Callable[[], Any]) -> Any:
        return self._lab.call(self._role, function)


@pytest.fixture(scope="module")
def big() -> Iterator[LbLab]:
    """In tc, with devices that take BIG TCP."""
    with LabRun() as run, LbLab(run, xdp=False) as made:
        try:
            for role in ("client", *BACKENDS):
                set_sizes(run, role, "up", BIG)
                set_sizes(run, "lb", role, BIG)
        except AssertionError as error:
            pytest.skip(f"This kernel has no BIG TCP for both families: {error}")
        yield made


def uploaded(lab: LbLab, vip: str, port: int, data: bytes, expected: bytes, target: int = 0) -> tuple[float, int]:  # noqa: PLR0917
    """Sends `data` to the VIP, and compares what be1 got of it (a digest). Mean and largest size of packets with
    data as they arrive at the backend, bytes of layer 3."""
    received: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        stream, _ = listener.accept()
        with stream:
            seen, left = hashlib.sha256(), len(data)
            while left and (got := stream.recv(min(left, 1 << 20))):
                seen.update(got)
                left -= len(got)
            received.append(seen.digest())

    family = socket.AF_INET6 if ":" in vip else socket.AF_INET
    counter = selftest.Counter(OBJECTS)
    with (
        closing(counter),
        lab.lab.call("be1", lambda: socket.create_server((vip, target or port), family=family)) as listener,
    ):
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with counter.on(Place(lab.lab, "be1"), lab.lab.device("up")):
            with lab.lab.call("client", lambda: socket.create_connection((vip, port), timeout=20)) as stream:
                stream.sendall(data)
                thread.join()
            seen = [counter.read(version) for version in (4, 6)]
    assert received == [expected]
    packets, total = (sum(each[k] for each in seen) for k in (0, 1))
    return total / packets, max(each[3] for each in seen)


def lead_to_one(lab: LbLab, v6: bool, how: str, port: int, target: int = 0) -> None:
    """A port of the VIP with one backend, be1, which listens at `target` if that is given."""
    outer6 = v6 if how == "l2" else how == "in-v6"
    more = {"kind": SgLbKind.SG_LB_L2} if how == "l2" else {"src": OUTER6 if outer6 else OUTER4, "src_mask": 0xFF}
    lab.tables.backend(port, address(1, outer6), version=port, **more)
    lab.tables.table(port, Slots([(port, 0)] * 251))
    lab.tables.vip(vip(v6))
    lab.tables.vip(vip(v6), port, TCP, table=port, port_delta=(target - port) & 0xFFFF if target else 0)


@INNER
@pytest.mark.parametrize("how", ["in-v4", "in-v6", "l2"])
def test_uploads_of_more_than_64_kb_at_once_stay_whole(big: LbLab, v6: bool, how: str) -> None:
    port = 600 + 3 * v6 + ["in-v4", "in-v6", "l2"].index(how)
    lead_to_one(big, v6, how, port)
    data = random.Random(port).randbytes(60_000_000)
    mean, largest = uploaded(big, vip(v6), port, data, hashlib.sha256(data).digest())
    assert mean > 65_536
    assert largest <= BIG + 60


@INNER
@OUTER
@pytest.mark.parametrize("target", [0, 700], ids=["plain", "mapped"])
def test_a_device_that_takes_no_super_packets_gets_segments_with_right_headers(
    big: LbLab, v6: bool, outer6: bool, target: int
) -> None:
    """As a network card without such offloads: the kernel cuts what the balancer sends, and counts identifications."""
    port = 610 + 4 * v6 + 2 * outer6 + bool(target)
    lead_to_one(big, v6, "in-v6" if outer6 else "in-v4", port, target)
    data = random.Random(port).randbytes(20_000_000)
    with switched(big.lab, "lb", "be1", "tso", "gso", on=False), Tap(big.lab, "client", "up", sent=True) as tap:
        _, largest = uploaded(big, vip(v6), port, data, hashlib.sha256(data).digest(), target)
        assert max(len(each.data) for each in tap.packets()) > 65_535
    assert largest <= 1500
