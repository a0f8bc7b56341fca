"""`sixgate agent`: keeps one node of a cluster as its NodeConfig says."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sixgate.cli import common
from sixgate.cli.common import BPFFS, STATE_DIR, BpffsOption, ObjectsOption, StateOption, objects_dir

if TYPE_CHECKING:
    from sixgate.kube import KubeClient
    from sixgate.node.agent import NodeAgent
    from sixgate.node.watch import Follower


def agent(  # noqa: PLR0917 - options, which are given by name
    node: Annotated[str, typer.Option(envvar="NODE_NAME", help="Name of this node, as Kubernetes has it.")],
    objects: ObjectsOption = None,
    kubeconfig: Annotated[
        Path | None, typer.Option(envvar="KUBECONFIG", help="Credentials; without it, the pod's service account.")
    ] = None,
    bpffs: BpffsOption = BPFFS,
    state_dir: StateOption = STATE_DIR,
    mount_bpffs: Annotated[bool, typer.Option(help="Mount a bpffs where there is none.")] = False,
    proc_sys: Annotated[
        Path,
        typer.Option(help="Where sysctls are written; in a container, where the node's /proc/sys is mounted."),
    ] = Path("/proc/sys"),
    health: Annotated[str, typer.Option(help="Address and port of /healthz and /readyz; empty for none.")] = "",
    metrics: Annotated[str, typer.Option(help="Address and port of /metrics for Prometheus; empty for none.")] = "",
    log_format: common.LogFormatOption = "text",
    verbose: common.VerboseOption = False,
) -> None:
    """Keep one node of a cluster as its NodeConfig says.

    Needs the API server only to learn of changes: without it the node goes on, and a restart begins from the last
    NodeConfig that was applied. What the node does stays as it is when this process ends, unless the API server has
    said that there is no NodeConfig of this node any more: then everything is taken off it, as `sixgate down` does.
    """
    import asyncio  # noqa: PLC0415

    from sixgate.cli.logs import configure  # noqa: PLC0415
    from sixgate.cli.operator import parse_address  # noqa: PLC0415
    from sixgate.node import sysctls  # noqa: PLC0415
    from sixgate.node.agent import NodeAgent  # noqa: PLC0415
    from sixgate.node.egress.pods import KubePods  # noqa: PLC0415
    from sixgate.node.options import NodeOptions  # noqa: PLC0415
    from sixgate.node.watch import LAST_GOOD, Follower, LastGood  # noqa: PLC0415

    configure(verbose, log_format)
    sysctls.reach_through(proc_sys)

    async def connect() -> KubeClient:
        from sixgate.kube import KubeClient  # noqa: PLC0415

        return await KubeClient.connect(kubeconfig, agent="sixgate-agent")

    options = NodeOptions(
        bpffs=bpffs, state_dir=state_dir, objects=objects_dir(objects), mount_bpffs=mount_bpffs, node=node
    )
    keeper = NodeAgent(options, pods=KubePods(node, connect))
    follower = Follower(node, LastGood(state_dir / LAST_GOOD), connect, keeper.apply_document)
    with common.answer_questions(options, keeper):
        code = asyncio.run(_serve(keeper, follower, parse_address(health), parse_address(metrics)))
    raise typer.Exit(leave(keeper, state_dir) if follower.absent else code)


def leave(keeper: NodeAgent, state_dir: Path) -> int:
    """Take everything of sixgate off the node; the exit code, after a sentence for each thing that stays."""
    from sixgate.errors import ApplyError  # noqa: PLC0415
    from sixgate.node.egress.explain import REPORT  # noqa: PLC0415
    from sixgate.node.statedir import StateDir  # noqa: PLC0415
    from sixgate.node.watch import LAST_GOOD  # noqa: PLC0415
    from sixgate.standalone.service import APPLIED_FILE, MEMORY_FILE, STATUS_FILE  # noqa: PLC0415

    try:
        left = keeper.down()
    except ApplyError as error:
        left = [str(error)]
    if not left:
        state = StateDir(state_dir)
        for name in (STATUS_FILE, MEMORY_FILE, APPLIED_FILE, LAST_GOOD, REPORT):
            state.remove(name)
        state.clean()
    for sentence in left:
        common.complain(sentence)
    return common.FAILED if left else common.OK


async def _serve(
    keeper: NodeAgent, follower: Follower, health: tuple[str, int] | None, metrics: tuple[str, int] | None
) -> int:
    """Until a signal, then 0; an error of the agent itself is raised."""
    import asyncio  # noqa: PLC0415

    from sixgate.health import HealthServer, Pulse  # noqa: PLC0415
    from sixgate.node.watch import run_agent  # noqa: PLC0415

    pulse = Pulse()

    def unready() -> tuple[str, ...]:
        if follower.absent or keeper.status.ready:
            return ()
        return (keeper.status.message or "This node has no NodeConfig yet.",)

    server = HealthServer(*health, pulse.late, unready) if health else None
    scraped = common.serve_metrics(metrics, {"the node": keeper.metrics})
    work = asyncio.create_task(run_agent(keeper, follower))
    heart = asyncio.create_task(pulse.keep())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await work
    finally:
        heart.cancel()
        if scraped is not None:
            scraped.close()
        if server is not None:
            server.close()
    return 0


def register(app: typer.Typer) -> None:
    app.command(name="agent")(agent)
