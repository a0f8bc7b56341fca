"""A directory of manifests: lines of mistakes, what is kept, who counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sixgate.errors import ManifestError, Ref
from sixgate.render.renderer import Renderer
from sixgate.standalone.directory import Directory, Manifests
from sixgate.standalone.manifests import read_documents
from sixgate.standalone.pipeline import compile_node

GOOD = """\
apiVersion: sixgate.io/v1alpha1
kind: NAT46Gateway
metadata:
  name: {name}
spec:
  nodeSelector:
    matchLabels:
      kubernetes.io/hostname: gw-1
  prefix: {prefix}
  stateless:
    ipv4CIDRs:
      - {cidr}
"""
DIGESTS = dict.fromkeys(("sg_tc", "sg_slow", "sg_xdp"), "sha256:" + "0" * 64)


def good(name: str = "a", prefix: str = "2001:db8:64::/96", cidr: str = "198.51.100.0/24") -> str:
    return GOOD.format(name=name, prefix=prefix, cidr=cidr)


class Clock:
    """Every moment is later than the one before."""

    def __init__(self) -> None:
        self.ticks = 0

    def __call__(self) -> str:
        self.ticks += 1
        return f"2026-01-01T00:00:{self.ticks:02d}Z"


def names(found: Manifests) -> list[str]:
    return [str(item.ref) for item in found.objects]


def sentences(found: Manifests) -> list[str]:
    return [str(problem) for problem in found.problems]


def test_several_documents_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"---\n{good('a')}---\n# nothing here\n---\n{good('b')}")
    (tmp_path / ".hidden.yaml").write_text("kind: [")
    (tmp_path / "notes.txt").write_text("kind: [")
    (tmp_path / "c.json").write_text(json.dumps(read_documents("x", good("c"))[0].raw))
    found = Directory(tmp_path, Clock()).read()
    assert (names(found), sentences(found)) == ([f"NAT46Gateway/{name}" for name in "abc"], [])


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("kind: [\n", "a.yaml:2: ", "no valid YAML"),
        ("a: 1\na: 2\n", "a.yaml:2: ", "a is given twice, first in line 1"),
        ("a: &a [*a]\n", "a.yaml:1: ", "alias"),
        ("a: !!python/object:os.system {}\n", "a.yaml:1: ", "no valid YAML"),
        ("\x00", "a.yaml:1: ", "no valid YAML"),
        ("just text\n", "a.yaml:1: ", "must be an object"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n", "a.yaml:1: ", "apiVersion must be sixgate.io/v1alpha1"),
        (good().replace("NAT46Gateway", "Gateway"), "a.yaml:2: ", "kind must be one of"),
        (good(prefix="2001:db8::/95"), "a.yaml:9: ", "spec.prefix"),
        (good() + "  colour: red\n", "a.yaml:13: ", "spec.colour is not a field of this kind"),
        (good(cidr="198.51.100.1/24"), "a.yaml:12: ", "spec.stateless.ipv4CIDRs[0]"),
        (good(name="A_b"), "a.yaml:4: ", "metadata.name"),
        ("# \n" * 3 + "---\n" + good() + "---\n" + good("b", prefix="x"), "a.yaml:26: ", "NAT46Gateway/b: spec.prefix"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_mistakes_are_named_with_file_line_and_field(tmp_path: Path, text: str, where: str, words: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    (sentence, *_) = sentences(Directory(tmp_path, Clock()).read())
    assert sentence.startswith(where)
    assert words in sentence


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in sentences(Directory(tmp_path, Clock()).read())[0]


@pytest.mark.parametrize("broken", ["kind: [", good(prefix="2001:db8::/95"), good() + "  colour: red\n"])
def test_what_runs_of_a_broken_file_stays(tmp_path: Path, broken: str) -> None:
    directory = Directory(tmp_path, Clock())
    (tmp_path / "a.yaml").write_text(good())
    (tmp_path / "b.yaml").write_text(good("b", "2001:db8:65::/96"))
    before = directory.read()
    (tmp_path / "a.yaml").write_text(broken)
    (tmp_path / "b.yaml").write_text(good("b", "2001:db8:66::/96"))
    found = directory.read()
    assert names(found) == names(before)
    assert found.objects[0] == before.objects[0]
    assert found.objects[1] != before.objects[1]
    assert "what runs of it stays as it was" in sentences(found)[0]
    restarted = Directory(tmp_path, Clock(), json.loads(json.dumps(directory.memory()))).read()
    assert restarted.objects == found.objects
    (tmp_path / "a.yaml").unlink()
    assert names(directory.read()) == ["NAT46Gateway/b"]


def test_one_wrong_object_does_not_keep_its_neighbours(tmp_path: Path) -> None:
    directory = Directory(tmp_path, Clock())
    path = tmp_path / "a.yaml"
    path.write_text(good() + "---\n" + good("b", "2001:db8:65::/96"))
    directory.read()
    path.write_text(good(prefix="bad") + "---\n" + good("b", "2001:db8:66::/96"))
    found = directory.read()
    prefixes = {str(item.ref): item.model_dump(by_alias=True, mode="json")["spec"]["prefix"] for item in found.objects}
    assert prefixes == {"NAT46Gateway/a": "2001:db8:64::/96", "NAT46Gateway/b": "2001:db8:66::/96"}


def test_of_two_declarations_the_one_that_was_there_counts(tmp_path: Path) -> None:
    directory = Directory(tmp_path, Clock())
    (tmp_path / "b.yaml").write_text(good())
    before = directory.read()
    (tmp_path / "a.yaml").write_text(good(prefix="2001:db8:65::/96"))
    found = directory.read()
    assert found.objects == before.objects
    assert sentences(found) == ["a.yaml:1: NAT46Gateway/a is declared here and in b.yaml:1; the one in b.yaml counts"]
    (tmp_path / "b.yaml").unlink()
    assert sentences(directory.read()) == []


def test_of_two_that_contradict_each_other_the_older_keeps_what_it_has(tmp_path: Path) -> None:
    """Also after a restart, and though its name and its file come later."""
    clock = Clock()
    directory = Directory(tmp_path, clock)
    (tmp_path / "z.yaml").write_text(good("z"))
    directory.read()
    (tmp_path / "a.yaml").write_text(good("a"))
    for one in (directory, Directory(tmp_path, clock, directory.memory())):
        found = one.read()
        compiled = compile_node(found, "gw-1", {}, DIGESTS, Renderer())
        assert list(compiled.counters["sg_nat_stats"].values()) == ["NAT46Gateway/z"]
        assert [(str(p.problem.ref), p.file) for p in compiled.problems] == [("NAT46Gateway/a", "a.yaml")]
        assert compiled.problems[0].line > 1


def test_problems_of_the_plan_are_located(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(good())
    compiled = compile_node(Directory(tmp_path, Clock()).read(), "other", {}, DIGESTS, Renderer())
    assert [(p.file, p.line, p.problem.field) for p in compiled.problems] == [("a.yaml", 6, "spec.nodeSelector")]
    labelled = compile_node(
        Directory(tmp_path, Clock()).read(), "other", {"kubernetes.io/hostname": "gw-1"}, DIGESTS, Renderer()
    )
    assert labelled.problems == ()
    assert labelled.spec is not None
    assert labelled.spec.objects


def test_a_broken_template_publishes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(good())
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "nat46.json.j2").write_text("{{ nothing.at.all }}")
    compiled = compile_node(Directory(tmp_path, Clock()).read(), "gw-1", {}, DIGESTS, Renderer(templates))
    assert compiled.spec is None
    assert [str(p.problem.ref) for p in compiled.problems] == ["NAT46Gateway/a"]


def test_a_directory_that_is_gone(tmp_path: Path) -> None:
    directory = Directory(tmp_path / "none", Clock())
    assert directory.signature() is None
    with pytest.raises(ManifestError, match="should be a directory"):
        directory.read()


def test_the_signature_sees_every_change(tmp_path: Path) -> None:
    directory = Directory(tmp_path, Clock())
    seen = [directory.signature()]
    for text in ("x", "xx"):
        (tmp_path / "a.yaml").write_text(text)
        seen.append(directory.signature())
    (tmp_path / "b.yaml").write_text("xx")
    (tmp_path / "b.yaml").replace(tmp_path / "a.yaml")  # same size, another file
    seen.append(directory.signature())
    assert len(set(seen)) == len(seen)


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(content=st.text(max_size=80) | VALUES.map(json.dumps))
def test_no_text_can_do_more_than_be_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.yaml").write_text(content)
    found = Directory(tmp_path, Clock()).read()
    assert found.objects == ()
    assert all(problem.problem.message and isinstance(problem.problem.ref, Ref) for problem in found.problems)
