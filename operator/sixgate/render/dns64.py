"""jinja2 templates turn a Dns64Plan into the files of its resolver."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import BaseLoader, ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined

from sixgate.errors import Problem, Ref, RenderError
from sixgate.plan.dns64 import Dns64Plan
from sixgate.render.renderer import RENDER_FAILED

CONFIGURATION, RULES, COREFILE, CLIENTS = "unbound.conf", "rules.json", "Corefile", "clients.yaml"
TEMPLATES = {
    CONFIGURATION: "dns64-unbound.conf.j2",
    RULES: "dns64-rules.json.j2",
    COREFILE: "dns64-corefile.j2",
    CLIENTS: "dns64-clients.yaml.j2",
}
CONFIG_MAP = "sixgate-dns64"
RESOLVER_DIR = "/run/sixgate/dns64"  # in a resolver's pod
POD_PORT = 1053  # needs no capability; the Service has 53
MAX_CONFIG_MAP_BYTES = 900_000  # the API server takes 1 MiB with everything that it adds
TOO_MANY_RESOLVERS = "TooManyResolvers"
_PLAIN = re.compile(r'"[-A-Za-z0-9._:/@ ]*"|[0-9]*')


@dataclass(frozen=True, slots=True)
class ResolverHost:
    """Where a resolver runs: its directory, the port it listens at, and the trust anchors it validates with.

    `addresses` are those that clients reach it at, where these are not the ones that it listens at.
    """

    directory: str
    port: int = 53
    trust_anchors: str = "/usr/share/dns/root.key"
    addresses: tuple[str, ...] = ()


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
            addresses = host.addresses or plan.listen
            texts[name] = environment.get_template(template).render(plan=plan, host=host, addresses=addresses)
            if name == RULES:
                json.loads(texts[name])
        except Exception as error:  # a site's own template may raise whatever Python can
            found = f"{type(error).__name__}: {error}"
            raise RenderError(f"the template {template} must write {name} for {plan.owner}: {found}") from error
    return ResolverFiles(plan.owner, texts)


@dataclass(frozen=True, slots=True)
class ClusterResolvers:
    """The files of all resolvers of a cluster as the data of one ConfigMap: `GATEWAY.FILE`.

    `failed` are the gateways whose template failed: what is stored of theirs is to stay.
    """

    data: Mapping[str, str]
    failed: tuple[Ref, ...] = ()
    problems: tuple[Problem, ...] = ()


def render_cluster(
    plans: tuple[Dns64Plan, ...],
    run_dir: str,
    addresses: Mapping[str, tuple[str, ...]],
    overrides: Path | None = None,
) -> ClusterResolvers:
    """All resolvers of a cluster; `addresses` are those of their Services by gateway. The oldest come first, and one
    that does not fit into the ConfigMap beside them is a problem of its gateway."""
    data: dict[str, str] = {}
    failed: list[Ref] = []
    problems: list[Problem] = []
    room = MAX_CONFIG_MAP_BYTES
    for plan in plans:
        name = plan.owner.name
        host = ResolverHost(f"{run_dir}/{name}", POD_PORT, addresses=addresses.get(name, ()))
        try:
            made = render_resolver(plan, host, overrides).texts
        except RenderError as error:
            failed.append(plan.owner)
            problems.append(Problem(plan.owner, RENDER_FAILED, str(error), "spec.dns64"))
            continue
        size = sum(len(name) + len(file) + len(text.encode()) + 2 for file, text in made.items())
        if size > room:
            text = (
                f"{plan.owner} has a resolver whose files do not fit into the ConfigMap {CONFIG_MAP} beside those of "
            )
            text += f"older gateways: {size} bytes, {room} are left"
            problems.append(Problem(plan.owner, TOO_MANY_RESOLVERS, text, "spec.dns64"))
            continue
        room -= size
        data |= {f"{name}.{file}": text for file, text in made.items()}
    return ClusterResolvers(data, tuple(failed), tuple(problems))


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
