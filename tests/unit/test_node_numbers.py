"""Numbers by name, Maglev rings, ports of the host: what a node puts into tables by itself."""

from __future__ import annotations

import socket
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sixgate.api.nodeconfig import Entry, NumberSpace, Table
from sixgate.node.fill import Filler, fill_tables
from sixgate.node.findings import Findings
from sixgate.node.host_ports import OWN_HOST, OWN_SAME, HostPorts, keep_apart, parse_ranges, read_host_ports, runs
from sixgate.node.model import AddressSeen, Device, Kernel, Observed
from sixgate.node.nat_watch import owner_of
from sixgate.node.numbers import Numbers, SpaceNumbers, as_json, from_json, hand_out
from sixgate.node.ring import maglev_ring


def space(*items: tuple[str, int], size: int = 16) -> NumberSpace:
    return NumberSpace.model_validate(
        {"space": "x", "size": size, "items": [{"name": name, "count": count} for name, count in items]}
    )


def test_what_has_a_number_keeps_it() -> None:
    first, _ = hand_out((space(("a", 2), ("b", 3), ("c", 1)),), {})
    second, misfits = hand_out((space(("c", 1), ("d", 2), ("b", 3)),), first)
    assert not misfits
    assert second["x"].given["b"] == first["x"].given["b"] == (2, 3)
    assert second["x"].given["c"] == first["x"].given["c"] == (5, 1)
    assert second["x"].given["d"] == (6, 2), "what came free is given out last"


def test_what_came_free_is_given_out_in_the_end() -> None:
    first, _ = hand_out((space(("a", 8), ("b", 8)),), {})
    second, misfits = hand_out((space(("b", 8), ("c", 8)),), first)
    assert not misfits
    assert second["x"].given == {"b": (8, 8), "c": (0, 8)}


def test_an_item_without_room_is_told() -> None:
    numbers, (misfit,) = hand_out((space(("a", 10), ("b", 7)),), {})
    assert numbers["x"].given == {"a": (0, 10)}
    assert str(misfit) == "b finds no room in x, whose numbers are given out or too scattered."


def test_another_count_is_another_row() -> None:
    first, _ = hand_out((space(("a", 2), ("b", 2)),), {})
    second, _ = hand_out((space(("a", 3), ("b", 2)),), first)
    assert second["x"].given == {"a": (4, 3), "b": (2, 2)}


@given(
    st.lists(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 4)), unique_by=lambda i: i[0]), max_size=8)
)
@settings(max_examples=200)
def test_rows_never_meet_and_never_move(history: list[list[tuple[str, int]]]) -> None:
    numbers: Numbers = {}
    for items in history:
        before = numbers["x"].given if "x" in numbers else {}
        numbers, misfits = hand_out((space(*items, size=24),), numbers)
        given_now = numbers["x"].given
        assert {name for name, _ in items} == set(given_now) | {misfit.name for misfit in misfits}
        for (f1, c1), (f2, c2) in combinations(given_now.values(), 2):
            assert f1 + c1 <= f2 or f2 + c2 <= f1
        for name, count in items:
            if before.get(name, (0, 0))[1] == count:
                assert given_now[name] == before[name]


def test_numbers_survive_the_file() -> None:
    numbers = {"x": SpaceNumbers({"a": (0, 2), "b/6": (2, 1)}, 3)}
    assert from_json(as_json(numbers)) == numbers
    assert from_json({"x": {"given": 3}}) == {}
    assert from_json(None) == {}


# Maglev


@pytest.mark.parametrize("weights", [(1,), (3, 1), (1, 1, 1), (100, 1), (5, 0, 5)])
def test_a_ring_has_shares_by_weight(weights: tuple[int, ...]) -> None:
    ring = maglev_ring(tuple((f"b{n}", weight) for n, weight in enumerate(weights)), 16381)
    counts = Counter(ring)
    for index, weight in enumerate(weights):
        assert counts[index] == pytest.approx(16381 * weight / sum(weights), rel=0.02, abs=2)


def test_a_ring_does_not_depend_on_order() -> None:
    backends = (("a", 2), ("b", 1), ("c", 3))
    one, other = maglev_ring(backends, 1021), maglev_ring(backends[::-1], 1021)
    assert [backends[index] for index in one] == [backends[::-1][index] for index in other]


def test_a_backend_that_drains_moves_little_else() -> None:
    backends = tuple((f"b{n}", 1) for n in range(10))
    before = maglev_ring(backends, 16381)
    after = maglev_ring((*backends[:9], ("b9", 0)), 16381)
    moved = sum(a != b for a, b in zip(before, after, strict=True) if a != 9)
    assert 9 not in after
    assert moved < 16381 * 0.05


def test_a_ring_without_backends_is_empty() -> None:
    assert maglev_ring((), 1021) == maglev_ring((("a", 0),), 1021) == ()


# Tables


def node(*devices: Device, host: HostPorts | None = None) -> Observed:
    return Observed(
        kernel=Kernel("6.1", tcx=False),
        devices={device.name: device for device in devices},
        defaults={4: "up", 6: "up"},
        host_ports=host,
    )


UP = Device("up", 2, addresses=(AddressSeen("192.0.2.1", 24), AddressSeen("2001:db8::1", 64)))


def filler(observed: Observed) -> Filler:
    return Filler.of(observed, {"obj": SpaceNumbers({"g": (5, 1)}), "port": SpaceNumbers({"192.0.2.1": (100, 96)})})


def test_objects_in_tables_are_replaced() -> None:
    fill = filler(node(UP)).fill
    assert fill({"a": [{"$number": "obj/g"}], "b": {"$number": "port/192.0.2.1", "plus": 3}}) == {"a": [5], "b": 103}
    assert fill({"addr": {"$address": 6}, "v4": {"$address": 4}}) == {"addr": "2001:db8::1", "v4": "192.0.2.1"}
    assert set(fill({"$maglev": [["a", 1], ["b", 1]], "size": 7})) == {0, 1}
    untouched = {"key": [1, 2, {"deep": "x"}]}
    assert fill(untouched) is untouched


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"$number": "obj/h"}, "h has no number in obj"),
        ({"$number": "nowhere/g"}, "g has no number in nowhere"),
        ({"$address": 6}, "this node has no global IPv6 address that could be a source"),
    ],
)
def test_what_is_not_there_is_told_to_its_owners(value: object, says: str) -> None:
    table = Table.model_validate({"map": "sg_x", "owners": ["NAT46Gateway/g"], "entries": [{"key": 0, "value": value}]})
    other = Table.model_validate({"map": "sg_y", "entries": [{"key": 0, "value": 1}]})
    found = Findings()
    bare = Device("up", 2, addresses=(AddressSeen("192.0.2.1", 24),))
    assert fill_tables((table, other), filler(node(bare)), found) == (other,)
    (problem,) = found.problems
    assert problem.message == f"Table sg_x cannot be filled: {says}."
    assert found.frozen_maps == {"sg_x"}, "what is there of it stays"


# Ports of the host


def own(address: str, **value: int) -> Table:
    entry = {"key": address, "value": {"base": 100, "first_block": 0, "blocks": 1024, "flags": 2, **value}}
    return Table.model_validate({"map": "sg_st_own", "owners": ["NAT46Gateway/g"], "entries": [entry]})


def reserved(tables: tuple[Table, ...]) -> dict[int, int]:
    found = [table for table in tables if table.map == "sg_st_resv"]
    assert len(found) <= 1
    return {int(str(entry.key)): int(str(entry.value)) for table in found for entry in table.entries}


HOST = HostPorts(
    ((32768, 32800),), (("", frozenset({22})), ("192.0.2.1", frozenset({80})), ("192.0.2.9", frozenset({81})))
)


def test_ports_of_the_host_are_kept_apart_for_every_protocol() -> None:
    found = Findings()
    tables = keep_apart((own("192.0.2.1"),), node(UP, host=HOST), found)
    bits = reserved(tables)
    for protocol in range(3):
        start = 100 + protocol * 1024
        assert bits[start] == 1 << 22
        assert bits[start + 1] == 1 << (80 - 64), "81 is bound at another address"
        assert bits[start + 512] == (1 << 33) - 1
    assert len(bits) == 9
    assert tables[0].entries[0].value["flags"] == 2 | OWN_HOST  # type: ignore[index, call-overload]
    (note,) = found.notes
    assert "192.0.2.1 is an address of this host; its ports 22, 80, 32768-32800 are not given" in note.message


def test_an_address_that_egress_has_put_on_answers_as_the_hosts_and_keeps_all_ports_for_clients() -> None:
    """It is no source of the host's own connections, and comes and goes with the owner of a pair."""
    found = Findings()
    device = Device("up", 2, addresses=(AddressSeen("192.0.2.1", 32, floating=True),))
    tables = keep_apart((own("192.0.2.1", flags=OWN_SAME),), node(device, host=HOST), found)
    assert tables[0].entries[0].value["flags"] == OWN_SAME | OWN_HOST  # type: ignore[index, call-overload]
    assert reserved(tables) == {}
    assert not found.notes


def test_an_address_that_is_only_announced_is_the_pools() -> None:
    """What belongs to no session is dropped, as if the address were routed here."""
    found = Findings()
    device = Device("up", 2, addresses=(AddressSeen("192.0.2.1", 32, floating=True),))
    table = own("192.0.2.1")
    assert keep_apart((table,), node(device, host=HOST), found) == (table,)
    assert not found.notes


def test_an_address_of_nobody_or_of_sixgate_has_no_such_ports() -> None:
    found = Findings()
    ours = Device("up", 2, addresses=(AddressSeen("192.0.2.1", 32, ours=True),))
    for address, device in (("198.51.100.1", UP), ("192.0.2.1", ours)):
        table = own(address)
        assert keep_apart((table,), node(device, host=HOST), found) == (table,)
    assert not found.notes


def test_static_bindings_and_ports_of_the_host_are_reserved_together() -> None:
    static = Table(map="sg_st_resv", entries=(Entry(key=100, value=2), Entry(key=7, value=1)))
    bits = reserved(keep_apart((own("192.0.2.1"), static), node(UP, host=HOST), Findings()))
    assert bits[100] == 2 | 1 << 22
    assert bits[7] == 1


def test_blocks_outside_the_pool_are_left_out() -> None:
    tables = keep_apart((own("192.0.2.1", first_block=512, blocks=1),), node(UP, host=HOST), Findings())
    assert set(reserved(tables)) == {100, 101, 102}


def test_the_files_of_the_kernel_are_read(tmp_path: Path) -> None:
    (tmp_path / "ip_local_port_range").write_text("32768\t60999\n")
    (tmp_path / "ip_local_reserved_ports").write_text("40000-40010,50000\n")
    head = "  sl  local_address rem_address   st ...\n"
    (tmp_path / "tcp").write_text(head + "   0: 010200C0:0016 00000000:0000 0A 0\n   1: 00000000:0050 0:0 06 0\n")
    (tmp_path / "udp6").write_text(head + "   0: 00000000000000000000000000000000:0035 0:0 07 0\n")
    found = read_host_ports(tmp_path, tmp_path)
    assert found.chosen == ((32768, 39999), (40011, 49999), (50001, 60999))
    assert found.bound == (("", frozenset({53})), ("192.0.2.1", frozenset({22}))), "a connection that ended holds none"


def test_a_socket_of_this_machine_is_found() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        assert sock.getsockname()[1] in read_host_ports().of("127.0.0.1")


def test_ranges_of_ports() -> None:
    assert parse_ranges("80,8000-8080\n") == [(80, 80), (8000, 8080)]
    assert parse_ranges("\n") == []
    assert runs({5, 1, 2, 3, 9}) == [(1, 3), (5, 5), (9, 9)]


@pytest.mark.parametrize(
    ("name", "ref"),
    [
        ("lab", "NAT46Gateway/lab"),
        ("lab/6", "NAT46Gateway/lab"),
        ("LoadBalancer/web/4", "LoadBalancer/web"),
        ("EgressGateway/payments/1/6", "EgressGateway/payments"),
    ],
)
def test_whose_an_object_of_the_engine_is(name: str, ref: str) -> None:
    assert str(owner_of(name)) == ref
