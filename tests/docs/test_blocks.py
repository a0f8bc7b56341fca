"""Every YAML and every command of the documentation: objects are planned, commands are parsed by their programs.

What changes nothing is run for real in tests/netns/test_docs_commands.py and tests/e2e/test_docs_kubectl.py.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from e2e.apiserver.binaries import helm_binaries
from sixgate.api.crd import definitions
from sixgate.api.parse import KINDS, parse_object
from sixgate.cli import build
from sixgate.cli.cluster.commands import build as build_cluster
from sixgate.errors import Problem
from sixgate.plan import NodeInfo, Snapshot, plan
from tests.docs.blocks import OTHERS, OWN, PAGES, ROOT, Block, Command, all_commands, blocks, is_commands
from tests.unit.objects import DIGESTS

BLOCKS = [block for path in PAGES for block in blocks(path)]
SHOWN = frozenset({"text", "json", "c", "python", "lua", "promql"})  # nothing to be run
YAML = [block for block in BLOCKS if block.language == "yaml"]
COMMANDS = all_commands()
BUILT_IN = frozenset(
    {"namespace", "namespaces", "crd", "configmap", "cm", "node", "nodes", "pods", "events", "daemonset", "deployment"}
)
VERBS = frozenset(
    {"get", "describe", "apply", "label", "logs", "cordon", "uncordon", "delete", "wait", "explain", "events"}
)
MAKEFILE = (ROOT / "Makefile").read_text()


def of(*programs: str) -> list[Command]:
    return [command for command in COMMANDS if command.program in programs]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_in_a_class(block: Block) -> None:
    if not block.language:
        assert "apiVersion:" not in block.text, "say ```yaml, so that the object is tried"
        assert is_commands(block) or not re.search(r"^\$ ", block.text, re.MULTILINE), "say ```console"
        return
    assert block.language == "yaml" or is_commands(block) or block.language in SHOWN, block.language


@pytest.mark.parametrize("block", YAML, ids=str)
def test_yaml_is_read_and_planned(block: Block) -> None:
    for raw in yaml.safe_load_all(block.text):
        assert isinstance(raw, dict), raw
        if raw.get("kind") not in KINDS:
            assert {"apiVersion", "kind"} <= set(raw), "a piece of an object cannot be tried: show a whole one"
            continue
        item = parse_object(raw)
        assert not isinstance(item, tuple), [problem.message for problem in item if isinstance(problem, Problem)]
        labels: dict[str, str] = {}
        selector: dict[str, Any] = raw["spec"].get("nodeSelector", {})
        labels |= selector.get("matchLabels", {})
        labels |= {part["key"]: "" for part in selector.get("matchExpressions", ()) if part["operator"] == "Exists"}
        nodes = (NodeInfo("n1", labels, ("203.0.113.1", "2001:db8:ffff::1")),)
        result = plan(Snapshot((item,), nodes, digests=DIGESTS))
        assert not [problem for problem in result.problems if problem.reason in {"Invalid", "NoNodes"}]


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_is_in_a_class(command: Command) -> None:
    assert command.program in OWN | OTHERS, f"{command.program} is in no class of tests/docs/blocks.py"


@pytest.mark.parametrize(
    "command", [c for c in of("sixgate", "kubectl") if c.program == "sixgate" or c.words[1] == "sixgate"], ids=str
)
def test_sixgate_reads_its_commands(command: Command) -> None:
    cluster = command.program == "kubectl"
    words = list(command.words[2:] if cluster else command.words[1:])
    at: Any = get_command(build_cluster() if cluster else build())
    while hasattr(at, "commands"):
        if not words:
            return
        assert words[0] in at.commands, f"{words[0]!r} is no command"
        at = at.commands[words.pop(0)]
    options = {name: option for option in at.params for name in (*option.opts, *option.secondary_opts)}
    bare = [word for word in words if word.startswith("-")]
    assert {word.partition("=")[0] for word in bare} <= set(options) | {"--help"}
    needed = {option.name for option in at.params if option.required}
    if len(words) > 0 and needed and not bare and not needed & {"shell", "name", "pod", "address", "destination"}:
        return  # said in a sentence, without what it needs
    if not words:
        return
    context = at.make_context(at.name, words, resilient_parsing=len(needed) > 0 and len(bare) < len(needed))
    assert context is not None


@pytest.mark.parametrize("command", of("make"), ids=str)
def test_make_has_the_target(command: Command) -> None:
    targets = [word for word in command.words[1:] if "=" not in word and not word.startswith("-")]
    for target in targets:
        benched = target.startswith("bench-") and (ROOT / "bench" / f"{target.removeprefix('bench-')}.py").exists()
        assert benched or target == "bench-NAME" or re.search(rf"^{re.escape(target)}:", MAKEFILE, re.MULTILINE), target


@pytest.mark.parametrize("command", of("python"), ids=str)
def test_python_has_the_module_and_its_options(command: Command) -> None:
    if command.words[1] != "-m" or command.words[2] == "pytest":
        for path in command.words[3:]:
            assert path.startswith("-") or (ROOT / path.partition("::")[0]).exists(), path
        return
    source = ROOT / (command.words[2].replace(".", "/") + ".py")
    source = source if source.exists() else source.with_suffix("") / "__main__.py"
    text = source.read_text()
    for word in command.words[3:]:
        assert not word.startswith("--") or f'"{word.partition("=")[0]}"' in text, word


def resources() -> frozenset[str]:
    names = [crd["spec"]["names"] for _, crd in definitions()]
    ours = {name for n in names for name in (n["plural"], n["singular"], n["kind"].lower(), *n.get("shortNames", ()))}
    return frozenset(ours) | BUILT_IN | {"sixgate"}


@pytest.mark.parametrize("command", [c for c in of("kubectl") if c.words[1] != "sixgate"], ids=str)
def test_kubectl_knows_what_is_asked_for(command: Command) -> None:
    words = list(command.words[1:])
    while words and words[0] in {"-n", "--namespace"}:
        words = words[2:]
    verb = words[0]
    assert verb in VERBS, verb
    if verb in {"get", "describe", "label", "delete", "explain"}:
        for name in words[1].split(","):
            assert name.partition("/")[0].partition(".")[0] in resources(), name
    if verb == "events":
        assert words[1] == "--for"
        assert words[2].partition("/")[0] in resources(), words[2]
    for flag, value in pairwise(words):
        if flag == "-f" and value != "-":
            assert (ROOT / value).exists(), value


@cache
def flags_of_helm(verb: str) -> str:
    helm = str(helm_binaries()[4])
    return subprocess.run([helm, verb, "--help"], capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("command", [c for c in of("helm") if len(c.words) > 2], ids=str)
def test_helm_takes_the_command(command: Command) -> None:
    verb, *words = command.words[1:]
    helped = flags_of_helm(verb)
    for word in words:
        assert not word.startswith("--") or re.search(rf"{re.escape(word.partition('=')[0])}\b", helped), word
        assert not word.startswith("charts/") or (ROOT / word).exists(), word
    if verb in {"install", "upgrade"} and "charts/sixgate" in words:
        given = [part for pair in pairwise(words) if pair[0] == "--set" for part in pair]
        done = subprocess.run(
            [str(helm_binaries()[4]), "template", "sixgate", "charts/sixgate", *given],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", of(*OTHERS), ids=str)
def test_another_program_is_there(command: Command) -> None:
    assert command.program in {"cd", "export", "source"} or shutil.which(command.program), command.program


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_fields_and_reasons_that_a_page_names_exist(path: Path) -> None:
    text = path.read_text()
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "reference").glob("*.md"))
    fields = {field.rstrip(".") for field in re.findall(r"`(spec\.[a-z][A-Za-z0-9.]+)`", text)}
    assert {field for field in fields if f"`{field}`" not in pages and f"`{field}[]`" not in pages} == set()
    reasons = set(re.findall(r"`(SG_(?:PASS|OK|SLOW|DROP)_[A-Z0-9_]*[A-Z0-9])`", text))
    assert {reason for reason in reasons if f"`{reason}`" not in pages} == set()


def test_blocks_are_found() -> None:
    """A parser that finds nothing would pass everything."""
    assert len(BLOCKS) > 40
    assert len(YAML) >= 5
    assert len(of("sixgate")) > 30
    assert len(of("helm")) >= 5
    assert json.dumps(sorted({command.program for command in COMMANDS}))
