"""Established flows stay where they are: the rules of docs/design/loadbalancer.md, and their limits."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sixgate.node.bpf import Manifest
from sixgate.node.bpf.layouts import SgLbBackendFlag, SgLbFlag
from sixgate.node.maglev import Maglev
from tests.bpf.balancer import SECOND, Balancer, Slots
from tests.bpf.conftest import Pair
from tests.rfc.wire import checksum

VIP = "203.0.113.1"
TCP, UDP = 6, 17
SYN, ACK, FIN_ACK = 0x02, 0x10, 0x11
A, B, C = 10, 11, 12
MAC = "02:00:00:00:00:10"
LATER = 1000 * SECOND
Make = Callable[..., Balancer]


def packet(client: int, flags: int = ACK, *, proto: int = TCP, port: int = 80) -> bytes:
    """A TCP segment, or a datagram, of client number `client`."""
    source = socket.inet_aton(f"198.{18 + (client >> 16)}.{client >> 8 & 255}.{client & 255}")
    layer4 = struct.pack("!HHIIBBHHH", 4000, port, 1, 1, 0x50, flags, 512, 0, 0)
    if proto == UDP:
        layer4 = struct.pack("!HHHH", 4000, port, 28, 0) + bytes(20)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(layer4), 1, 0, 64, proto, 0) + source + socket.inet_aton(VIP)
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return bytes.fromhex("020000000001020000000002") + b"\x08\x00" + (header + layer4).ljust(50, b"\0")


@pytest.fixture(params=["sg_xdp", "sg_tc"])
def make(request: pytest.FixtureRequest, veth: Pair, one_cpu: None) -> Iterator[Make]:
    """Balancers with backends A, B and C, whose last address byte is their id, on one device."""
    name = veth.names[0]
    subprocess.run(["ip", "addr", "add", "192.0.2.1/24", "dev", name], check=True)
    for number in (A, B, C):
        command = ["ip", "neigh", "add", f"192.0.2.{number}", "lladdr", MAC, "dev", name]
        subprocess.run(command, check=True)
    Path("/proc/sys/net/ipv4/conf/all/forwarding").write_text("1")
    made: list[Balancer] = []

    def one(**arguments: object) -> Balancer:
        balancer = Balancer(request.param, device=name, **arguments)  # type: ignore[arg-type]
        made.append(balancer)
        for number in (A, B, C):
            balancer.backend(number, f"192.0.2.{number}")
        slots(balancer, [(A, 0)])
        balancer.vip(VIP)
        balancer.vip(VIP, 80, TCP)
        balancer.vip(VIP, 80, UDP)
        return balancer

    yield one
    for each in made:
        each.close()


@pytest.fixture
def lb(make: Make) -> Balancer:
    return make()


def slots(lb: Balancer, table: list[tuple[int, int]], *, drain: int = LATER, learn: int = 0, epoch: int = 1) -> None:
    """Swaps the table; `drain` and `learn` from now on, nanoseconds."""
    now = time.monotonic_ns()
    lb.table(0, Slots(table, now + drain, now + learn, epoch))


def went(lb: Balancer, sent: bytes) -> int | None:
    """Id of the backend that a packet was sent to; None where it was dropped."""
    for _ in range(2):  # the first may have to ask for the next hop
        data = lb.verdict_and_packet(sent)[1]
        if len(data) == len(sent) + 20:
            return data[33]
    return None


def tracked(lb: Balancer) -> int:
    return len(lb.maps["sg_lb_flow"].keys_raw())


def pending(lb: Balancer) -> int:
    """Words in use of sg_lb_pending."""
    buckets = (struct.unpack("=8Q", raw) for _, raw in lb.maps["sg_lb_pending"].lookup_batch())
    return sum(bool(word) for bucket in buckets for word in bucket)


def test_a_vip_that_changes_counts_with_the_next_packet(lb: Balancer) -> None:
    lb.table(1, Slots([(B, 0)]))
    for table, backend in ((0, A), (1, B), (0, A)):
        lb.vip(VIP, 80, TCP, table=table)
        assert went(lb, packet(1)) == backend
    lb.maps["sg_lb_gen"].set(0, lb.generation + 1)
    lb.maps["sg_lb_vip"].delete({"addr": VIP, "port": 80, "proto": TCP})
    assert went(lb, packet(1)) is None


def test_copies_of_vips_in_xdp_count_until_the_node_says_otherwise(make: Make) -> None:
    lb = make()
    lb.table(1, Slots([(B, 0)]))
    assert went(lb, packet(1)) == A
    lb.vip_unsaid(VIP, 80, TCP, table=1)
    assert went(lb, packet(1)) == (A if lb.name == "sg_xdp" else B)
    lb.maps["sg_lb_gen"].set(0, lb.generation + 1)  # VIPs are changing
    assert went(lb, packet(1)) == B
    lb.vip_unsaid(VIP, 80, TCP, table=0)
    assert went(lb, packet(1)) == A


def test_the_steady_state_writes_nothing(lb: Balancer) -> None:
    for client in range(2000):
        lb.send(packet(client, SYN))
        lb.send(packet(client, ACK, proto=UDP))
    assert (tracked(lb), pending(lb)) == (0, 0)
    assert lb.maps["sg_lb_affinity"].keys_raw() == []


def test_old_flows_stay_and_new_ones_go_to_the_new_backend(lb: Balancer) -> None:
    assert went(lb, packet(1, SYN)) == A
    slots(lb, [(B, A)])
    assert [went(lb, packet(1, flags)) for flags in (ACK, ACK, FIN_ACK)] == [A, A, A]
    assert [went(lb, packet(2, flags)) for flags in (SYN, ACK, ACK, FIN_ACK)] == [B, B, B, B]
    assert tracked(lb) == 1


def test_only_flows_that_answer_are_put_down(lb: Balancer) -> None:
    slots(lb, [(B, A)])
    for client in range(100):
        assert went(lb, packet(client, SYN)) == B
    assert (tracked(lb), pending(lb)) == (0, 100)
    assert went(lb, packet(5)) == B
    assert tracked(lb) == 1


def test_when_the_drain_is_over_everything_goes_to_the_new_backend(lb: Balancer) -> None:
    slots(lb, [(B, A)], drain=-1)
    assert [went(lb, packet(1, flags)) for flags in (ACK, SYN)] == [B, B]
    assert (tracked(lb), pending(lb)) == (0, 0)


def test_changed_and_changed_back(lb: Balancer) -> None:
    slots(lb, [(B, A)])
    assert [went(lb, packet(2, flags)) for flags in (SYN, ACK)] == [B, B]
    slots(lb, [(A, A)])
    assert went(lb, packet(1)) == A  # from before the change
    assert went(lb, packet(2)) == B  # from within
    assert [went(lb, packet(3, flags)) for flags in (SYN, ACK)] == [A, A]
    assert tracked(lb) == 1  # a flow of the former backend needs no entry


def test_several_changes_within_one_drain(lb: Balancer) -> None:
    slots(lb, [(B, A)])
    assert [went(lb, packet(2, flags)) for flags in (SYN, ACK)] == [B, B]
    slots(lb, [(C, A)])
    assert [went(lb, packet(3, flags)) for flags in (SYN, ACK)] == [C, C]
    slots(lb, [(B, A)])
    assert [went(lb, packet(client)) for client in (1, 2, 3)] == [A, B, C]


def test_a_removed_backend_without_successor_keeps_its_flows_and_gets_no_new_ones(lb: Balancer) -> None:
    slots(lb, [(0, A)])
    assert went(lb, packet(1)) == A
    assert went(lb, packet(2, SYN)) is None
    assert lb.drops() == {"SG_DROP_LB_NO_BACKEND": 2}


def test_what_was_tracked_in_an_earlier_drain_does_not_count(lb: Balancer) -> None:
    """The same five-tuple begins anew between two drains, on C; the entry of the first drain says B."""
    slots(lb, [(B, A)], epoch=1)
    assert [went(lb, packet(1, flags)) for flags in (SYN, ACK)] == [B, B]
    slots(lb, [(C, 0)])
    assert [went(lb, packet(1, flags)) for flags in (SYN, ACK)] == [C, C]
    slots(lb, [(A, C)], epoch=2)
    assert went(lb, packet(1)) == C


def test_a_forged_syn_does_not_move_a_tracked_flow(lb: Balancer) -> None:
    slots(lb, [(B, A)])
    assert [went(lb, packet(1, flags)) for flags in (SYN, ACK)] == [B, B]
    slots(lb, [(C, A)])
    assert [went(lb, packet(1, flags)) for flags in (SYN, ACK)] == [B, B]


def test_a_forged_syn_moves_an_untracked_flow_of_a_changed_slot(lb: Balancer) -> None:
    """The limit that the design names."""
    slots(lb, [(B, A)])
    assert went(lb, packet(1)) == A
    assert [went(lb, packet(1, flags)) for flags in (SYN, ACK)] == [B, B]


def test_a_flood_in_a_drain_evicts_no_established_flow(lb: Balancer) -> None:
    slots(lb, [(B, A)])
    for client in range(100):
        went(lb, packet(client, SYN))
        went(lb, packet(client))
    for client in range(1000, 6000):
        lb.send(packet(client, SYN))
    slots(lb, [(C, A)])
    assert {went(lb, packet(client)) for client in range(100)} == {B}
    assert tracked(lb) == 100


def test_a_full_table_evicts_nothing_and_says_so(make: Make) -> None:
    lb = make(sizes={"sg_lb_flow": 1})
    slots(lb, [(B, A)])
    for client in range(20):
        assert [went(lb, packet(client, flags)) for flags in (SYN, ACK)] == [B, B]
    assert 1 <= tracked(lb) < 20
    assert lb.loaded.metrics()["SG_PASS_LB_FULL"].packets > 0
    slots(lb, [(C, A)])
    assert {went(lb, packet(client)) for client in range(20)} == {B}


def test_udp_is_taken_for_old_while_learning_and_for_new_afterwards(lb: Balancer) -> None:
    slots(lb, [(B, A)], learn=LATER)
    assert [went(lb, packet(1, proto=UDP)) for _ in range(3)] == [A, A, A]
    slots(lb, [(B, A)], learn=-1)
    assert went(lb, packet(1, proto=UDP)) == A  # remembered
    assert [went(lb, packet(2, proto=UDP)) for _ in range(3)] == [B, B, B]
    slots(lb, [(C, A)], learn=LATER)
    assert [went(lb, packet(client, proto=UDP)) for client in (1, 2)] == [A, B]


def test_udp_leaves_a_dead_backend_at_once(lb: Balancer) -> None:
    lb.backend(A, f"192.0.2.{A}", flags=int(SgLbBackendFlag.SG_LB_DOWN), version=2)
    slots(lb, [(B, A)], learn=LATER)
    assert went(lb, packet(1, proto=UDP)) == B


def affinity(lb: Balancer, seconds: int = 100) -> None:
    flags = int(SgLbFlag.SG_LB_SERVICE | SgLbFlag.SG_LB_AFFINITY)
    for port in (80, 81):
        lb.vip(VIP, port, TCP, flags=flags, affinity=5, affinity_s=seconds)


def test_flows_of_a_client_stay_together(lb: Balancer) -> None:
    affinity(lb)
    slots(lb, [(A, 0), (B, 0), (C, 0)])
    lb.sizes[0] = 3
    affinity(lb)
    for client in range(30):
        first = went(lb, packet(client, SYN))
        assert went(lb, packet(client)) == first
        assert [went(lb, packet(client, flags, port=81)) for flags in (SYN, ACK)] == [first, first]


def test_a_client_returns_to_its_backend_after_a_change(lb: Balancer) -> None:
    affinity(lb)
    assert [went(lb, packet(1, flags)) for flags in (SYN, ACK)] == [A, A]
    slots(lb, [(B, 0)])
    assert [went(lb, packet(1, flags, port=81)) for flags in (SYN, ACK, ACK)] == [A, A, A]
    assert [went(lb, packet(2, flags)) for flags in (SYN, ACK)] == [B, B]


@pytest.mark.parametrize("flag", [SgLbBackendFlag.SG_LB_DOWN, SgLbBackendFlag.SG_LB_NO_NEW])
def test_a_client_of_a_leaving_backend_begins_on_another_and_keeps_its_old_flows(
    lb: Balancer, flag: SgLbBackendFlag
) -> None:
    affinity(lb)
    assert [went(lb, packet(1, flags)) for flags in (SYN, ACK)] == [A, A]
    lb.backend(A, f"192.0.2.{A}", flags=int(flag), version=2)
    slots(lb, [(B, A)])
    assert [went(lb, packet(1, flags, port=81)) for flags in (SYN, ACK, ACK)] == [B, B, B]
    assert went(lb, packet(1)) == A


def test_a_client_is_forgotten_after_its_time(lb: Balancer) -> None:
    affinity(lb, seconds=0)
    lb.vip(VIP, 80, TCP, flags=int(SgLbFlag.SG_LB_SERVICE | SgLbFlag.SG_LB_AFFINITY), affinity=5, affinity_s=4)
    assert [went(lb, packet(1, flags)) for flags in (SYN, ACK)] == [A, A]
    slots(lb, [(B, 0)])
    assert went(lb, packet(1, SYN)) == A
    time.sleep(4.1)
    assert went(lb, packet(1, SYN)) == B


def test_forged_syns_push_no_client_out(lb: Balancer) -> None:
    affinity(lb)
    for client in range(300):
        lb.send(packet(client, SYN))
    assert lb.maps["sg_lb_affinity"].keys_raw() == []


def test_a_second_balancer_with_a_cold_table_takes_over(make: Make) -> None:
    """All flows of the steady state, and those of former backends; not those that began in the change."""
    first, second = make(), make()
    for lb in (first, second):
        lb.sizes[0] = 3
        lb.vip(VIP, 80, TCP)
        slots(lb, [(A, 0), (B, 0), (C, 0)])
    owners = [went(first, packet(client, SYN)) for client in range(300)]
    assert [went(second, packet(client)) for client in range(300)] == owners
    for lb in (first, second):
        slots(lb, [(B, A), (B, 0), (C, 0)])
    assert [went(second, packet(client)) for client in range(300)] == owners
    new = [went(first, packet(client, SYN)) for client in range(300, 600)]
    assert set(new) == {B, C}
    assert [went(first, packet(client)) for client in range(300, 600)] == new
    assert A in [went(second, packet(client)) for client in range(300, 600)]


@pytest.mark.parametrize(("count", "weights"), [(3, (1,)), (20, (1, 7)), (200, (1, 2, 3))])
def test_removing_a_backend_moves_no_flow_of_the_others(
    make: Make, shipped: Manifest, count: int, weights: tuple[int, ...]
) -> None:
    """Ids stand for backends behind three addresses: an id's address says which it was only modulo 3."""
    lb, size = make(), 4093
    for number in range(1, count + 1):
        lb.backend(number, f"192.0.2.{A + number % 3}", src=f"10.0.{number >> 8}.{number & 255}")
    given = [(str(number).encode(), weights[number % len(weights)]) for number in range(count)]
    with Maglev(shipped) as maglev:
        before, after = maglev.build(given, size, 7), maglev.build(given[1:], size, 7)
    lb.sizes[0] = size
    lb.vip(VIP, 80, TCP)
    slots(lb, [(index + 1, 0) for index in before])
    owners = [outer_source(lb, packet(client, SYN)) for client in range(1000)]
    changed = [
        (new + 2, old + 1 if old != new + 1 else 0) for old, new in zip(before, after, strict=True)
    ]  # fmt: skip
    slots(lb, changed)
    assert sum(former != 0 for _, former in changed) >= list(before).count(0)
    assert [outer_source(lb, packet(client)) for client in range(1000)] == owners
    assert 1 not in [outer_source(lb, packet(client, SYN)) for client in range(5000, 5200)]


def outer_source(lb: Balancer, sent: bytes) -> int:
    """The id, by the outer source."""
    for _ in range(2):
        data = lb.verdict_and_packet(sent)[1]
        if len(data) == len(sent) + 20:
            return int.from_bytes(data[28:30], "big")
    raise AssertionError("the packet was not balanced")
