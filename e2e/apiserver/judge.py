"""What becomes of one object: refused by the API server, told of by a condition, right, or (never) an exception."""

from __future__ import annotations

from dataclasses import dataclass, replace

from e2e.apiserver.cluster import DIGESTS, Cluster, Json, path_of
from sixgate.api import UserObject, parse_object
from sixgate.plan import NodeInfo, Snapshot, plan
from sixgate.render.renderer import Renderer


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one object: the server's sentence, else our own problems, else it was right; or an exception."""

    refused: str = ""
    problems: tuple[str, ...] = ()
    crash: str = ""


NODES = tuple(NodeInfo(f"n{number}", labels={"any": "yes"}) for number in range(3))


def judge(cluster: Cluster, document: Json) -> Verdict:
    """Ask the API server (dry run); what it takes goes through parse, plan and render as in the operator."""
    path = path_of(document["kind"]) + "?dryRun=All&fieldValidation=Strict"
    status, answer = cluster.server.request("POST", path, document)
    if 400 <= status < 500:
        return Verdict(refused=str(answer["message"]))
    try:
        if status != 201:
            raise RuntimeError(f"the API server answers {status}: {answer}")
        parsed = parse_object(answer)
        if isinstance(parsed, tuple):
            return Verdict(problems=tuple(problem.message for problem in parsed))
        everywhere = tuple(replace(node, labels=dict(_labels(parsed))) for node in NODES)
        rendered = Renderer().render_all(result := plan(Snapshot((parsed,), everywhere, digests=DIGESTS)))
        return Verdict(problems=tuple(p.message for p in (*result.problems, *rendered.problems)))
    except Exception as error:  # any exception at all is what is looked for
        return Verdict(crash=f"{document}: {error!r}")


def _labels(item: UserObject) -> Json:
    """Labels that satisfy the object's own selector where it asks for values."""
    selector = item.spec.node_selector
    wanted = {r.key: r.values[0] if r.values else "yes" for r in selector.match_expressions}
    return {**wanted, **selector.match_labels}
