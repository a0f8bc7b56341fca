"""jinja2 templates turn a Dns64Plan into the files of its resolver."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import BaseLoader, ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined

from sixgate.errors import Ref, RenderError
from sixgate.plan.dns64 import Dns64Plan

CONFIGURATION, RULES, COREFILE = "unbound.conf", "rules.json", "Corefile"
TEMPLATES = {CONFIGURATION: "dns64-unbound.conf.j2", RULES: "dns64-rules.json.j2", COREFILE: "dns64-corefile.j2"}
_PLAIN = re.compile(r'"[-A-Za-z0-9._:/@ ]*"|[0-9]*')


@dataclass(frozen=True, slots=True)
class ResolverHost:
    """Where a resolver runs: its directory, the port it listens at, and the trust anchors it validates with."""

    directory: str
    port: int = 53
    trust_anchors: str = "/usr/share/dns/root.key"


@dataclass(frozen=True, slots=True)
class ResolverFiles:
    """The files of one resolver by name."""

    owner: Ref
    texts: Mapping[str, str]

    def config_map(self) -> dict[str, object]:
        """The same as an object of Kubernetes."""
        metadata = {"name": f"sixgate-dns64-{self.owner.name}"}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(self.texts)}


def render_resolver(plan: Dns64Plan, host: ResolverHost, overrides: Path | None = None) -> ResolverFiles:
    """The files for `plan`; a site's own templates in `overrides` go before those that ship. RenderError otherwise."""
    loaders: list[BaseLoader] = [PackageLoader("sixgate.render", "templates")]
    if overrides is not None:
        loaders.insert(0, FileSystemLoader(overrides))
    loader = ChoiceLoader(loaders)
    texts = {}
    for name, template in TEMPLATES.items():
        # The strings of tojson are those of the other languages, too, as long as nothing in them is escaped.
        finalize = None if name == RULES else _plain
        environment = Environment(
            loader=loader,
            undefined=StrictUndefined,
            trim_blocks=True,
            finalize=finalize,
            keep_trailing_newline=True,
            autoescape=False,
        )
        try:
            texts[name] = environment.get_template(template).render(plan=plan, host=host)
            if name == RULES:
                json.loads(texts[name])
        except Exception as error:  # a site's own template may raise whatever Python can
            found = f"{type(error).__name__}: {error}"
            raise RenderError(f"the template {template} must write {name} for {plan.owner}: {found}") from error
    return ResolverFiles(plan.owner, texts)


def forward_to(corefile: str, addresses: tuple[str, ...]) -> str:
    """A Corefile whose `forward .` leads to `addresses`. ValueError where it has none."""
    changed, count = re.subn(r"(?m)^(\s*forward\s+\.)(\s+[^\s{]+)+", rf"\1 {' '.join(addresses)}", corefile)
    if not count:
        raise ValueError("the Corefile should have a line `forward . ...`, and has none")
    return changed


def _plain(value: object) -> object:
    if isinstance(value, StrictUndefined):
        return value  # raises where it is written
    if _PLAIN.fullmatch(str(value)) is None:
        raise ValueError(f"{str(value)!r} has characters that have a meaning in a configuration file")
    return value
