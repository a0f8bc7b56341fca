"""Objects on the real kernel: constants, shared pins, sizes, choice of programs, and that loading is all or nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sixgate.errors import BpfError
from sixgate.node.bpf import BpfLoadError, BpfObject, BpfPinError, Map, MapType, Program, ProgType
from tests.bpf.harness import TC_ACT_OK, TC_ACT_SHOT

Open = Callable[[str], BpfObject]
PACKET = bytes(64)


def test_constants_reach_the_program(opened: Open) -> None:
    shapes = opened("shapes")
    shapes.set_constants({"verdict": 3})
    shapes.load()
    with shapes.program("shape_xdp") as program:
        assert program.test_run(PACKET).retval == 3


def test_constants_not_named_keep_what_c_gave_them(opened: Open) -> None:
    shapes = opened("shapes")
    fields = {field.name: field.offset for field in shapes.constants.fields}

    data = shapes.set_constants(
        {"cfg": {"dev": "eth0", "corner": [{"x": 1}, {"y": -1}], "prefix": "64:ff9b::"}, "ports": [9]},
        resolve=lambda name: {"eth0": 5}[name],
    )

    def at(name: str, size: int) -> bytes:
        return data[fields[name] : fields[name] + size]

    assert at("verdict", 4) == b"\2\0\0\0"
    assert at("ports", 8) == b"\x09\0\0\0\0\0\0\0"
    # A constant that is named is replaced whole: features was 7.
    assert at("cfg", 32) == bytes(4) + b"\5\0\0\0" + b"\1\0\0\0" + b"\0\0\xff\xff" + b"\0\x64\xff\x9b" + bytes(12)


def test_a_wrong_constant_changes_nothing(opened: Open) -> None:
    shapes = opened("shapes")
    before = shapes.set_constants({})

    with pytest.raises(BpfError, match=r"BPF object shapes has no constant 'cgf'; it has .*cfg"):
        shapes.set_constants({"verdict": 1, "cgf": {}})
    with pytest.raises(BpfError, match=r"cfg\.corner\[1\]\.x: 65536 is outside __u16"):
        shapes.set_constants({"verdict": 1, "cfg": {"corner": [{}, {"x": 65536}]}})
    assert shapes.set_constants({}) == before


def test_maps_and_programs_are_listed(opened: Open) -> None:
    shapes = opened("shapes")

    assert shapes.programs["shape_tc"].type == ProgType.SCHED_CLS
    assert shapes.programs["shape_xdp"].section == "xdp"
    assert {name: spec.type for name, spec in shapes.maps.items()} == {
        "t_hash": MapType.HASH,
        "t_lru": MapType.LRU_HASH,
        "t_array": MapType.ARRAY,
        "t_pcpu_array": MapType.PERCPU_ARRAY,
        "t_pcpu_hash": MapType.PERCPU_HASH,
        "t_scratch": MapType.PERCPU_ARRAY,
        "t_large": MapType.HASH,
        "t_devmap": MapType.DEVMAP_HASH,
        "t_lpm": MapType.LPM_TRIE,
        "t_tables": MapType.ARRAY_OF_MAPS,
        "t_by_addr": MapType.HASH_OF_MAPS,
    }


def test_maps_are_pinned_by_the_first_object_and_shared_by_the_next(opened: Open, bpffs: Path) -> None:
    first, second = opened("shapes"), opened("shapes")

    assert first.reuse_pinned(bpffs) == ()
    first.load()
    assert {path.name for path in bpffs.iterdir()} == set(first.maps)
    assert set(second.reuse_pinned(bpffs)) == set(first.maps)
    second.load()

    with first.map("t_array") as mine, second.map("t_array") as same, Map.from_pin(bpffs / "t_array") as pinned:
        mine.set(3, {"number": 8})
        assert same.get(3) == pinned.get(3) == {"number": 8}
        assert mine.info.id == same.info.id == pinned.info.id
    with first.map("t_tables") as outer, second.map("t_tables") as other:
        assert outer.info.id == other.info.id


def test_only_the_maps_that_are_named_are_shared(opened: Open, bpffs: Path) -> None:
    shapes = opened("shapes")
    shapes.reuse_pinned(bpffs, ["t_array"])
    shapes.load()

    assert [path.name for path in bpffs.iterdir()] == ["t_array"]
    with pytest.raises(BpfError, match="BPF object shapes has no map 'nothing'"):
        opened("shapes").reuse_pinned(bpffs, ["nothing"])


def test_a_pinned_map_of_another_layout_is_refused_with_old_and_new(opened: Open, bpffs: Path) -> None:
    shapes = opened("shapes")
    shapes.reuse_pinned(bpffs, ["t_array", "t_lru"])
    shapes.load()
    changed = opened("changed")

    with pytest.raises(BpfPinError) as caught:
        changed.reuse_pinned(bpffs)

    assert caught.value.path == bpffs / "t_array"
    assert str(caught.value) == (
        f"Map t_array pinned at {bpffs}/t_array does not fit BPF object changed: value size is 8 where 16 is wanted, "
        "max_entries is 8 where 16 is wanted."
    )
    # Nothing was shared: the object loads with maps of its own.
    changed.load()
    with changed.map("t_lru") as mine, Map.from_pin(bpffs / "t_lru") as pinned:
        assert mine.info.id != pinned.info.id


def test_another_size_is_another_layout(opened: Open, bpffs: Path) -> None:
    first = opened("shapes")
    first.set_max_entries("t_hash", 128)
    first.reuse_pinned(bpffs, ["t_hash"])
    first.load()
    with first.map("t_hash") as table:
        assert table.info.max_entries == 128

    with pytest.raises(BpfPinError, match="max_entries is 128 where 64 is wanted"):
        opened("shapes").reuse_pinned(bpffs, ["t_hash"])
    second = opened("shapes")
    second.set_max_entries("t_hash", 128)
    assert second.reuse_pinned(bpffs, ["t_hash"]) == ("t_hash",)


def test_something_else_at_the_pin_is_refused(opened: Open, bpffs: Path) -> None:
    shapes = opened("shapes")
    shapes.load()
    with shapes.program("shape_xdp") as program:
        program.pin(bpffs / "t_hash")

    with pytest.raises(BpfError, match=r"t_hash holds a program, where a map is expected"):
        opened("shapes").reuse_pinned(bpffs, ["t_hash"])


def test_a_refused_program_leaves_nothing_behind(opened: Open, bpffs: Path) -> None:
    refused = opened("refused")
    refused.reuse_pinned(bpffs)

    with pytest.raises(BpfLoadError) as caught:
        refused.load()

    assert caught.value.errno == errno.EACCES
    assert str(caught.value).startswith(
        "Loading BPF object refused, program reckless_xdp, failed: Permission denied (EACCES); the verifier says: "
    )
    assert "invalid access to packet" in str(caught.value)
    assert "reckless_xdp" in caught.value.log
    assert list(bpffs.iterdir()) == []
    with pytest.raises(BpfError, match="BPF object refused is closed"):
        refused.program("fine_xdp")


def test_only_chosen_programs_are_loaded(opened: Open) -> None:
    refused = opened("refused")
    refused.set_autoload(["fine_xdp"])
    refused.load()

    with refused.program("fine_xdp") as program:
        assert program.info.verified_insns > 0
    with pytest.raises(BpfError, match="Program reckless_xdp of BPF object refused was not loaded"):
        refused.program("reckless_xdp")
    with pytest.raises(BpfError, match=r"has no program 'absent'; it has fine_xdp, reckless_xdp"):
        opened("refused").set_autoload(["absent"])


def test_a_pin_that_fails_takes_the_others_back(opened: Open, bpffs: Path) -> None:
    shapes = opened("shapes")
    shapes.reuse_pinned(bpffs, ["t_array", "t_hash"])
    (bpffs / "t_hash").mkdir()  # appears between look-up and load, as another agent's would

    with pytest.raises(BpfError, match="pinning map t_hash") as caught:
        shapes.load()

    assert caught.value.errno == errno.EEXIST
    assert [path.name for path in bpffs.iterdir()] == ["t_hash"]


def test_a_program_type_can_be_set_by_the_loader(opened: Open) -> None:
    runner = opened("runner")
    runner.set_autoload(["untyped"])
    with pytest.raises(BpfLoadError, match=r"libbpf says: .*missing BPF prog type"):
        runner.load()

    runner = opened("runner")
    runner.set_autoload(["untyped"])
    runner.set_type("untyped", ProgType.SCHED_CLS)
    runner.load()
    with runner.program("untyped") as program:
        assert program.test_run(bytes(64)).retval == TC_ACT_OK
        assert program.test_run(bytes(101)).retval == TC_ACT_SHOT


def test_maps_and_programs_outlive_their_object(opened: Open, descriptors: None) -> None:
    shapes = opened("shapes")
    shapes.load()
    table, program = shapes.map("t_array"), shapes.program("shape_xdp")
    shapes.close()
    shapes.close()

    with table, program:
        table.set(0, {"number": 1})
        assert table.get(0) == {"number": 1}
        assert program.test_run(PACKET).retval == 2
    program.close()


def test_steps_out_of_order_are_refused(opened: Open) -> None:
    shapes = opened("shapes")
    with pytest.raises(BpfError, match="BPF object shapes is not loaded yet: taking map t_hash is not possible"):
        shapes.map("t_hash")
    shapes.load()
    with pytest.raises(BpfError, match="BPF object shapes is loaded already: setting constants is not possible"):
        shapes.set_constants({"verdict": 1})
    with pytest.raises(BpfError, match="is loaded already: loading"):
        shapes.load()


@pytest.mark.parametrize("data", [b"", b"no ELF at all", b"\x7fELF" + bytes(60)], ids=["empty", "text", "cut"])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(BpfError, match="reading BPF object sg_broken failed"):
        BpfObject.open("/nowhere/sg_broken.bpf.o", data=data)


def test_a_cut_object_is_refused(compiled: Callable[[str], Path]) -> None:
    data = compiled("shapes").read_bytes()
    for length in (len(data) // 3, len(data) - 200):
        with pytest.raises(BpfError, match="reading BPF object shapes failed"):
            BpfObject.open("shapes.bpf.o", data=data[:length])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BpfError, match=r"absent\.bpf\.o cannot be read: No such file") as caught:
        BpfObject.open(tmp_path / "absent.bpf.o")
    assert caught.value.errno == errno.ENOENT


def test_a_program_is_found_by_its_pin(opened: Open, bpffs: Path) -> None:
    shapes = opened("shapes")
    shapes.load()
    path = bpffs / "sg_x:shape_xdp:0"
    with shapes.program("shape_xdp") as program:
        program.pin(path)
        with pytest.raises(BpfError, match=r"pinning program shape_xdp at .* failed: File exists") as caught:
            program.pin(path)
        assert caught.value.errno == errno.EEXIST
        facts = program.info
    shapes.close()

    with Program.from_pin(path) as again:
        assert again.info == facts
        assert (again.info.type, again.info.name) == (ProgType.XDP, "shape_xdp")
        assert len(bytes.fromhex(again.info.tag)) == 8
        assert again.info.verified_insns > 10
        assert len(again.info.map_ids) >= 3
    with pytest.raises(BpfError, match=r"opening the program pinned at .* failed: No such file") as caught:
        Program.from_pin(bpffs / "absent")
    assert caught.value.errno == errno.ENOENT


def test_failures_leak_no_descriptor(opened: Open, bpffs: Path, compiled: Callable[[str], Path]) -> None:
    with BpfObject.open(compiled("shapes")) as shapes:
        shapes.reuse_pinned(bpffs)
        shapes.load()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with BpfObject.open(compiled("changed")) as changed, pytest.raises(BpfPinError):
            changed.reuse_pinned(bpffs)
        with BpfObject.open(compiled("refused")) as refused, pytest.raises(BpfLoadError):
            refused.load()
        with pytest.raises(BpfError):
            Program.from_pin(bpffs / "t_hash")
    assert len(os.listdir("/proc/self/fd")) == before
