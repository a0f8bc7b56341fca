"""Digests decide which bytes reach libbpf; the build writes them, reproducibly."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from sixgate.errors import BpfError
from sixgate.node.bpf import BpfObject, load_manifest
from tests.bpf.harness import ROOT
from tools.build_bpf import BuildError, build_all, file_digest

HEADER = "#define ANSWER 2\n"
SOURCE = """#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "answer.h"
SEC("xdp") int answer(struct xdp_md *ctx)
{
	return ctx->data ? ANSWER : 0;
}
char _license[] SEC("license") = "GPL";
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source tree with objects sg_one and sg_two; built into `out`."""
    source = tmp_path / "source"
    (source / "include").mkdir(parents=True)
    (source / "include" / "answer.h").write_text(HEADER)
    for name in ("one", "two"):
        (source / f"sg_{name}.bpf.c").write_text(SOURCE)
    return tmp_path


def build(tree: Path) -> dict[str, bool]:
    """Builds and says what was compiled."""
    return {name: built.compiled for name, built in build_all(tree / "source", tree / "out").items()}


def test_the_manifest_names_what_was_built(tree: Path) -> None:
    assert build(tree) == {"sg_one": True, "sg_two": True}
    manifest = load_manifest(tree / "out")

    assert manifest.digests == {name: file_digest(tree / "out" / f"{name}.bpf.o") for name in ("sg_one", "sg_two")}
    data = manifest.read("sg_one", manifest.digests["sg_one"])
    assert manifest.digests["sg_one"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    with BpfObject.open(manifest.path("sg_one"), data=data) as opened:
        assert opened.name == "sg_one"
        assert list(opened.programs) == ["answer"]


def test_only_what_changed_is_compiled(tree: Path) -> None:
    build(tree)
    assert build(tree) == {"sg_one": False, "sg_two": False}
    with (tree / "source" / "sg_one.bpf.c").open("a") as file:
        file.write("/* a word */\n")
    assert build(tree) == {"sg_one": True, "sg_two": False}
    (tree / "source" / "include" / "answer.h").write_text(HEADER.replace("2", "1"))
    assert build(tree) == {"sg_one": True, "sg_two": True}
    (tree / "out" / "sg_two.bpf.o").write_bytes(b"spoiled")
    assert build(tree) == {"sg_one": False, "sg_two": False}
    assert load_manifest(tree / "out").read("sg_two")


def test_equal_sources_give_equal_digests_wherever_they_lie(tree: Path) -> None:
    inside = ROOT / "build" / "tests" / f"tree-{os.getpid()}"
    try:
        shutil.copytree(tree / "source", inside / "source")
        build(tree)
        build(inside)
        first = {path.name: path.read_bytes() for path in (inside / "out").glob("*.bpf.o")}
        shutil.rmtree(inside / "out")
        build(inside)
        assert first == {path.name: path.read_bytes() for path in (inside / "out").glob("*.bpf.o")}
        for data in first.values():
            assert str(ROOT).encode() not in data
            assert b".debug_info" not in data
    finally:
        shutil.rmtree(inside, ignore_errors=True)


def test_an_object_without_source_goes(tree: Path) -> None:
    build(tree)
    (tree / "source" / "sg_two.bpf.c").unlink()
    build(tree)
    assert list(load_manifest(tree / "out").digests) == ["sg_one"]
    assert not (tree / "out" / "sg_two.bpf.o").exists()


def test_what_does_not_compile_leaves_the_last_objects(tree: Path) -> None:
    build(tree)
    before = load_manifest(tree / "out")
    (tree / "source" / "include" / "answer.h").write_text(HEADER.replace("2", "1"))
    (tree / "source" / "sg_two.bpf.c").write_text(SOURCE.replace("ctx->data ?", "ctx->dato ?"))
    with pytest.raises(BuildError, match=r"compiling .*sg_two\.bpf\.c failed with exit code 1:(.|\n)*dato"):
        build(tree)
    assert load_manifest(tree / "out") == before
    assert before.read("sg_one")
    with pytest.raises(BuildError, match=r"holds no sg_six\.bpf\.c; it holds sg_one, sg_two"):
        build_all(tree / "source", tree / "out", ("sg_six",))


def test_hidden_padding_is_an_error(tree: Path) -> None:
    hole = "struct hole {\n\t__u8 a;\n\t__u32 b;\n};\nstruct hole filled;\n"
    (tree / "source" / "sg_one.bpf.c").write_text(SOURCE.replace("SEC(", f"{hole}SEC(", 1))
    with pytest.raises(BuildError, match="padding struct 'struct hole' with 3 bytes"):
        build(tree)


def test_a_changed_object_is_not_read(tree: Path) -> None:
    build(tree)
    manifest = load_manifest(tree / "out")
    path = manifest.path("sg_one")
    path.write_bytes(path.read_bytes() + b"\0")

    with pytest.raises(BpfError, match=r"sg_one\.bpf\.o has digest sha256:.*, where the manifest says sha256:"):
        manifest.read("sg_one")
    with pytest.raises(BpfError, match=r"BPF object sg_two is wanted as sha256:0+, but .* has it as sha256:"):
        manifest.read("sg_two", f"sha256:{'0' * 64}")
    with pytest.raises(BpfError, match="has no BPF object 'sg_six'; it has sg_one, sg_two"):
        manifest.read("sg_six")
    path.unlink()
    with pytest.raises(BpfError, match=r"sg_one\.bpf\.o cannot be read: No such file"):
        manifest.read("sg_one")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read: No such file or directory; run `make bpf`"),
        ("{", "is not JSON"),
        ("[]", 'has no "objects"'),
        ('{"objects": []}', 'has no "objects"'),
        (json.dumps({"objects": {"../x": f"sha256:{'0' * 64}"}}), "where a name sg_... and sha256:... are expected"),
        (json.dumps({"objects": {"sg_x": "sha256:abc"}}), "where a name sg_... and sha256:... are expected"),
        (json.dumps({"objects": {"sg_x": 5}}), "where a name sg_... and sha256:... are expected"),
    ],
    ids=["missing", "cut", "list", "objects a list", "path", "short digest", "number"],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, content: str | None, told: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(BpfError) as caught:
        load_manifest(tmp_path)
    assert told in str(caught.value)
