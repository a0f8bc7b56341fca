"""How an installation is printed: tables for people, documents for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from sixgate.cli.cluster.model import Installation, NodeRow, ObjectRow

_COLOURS = {"Ready": "green", "True": "green", "Behind": "yellow", "Unknown": "yellow"}


def overview(found: Installation, console: Console) -> None:
    """The whole at a glance: one line for each part, then everything that is not well."""
    state = ("ready", "green") if found.ready else ("not ready", "red")
    console.print(Text.assemble("sixgate is ", state))
    operator = found.operator
    if operator.leads:
        console.print(f"  operator   {operator.holder} leads", highlight=False)
    else:
        console.print("  operator   nobody leads", style="red", highlight=False)
    states = {name: count for name, count in found.node_states().items() if count}
    told = ", ".join(f"{count} {name.lower()}" for name, count in states.items()) or "none has a NodeConfig"
    console.print(f"  nodes      {told}", highlight=False)
    for kind, (ready, total) in found.object_states().items():
        console.print(f"  {kind:<16} {ready} of {total} ready", highlight=False)
    if not found.objects:
        console.print("  objects    none; `kubectl apply` one to begin", highlight=False)
    for sentence in found.complaints:
        console.print(f"! {sentence}", style="red", highlight=False, soft_wrap=True)


def nodes(rows: Sequence[NodeRow], console: Console, *, wide: bool) -> None:
    table = _table(("node", "state", "revision", *(("wanted", "kernel") if wide else ()), "message"))
    for row in rows:
        extra = (row.wanted[:12], row.kernel) if wide else ()
        table.add_row(row.name, _coloured(row.state), row.applied[:12], *extra, row.why)
    console.print(table)


def objects(rows: Sequence[ObjectRow], console: Console, *, wide: bool) -> None:
    columns = ("object", "ready", "nodes", "what", "reason", *(("message",) if wide else ()))
    table = _table(columns)
    for row in rows:
        extra = (row.message,) if wide else ()
        table.add_row(
            f"{row.kind}/{row.name}", _coloured(row.ready), f"{row.nodes}/{row.desired}", gist(row), row.reason, *extra
        )
    console.print(table)


def gist(row: ObjectRow) -> str:
    """What an object is about, in a few words, from its spec."""
    spec = row.raw.get("spec") or {}
    match row.kind:
        case "NAT46Gateway":
            pools = [pool["cidr"] for pool in (spec.get("stateful") or {}).get("pools", ())]
            vips = [f"{service['vip']}:{service['port']}" for service in spec.get("services", ())]
            return _listed([*filter(None, [spec.get("prefix")]), *pools, *vips])
        case "EgressGateway":
            pairs = [address for pair in spec.get("addresses", ()) for address in (pair.get("ipv4"), pair.get("ipv6"))]
            return _listed([address for address in pairs if address])
        case "BIGTCPPolicy":
            sizes = [(family, (spec.get(family) or {})) for family in ("ipv6", "ipv4")]
            return _listed(
                [f"{family} {size.get('maxSize', '')}".strip() for family, size in sizes if size.get("enabled")]
            )
        case _:
            return _listed(spec.get("vips", ()))


def _listed(words: Sequence[str], room: int = 3) -> str:
    more = f" and {len(words) - room} more" if len(words) > room else ""
    return ", ".join(words[:room]) + more


def _coloured(state: str) -> Text:
    return Text(state, style=_COLOURS.get(state, "red"))


def _table(columns: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
