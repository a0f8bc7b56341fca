"""Finds every metric in the sources: name, type, labels and meaning, from calls of `Family`, `Columns` and `Timing`.

Nothing is run: a small part of Python is enough, for names and texts are constants, f-strings of constants, or come
from a loop over a table of constants. `unresolved()` names calls that need more; a test wants it to be empty.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "operator" / "sixgate"
Value: TypeAlias = "str | tuple[Value, ...] | None"
Env = dict[str, Value]
WHERE = {"controller": "operator", "standalone": "standalone", "node": "agent"}


@dataclass(frozen=True, slots=True, order=True)
class Metric:
    """`name` as it is scraped, `where` the part that tells it: agent, operator, standalone, or every process."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str
    where: str

    @property
    def unit(self) -> str:
        base = self.name.removesuffix("_total")
        return next((unit for unit in ("bytes", "seconds") if base.endswith(f"_{unit}")), "")


def evaluate(node: ast.expr | None, env: Env) -> Value:
    """The constant that an expression is; None where that cannot be told."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.Name(id=name):
            return env.get(name)
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return tuple(evaluate(part, env) for part in parts)
        case ast.JoinedStr(values=parts):
            texts = [evaluate(part.value if isinstance(part, ast.FormattedValue) else part, env) for part in parts]
            return "".join(map(str, texts)) if all(isinstance(text, str) for text in texts) else None
        case ast.Call(func=ast.Name(id="zip"), args=[first, *_]):
            rows = evaluate(first, env)
            return tuple((row, None) for row in rows) if isinstance(rows, tuple) else None
        case ast.Call(func=ast.Attribute(value=inner, attr="capitalize")):
            found = evaluate(inner, env)
            return found.capitalize() if isinstance(found, str) else None
    return None


class _Module:
    """One module: its constants, its functions, and the metrics that they make."""

    def __init__(self, path: Path) -> None:
        tree = ast.parse(path.read_text())
        part = path.relative_to(SOURCES).parts[0]
        self.where, self.path = WHERE.get(part, "every process"), path
        self.constants: Env = {}
        for statement in tree.body:
            node: ast.AST = statement
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(target, ast.Name):
                self.constants[target.id] = evaluate(node.value, self.constants)
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        self.makers = {f.name: f for f in functions if self._returns_family(f)}
        self.found: set[Metric] = set()
        self.unresolved: list[str] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name not in self.makers:
                self._block(node.body, dict(self.constants))
            elif isinstance(node, ast.ClassDef):
                self._block([item for item in node.body if isinstance(item, ast.AnnAssign)], dict(self.constants))

    @staticmethod
    def _returns_family(function: ast.FunctionDef) -> bool:
        """Whether a function makes metrics of its arguments, and is to be followed where it is called."""
        returned = ast.unparse(function.returns) if function.returns else ""
        given = {argument.arg for argument in function.args.args}
        return returned in {"Family", "Columns"} or ("Columns]" in returned and {"labels", "told"} <= given)

    def _block(self, body: list[ast.stmt], env: Env) -> None:
        for node in body:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    env[name] = evaluate(value, env)
                    self._calls(value, env)
                case ast.For(target=target, iter=over, body=inner):
                    self._calls(over, env)
                    rows = evaluate(over, env)
                    for row in rows if isinstance(rows, tuple) else (None,):
                        self._block(inner, env | _bind(target, row))
                case ast.If(body=inner, orelse=other):
                    self._block(inner, env)
                    self._block(other, env)
                case ast.With(body=inner) | ast.While(body=inner):
                    self._block(inner, env)
                case ast.Try(body=inner):
                    self._block(inner, env)
                case ast.FunctionDef() | ast.ClassDef():
                    pass
                case _:
                    self._calls(node, env)

    def _calls(self, root: ast.AST, env: Env) -> None:
        for node in ast.walk(root):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
                continue
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if called in {"Family", "Columns", "Timing"}:
                self._family(node, env)
            elif called in self.makers:
                maker = self.makers[called]
                names = [argument.arg for argument in maker.args.args if argument.arg != "self"]
                given = dict(zip(names, (evaluate(value, env) for value in node.args), strict=False))
                self._block(maker.body, dict(self.constants) | given)

    def _family(self, call: ast.Call, env: Env) -> None:
        given = [evaluate(value, env) for value in call.args]
        timing = isinstance(call.func, ast.Name) and call.func.id == "Timing"
        kind, name, text, *rest = ["histogram", *given] if timing else given
        labels = rest[0] if rest and not timing else ()
        known = isinstance(kind, str) and isinstance(name, str) and isinstance(text, str) and isinstance(labels, tuple)
        if not known or not all(isinstance(label, str) for label in labels):  # type: ignore[union-attr]
            self.unresolved.append(f"{self.path.relative_to(ROOT)}:{call.lineno}")
            return
        full = f"{name}_total" if kind == "counter" else str(name)
        self.found.add(Metric(full, str(kind), tuple(map(str, labels)), str(text), self.where))  # type: ignore[arg-type]


def _bind(target: ast.expr, row: Value) -> Env:
    if isinstance(target, ast.Name):
        return {target.id: row}
    found: Env = {}
    if isinstance(target, ast.Tuple):
        parts = row if isinstance(row, tuple) else (None,) * len(target.elts)
        for inner, part in zip(target.elts, parts, strict=False):
            found |= _bind(inner, part)
    return found


@cache
def _modules() -> tuple[_Module, ...]:
    paths = (path for path in sorted(SOURCES.rglob("*.py")) if path != SOURCES / "metrics.py")
    return tuple(_Module(path) for path in paths if re.search(r"\b(?:Family|Columns|Timing)\(", path.read_text()))


def metrics() -> tuple[Metric, ...]:
    """Every metric of every process, by name."""
    return tuple(sorted({metric for module in _modules() for metric in module.found}))


def unresolved() -> tuple[str, ...]:
    """Calls whose name, text or labels are no constants, as FILE:LINE: metrics that the page cannot tell of."""
    return tuple(place for module in _modules() for place in module.unresolved)
