"""`sixgate lb`: what balances on this node, how, and what it has counted."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sixgate.cli import common, tables
from sixgate.cli.common import BPFFS, STATE_DIR
from sixgate.cli.complete import names_on_node
from sixgate.cli.tables import OutputOption, WatchOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sixgate.node.lb.inspect import BalancerRow, Counted, FlowRow

_NAMES = names_on_node("LoadBalancer")
NameArgument = Annotated[str, typer.Argument(help="Name of a LoadBalancer.", autocompletion=_NAMES)]
AnyNameArgument = Annotated[
    str, typer.Argument(help="Name of a LoadBalancer; left out, all of them.", autocompletion=_NAMES)
]


def list_(
    bpffs: common.BpffsOption = BPFFS,
    state_dir: common.StateOption = STATE_DIR,
    output: OutputOption = "table",
    watch: WatchOption = False,
) -> None:
    """List the balancers of this node with what they have counted."""
    tables.tell(
        lambda: _balancers(bpffs, state_dir),
        lambda rows: tables.put([_short(row) for row in rows], output, lambda: _show_list(rows, wide=output == "wide")),
        watch,
    )


def _show_list(rows: Sequence[BalancerRow], *, wide: bool) -> None:
    if not rows:
        typer.echo("This node balances nothing.")
        return
    table = tables.table(
        "balancer",
        "VIPs",
        "ports",
        "mode",
        "backends",
        "slots",
        "packets",
        "bytes",
        "new flows",
        "drops",
        *(("backends known", "drain s", "table") if wide else ()),
    )
    for row in rows:
        modes = {backend.mode for backend in row.backends}
        ports = tuple(dict.fromkeys(port for vip in row.vips for port in vip.ports)) or ("all",)
        table.add_row(
            row.name,
            " ".join(vip.address for vip in row.vips),
            " ".join(ports),
            " ".join(sorted(modes)) or "-",
            str(sum(backend.state == "Active" for backend in row.backends)),
            str(row.size),
            *_counts(row.total),
            f"{row.total.drops:,}",
            *((str(len(row.backends)), f"{row.drain_s:.0f}", str(row.table)) if wide else ()),
        )
    tables.console().print(table)


def show(
    name: NameArgument,
    bpffs: common.BpffsOption = BPFFS,
    state_dir: common.StateOption = STATE_DIR,
    output: OutputOption = "table",
    watch: WatchOption = False,
) -> None:
    """Show one balancer: packets, bytes and new flows of each VIP and each backend, and drops by reason."""
    tables.tell(
        lambda: _one(name, bpffs, state_dir),
        lambda row: tables.put(asdict(row), output, lambda: _show_one(row)),
        watch,
    )


def _show_one(row: BalancerRow) -> None:
    table = tables.table("VIP", "ports", "packets", "bytes", "new flows", "drops by reason")
    for vip in row.vips:
        drops = ", ".join(f"{reason} {count:,}" for reason, count in sorted(vip.drops.items()))
        table.add_row(vip.address, " ".join(vip.ports) or "all", *_counts(vip.counted), drops or "-")
    tables.console().print(table)
    typer.echo()
    table = tables.table("backend", "mode", "state", "slots", "share", "draining", "packets", "bytes", "new flows")
    for backend in row.backends:
        share = f"{100 * backend.share:.2f} %"
        former = str(backend.former) if backend.former else "-"
        table.add_row(
            backend.address, backend.mode, backend.state, str(backend.slots), share, former, *_counts(backend.counted)
        )
    tables.console().print(table)
    if row.drain_s:
        typer.echo(f"\nFormer backends keep their flows for {row.drain_s:.0f} more seconds.")


def flows(
    name: AnyNameArgument = "",
    bpffs: common.BpffsOption = BPFFS,
    state_dir: common.StateOption = STATE_DIR,
    output: OutputOption = "table",
) -> None:
    """List flows that are remembered: those that began while backends were changing, and all in mode NAT.

    Others need no tracking."""
    from sixgate.node.lb.inspect import read_flows  # noqa: PLC0415

    common.require_permission()
    if name:
        _one(name, bpffs, state_dir)
    wanted = _known_as(name)
    rows = [row for row in read_flows(bpffs.absolute(), state_dir.absolute()) if not name or row.balancer in wanted]
    tables.put([asdict(row) for row in rows], output, lambda: _show_flows(rows))


def _show_flows(rows: Sequence[FlowRow]) -> None:
    table = tables.table("balancer", "protocol", "client", "VIP", "backend", "idle s")
    for row in rows:
        table.add_row(
            row.balancer,
            row.protocol,
            row.client,
            row.vip,
            row.backend,
            "-" if row.idle_s is None else f"{row.idle_s:.0f}",
        )
    tables.console().print(table)


def maglev(
    name: NameArgument,
    slots: Annotated[bool, typer.Option("--slots", help="Print every slot, with its former backend.")] = False,
    bpffs: common.BpffsOption = BPFFS,
    state_dir: common.StateOption = STATE_DIR,
    output: OutputOption = "table",
) -> None:
    """Show how the slots of a balancer's table are spread over its backends."""
    row = _one(name, bpffs, state_dir)
    if slots:
        from sixgate.node.lb.inspect import read_slots  # noqa: PLC0415

        pairs = read_slots(bpffs.absolute(), row.table)
        lines = (f"{number}\t{now or '-'}\t{before or '-'}" for number, (now, before) in enumerate(pairs))
        body = [{"backend": now, "former": before} for now, before in pairs]
        tables.put(body, output, lambda: typer.echo("\n".join(lines)))
        return
    document = {"name": row.name, "size": row.size, "backends": [asdict(backend) for backend in row.backends]}
    tables.put(document, output, lambda: _show_spread(row))


def _show_spread(row: BalancerRow) -> None:
    most = max((backend.slots for backend in row.backends), default=0)
    mean = row.size / max(1, sum(backend.slots > 0 for backend in row.backends))
    typer.echo(f"{row.name}: {row.size} slots, {mean:.1f} on average, {most} at most.")
    table = tables.table("backend", "slots", "share", "draining")
    for backend in row.backends:
        table.add_row(backend.address, str(backend.slots), f"{100 * backend.share:.2f} %", str(backend.former))
    tables.console().print(table)


def _balancers(bpffs: common.BpffsOption, state_dir: common.StateOption) -> tuple[BalancerRow, ...]:
    from sixgate.node.lb.inspect import read_balancers  # noqa: PLC0415

    common.require_permission()
    return read_balancers(bpffs.absolute(), state_dir.absolute())


def _one(name: str, bpffs: common.BpffsOption, state_dir: common.StateOption) -> BalancerRow:
    rows = _balancers(bpffs, state_dir)
    found = next((row for row in rows if row.name in _known_as(name)), None)
    if found is None:
        known = ", ".join(row.name for row in rows) or "none"
        common.complain(f"No balancer on this node is called {name}; there is {known}.")
        raise typer.Exit(common.FAILED)
    return found


def _known_as(name: str) -> frozenset[str]:
    return frozenset((name, f"LoadBalancer/{name}"))


def _short(row: BalancerRow) -> dict[str, object]:
    return {
        "name": row.name,
        "vips": [vip.address for vip in row.vips],
        "ports": list(dict.fromkeys(port for vip in row.vips for port in vip.ports)),
        "size": row.size,
        "backends": len(row.backends),
        "drain_s": row.drain_s,
        **asdict(row.total),
    }


def _counts(counted: Counted) -> tuple[str, str, str]:
    return (f"{counted.packets:,}", f"{counted.bytes:,}", f"{counted.flows:,}")


def register(app: typer.Typer) -> None:
    part = typer.Typer(help="Balancing on this node: VIPs, backends, tables and counters.")
    part.command(name="list")(list_)
    part.command(name="show")(show)
    part.command(name="flows")(flows)
    part.command(name="maglev")(maglev)
    app.add_typer(part, name="lb")
