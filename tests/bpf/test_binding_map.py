"""Every kind of map on the real kernel: single entries, batches, per-CPU values, tables in tables, pins."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from sixgate.errors import BpfError
from sixgate.node.bpf import BpfObject, Codec, Map, MapFlag, MapSpec, MapType, add_up, possible_cpus
from sixgate.node.bpf.ctype import Address, Int, Raw
from sixgate.node.bpf.map import BATCH
from tests.bpf.conftest import Pair

Open = Callable[[str], BpfObject]
U32, U64 = Int("__u32", 4), Int("__u64", 8)


@pytest.fixture
def shapes(opened: Open) -> BpfObject:
    loaded = opened("shapes")
    loaded.load()
    return loaded


@pytest.mark.parametrize("name", ["t_hash", "t_lru"])
def test_entries_come_and_go(shapes: BpfObject, name: str) -> None:
    with shapes.map(name) as table:
        assert table.get(5) is None
        assert table.delete(5) is False
        table.set(5, {})
        table.set(7, {})
        assert sorted(table.keys_raw()) == sorted(table.codec.encode_key(key) for key in (5, 7))
        assert table.get(5) == table.codec.decode_value(bytes(table.info.value_size))
        assert table.delete(5) is True
        assert [key for key, _ in table.items()] == [7]
        assert table.clear() == 1
        assert table.items() == []


def test_flags_say_whether_an_entry_may_or_must_be_there(shapes: BpfObject) -> None:
    with shapes.map("t_hash") as table:
        with pytest.raises(BpfError, match="writing entry 1 of map t_hash failed: No such file") as caught:
            table.set(1, {}, MapFlag.EXIST)
        assert caught.value.errno == errno.ENOENT
        table.set(1, {"half": 4}, MapFlag.NOEXIST)
        with pytest.raises(BpfError, match="writing entry 1 of map t_hash failed: File exists") as caught:
            table.set(1, {"half": 5}, MapFlag.NOEXIST)
        assert caught.value.errno == errno.EEXIST
        table.set(1, {"half": 5}, MapFlag.EXIST)
        found = table.get(1)
        assert isinstance(found, dict)
        assert found["half"] == 5


def test_a_full_map_says_what_it_holds(shapes: BpfObject) -> None:
    with shapes.map("t_by_addr") as table, Map.create(_inner(shapes, "t_by_addr")) as inner:
        for number in range(4):
            table.set(f"2001:db8::{number}", inner)
        with pytest.raises(BpfError, match=r"entry 192\.0\.2\.1 of map t_by_addr \(it holds 4 at most\)") as caught:
            table.set("192.0.2.1", inner)
        assert caught.value.errno == errno.E2BIG


def test_arrays_keep_all_their_entries(shapes: BpfObject) -> None:
    with shapes.map("t_array") as table:
        table.set(7, {"number": 3})
        assert len(table.items()) == 8
        assert table.keys() == list(range(8))
        with pytest.raises(BpfError, match="writing entry 8 of map t_array") as caught:
            table.set(8, {})
        assert caught.value.errno == errno.E2BIG
        with pytest.raises(BpfError, match="deleting entry 7 of map t_array failed: Invalid argument"):
            table.delete(7)


def test_an_lpm_trie_finds_the_longest_prefix(shapes: BpfObject) -> None:
    with shapes.map("t_lpm") as table:
        count = table.set_many(
            [
                ({"prefixlen": 32 + 96 + 24, "gen": 1, "addr": "192.0.2.0"}, {"number": 24}),
                ({"prefixlen": 32 + 128, "gen": 1, "addr": "192.0.2.9"}, {"number": 32}),
                ({"prefixlen": 32 + 32, "gen": 1, "addr": "2001:db8::"}, {"number": 6}),
            ]
        )
        assert count == 3

        def best(address: str, gen: int = 1) -> object:
            return table.get({"prefixlen": 160, "gen": gen, "addr": address})

        assert best("192.0.2.9") == {"number": 32}
        assert best("192.0.2.8") == {"number": 24}
        assert best("2001:db8:1::1") == {"number": 6}
        assert best("192.0.2.9", gen=2) is None
        assert len(table.items()) == 3
        # A wrong prefix length is the kernel's to refuse.
        with pytest.raises(BpfError, match=r"writing entry .*'prefixlen': 161.* failed: Invalid argument"):
            table.set({"prefixlen": 161, "addr": "::"}, {})
        assert table.delete({"prefixlen": 160, "gen": 1, "addr": "192.0.2.9"})
        assert best("192.0.2.9") == {"number": 24}


@pytest.mark.parametrize("name", ["t_pcpu_array", "t_pcpu_hash"])
def test_per_cpu_maps_have_one_value_for_each_possible_cpu(shapes: BpfObject, name: str) -> None:
    cpus = possible_cpus()
    with shapes.map(name) as table:
        table.set(1, [{"x": cpu + 1, "y": -1} for cpu in range(cpus)])
        assert table.get(1) == [{"x": cpu + 1, "y": -1} for cpu in range(cpus)]
        assert table.sum(1) == {"x": cpus * (cpus + 1) // 2, "y": -cpus}
        assert (1, table.sum(1)) in table.sums()
        table.set(1, {"x": 5})
        assert table.sum(1) == {"x": 5 * cpus, "y": 0}
        with pytest.raises(BpfError, match=f"takes one value per CPU, {cpus} of them, not {cpus + 1}"):
            table.set(1, [{}] * (cpus + 1))
    with shapes.map("t_pcpu_hash") as table:
        assert table.sum(99) is None


def test_counters_of_a_program_add_up(shapes: BpfObject) -> None:
    with shapes.map("t_pcpu_array") as table, shapes.program("shape_xdp") as program:
        program.test_run(bytes(64), repeat=100)
        assert table.sum(0) == {"x": 100, "y": 0}


def test_large_maps_go_in_batches(shapes: BpfObject) -> None:
    count = 3 * BATCH + 17
    with shapes.map("t_large") as table:
        assert table.set_many((number, number * number) for number in range(count)) == count
        assert sorted(table.items()) == [(number, number * number) for number in range(count)]
        keys = table.keys_raw()
        assert len(keys) == count
        # Keys that are not there are passed over, wherever they stand.
        absent = [wide(count + number) for number in range(3)]
        assert table.delete_batch([absent[0], *keys[:100], absent[1], *keys[100:5000], absent[2]]) == 5000
        assert len(table.items()) == count - 5000
        assert table.clear() == count - 5000
        assert table.items() == []


def test_a_batch_with_a_wrong_value_writes_nothing(shapes: BpfObject) -> None:
    with shapes.map("t_large") as table:
        with pytest.raises(BpfError, match="value of t_large: -1 is outside __u64"):
            table.set_many([(1, 1), (2, -1)])
        with pytest.raises(BpfError, match="Map t_large takes 8 bytes here, not 3"):
            table.update_batch([(bytes(8), bytes(8)), (bytes(8), b"abc")])
        assert table.items() == []


def test_a_batch_that_does_not_fit_says_so(shapes: BpfObject) -> None:
    with Map.create(MapSpec("t_small", MapType.HASH, U32, U32, 8)) as table:
        with pytest.raises(BpfError, match=r"writing 9 entries of map t_small \(it holds 8 at most\)") as caught:
            table.set_many((number, 0) for number in range(9))
        assert caught.value.errno == errno.E2BIG


def test_maps_without_batches_are_read_and_written_one_by_one(shapes: BpfObject, veth: Pair) -> None:
    indices = veth.indices
    with shapes.map("t_devmap") as table:
        assert table.set_many((index, index) for index in indices) == 2
        assert sorted(table.items()) == sorted((index, index) for index in indices)
        assert table.clear() == 2
        with pytest.raises(BpfError, match="writing entry 1 of map t_devmap"):
            table.set_many([(1, 999999)])


def test_inner_maps_are_built_aside_and_swapped_in_one_step(shapes: BpfObject) -> None:
    with shapes.map("t_tables") as outer, shapes.program("shape_xdp") as program:
        assert program.test_run(bytes(64)).retval == 2
        seen = []
        for number in (3, 1):
            with Map.create(_inner(shapes, "t_tables")) as inner:
                inner.set(0, {"number": number})
                outer.set(0, inner)
                assert outer.get(0) == inner.info.id
            seen.append(program.test_run(bytes(64)).retval)
        assert seen == [3, 1]
        outer.delete(0)
        assert program.test_run(bytes(64)).retval == 2


def test_an_inner_map_of_another_shape_is_refused(shapes: BpfObject) -> None:
    with (
        shapes.map("t_tables") as outer,
        Map.create(MapSpec("t_wrong", MapType.ARRAY, U32, U64, 5)) as wrong,
        pytest.raises(BpfError, match="writing entry 0 of map t_tables failed: Invalid argument"),
    ):
        outer.set(0, wrong)


def test_a_map_of_maps_can_be_made_from_its_definition(shapes: BpfObject, bpffs: Path) -> None:
    spec = shapes.maps["t_by_addr"]
    with Map.create(spec) as outer, Map.create(_inner(shapes, "t_by_addr")) as inner:
        outer.pin(bpffs / "t_by_addr")
        outer.set("192.0.2.1", inner)
        with Map.from_pin(bpffs / "t_by_addr", spec=spec) as again:
            assert again.items() == [("192.0.2.1", inner.info.id)]
    with pytest.raises(BpfError, match="t_bare is a map of maps without a definition of its inner maps"):
        Map.create(MapSpec("t_bare", MapType.ARRAY_OF_MAPS, U32, U32, 1))


def test_a_pinned_map_is_read_by_the_kernels_btf_or_a_definition(shapes: BpfObject, bpffs: Path) -> None:
    spec = shapes.maps["t_lpm"]
    with shapes.map("t_lpm") as table:
        table.pin(bpffs / "t_lpm")
        table.set({"prefixlen": 32, "gen": 7}, {"number": 1})
        with pytest.raises(BpfError, match=r"pinning map t_lpm at .* failed: File exists"):
            table.pin(bpffs / "t_lpm")
    expected = [({"prefixlen": 32, "gen": 7, "addr": "::"}, {"number": 1})]

    with Map.from_pin(bpffs / "t_lpm") as by_kernel, Map.from_pin(bpffs / "t_lpm", spec=spec) as by_spec:
        assert by_kernel.items() == by_spec.items() == expected
    with Map.from_pin(bpffs / "t_lpm", codec=Codec(Raw(24), Raw(8))) as raw:
        assert [len(key) + len(value) for key, value in raw.lookup_batch()] == [32]
    with pytest.raises(BpfError, match="Map t_lpm has a key of 24 bytes, where 4 are expected"):
        Map.from_pin(bpffs / "t_lpm", codec=Codec(U32, U32))
    with pytest.raises(BpfError, match=r"opening the map pinned at .*absent failed: No such file") as caught:
        Map.from_pin(bpffs / "absent")
    assert caught.value.errno == errno.ENOENT


def test_a_map_without_btf_is_numbers_and_bytes(bpffs: Path) -> None:
    with Map.create(MapSpec("t_anon", MapType.HASH, Address(), U32, 4)) as table:
        table.set("::1", 9)
        table.pin(bpffs / "t_anon")
    with Map.from_pin(bpffs / "t_anon") as again:
        assert again.items() == [(bytes(15) + b"\1", 9)]


def test_facts_of_a_map(shapes: BpfObject) -> None:
    with shapes.map("t_pcpu_array") as table:
        facts = table.info
    assert (facts.type, facts.key_size, facts.value_size, facts.max_entries) == (MapType.PERCPU_ARRAY, 4, 4, 4)
    assert facts.name == "t_pcpu_array"
    assert facts.id > 0


def test_sizes_are_checked_before_the_kernel_reads(shapes: BpfObject) -> None:
    with shapes.map("t_array") as table:
        for wrong in (b"", b"abc", bytes(5)):
            with pytest.raises(BpfError, match=f"Map t_array takes 4 bytes here, not {len(wrong)}"):
                table.get_raw(wrong)
            with pytest.raises(BpfError, match="Map t_array takes 4 bytes here"):
                table.delete_raw(wrong)
            with pytest.raises(BpfError, match="Map t_array takes 8 bytes here"):
                table.set_raw(bytes(4), wrong)


def test_a_map_that_the_kernel_refuses_names_itself() -> None:
    with pytest.raises(BpfError, match="creating map t_bad of 0 entries failed: Invalid argument") as caught:
        Map.create(MapSpec("t_bad", MapType.HASH, U32, U32, 0))
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("values", "total"),
    [
        ([1, 2], 3),
        ([{"a": 1, "b": {"c": 2}}, {"a": 3, "b": {"c": 4}}], {"a": 4, "b": {"c": 6}}),
        ([[1, 2], [3, 4]], [4, 6]),
        ([{"name": "x", "n": 1}, {"name": "x", "n": 1}], {"name": "x", "n": 2}),
        ([], []),
        (7, 7),
    ],
    ids=str,
)
def test_values_add_up_field_by_field(values: object, total: object) -> None:
    assert add_up(values) == total  # type: ignore[arg-type]


def wide(number: int) -> bytes:
    return number.to_bytes(8, "little")


def _inner(shapes: BpfObject, name: str) -> MapSpec:
    inner = shapes.maps[name].inner
    assert inner is not None
    return inner
