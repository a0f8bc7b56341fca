"""`sixgate nat list`, `sixgate nat stats` and `sixgate nat flush`."""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sixgate.cli import common, tables
from sixgate.cli.common import BPFFS, STATE_DIR
from sixgate.cli.complete import names_on_node
from sixgate.cli.tables import OutputOption, WatchOption

if TYPE_CHECKING:
    from pathlib import Path

    from sixgate.node.nat import Filter, NatState, Session

STATES = ("OUT_INIT", "IN_INIT", "EST", "IN_FIN", "OUT_FIN", "BOTH_FIN", "TRANS", "UDP", "ICMP")

ObjectOption = Annotated[
    str,
    typer.Option(
        "--object",
        help="Sessions of this gateway or balancer: Kind/name, or a name.",
        autocompletion=names_on_node("NAT46Gateway", "LoadBalancer"),
    ),
]
ClientOption = Annotated[
    str, typer.Option("--client", help="Sessions of this client address, or of a CIDR of clients.")
]
PoolOption = Annotated[str, typer.Option("--pool", help="Sessions that appear as this address.")]
RemoteOption = Annotated[str, typer.Option("--remote", help="Sessions with this address outside, or a CIDR of them.")]
ProtocolOption = Annotated[str, typer.Option("--protocol", help="tcp, udp or icmp.")]
StateOption = Annotated[str, typer.Option("--state", help=f"Sessions in this state: {', '.join(STATES)}.")]
ByOption = Annotated[
    Literal["object", "client", "pool", "protocol", "state"] | None,
    typer.Option("--by", help="Count sessions by this instead."),
]


def list_sessions(  # noqa: PLR0917 - options, which are given by name
    of: ObjectOption = "",
    client: ClientOption = "",
    pool: PoolOption = "",
    remote: RemoteOption = "",
    protocol: ProtocolOption = "",
    state: StateOption = "",
    by: ByOption = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most this many; 0 is all.")] = 1000,
    bpffs: common.BpffsOption = BPFFS,
    state_dir: common.StateOption = STATE_DIR,
    output: OutputOption = "table",
    watch: WatchOption = False,
) -> None:
    """Show sessions of this node, with the client's, the pool's and the remote address of each."""
    wanted = _filter(of, client, pool, remote, protocol, state)
    nat = _state(bpffs, state_dir)
    if by is not None:
        tables.tell(
            lambda: nat.by(by, wanted).most_common(limit or None),
            lambda counts: _show_counts(counts, by, output),
            watch,
        )
        return

    def show(found: list[Session]) -> None:
        tables.put(
            [common.camel(asdict(session)) for session in found], output, lambda: _show_sessions(found, limit, output)
        )

    tables.tell(lambda: list(islice(nat.sessions(wanted), limit or None)), show, watch)


def _show_sessions(found: list[Session], limit: int, output: str) -> None:
    if not found:
        typer.echo("There are no such sessions on this node.")
        return
    columns = ("object", "protocol", "client", "as", "remote", "state", "age", "left", "out", "in")
    if output == "wide":
        more = ((session.service or "-", str(session.bytes_out), str(session.bytes_in)) for session in found)
        rows = [(*_cells(session), *cells) for session, cells in zip(found, more, strict=True)]
        tables.show((*columns, "service", "bytes out", "bytes in"), rows)
    else:
        tables.show(columns, map(_cells, found))
    if limit and len(found) == limit:
        typer.echo(f"These are the first {limit}; --limit 0 shows all.")


def stats(
    bpffs: common.BpffsOption = BPFFS,
    state_dir: common.StateOption = STATE_DIR,
    output: OutputOption = "table",
    watch: WatchOption = False,
) -> None:
    """Show what each gateway of this node uses of its tables and ports, and what it has refused and dropped."""
    nat = _state(bpffs, state_dir)

    def show(found: dict[str, Any]) -> None:
        tables.put(found, output, lambda: _show_stats(found["objects"]))

    tables.tell(lambda: {"objects": nat.stats(), "sweeper": nat.sweeper()}, show, watch)


def _show_stats(rows: list[dict[str, Any]]) -> None:
    if not rows:
        typer.echo("No gateway of this node keeps sessions.")
        return
    tables.show(
        ("object", "what", "count"),
        [(str(row["object"]), what, str(count)) for row in rows for what, count in _flat(row)],
    )


def flush(  # noqa: PLR0917 - options, which are given by name
    of: ObjectOption = "",
    client: ClientOption = "",
    pool: PoolOption = "",
    remote: RemoteOption = "",
    protocol: ProtocolOption = "",
    everything: Annotated[bool, typer.Option("--all", help="End every session of the node.")] = False,
    bpffs: common.BpffsOption = BPFFS,
    state_dir: common.StateOption = STATE_DIR,
) -> None:
    """End sessions. The data plane does it, in the order of its table, within some seconds."""
    wanted = _filter(of, client, pool, remote, protocol, "")
    if wanted.everything and not everything:
        raise typer.BadParameter(
            "A filter must say which sessions end, or --all that every one does; neither was given.", param_hint="--all"
        )
    removed = _state(bpffs, state_dir).flush(wanted)
    typer.echo(f"{removed} session{'' if removed == 1 else 's'} ended.")


def register(app: typer.Typer) -> None:
    group = typer.Typer(name="nat", help="Sessions of stateful gateways on this node.", no_args_is_help=True)
    group.command(name="list")(list_sessions)
    group.command(name="stats")(stats)
    group.command(name="flush")(flush)
    app.add_typer(group)


def _state(bpffs: Path, state_dir: Path) -> NatState:
    from sixgate.node.nat import NatState  # noqa: PLC0415
    from sixgate.node.statedir import StateDir  # noqa: PLC0415

    common.require_permission()
    return NatState(bpffs.absolute(), StateDir(state_dir.absolute()).numbers())


def _filter(of: str, client: str, pool: str, remote: str, protocol: str, state: str) -> Filter:  # noqa: PLR0917
    from sixgate.node.nat import PROTOCOLS, Filter  # noqa: PLC0415

    if protocol and protocol.lower() not in PROTOCOLS:
        raise typer.BadParameter(f"It must be tcp, udp or icmp, found {protocol!r}.", param_hint="--protocol")
    if state and state.upper() not in STATES:
        raise typer.BadParameter(f"It must be one of {', '.join(STATES)}, found {state!r}.", param_hint="--state")
    return Filter(
        object=of,
        client=common.as_network(client, "--client", strict=False) if client else None,
        pool=str(common.as_address(pool, "--pool")) if pool else "",
        remote=common.as_network(remote, "--remote", strict=False) if remote else None,
        protocol=protocol.lower(),
        state=state.upper(),
    )


def _cells(session: Session) -> tuple[str, ...]:
    return (
        session.object,
        session.protocol,
        _end(session.client, session.client_port),
        _end(session.pool, session.pool_port),
        _end(session.remote, session.remote_port),
        session.state,
        f"{session.age_s} s",
        f"{session.left_s} s",
        str(session.packets_out),
        str(session.packets_in),
    )


def _end(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _show_counts(counts: list[tuple[str, int]], by: str, output: str) -> None:
    tables.put(
        [{by: name, "sessions": count} for name, count in counts],
        output,
        lambda: tables.show((by, "sessions"), [(name, str(count)) for name, count in counts]),
    )


def _flat(row: dict[str, Any]) -> list[tuple[str, Any]]:
    made: list[tuple[str, Any]] = []
    for name, value in row.items():
        if name == "object":
            continue
        if isinstance(value, dict):
            made += [(f"{name} {part}", count) for part, count in value.items()]
        else:
            made.append((name, value))
    return made
