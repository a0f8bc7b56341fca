"""Objects to the NodeConfig of one node: plan and render, with every problem located. Pure but for template files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sixgate.plan.planner import plan
from sixgate.plan.snapshot import NodeInfo, Snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sixgate.api.nodeconfig import NodeConfigSpec
    from sixgate.plan.nodeplan import NodePlan
    from sixgate.render.renderer import Renderer
    from sixgate.standalone.directory import Located, Manifests

HOSTNAME_LABEL = "kubernetes.io/hostname"


@dataclass(frozen=True, slots=True)
class Compiled:
    """`spec` is None where a template failed: then the node keeps what it has. `counters` names per-object counters:
    map, index, object."""

    spec: NodeConfigSpec | None
    problems: tuple[Located, ...]
    counters: Mapping[str, Mapping[str, str]]


def compile_node(
    manifests: Manifests, node: str, labels: Mapping[str, str], digests: Mapping[str, str], renderer: Renderer
) -> Compiled:
    """What one node has to do for these manifests. Its labels are `labels` and its hostname."""
    info = NodeInfo(node, labels={HOSTNAME_LABEL: node, **labels})
    result = plan(Snapshot(objects=manifests.objects, nodes=(info,), digests=digests))
    rendered = renderer.render_all(result)
    located = tuple(manifests.locate(problem) for problem in (*result.problems, *rendered.problems))
    return Compiled(
        spec=rendered.specs.get(node),
        problems=(*manifests.problems, *located),
        counters=_counters(result.nodes[node]),
    )


def _counters(node_plan: NodePlan) -> dict[str, dict[str, str]]:
    gateways = node_plan.nat.gateways if node_plan.nat else ()
    return {"sg_nat_stats": {str(gateway.stat): str(gateway.owner) for gateway in gateways}} if gateways else {}
