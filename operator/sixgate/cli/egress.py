"""`sixgate egress list`, `sixgate egress flows` and `sixgate egress explain`."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from sixgate.cli import common
from sixgate.cli.common import BPFFS, STATE_DIR

if TYPE_CHECKING:
    from pathlib import Path

    from sixgate.node.egress.explain import Inspector

OutputOption = Annotated[Literal["table", "json"], typer.Option("-o", "--output", help="How to print.")]
COLUMNS = ("object", "ipv4", "ipv6", "owner", "gateway", "mtu", "here", "pods")


def _inspector(bpffs: Path, state_dir: Path) -> Inspector:
    from sixgate.node.egress.explain import REPORT, Inspector  # noqa: PLC0415
    from sixgate.node.statedir import StateDir  # noqa: PLC0415

    common.require_permission()
    return Inspector(bpffs.absolute(), StateDir(state_dir.absolute()).read(REPORT) or {})


def list_pairs(
    bpffs: common.BpffsOption = BPFFS, state_dir: common.StateOption = STATE_DIR, output: OutputOption = "table"
) -> None:
    """Show the pairs of source addresses that this node knows, who owns them, and the way there."""
    rows = _inspector(bpffs, state_dir).rows()
    if output == "json":
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        typer.echo("This node has no hand in egress.")
        return
    _print(COLUMNS, [[str(row[name]) for name in COLUMNS] for row in rows])


def flows(
    name: Annotated[str, typer.Argument(help="Name of an EgressGateway; all of them if left out.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many are shown at most.")] = 100,
    bpffs: common.BpffsOption = BPFFS,
    state_dir: common.StateOption = STATE_DIR,
    output: OutputOption = "table",
) -> None:
    """Show the connections that this node takes out as a gateway."""
    from sixgate.node.nat import Filter, NatState  # noqa: PLC0415
    from sixgate.node.statedir import StateDir  # noqa: PLC0415

    common.require_permission()
    state = NatState(bpffs.absolute(), StateDir(state_dir.absolute()).numbers())
    prefix = f"EgressGateway/{name}/" if name else "EgressGateway/"
    found = list(islice((s for s in state.sessions(Filter()) if s.object.startswith(prefix)), limit))
    if output == "json":
        typer.echo(json.dumps([asdict(session) for session in found], indent=2))
        return
    rows = [
        [
            s.object.split("/")[1],
            s.protocol,
            f"{s.client} {s.client_port}",
            f"{s.pool} {s.pool_port}",
            f"{s.remote} {s.remote_port}",
            s.state,
            str(s.left_s),
        ]
        for s in found
    ]
    _print(("object", "protocol", "pod", "source", "destination", "state", "seconds left"), rows)


def explain(
    pod: Annotated[str, typer.Argument(help="NAMESPACE/NAME of a pod of this node, or its address.")],
    destination: Annotated[str, typer.Argument(help="Address that it sends to.")],
    bpffs: common.BpffsOption = BPFFS,
    state_dir: common.StateOption = STATE_DIR,
    output: OutputOption = "table",
) -> None:
    """Say why packets of a pod to a destination leave where they do."""
    try:
        sentences = _inspector(bpffs, state_dir).explain(pod, destination)
    except ValueError as error:
        raise typer.BadParameter(f"{destination} should be an address: {error}.") from error
    typer.echo(json.dumps(sentences, indent=2) if output == "json" else "\n".join(sentences))


def _print(columns: tuple[str, ...], rows: list[list[Any]]) -> None:
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(width=200).print(table)


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Fixed source addresses of pods.", no_args_is_help=True)
    group.command(name="list")(list_pairs)
    group.command(name="flows")(flows)
    group.command(name="explain")(explain)
    app.add_typer(group, name="egress")
