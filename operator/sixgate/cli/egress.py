"""`sixgate egress list`, `sixgate egress flows` and `sixgate egress explain`."""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sixgate.cli import common, tables
from sixgate.cli.common import BPFFS, STATE_DIR
from sixgate.cli.complete import names_on_node
from sixgate.cli.tables import OutputOption, WatchOption

if TYPE_CHECKING:
    from pathlib import Path

    from sixgate.node.egress.explain import Inspector
    from sixgate.node.nat import Session

COLUMNS = ("object", "ipv4", "ipv6", "owner", "gateway", "mtu", "here", "pods", "sessions", "standby", "copies")
MORE_COLUMNS = ("pair", "behind", "uncopied")


def _inspector(bpffs: Path, state_dir: Path) -> Inspector:
    from sixgate.node.egress.explain import REPORT, Inspector  # noqa: PLC0415
    from sixgate.node.statedir import StateDir  # noqa: PLC0415

    common.require_permission()
    return Inspector(bpffs.absolute(), StateDir(state_dir.absolute()).read(REPORT) or {})


def list_pairs(
    bpffs: common.BpffsOption = BPFFS,
    state_dir: common.StateOption = STATE_DIR,
    output: OutputOption = "table",
    watch: WatchOption = False,
) -> None:
    """Show the pairs of source addresses that this node knows, who owns them, and the way there."""

    def people(rows: list[dict[str, Any]]) -> None:
        columns = COLUMNS + MORE_COLUMNS if output == "wide" else COLUMNS
        if rows:
            tables.show(columns, [[str(row[name]) for name in columns] for row in rows])
        else:
            typer.echo("This node has no hand in egress.")

    tables.tell(
        lambda: _inspector(bpffs, state_dir).rows(),
        lambda rows: tables.put(rows, output, lambda: people(rows)),
        watch,
    )


def flows(  # noqa: PLR0917 - options, which are given by name
    name: Annotated[
        str,
        typer.Argument(
            help="Name of an EgressGateway; all of them if left out.", autocompletion=names_on_node("EgressGateway")
        ),
    ] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many are shown at most.")] = 100,
    bpffs: common.BpffsOption = BPFFS,
    state_dir: common.StateOption = STATE_DIR,
    output: OutputOption = "table",
    watch: WatchOption = False,
) -> None:
    """Show the connections that this node takes out as a gateway."""
    from sixgate.node.nat import Filter, NatState  # noqa: PLC0415
    from sixgate.node.statedir import StateDir  # noqa: PLC0415

    common.require_permission()
    state = NatState(bpffs.absolute(), StateDir(state_dir.absolute()).numbers())
    prefix = f"EgressGateway/{name}/" if name else "EgressGateway/"

    def ask() -> list[Session]:
        return list(islice((s for s in state.sessions(Filter()) if s.object.startswith(prefix)), limit))

    def show(found: list[Session]) -> None:
        wide = output == "wide"
        tables.put([asdict(session) for session in found], output, lambda: _show_flows(found, wide=wide))

    tables.tell(ask, show, watch)


def _show_flows(found: list[Session], *, wide: bool) -> None:
    columns = ["object", "protocol", "pod", "source", "destination", "state", "seconds left"]
    columns += ["age s", "packets out", "packets in", "bytes out", "bytes in"] if wide else []
    rows = [
        [
            s.object.split("/")[1],
            s.protocol,
            f"{s.client} {s.client_port}",
            f"{s.pool} {s.pool_port}",
            f"{s.remote} {s.remote_port}",
            s.state,
            str(s.left_s),
            *map(str, (s.age_s, s.packets_out, s.packets_in, s.bytes_out, s.bytes_in) if wide else ()),
        ]
        for s in found
    ]
    tables.show(columns, rows)


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
    tables.put(list(sentences), output, lambda: typer.echo("\n".join(sentences)))


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Fixed source addresses of pods.", no_args_is_help=True)
    group.command(name="list")(list_pairs)
    group.command(name="flows")(flows)
    group.command(name="explain")(explain)
    app.add_typer(group, name="egress")
