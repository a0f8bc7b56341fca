"""Finds every reason that sixgate gives, for objects and for packets, and says of each what to do about it.

Reasons of packets are those of bpf_src/include/sg/drop.h. Reasons of conditions are found in the sources: constants of
`plan`, `render`, `api` and `standalone`, and words that `node` hands to what collects problems. What there is to do is
written in doc_advice.yaml; a test wants an entry for each reason, and no entry for a reason that is not there.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "operator" / "sixgate"
COLLECTORS = frozenset({"Problem", "problem", "note", "say", "_problem", "_problems", "append", "UnfitError"})
_WORD = re.compile(r"(?:[A-Z][a-z0-9]+)+")
_COMPOUND = re.compile(r"(?:[A-Z][a-z0-9]+){2,}")

_ADVICE: dict[str, dict[str, str]] = yaml.safe_load((ROOT / "tools" / "doc_advice.yaml").read_text())
CONDITIONS = _ADVICE["conditions"]
DROPS = _ADVICE["drops"]


@cache
def condition_reasons() -> dict[str, tuple[str, ...]]:
    """Reasons of conditions, and who gives them: operator, node, files."""
    found: dict[str, set[str]] = {}
    for path in sorted(SOURCES.rglob("*.py")):
        part = path.relative_to(SOURCES).parts
        tree = ast.parse(path.read_text())
        words: Iterator[str] = iter(())
        if part[0] in {"plan", "render", "standalone"} or part == ("api", "parse.py"):
            words = _constants(tree, path.name == "status.py")
        elif part[0] == "node" and part[1] != "bpf":
            words = _handed(tree)
        who = {"node": "node", "standalone": "files"}.get(part[0], "operator")
        for word in words:
            found.setdefault(word, set()).add(who)
    return {word: tuple(sorted(by)) for word, by in sorted(found.items())}


def _constants(tree: ast.Module, status: bool) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
            yield from _word(node.value, _WORD)
    if not status:
        return
    for found in ast.walk(tree):  # (type, status, reason, message)
        if isinstance(found, ast.Tuple) and len(found.elts) == 4 and isinstance(found.elts[0], ast.Constant):
            yield from _word(found.elts[2], _WORD)


def _handed(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in COLLECTORS:
                for value in node.args:
                    yield from _word(value, _WORD)
        if isinstance(node, ast.Tuple):
            for value in node.elts:
                yield from _word(value, _COMPOUND)


def _word(node: ast.expr, form: re.Pattern[str]) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and form.fullmatch(node.value):
        yield node.value


def drop_reasons() -> dict[str, str]:
    """Every reason of a packet with its meaning, as the data plane's header has them, in its order."""
    from sixgate.node.bpf.layouts import REASONS  # noqa: PLC0415 - generated, and not there before the first build

    return {reason.name: text for reason, text in REASONS.items()}
