"""`sixgate standalone`, `sixgate plan` and `sixgate down`: a node without a cluster."""

from __future__ import annotations

import contextlib
import json
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sixgate.cli import common
from sixgate.cli.agent import leave
from sixgate.cli.common import BPFFS, RUN_DIR, STATE_DIR
from sixgate.cli.operator import parse_address, read_digests

if TYPE_CHECKING:
    from sixgate.node.agent import NodeAgent
    from sixgate.render.renderer import Renderer
    from sixgate.standalone.service import Site, Standalone


def standalone(  # noqa: PLR0917 - options, which are given by name
    manifests: Annotated[Path, typer.Option(help="Directory of YAML files, watched for changes.")],
    node: common.NodeOption,
    label: common.LabelOption = None,
    cluster: common.ClusterOption = None,
    bpffs: common.BpffsOption = BPFFS,
    state_dir: common.StateOption = STATE_DIR,
    run_dir: common.RunOption = RUN_DIR,
    objects: common.ObjectsOption = None,
    templates: common.TemplatesOption = None,
    once: Annotated[bool, typer.Option("--once", help="Apply the directory as it is now, and end.")] = False,
    down_on_exit: Annotated[
        bool, typer.Option("--down-on-exit", help="Remove everything when ended by SIGTERM or SIGINT.")
    ] = False,
    clsact: Annotated[
        bool, typer.Option("--clsact", help="Attach by clsact filters, as on kernels before 6.6, also where tcx is.")
    ] = False,
    metrics: Annotated[str, typer.Option(help="Address and port of /metrics for Prometheus; empty for none.")] = "",
    log_format: common.LogFormatOption = "text",
    verbose: common.VerboseOption = False,
) -> None:
    """Run a gateway from a directory of YAML files, without a cluster.

    A change of a file is applied within a second. A broken file keeps what runs of it. When this process ends, however
    it ends, the data plane goes on; `sixgate down` removes it.
    """
    import asyncio  # noqa: PLC0415

    from sixgate.cli.logs import configure  # noqa: PLC0415
    from sixgate.node.agent import NodeAgent  # noqa: PLC0415
    from sixgate.node.egress.pods import FilePods  # noqa: PLC0415
    from sixgate.node.options import NodeOptions  # noqa: PLC0415
    from sixgate.render.renderer import Renderer  # noqa: PLC0415
    from sixgate.standalone.service import Site  # noqa: PLC0415

    configure(verbose, log_format)
    labels = common.parse_labels(label)
    _must_exist(manifests)
    common.require_permission()
    where = common.objects_dir(objects)
    options = NodeOptions(
        bpffs=bpffs.absolute(),
        state_dir=state_dir.absolute(),
        objects=where,
        tcx=False if clsact else None,
        mount_bpffs=True,
        node=node,
    )
    pods = FilePods(node, cluster) if cluster is not None else None
    with NodeAgent(options, pods=pods) as agent:
        agent.acquire()
        site = Site(node, labels, lambda: read_digests(where), run_dir, cluster)
        service = _service(agent, site, manifests, Renderer(templates), options.state_dir)
        if once:
            common.end(_once(service))
            return
        with common.answer_questions(options, agent):
            code = asyncio.run(_serve(service, agent, down_on_exit, parse_address(metrics)))
        common.end(code)


def _service(agent: NodeAgent, site: Site, manifests: Path, renderer: Renderer, state_dir: Path) -> Standalone:
    """The directory, as far as it was understood when it was last read, in front of an agent."""
    from sixgate.node.statedir import StateDir  # noqa: PLC0415
    from sixgate.standalone.directory import Directory  # noqa: PLC0415
    from sixgate.standalone.service import MEMORY_FILE, Standalone  # noqa: PLC0415

    state = StateDir(state_dir)
    directory = Directory(manifests, _now, state.read(MEMORY_FILE))
    return Standalone(site=site, directory=directory, renderer=renderer, agent=agent, state=state)


def _once(service: Standalone) -> int:
    compiled, status = service.once()
    for item in status.objects:
        typer.echo(f"{item.owner}: {item.state}{f': {item.message}' if item.message else ''}")
    if not status.ready:
        common.complain(status.message)
    if service.broken():
        return common.USAGE
    return common.OK if status.ready and not compiled.problems else common.FAILED


async def _serve(service: Standalone, agent: NodeAgent, down_on_exit: bool, metrics: tuple[str, int] | None) -> int:
    """Until a signal, then 0."""
    import asyncio  # noqa: PLC0415

    scraped = common.serve_metrics(metrics, {"the node": agent.metrics, "the manifests": service.metrics})
    work = asyncio.create_task(service.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await work
    if scraped is not None:
        scraped.close()
    if not down_on_exit:
        return common.OK
    left = await asyncio.to_thread(agent.down)
    for sentence in left:
        common.complain(sentence)
    return common.FAILED if left else common.OK


def plan(  # noqa: PLR0917 - options, which are given by name
    manifests: Annotated[Path, typer.Option("-f", "--filename", help="A file or a directory of YAML files.")],
    node: common.NodeOption,
    label: common.LabelOption = None,
    cluster: common.ClusterOption = None,
    objects: common.ObjectsOption = None,
    templates: common.TemplatesOption = None,
    output: Annotated[Literal["yaml", "json"], typer.Option("-o", "--output", help="How to print it.")] = "yaml",
) -> None:
    """Print the NodeConfig that a directory means for one node, and the files of its resolvers as ConfigMaps.

    Needs no root and changes nothing.
    """
    from sixgate.api.nodeconfig import NodeConfig, ObjectMeta  # noqa: PLC0415
    from sixgate.render.renderer import Renderer  # noqa: PLC0415
    from sixgate.standalone.directory import Directory  # noqa: PLC0415
    from sixgate.standalone.pipeline import compile_node, read_nodes  # noqa: PLC0415

    labels = common.parse_labels(label)
    _must_exist(manifests)
    found = Directory(manifests, _now).read()
    digests = read_digests(common.objects_dir(objects))
    nodes = read_nodes(cluster) if cluster is not None else ()
    compiled = compile_node(found, node, labels, digests, Renderer(templates), nodes=nodes)
    for located in compiled.problems:
        common.complain(str(located))
    if compiled.spec is not None:
        config = NodeConfig(metadata=ObjectMeta(name=node), spec=compiled.spec)
        body = config.model_dump(mode="json", by_alias=True, exclude={"status"}, exclude_none=True)
        body["metadata"] = {"name": node}
        bodies = [body, *(made.config_map() for made in compiled.resolvers)]
        if output == "json":
            shown = {"apiVersion": "v1", "kind": "List", "items": bodies} if compiled.resolvers else body
            typer.echo(json.dumps(shown, indent=2))
        else:
            typer.echo("---\n".join(common.as_yaml(item) for item in bodies), nl=False)
    common.end(common.USAGE if found.problems else common.FAILED if compiled.problems else common.OK)


def down(
    bpffs: common.BpffsOption = BPFFS,
    state_dir: common.StateOption = STATE_DIR,
    objects: common.ObjectsOption = None,
) -> None:
    """Remove everything of sixgate from this node: programs, maps, devices, routes.

    Sysctls get the values back that they had before.
    """
    from sixgate.cli.logs import configure  # noqa: PLC0415
    from sixgate.node.agent import NodeAgent  # noqa: PLC0415
    from sixgate.node.options import NodeOptions  # noqa: PLC0415

    configure()
    common.require_permission()
    options = NodeOptions(bpffs=bpffs.absolute(), state_dir=state_dir.absolute(), objects=common.objects_dir(objects))
    with NodeAgent(options) as agent:
        common.end(leave(agent, options.state_dir))


def _must_exist(manifests: Path) -> None:
    if not manifests.exists():
        raise typer.BadParameter(f"{manifests} should be a directory of manifests, but is not there.")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def register(app: typer.Typer) -> None:
    app.command(name="standalone")(standalone)
    app.command(name="plan")(plan)
    app.command(name="down")(down)
