"""YAML text to raw objects that know their lines. Pure: text in, values out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from sixgate.errors import ManifestError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_FILE_BYTES = 4 << 20
_STEP = re.compile(r"[^.\[\]]+")


@dataclass(frozen=True, slots=True)
class Document:
    """One object of a file. `lines` gives the line, from 1, of each field path such as `spec.pools[0].prefix`."""

    file: str
    line: int
    raw: Any
    lines: Mapping[str, int]

    def line_of(self, field: str) -> int:
        """Line of a field; of the nearest enclosing one where the field is not there."""
        steps = _STEP.findall(field)
        while steps:
            path = "".join(f"[{step}]" if step.isdigit() else f".{step}" for step in steps).lstrip(".")
            if path in self.lines:
                return self.lines[path]
            steps.pop()
        return self.line


def read_documents(file: str, text: str) -> tuple[Document, ...]:
    """All objects of a YAML (or JSON) file, empty documents left out. ManifestError with file and line where it is no
    YAML or a mapping names a key twice."""
    if len(text) > MAX_FILE_BYTES:
        raise ManifestError(f"{file}: a file of manifests may have {MAX_FILE_BYTES} bytes, found {len(text)}")
    try:
        return tuple(_documents(file, text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        column = mark.column + 1 if mark else 1
        found = " ".join(part for part in (error.context, error.problem) if part)
        raise ManifestError(f"{file}:{line}:{column}: this is no valid YAML: {found}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ManifestError(f"{file}:{line}: this is no valid YAML: {error.reason}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ManifestError(f"{file}:1: this is no valid YAML: {error or 'it is nested too deeply'}") from error


def _documents(file: str, text: str) -> Iterator[Document]:
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                return
            # Lines are read before the constructor flattens `<<` merges, which moves them.
            lines = dict(_lines(file, node, ""))
            raw = loader.construct_document(node)
            if raw is not None:
                yield Document(file, node.start_mark.line + 1, raw, lines)
    finally:
        loader.dispose()


def _lines(file: str, node: yaml.Node, path: str, above: frozenset[int] = frozenset()) -> Iterator[tuple[str, int]]:
    """Field paths and lines below a node. ManifestError for a key given twice: YAML's parser would take the last."""
    if id(node) in above:
        raise ManifestError(f"{file}:{node.start_mark.line + 1}: an alias must not contain itself")
    inside = above | {id(node)}
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name = str(key.value)
            line = key.start_mark.line + 1
            if name in seen and name != "<<":
                raise ManifestError(f"{file}:{line}: {name} is given twice, first in line {seen[name]}")
            seen[name] = line
            below = f"{path}.{name}" if path else name
            yield below, line
            yield from _lines(file, value, below, inside)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield f"{path}[{number}]", value.start_mark.line + 1
            yield from _lines(file, value, f"{path}[{number}]", inside)
