"""jinja2 templates turn a NodePlan into the spec of a NodeConfig.

Each feature has one template; each writes a JSON object whose lists are joined with those of the others. What they
wrote is parsed by the NodeConfig model before anybody gets to see it, so a template cannot publish nonsense.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from jinja2 import BaseLoader, ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined, Template
from pydantic import ValidationError

from sixgate.api.nodeconfig import FORMAT_VERSION, NodeConfigSpec
from sixgate.errors import Problem, Ref, RenderError
from sixgate.plan.nodeplan import NodePlan
from sixgate.plan.result import PlanResult

RENDER_FAILED = "RenderFailed"
SECTIONS = (
    "objects",
    "numbers",
    "tables",
    "links",
    "addresses",
    "routes",
    "sysctls",
    "bigTcp",
    "egress",
    "balancers",
    "announcements",
)
TEMPLATES = (
    "objects.json.j2",
    "nat46.json.j2",
    "bigtcp.json.j2",
    "egress.json.j2",
    "stateful.json.j2",
    "prefix-routes.json.j2",
    "loadbalancer.json.j2",
    "decap.json.j2",
    "announce.json.j2",
)


class TemplateFailed(RenderError):
    """A template failed for these objects of users: shown as a condition on each, and nothing is published."""

    def __init__(self, template: str, refs: tuple[Ref, ...], finding: str) -> None:
        names = ", ".join(str(ref) for ref in refs) or "a node without objects"
        super().__init__(f"the template {template} must write a part of a NodeConfig for {names}: {finding}")
        self.template = template
        self.refs = refs


@dataclass(frozen=True, slots=True)
class Rendered:
    """Documents by node. A node that is missing keeps what it has; `problems` say why."""

    specs: Mapping[str, NodeConfigSpec]
    problems: tuple[Problem, ...] = field(default=())


class Renderer:
    """Compiled templates; a site's own in `overrides` go before those of the same name that ship.

    Equal plans are rendered once: the last result of every plan in use is kept.
    """

    def __init__(self, overrides: Path | None = None) -> None:
        loaders: list[BaseLoader] = [PackageLoader("sixgate.render", "templates")]
        if overrides is not None:
            loaders.insert(0, FileSystemLoader(overrides))
        self.overrides = overrides
        self._environment = Environment(
            loader=ChoiceLoader(loaders),
            undefined=StrictUndefined,
            autoescape=False,
            auto_reload=False,
            trim_blocks=True,
        )
        self._environment.filters["tojson"] = _ENCODER.encode
        self._templates: dict[str, Template] = {}
        self._known: dict[NodePlan, NodeConfigSpec] = {}

    def render(self, plan: NodePlan) -> NodeConfigSpec:
        """The spec for one node, its revision set. RenderError names template, objects and finding."""
        known = self._known.get(plan)
        return known if known is not None else self._render(plan)

    def render_all(self, result: PlanResult) -> Rendered:
        """The specs of all nodes; a plan whose template fails becomes a Problem of each object in it."""
        shared: dict[int, NodeConfigSpec | TemplateFailed] = {}
        in_use: dict[NodePlan, NodeConfigSpec] = {}
        specs: dict[str, NodeConfigSpec] = {}
        problems: set[Problem] = set()
        for node, plan in result.nodes.items():
            if id(plan) not in shared:
                try:
                    shared[id(plan)] = in_use[plan] = self.render(plan)
                except TemplateFailed as failure:
                    shared[id(plan)] = failure
                    problems |= {Problem(ref, RENDER_FAILED, str(failure)) for ref in failure.refs}
            outcome = shared[id(plan)]
            if isinstance(outcome, NodeConfigSpec):
                specs[node] = outcome
        self._known = in_use
        return Rendered(specs, tuple(sorted(problems)))

    def _render(self, plan: NodePlan) -> NodeConfigSpec:
        parts: list[_Part] = []
        for name, refs in _templates_of(plan):
            variables = {"plan": plan, "nat": plan.nat, "decap": plan.decap, "owners": [str(ref) for ref in refs]}
            parts.append(_Part(name, refs, self._write(name, refs, variables)))
        joined = {section: [item for part in parts for item in part.body.get(section, ())] for section in SECTIONS}
        try:
            return _parsed(joined).hashed()
        except ValidationError:
            for part in parts:
                part.check()
            raise

    def _write(self, name: str, refs: tuple[Ref, ...], variables: dict[str, Any]) -> dict[str, list[Any]]:
        """What one template writes: lists by section, their items not yet checked."""
        try:
            if name not in self._templates:
                self._templates[name] = self._environment.get_template(name)
            body = json.loads(self._templates[name].render(variables))
        except Exception as error:  # a site's own template may raise whatever Python can
            raise TemplateFailed(name, refs, _finding(error)) from error
        fits = isinstance(body, dict) and set(body) <= set(SECTIONS)
        if not fits or not all(isinstance(items, list) for items in body.values()):
            wanted = ", ".join(SECTIONS)
            raise TemplateFailed(name, refs, f"it must write one JSON object with lists for some of {wanted}")
        return cast("dict[str, list[Any]]", body)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one template wrote, for which objects."""

    template: str
    refs: tuple[Ref, ...]
    body: dict[str, list[Any]]

    def check(self) -> None:
        """Raises the error of this part alone, so that it names its template and not the whole document's."""
        try:
            _parsed(self.body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(step) for step in first["loc"])
            raise TemplateFailed(self.template, self.refs, f"{where} of its output is wrong: {first['msg']}") from error


def _parsed(body: dict[str, list[Any]]) -> NodeConfigSpec:
    return NodeConfigSpec.model_validate({"formatVersion": FORMAT_VERSION, **body})


def _templates_of(plan: NodePlan) -> Iterator[tuple[str, tuple[Ref, ...]]]:
    """Templates that a plan needs, and whose objects each writes for."""
    objects, nat46, bigtcp, egress, stateful, routes, loadbalancer, decap, announce = TEMPLATES
    if plan.objects:
        yield objects, tuple(dict.fromkeys(owner for item in plan.objects for owner in item.owners))
    if plan.nat is not None:
        yield nat46, plan.nat.owners
    if plan.big_tcp:
        yield bigtcp, tuple(item.owner for item in plan.big_tcp)
    if plan.egress:
        yield egress, tuple(item.owner for item in plan.egress)
    if plan.stateful is not None:
        yield stateful, plan.stateful.owners
    if plan.routes:
        yield routes, tuple(dict.fromkeys(route.owner for route in plan.routes))
    if plan.balancers:
        yield loadbalancer, tuple(item.owner for item in plan.balancers)
    if plan.decap is not None:
        yield decap, plan.decap.owners
    if plan.announcements:
        yield announce, tuple(dict.fromkeys(item.owner for item in plan.announcements))


def _refuse(value: object) -> object:
    """What `tojson` meets and cannot write: an undefined value says its own name, anything else its type."""
    if isinstance(value, StrictUndefined):
        str(value)  # raises UndefinedError
    raise TypeError(f"a value of type {type(value).__name__} cannot be written as JSON")


# One encoder for all values. jinja2's own filter also escapes HTML and costs ten times as much.
_ENCODER = json.JSONEncoder(default=_refuse, allow_nan=False)


def _finding(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"its output is not JSON (line {error.lineno}: {error.msg})"
    line = getattr(error, "lineno", None)
    where = f" in line {line}" if line else ""
    return f"{type(error).__name__}{where}: {error}"
