"""The node agent on a real kernel: what it refuses whole changes nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from sixgate.node.agent import NodeAgent
from tests.netns.conftest import Node
from tests.netns.node_state import programs_on, state

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("wrong", ["digest in the NodeConfig", "file"])
def test_another_object_file_is_refused_whole(node: Node, tmp_path: Path, wrong: str) -> None:
    agent = node.agent()
    assert agent.apply(node.spec()).ready
    before = state(node)
    other = tmp_path / "objects"
    other.mkdir()
    (other / "manifest.json").write_text((node.objects / "manifest.json").read_text())
    (other / "sg_t.bpf.o").write_bytes((node.objects / "sg_t.bpf.o").read_bytes() + b"x")
    spec = node.spec(features=3)
    if wrong == "file":
        node.objects = other
    else:
        spec = spec.model_copy(
            update={"objects": (spec.objects[0].model_copy(update={"digest": "sha256:" + "1" * 64}),)}
        ).hashed()
    status = node.agent().apply(spec)
    assert not status.ready
    assert "sha256:" in status.message
    assert state(node) == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"formatVersion": 2}, "format version 2"),
        ({"surprise": 1}, "spec.surprise"),
        ({"links": [{"name": "x" * 16, "kind": "veth"}]}, "spec.links.0.name"),
    ],
)
def test_a_document_that_cannot_be_read_is_refused_whole(node: Node, change: dict[str, Any], sentence: str) -> None:
    agent = node.agent()
    document = node.spec().model_dump(mode="json", by_alias=True)
    assert agent.apply_document(document).ready
    before = state(node)
    status = agent.apply_document({**document, **change})
    assert not status.ready
    assert sentence in status.message
    assert state(node) == before


def test_a_directory_that_is_no_bpffs_is_refused(node: Node, tmp_path: Path) -> None:
    node.root = tmp_path / "plain" / "sixgate"
    status = node.agent().apply(node.spec())
    assert "should be on a BPF file system" in status.message
    assert programs_on(node) == []


def test_two_processes_do_not_keep_one_node(node: Node) -> None:
    first = node.agent()
    first.apply(node.spec())
    with NodeAgent(first._options) as second:
        assert f"pid {os.getpid()}" in second.apply(node.spec(features=2)).message
    first.close()
    with NodeAgent(first._options) as second:
        assert second.apply(node.spec(features=2)).ready
