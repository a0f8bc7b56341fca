"""The generated layouts: what the objects and headers say, and a faithful codec for every shipped map."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sixgate.node.bpf import CType, decode, encode
from sixgate.node.bpf.codec import PADDING
from sixgate.node.bpf.ctype import Array, Record
from sixgate.node.bpf.layouts import MAPS, REASONS, SgReason
from tests.bpf.harness import OBJECTS, ROOT
from tools.build_bpf import build_object, file_digest

GENERATOR = ROOT / "tools" / "gen_layouts.py"
SOURCE = """#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, ENTRIES);
} sg_shared SEC(".maps");
SEC("xdp") int pass(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;
	return bpf_map_lookup_elem(&sg_shared, &key) ? XDP_PASS : XDP_DROP;
}
char _license[] SEC("license") = "GPL";
"""


def generate(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(GENERATOR), *(str(each) for each in arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_reasons_are_those_of_the_header() -> None:
    text = (ROOT / "bpf_src/include/sg/drop.h").read_text()
    names = re.findall(r"^\s*(SG_\w+)(?: = 0)?,", text, re.MULTILINE)

    assert [reason.name for reason in SgReason] == names
    assert [int(reason) for reason in SgReason] == list(range(len(names)))
    assert set(REASONS) == set(SgReason) - {SgReason.SG_REASON_MAX}, "every reason has a comment behind it in drop.h"


def test_a_difference_is_found_and_repaired(tmp_path: Path, shipped: object) -> None:
    out = tmp_path / "layouts.py"
    assert generate("--objects", OBJECTS, "--out", out, "--check").returncode == 1
    assert generate("--objects", OBJECTS, "--out", out).returncode == 0
    assert generate("--objects", OBJECTS, "--out", out, "--check").returncode == 0
    out.write_text(out.read_text().replace("SG_PASS_NOT_IP = 0", "SG_PASS_NOT_IP = 1"))
    done = generate("--objects", OBJECTS, "--out", out, "--check")
    assert (done.returncode, done.stderr) == (1, f"{out} is not what the built objects say; run `make generate`.\n")


def test_two_objects_must_agree_on_a_map_they_share(tmp_path: Path) -> None:
    digests = {}
    for name, entries in (("sg_one", "4"), ("sg_two", "8")):
        source = tmp_path / f"{name}.bpf.c"
        source.write_text(SOURCE.replace("ENTRIES", entries))
        digests[name] = file_digest(build_object(source, tmp_path / f"{name}.bpf.o", ()).path)
    (tmp_path / "manifest.json").write_text(json.dumps({"objects": digests}))

    done = generate("--objects", tmp_path, "--out", tmp_path / "layouts.py")

    assert (done.returncode, done.stderr) == (1, "Map sg_shared is defined differently by sg_one and by sg_two.\n")
    assert not (tmp_path / "layouts.py").exists()


def has_union(ctype: CType) -> bool:
    """Scratch maps hold unions of kernel headers: they are shown in every reading, and are written by BPF only."""
    if isinstance(ctype, Array):
        return has_union(ctype.element)
    return isinstance(ctype, Record) and (ctype.overlaps or any(has_union(field.type) for field in ctype.fields))


def is_told(ctype: CType) -> bool:
    """What is the kernel's alone (struct bpf_timer) has bytes that no field names; nobody decodes it."""
    if isinstance(ctype, Array):
        return is_told(ctype.element)
    return not isinstance(ctype, Record) or (ctype.name != "bpf_timer" and all(is_told(f.type) for f in ctype.fields))


@pytest.mark.parametrize(
    "name", sorted(name for name, spec in MAPS.items() if not has_union(spec.value) and is_told(spec.value))
)
def test_what_a_shipped_map_holds_survives_the_codec(name: str) -> None:
    rolls = random.Random(name)
    for ctype in (MAPS[name].key, MAPS[name].value):
        for _ in range(50):
            data = bytearray(rolls.randbytes(ctype.size))
            clear_padding(ctype, data, 0)
            assert encode(ctype, decode(ctype, bytes(data))) == data


def clear_padding(ctype: CType, data: bytearray, at: int) -> None:
    """Zeroes what the codec leaves out, as BPF does."""
    if isinstance(ctype, Array):
        for index in range(ctype.count):
            clear_padding(ctype.element, data, at + index * ctype.element.size)
    if isinstance(ctype, Record):
        for field in ctype.fields:
            start = at + field.offset
            if PADDING.fullmatch(field.name):
                data[start : start + field.type.size] = bytes(field.type.size)
            clear_padding(field.type, data, start)
