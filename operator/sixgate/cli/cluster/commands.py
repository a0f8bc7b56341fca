"""The commands of `kubectl sixgate`, which are those of `sixgate cluster`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, TypeVar

import typer

from sixgate.cli import common, tables
from sixgate.cli.complete import names_in_cluster
from sixgate.cli.tables import WATCH_S, WatchOption
from sixgate.errors import SixgateError

if TYPE_CHECKING:
    from rich.console import Console

    from sixgate.cli.cluster.model import Installation, ObjectRow
    from sixgate.kube import KubeClient

Output: TypeAlias = Literal["table", "wide", "json", "yaml"]
T = TypeVar("T")
LISTS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("gateways", ("NAT46Gateway", "EgressGateway"), "List the gateways of both kinds."),
    ("nat", ("NAT46Gateway",), "List the NAT46Gateways."),
    ("egress", ("EgressGateway",), "List the EgressGateways."),
    ("lb", ("LoadBalancer",), "List the LoadBalancers."),
    ("bigtcp", ("BIGTCPPolicy",), "List the BIGTCPPolicies."),
)
KubeconfigOption = Annotated[
    Path | None,
    typer.Option("--kubeconfig", envvar="KUBECONFIG", help="Credentials; by default those that kubectl uses."),
]
ContextOption = Annotated[str, typer.Option("--context", help="Context of the kubeconfig; by default its current one.")]
NamespaceOption = Annotated[
    str, typer.Option("--namespace", "-n", envvar="SIXGATE_NAMESPACE", help="Namespace that sixgate is installed in.")
]
NameArgument = Annotated[
    str, typer.Argument(help="Name of one object; left out: all.", autocompletion=names_in_cluster)
]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="How to print.")]


def status(  # noqa: PLR0917 - options, which are given by name
    namespace: NamespaceOption = "sixgate-system",
    output: OutputOption = "table",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all is well.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="How long --wait waits, seconds.")] = 300,
    watch: WatchOption = False,
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = "",
) -> None:
    """Show the whole installation at a glance. Ends with 1 while something is not ready."""
    import asyncio  # noqa: PLC0415

    from sixgate.cli.cluster import fetch, show  # noqa: PLC0415

    async def ask(client: KubeClient) -> Installation:
        return await fetch.installation(client, namespace)

    def tell(found: Installation, console: Console) -> None:
        if output in {"json", "yaml"}:
            common.document(found.document(), output)
        else:
            show.overview(found, console)

    if wait:
        found = asyncio.run(_until_ready(kubeconfig, context, ask, timeout))
        tell(found, tables.console())
    else:
        found = _print(kubeconfig, context, ask, tell, watch)
    common.end(common.OK if found.ready else common.FAILED)


def nodes(
    output: OutputOption = "table",
    watch: WatchOption = False,
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = "",
) -> None:
    """List the nodes that sixgate has something to do on. Ends with 1 while one of them is not ready."""
    from dataclasses import asdict  # noqa: PLC0415

    from sixgate.cli.cluster import fetch, show  # noqa: PLC0415
    from sixgate.cli.cluster.model import NodeRow  # noqa: PLC0415

    def tell(rows: tuple[NodeRow, ...], console: Console) -> None:
        if output in {"json", "yaml"}:
            common.document([{**asdict(row), "state": row.state} for row in rows], output)
        else:
            show.nodes(rows, console, wide=output == "wide")

    rows = _print(kubeconfig, context, fetch.nodes_of, tell, watch)
    common.end(common.OK if all(row.state == "Ready" for row in rows) else common.FAILED)


def _lister(kinds: tuple[str, ...], text: str) -> Callable[..., None]:
    """A command that lists objects of some kinds; one by name where it is given."""

    def listed(
        name: NameArgument = "",
        output: OutputOption = "table",
        watch: WatchOption = False,
        kubeconfig: KubeconfigOption = None,
        context: ContextOption = "",
    ) -> None:
        from sixgate.cli.cluster import fetch, show  # noqa: PLC0415

        async def ask(client: KubeClient) -> tuple[ObjectRow, ...]:
            rows = await fetch.objects_of(client, kinds)
            chosen = tuple(row for row in rows if name in {"", row.name})
            if name and not chosen:
                raise SixgateError(f"There should be a {' or '.join(kinds)} named {name}; there is none.")
            return chosen

        def tell(rows: tuple[ObjectRow, ...], console: Console) -> None:
            if output in {"json", "yaml"}:
                common.document([row.raw for row in rows], output)
            else:
                show.objects(rows, console, wide=output == "wide" or bool(name))

        rows = _print(kubeconfig, context, ask, tell, watch)
        common.end(common.OK if all(row.ok for row in rows) else common.FAILED)

    listed.__doc__ = f"{text} Ends with 1 while one of them is not ready."
    return listed


def _print(
    kubeconfig: Path | None,
    context: str,
    ask: Callable[[KubeClient], Awaitable[T]],
    tell: Callable[[T, Console], None],
    watch: bool,
) -> T:
    """Ask and tell, once, or with `watch` again whenever the answer is another one, until interrupted."""
    import asyncio  # noqa: PLC0415

    async def run() -> T:
        from sixgate.cli.cluster.fetch import connect  # noqa: PLC0415

        console = tables.console()
        async with await connect(kubeconfig, context) as client:
            found = await ask(client)
            tell(found, console)
            while watch:
                await asyncio.sleep(WATCH_S)
                now = await ask(client)
                if now != found:
                    if console.is_terminal:
                        console.clear()
                    found = now
                    tell(found, console)
        return found

    try:
        return asyncio.run(run())
    except KeyboardInterrupt:
        if not watch:
            raise
        raise typer.Exit(common.OK) from None


async def _until_ready(
    kubeconfig: Path | None, context: str, ask: Callable[[KubeClient], Awaitable[Installation]], timeout_s: float
) -> Installation:
    import asyncio  # noqa: PLC0415

    from sixgate.cli.cluster.fetch import connect  # noqa: PLC0415

    end = time.monotonic() + timeout_s
    async with await connect(kubeconfig, context) as client:
        while True:
            found = await ask(client)
            if found.ready or time.monotonic() >= end:
                return found
            await asyncio.sleep(min(1.0, max(0.05, end - time.monotonic())))


def build() -> typer.Typer:
    """All of them, for `sixgate cluster` and for kubectl's plugin."""
    app = typer.Typer(
        name="kubectl-sixgate",
        help="A whole installation of sixgate, as the API server tells it.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.command(name="status")(status)
    app.command(name="nodes")(nodes)
    for name, kinds, text in LISTS:
        app.command(name=name)(_lister(kinds, text))
    from sixgate.cli.cluster.sysdump import sysdump  # noqa: PLC0415 - which take their options from here
    from sixgate.cli.cluster.trace import trace  # noqa: PLC0415

    app.command(name="sysdump")(sysdump)
    app.command(name="trace")(trace)
    return app


def register(app: typer.Typer) -> None:
    app.add_typer(build(), name="cluster")
