"""DSR end to end: a client, the balancer in XDP or tc, backends that unpack and answer by themselves."""

from __future__ import annotations

import errno
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from e2e.lab import traffic
from e2e.lab.run import LabRun
from sixgate.node.bpf.layouts import SgLbKind
from tests.bpf.balancer import Slots
from tests.netns.lb_lab import BACKENDS, VIP4, VIP6, LbLab, Servers, address, connect, transfer
from tests.netns.taps import Tap

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
    """Whether it comes true within a second."""
    for _ in range(50):
        if condition():
            return True
        time.sleep(0.02)
    return False


@INNER
@OUTER
def test_streams_reach_both_backends_and_arrive_whole(lab: LbLab, v6: bool, outer6: bool) -> None:
    port = 8000 + 2 * v6 + outer6
    lab.balance(v6, outer6, (port, port), TCP)
    data = random.Random(port).randbytes(300_000)
    with closing(Servers(lab.lab, vip(v6), port)) as servers, ExitStack() as stack:
        named = set()
        for _ in range(16):
            stream, name = connect(lab.lab, vip(v6), port)
            stack.enter_context(stream)
            named.add(name)
        assert named == set(BACKENDS)
        assert transfer(stream, data) == data
        assert sum(servers.seen.values()) == 16
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
            client.settimeout(5)
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
        named = set()
        for _ in range(16):
            stream, name = connect(lab.lab, vip(v6), port)
            stack.enter_context(stream)
            named.add(name)
        assert named == set(BACKENDS)
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
