"""The balancer's tables: bytes, slots, numbers, entries."""

from __future__ import annotations

import random
from array import array
from typing import Any

import pytest

from sixgate.api.nodeconfig_lb import Balancer
from sixgate.node.bpf import decode, encode, layouts
from sixgate.node.bpf.layouts import SgLbFlag as Flag
from sixgate.node.lb import layout
from sixgate.node.lb.entries import entries_of, merged, source_rows
from sixgate.node.lb.layout import BackendValue, Head, VipValue
from sixgate.node.lb.numbers import Numbers, OutOfNumbersError
from sixgate.node.lb.slots import Table, change, fresh, settle
from tests.unit.balancers import balancer

S = 1_000_000_000
NOW = 1000 * S
A, B, C = 1, 2, 3


# Bytes


@pytest.mark.parametrize(
    ("ctype", "raw", "value"),
    [
        (
            layouts.MAPS["sg_lb_vip"].value,
            VipValue(*range(1, 16)).pack(),
            {
                "seed": 1,
                "table": 2,
                "size": 3,
                "stat": 4,
                "flags": 5,
                "source_gen": 6,
                "affinity": 7,
                "affinity_s": 8,
                "limit": 9,
                "limit_gap_ns": 10,
                "limit_burst_ns": 11,
                "quic": 12,
                "port_delta": 13,
                "quic_off": 14,
                "quic_len": 15,
            },
        ),
        (
            layouts.MAPS["sg_lb_vip"].key,
            layout.vip_key(layout.mapped("192.0.2.80"), 80, 6),
            {"addr": "192.0.2.80", "port": 80, "proto": 6},
        ),
        (
            layouts.MAPS["sg_lb_backend"].value,
            BackendValue(layout.mapped("2001:db8::1"), layout.mapped("2001:db8::"), 255, 9, 1, 1, 63).pack(),
            {
                "addr": "2001:db8::1",
                "src": "2001:db8::",
                "src_mask": 255,
                "version": 9,
                "kind": 1,
                "flags": 1,
                "ttl": 63,
            },
        ),
        (
            layouts.MAPS["sg_lb_range"].key,
            layout.range_keys(layout.mapped("2001:db8::80"), 17, 8, 15)[0],
            {"prefixlen": 173, "proto": 17, "addr": "2001:db8::80", "port": 8},
        ),
        (
            layouts.MAPS["sg_lb_source"].key,
            layout.SOURCE_KEY.pack(40, 5, layout.mapped("10.0.0.0")),
            {"prefixlen": 40, "gen": 5, "addr": "10.0.0.0"},
        ),
    ],
    ids=["vip", "key", "backend", "range", "source"],
)
def test_bytes_are_those_of_the_objects(ctype: Any, raw: bytes, value: dict[str, Any]) -> None:
    assert encode(ctype, value) == raw
    decoded = decode(ctype, raw)
    assert isinstance(decoded, dict)
    assert value.items() <= decoded.items()


def test_quic_keys_are_those_of_the_objects() -> None:
    raw = layout.QUIC_KEY.pack(3, 2, b"\x01\x02")
    decoded = decode(layouts.MAPS["sg_lb_quic"].key, raw)
    assert isinstance(decoded, dict)
    assert (decoded["group"], decoded["len"], decoded["id"][:3]) == (3, 2, [1, 2, 0])  # type: ignore[index]


def test_chunks_hold_all_slots_and_the_head() -> None:
    inner = layouts.MAPS["sg_lb_table"].inner
    assert inner is not None
    slots = array("I", [number % 7 | (number % 3) << 16 for number in range(600)])
    head = Head(11, 12, 13)
    chunks = layout.chunks(slots, head)
    assert len(chunks) == layout.chunk_count(600) == 3
    last = decode(inner.value, chunks[2][1])
    assert isinstance(last, dict)
    assert (last["drain_until_ns"], last["learn_until_ns"], last["epoch"]) == (11, 12, 13)
    assert last["slot"][87] == {"backend": 599 % 7, "former": 599 % 3}  # type: ignore[index]
    assert last["slot"][88] == {"backend": 0, "former": 0}  # type: ignore[index]
    assert layout.read_chunks(chunks[::-1], 600) == (slots, head)


@pytest.mark.parametrize(("first", "last"), [(1, 65535), (80, 80), (8000, 8099), (1024, 65535), (0, 65535), (7, 8)])
def test_ranges_of_ports_are_covered_exactly_once(first: int, last: int) -> None:
    covered: list[int] = []
    for key in layout.range_keys(bytes(16), 6, first, last):
        bits, _, _, port_be = layout.RANGE_KEY.unpack(key)
        start = int.from_bytes(port_be, "big")
        covered += range(start, start + (1 << (176 - bits)))
    assert covered == list(range(first, last + 1))


# Slots


def halves(table: Table) -> list[tuple[int, int]]:
    return [(slot & 0xFFFF, slot >> 16) for slot in table.slots]


def test_a_slot_whose_backend_changes_remembers_the_former_one() -> None:
    table = change(fresh([A, B, C]), [A, C, C], 60, NOW)
    assert halves(table) == [(A, 0), (C, B), (C, 0)]
    assert table.head.drain_until_ns == NOW + 60 * S
    assert table.head.learn_until_ns == NOW + 30 * S
    assert table.head.epoch
    assert (table.used(), table.formers(), table.steady()) == ({A, B, C}, {B}, False)


def test_nothing_changes_where_nothing_changes() -> None:
    table = fresh([A, B, C])
    assert change(table, [A, B, C], 60, NOW) is table


def test_a_second_change_keeps_the_first_former_backend_and_the_epoch() -> None:
    first = change(fresh([A, B, C]), [A, C, C], 60, NOW)
    second = change(first, [A, A, A], 60, NOW + 10 * S)
    assert halves(second) == [(A, 0), (A, B), (A, C)]
    assert second.head.epoch == first.head.epoch
    assert second.head.drain_until_ns == NOW + 70 * S


def test_a_shorter_drain_does_not_shorten_one_under_way() -> None:
    first = change(fresh([A]), [B], 60, NOW)
    assert change(first, [C], 1, NOW + S).head.drain_until_ns == first.head.drain_until_ns


def test_a_change_back_still_tracks() -> None:
    first = change(fresh([A]), [B], 60, NOW)
    assert halves(change(first, [A], 60, NOW + S)) == [(A, A)]


def test_after_a_drain_a_change_begins_anew() -> None:
    first = change(fresh([A, B]), [B, B], 60, NOW)
    later = NOW + 61 * S
    second = change(first, [C, B], 60, later)
    assert halves(second) == [(C, B), (B, 0)]
    assert second.head.epoch != first.head.epoch
    assert halves(settle(first)) == [(B, 0), (B, 0)]


def test_without_a_drain_nobody_is_remembered() -> None:
    table = change(fresh([A, B]), [B, B], 0, NOW)
    assert (halves(table), table.head) == ([(B, 0), (B, 0)], Head())


def test_refused_slots_keep_their_former_backend() -> None:
    closed = change(fresh([A, B]), [0, 0], 60, NOW)
    assert halves(closed) == [(0, A), (0, B)]
    assert halves(change(closed, [B, B], 60, NOW + S)) == [(B, A), (B, B)]


def test_a_larger_table_takes_over_what_lies_in_one_old_slot() -> None:
    old = fresh([A, B, C])
    made = change(old, [A] * 30, 60, NOW)
    assert halves(made) == [(A, 0)] * 10 + [(A, B)] * 10 + [(A, C)] * 10


def test_any_run_of_changes_keeps_flows_where_they_began() -> None:
    """The rules of docs/design/loadbalancer.md played by a model of the data plane, with changes at random."""
    dice = random.Random(5)
    size, drain = 31, 60
    table = fresh([dice.choice((A, B, C)) for _ in range(size)])
    flows: dict[int, tuple[int, int]] = {}  # slot and backend that the flow began with
    tracked: dict[tuple[int, int], int] = {}  # (flow, epoch)
    left: dict[int, int] = {}  # when the flow's slot last left its backend
    now, number = NOW, 0
    for _ in range(400):
        now += dice.randrange(1, 20 * S)
        if not table.steady() and not table.draining(now):
            table = settle(table)
        if dice.random() < 0.5:
            chosen = [dice.choice((A, B, C)) if dice.random() < 0.3 else s & 0xFFFF for s in table.slots]
            before = table
            table = change(table, chosen, drain, now)
            for flow, (slot, backend) in flows.items():
                if before.slots[slot] & 0xFFFF == backend != table.slots[slot] & 0xFFFF:
                    left[flow] = now
        for _ in range(3):  # new flows
            number += 1
            slot = dice.randrange(size)
            backend, former = table.slots[slot] & 0xFFFF, table.slots[slot] >> 16
            if former and table.draining(now) and backend != former:
                tracked[number, table.head.epoch] = backend
            flows[number] = (slot, backend)
        for flow, (slot, first) in list(flows.items()):
            if flow in left and now - left[flow] >= drain * S:
                del flows[flow]
                continue
            backend, former = table.slots[slot] & 0xFFFF, table.slots[slot] >> 16
            if former and table.draining(now):
                backend = tracked.get((flow, table.head.epoch), former)
            assert backend == first, (flow, slot)
    assert number > 1000


# Numbers


def test_numbers_are_given_late_again_and_end() -> None:
    numbers: Numbers[str] = Numbers(1, 4)
    assert [numbers.give(name) for name in "abc"] == [(1, True), (2, True), (3, True)]
    assert numbers.give("b") == (2, False)
    assert numbers.drop("a") == 1
    assert numbers.give("d") == (4, True)
    assert numbers.give("e") == (1, True)
    with pytest.raises(OutOfNumbersError):
        numbers.give("f")
    assert numbers.adopt("g", 2) is False
    assert numbers.drop("b") == 2
    assert numbers.adopt("g", 2) is True
    assert numbers.drop("nobody") is None


# Entries


def flags_of(raw: bytes) -> int:
    return int(layout.VIP.unpack(raw)[4])


def entries(item: Balancer, *local: str) -> Any:
    stats = {layout.mapped(vip.address): 40 + number for number, vip in enumerate(item.vips)}
    return entries_of(item, 5, stats, frozenset(map(layout.mapped, local)))


def test_one_port_is_one_entry_and_the_address_another() -> None:
    made = entries(balancer(ports=[{"protocol": "TCP", "first": 80, "last": 80, "target": 8080}]))
    ((key, raw),) = made.vips.items()
    assert key == layout.vip_key(layout.mapped("192.0.2.80"), 80, 6)
    fields = layout.VIP.unpack(raw)
    assert fields[:5] == (7, 5, 251, 40, Flag.SG_LB_SERVICE)
    assert fields[12] == 8000
    assert made.addresses == {layout.mapped("192.0.2.80"): VipValue(stat=40, flags=Flag.SG_LB_ECHO)}
    assert made.ranges == made.sources == {}


def test_a_target_below_the_port_wraps() -> None:
    made = entries(balancer(ports=[{"protocol": "UDP", "first": 443, "last": 443, "target": 1}]))
    assert layout.VIP.unpack(next(iter(made.vips.values())))[12] == 65536 - 442


@pytest.mark.parametrize(
    ("spec", "flag"),
    [
        ({"allow": ["10.0.0.0/8"]}, Flag.SG_LB_SOURCES | Flag.SG_LB_SOURCE_DENY),
        ({"deny": ["10.0.0.0/8"]}, Flag.SG_LB_SOURCES),
        ({"affinityS": 60}, Flag.SG_LB_AFFINITY),
        ({"newFlowsPerS": 100}, Flag.SG_LB_LIMIT),
    ],
)
def test_each_option_sets_its_flag_alone(spec: dict[str, Any], flag: int) -> None:
    made = entries(balancer(**spec))
    assert {flags_of(raw) for raw in made.vips.values()} == {flag | Flag.SG_LB_SERVICE}


def test_all_ports_balance_at_the_address() -> None:
    made = entries(balancer(ports=[], allPorts=True, icmpEcho=False), "192.0.2.80")
    assert not made.vips
    (value,) = made.addresses.values()
    assert value.flags == Flag.SG_LB_SERVICE | Flag.SG_LB_PASS_OTHER
    assert (value.table, value.size) == (5, 251)


def test_ranges_say_so_at_the_address() -> None:
    made = entries(balancer(ports=[{"protocol": "TCP", "first": 8000, "last": 8099, "target": 8000}]))
    (value,) = made.addresses.values()
    assert value.flags & Flag.SG_LB_RANGES
    assert len(made.ranges) == len(layout.range_keys(bytes(16), 6, 8000, 8099))


def test_quic_is_for_udp_only() -> None:
    ports = [{"protocol": p, "first": 443, "last": 443, "target": 443} for p in ("TCP", "UDP")]
    made = entries(balancer(ports=ports, quicOffset=1, quicLength=4))
    by_protocol = {layout.KEY.unpack(key)[2]: flags_of(raw) for key, raw in made.vips.items()}
    assert (by_protocol[6] & Flag.SG_LB_QUIC, by_protocol[17] & Flag.SG_LB_QUIC) == (0, Flag.SG_LB_QUIC)


def test_an_address_of_two_balancers_has_what_both_ask() -> None:
    one = VipValue(stat=1, flags=Flag.SG_LB_ECHO)
    other = VipValue(stat=2, flags=Flag.SG_LB_RANGES)
    assert merged([one, other]) == VipValue(stat=1, flags=Flag.SG_LB_ECHO | Flag.SG_LB_RANGES)


@pytest.mark.parametrize(("per_second", "gap", "burst"), [(1, S, S), (1000, S // 1000, S // 10), (10**9, 1, S // 10)])
def test_limits_are_gaps(per_second: int, gap: int, burst: int) -> None:
    raw = next(iter(entries(balancer(newFlowsPerS=per_second)).vips.values()))
    assert layout.VIP.unpack(raw)[8:11] == (5, gap, burst)


def lookup(rows: dict[bytes, bytes], address: str) -> int | None:
    """Longest match as the kernel does it."""
    key = layout.mapped(address)
    best: tuple[int, int | None] = (-1, None)
    for row, value in rows.items():
        bits, _, net = layout.SOURCE_KEY.unpack(row)
        length = bits - 32
        same = int.from_bytes(net, "big") >> (128 - length) == int.from_bytes(key, "big") >> (128 - length)
        if same and length > best[0]:
            best = (length, layout.U32.unpack(value)[0])
    return best[1]


def test_source_ranges_go_by_the_longest_match() -> None:
    rows, generation = source_rows(("10.0.0.0/8", "2001:db8::/32"), ("10.1.0.0/16", "10.0.0.0/8"))
    assert generation
    assert [lookup(rows, a) for a in ("10.1.2.3", "10.2.0.1", "2001:db8::1", "192.0.2.1")] == [0, 0, 1, None]
    assert source_rows((), ()) == ({}, 0)


@pytest.mark.parametrize(
    ("allow", "deny", "verdict"), [(("::/0",), (), 0), ((), ("::/0",), 1), (("::/0", "0.0.0.0/0"), (), 1)]
)
def test_ipv6_ranges_mean_no_ipv4(allow: tuple[str, ...], deny: tuple[str, ...], verdict: int) -> None:
    assert lookup(source_rows(allow, deny)[0], "192.0.2.1") == verdict
