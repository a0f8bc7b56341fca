"""Objects to the NodeConfig of one node: plan and render, with every problem located. Pure but for template files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from sixgate.api.nat46gateway import NAT46Gateway
from sixgate.controller.store import node_info
from sixgate.errors import ManifestError, Problem, RenderError
from sixgate.node.egress.pods import read_objects
from sixgate.plan.dns64 import dns64_plan
from sixgate.plan.planner import plan
from sixgate.plan.result import PlanResult
from sixgate.plan.snapshot import NodeInfo, Snapshot
from sixgate.render.dns64 import ResolverFiles, ResolverHost, render_resolver
from sixgate.render.renderer import RENDER_FAILED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sixgate.api.nodeconfig import NodeConfigSpec
    from sixgate.plan.nodeplan import NodePlan
    from sixgate.render.renderer import Renderer
    from sixgate.standalone.directory import Located, Manifests

HOSTNAME_LABEL = "kubernetes.io/hostname"
RUN_DIR = Path("/run/sixgate")
DNS64 = "dns64"  # directory of the resolvers below it


@dataclass(frozen=True, slots=True)
class Compiled:
    """`spec` is None where a template failed: then the node keeps what it has. `counters` names per-object counters:
    map, index, object."""

    spec: NodeConfigSpec | None
    problems: tuple[Located, ...]
    counters: Mapping[str, Mapping[str, str]]
    resolvers: tuple[ResolverFiles, ...] = ()


def compile_node(  # noqa: PLR0917 - all of them are needed, and of types of their own
    manifests: Manifests,
    node: str,
    labels: Mapping[str, str],
    digests: Mapping[str, str],
    renderer: Renderer,
    run_dir: Path = RUN_DIR,
    nodes: tuple[NodeInfo, ...] = (),
) -> Compiled:
    """What one node has to do for these manifests. Its labels are `labels`, its hostname, and those that it has among
    `nodes`, which are all others besides."""
    own = next((other for other in nodes if other.name == node), NodeInfo(node))
    info = replace(own, labels={HOSTNAME_LABEL: node, **own.labels, **labels})
    everybody = (info, *(other for other in nodes if other.name != node))
    result = plan(Snapshot(objects=tuple(manifests.objects), nodes=everybody, digests=digests))
    rendered = renderer.render_all(result)
    resolvers, failed = _resolvers(manifests, result, node, renderer.overrides, run_dir)
    located = tuple(manifests.locate(problem) for problem in (*result.problems, *rendered.problems, *failed))
    return Compiled(
        spec=rendered.specs.get(node),
        problems=(*manifests.problems, *located),
        counters=_counters(result.nodes[node]),
        resolvers=resolvers,
    )


def read_nodes(path: Path) -> tuple[NodeInfo, ...]:
    """Nodes of a file or directory of Kubernetes objects. ManifestError where it cannot be read."""
    try:
        return tuple(node_info(raw) for raw in read_objects(path) if raw.get("kind") == "Node")
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ManifestError(f"{path} must hold Kubernetes objects, and cannot be read: {error}") from error


def _resolvers(
    manifests: Manifests, result: PlanResult, node: str, overrides: Path | None, run_dir: Path
) -> tuple[tuple[ResolverFiles, ...], tuple[Problem, ...]]:
    """The resolvers of the gateways that this node runs; one whose template fails is a Problem of its gateway."""
    made: list[ResolverFiles] = []
    failed: list[Problem] = []
    for item in sorted(manifests.objects, key=lambda item: item.ref):
        wanted = isinstance(item, NAT46Gateway) and node in result.programmed.get(item.ref, ())
        resolver = dns64_plan(item) if isinstance(item, NAT46Gateway) and wanted else None
        if resolver is None:
            continue
        try:
            made.append(render_resolver(resolver, ResolverHost(str(run_dir / DNS64 / item.ref.name)), overrides))
        except RenderError as error:
            failed.append(Problem(item.ref, RENDER_FAILED, str(error), "spec.dns64"))
    return tuple(made), tuple(failed)


def _counters(node_plan: NodePlan) -> dict[str, dict[str, str]]:
    gateways = node_plan.nat.gateways if node_plan.nat else ()
    return {"sg_nat_stats": {str(gateway.stat): str(gateway.owner) for gateway in gateways}} if gateways else {}
