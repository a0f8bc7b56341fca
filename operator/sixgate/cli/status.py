"""`sixgate status`: what is attached where, what it counted, and how the user's objects are doing on this node."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from sixgate.cli import common, tables
from sixgate.cli.common import BPFFS, STATE_DIR
from sixgate.cli.tables import OutputOption, WatchOption

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console

    from sixgate.node.inspect import Inspection


def status(
    bpffs: common.BpffsOption = BPFFS,
    state_dir: common.StateOption = STATE_DIR,
    output: OutputOption = "table",
    watch: WatchOption = False,
) -> None:
    """Show what runs on this node. Reads pins and the state directory, so it works when no process is alive.

    Ends with 1 when something is degraded.
    """
    from sixgate.node.inspect import inspect  # noqa: PLC0415
    from sixgate.node.options import NodeOptions  # noqa: PLC0415
    from sixgate.node.statedir import StateDir  # noqa: PLC0415
    from sixgate.standalone.service import STATUS_FILE  # noqa: PLC0415

    common.require_permission()
    options = NodeOptions(bpffs=bpffs.absolute(), state_dir=state_dir.absolute())

    def ask() -> dict[str, Any]:
        told = StateDir(options.state_dir).read(STATUS_FILE)
        reported: dict[str, Any] = told if isinstance(told, dict) else {}
        return merge(reported, inspect(options, reported.get("counters", {})))

    def tell(body: dict[str, Any]) -> None:
        tables.put(body, output, lambda: show(body, tables.console(), output == "wide"))

    body = tables.tell(ask, tell, watch)
    common.end(common.OK if body["ready"] else common.FAILED)


def merge(reported: Mapping[str, Any], seen: Inspection) -> dict[str, Any]:
    """One document from what the last process reported and what the kernel shows now.

    `ready` holds only while every hook that was reported is still attached.
    """
    last = reported.get("status", {})
    problems = reported.get("problems", [])
    attached = {(row.device, row.hook) for row in seen.hooks}
    wanted = {(device["name"], hook) for device in last.get("devices", []) for hook in device["hooks"]}
    lost = [f"Nothing of sixgate is attached to {hook} on {name} any more." for name, hook in sorted(wanted - attached)]
    resolvers = reported.get("resolvers", [])
    answering = all(item["state"] == "Ready" for item in resolvers) and (seen.process != 0 or not resolvers)
    return {
        "node": reported.get("node", ""),
        "ready": bool(last.get("ready")) and not problems and not lost and answering,
        "appliedRevision": last.get("appliedRevision", ""),
        "message": " ".join(filter(None, [last.get("message", ""), *lost])),
        "process": {"pid": seen.process, "running": seen.process != 0},
        "objects": last.get("objects", []),
        "problems": problems,
        "resolvers": resolvers,
        "hooks": [common.camel(asdict(row)) for row in seen.hooks],
        "tables": [common.camel(asdict(row)) for row in seen.tables],
        "counters": {reason: asdict(count) for reason, count in seen.counters.items()},
        "traffic": {o: {way: asdict(count) for way, count in both.items()} for o, both in seen.traffic.items()},
        "devices": last.get("devices", []),
        "kernel": last.get("kernel", {}),
    }


def show(body: Mapping[str, Any], console: Console, wide: bool = False) -> None:
    """The same for people; reasons that never happened are left out, ids too unless `wide`."""
    if not any(body[part] for part in ("node", "appliedRevision", "hooks", "tables")):
        console.print("Nothing of sixgate is on this node. `sixgate standalone` or the chart's agent brings it here.")
        return
    running = (
        f"process {body['process']['pid']}" if body["process"]["running"] else "no process; the data plane goes on"
    )
    state = "ready" if body["ready"] else "not ready"
    console.print(f"node {body['node'] or '?'}: {state}, revision {body['appliedRevision'] or 'none'}, {running}")
    if body["message"]:
        console.print(body["message"], style="red", highlight=False)
    for problem in body["problems"]:
        where = f"{problem['file']}:{problem['line']}: " if problem["line"] else ""
        console.print(f"{where}{problem['message']}", style="red", highlight=False)
    for title, columns, rows in _sections(body, wide):
        _table(console, title, columns, rows)


def _sections(body: Mapping[str, Any], wide: bool) -> Iterator[tuple[str, tuple[str, ...], Sequence[tuple[str, ...]]]]:
    """Title, headings and rows of each table."""
    objects = [(item["owner"], item["state"], item["message"]) for item in body["objects"]]
    yield "Objects", ("object", "state", "message"), objects
    numbers = ("pid", "restarts", "reloads")
    resolvers = [
        (item["owner"], item["state"], *(str(item[key]) for key in numbers), item["message"])
        for item in body["resolvers"]
    ]
    yield "Resolvers", ("object", "state", *numbers, "message"), resolvers
    more = ("object", "link") if wide else ()
    hooks = [
        (row["device"], row["hook"], row["mechanism"], row["program"], str(row["progId"]))
        + ((row["object"], str(row["linkId"])) if wide else ())
        for row in body["hooks"]
    ]
    yield "Hooks", ("device", "hook", "attached by", "program", "id", *more), hooks
    traffic = [
        (owner, way, str(count["packets"]), str(count["bytes"]))
        for owner, both in body["traffic"].items()
        for way, count in both.items()
    ]
    yield "Traffic", ("object", "direction", "packets", "bytes"), traffic
    reasons = [
        (reason, str(count["packets"]), str(count["bytes"]))
        for reason, count in body["counters"].items()
        if count["packets"]
    ]
    yield "Reasons", ("reason", "packets", "bytes"), reasons
    maps = [
        (row["name"], "" if row["entries"] is None else str(row["entries"]), str(row["maxEntries"]))
        + ((str(row["mapId"]),) if wide else ())
        for row in body["tables"]
    ]
    yield "Tables", ("map", "entries", "room", *(("id",) if wide else ())), maps


def _table(console: Console, title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    if not rows:
        return
    numeric = ("packets", "bytes", "entries", "room", "id", "pid", "restarts", "reloads")
    table = tables.table(*columns, title=title, right=numeric)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def register(app: typer.Typer) -> None:
    app.command(name="status")(status)
