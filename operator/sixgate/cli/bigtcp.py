"""`sixgate bigtcp status` and `sixgate bigtcp test`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from sixgate.cli import common, tables
from sixgate.cli.common import BPFFS, STATE_DIR
from sixgate.cli.tables import OutputOption, WatchOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sixgate.api.nodeconfig import BigTcpReport
    from sixgate.node.selftest import Way

GIGA = 1e9


def status(
    bpffs: common.BpffsOption = BPFFS,
    state_dir: common.StateOption = STATE_DIR,
    output: OutputOption = "table",
    watch: WatchOption = False,
) -> None:
    """Show what policies want of each device of this node, what it has, and why it has less."""
    from sixgate.node.inspect import inspect_sizes  # noqa: PLC0415
    from sixgate.node.options import NodeOptions  # noqa: PLC0415

    options = NodeOptions(bpffs=bpffs.absolute(), state_dir=state_dir.absolute())
    tables.tell(
        lambda: inspect_sizes(options),
        lambda rows: tables.put(
            [row.model_dump(mode="json", by_alias=True) for row in rows], output, lambda: _show_sizes(rows)
        ),
        watch,
    )


def _show_sizes(rows: Sequence[BigTcpReport]) -> None:
    if not rows:
        typer.echo("No BIGTCPPolicy has selected a device of this node.")
        return
    made = []
    for row in rows:
        wanted6, wanted4 = (str(size or "-") for size in (row.ipv6_wanted, row.ipv4_wanted))
        six, four = (row.ipv6_gso, row.ipv6_gro), (row.ipv4_gso, row.ipv4_gro)
        made.append((row.device, wanted6, *map(str, six), wanted4, *map(str, four), row.message))
    tables.show(("device", "IPv6 wanted", "gso", "gro", "IPv4 wanted", "gso", "gro", "why not"), made)


def run_test(  # noqa: PLR0917 - options, which are given by name
    size: Annotated[int, typer.Option(min=65537, max=524280, help="Largest super-packet to try, bytes.")] = 196608,
    seconds: Annotated[float, typer.Option(min=0.05, max=60, help="How long each of twelve transfers takes.")] = 0.4,
    objects: common.ObjectsOption = None,
    state_dir: common.StateOption = STATE_DIR,
    remember: Annotated[bool, typer.Option(help="Let policies of this node rely on what was found.")] = True,
    output: OutputOption = "table",
) -> None:
    """Prove with real transfers between network namespaces that super-packets of more than 64 KB flow.

    Needs CAP_SYS_ADMIN, for the namespaces, and leaves nothing behind but its findings. Ends with 1 where they do not
    flow between two hosts side by side. Ways through a kernel that forwards and through a tunnel are findings:
    policies keep to 64 KB where those do not work.
    """
    from sixgate.node import selftest  # noqa: PLC0415
    from sixgate.node.pods import may_enter  # noqa: PLC0415
    from sixgate.node.statedir import KnownWays, StateDir  # noqa: PLC0415

    common.require_permission()
    if not may_enter():
        text = "The test makes network namespaces, which needs CAP_SYS_ADMIN, and this process lacks it."
        raise common.NoPermissionError(text)
    ways = selftest.run(common.objects_dir(objects), size, seconds)
    if remember:
        StateDir(state_dir.absolute()).remember_test(
            KnownWays(forwards_ipv6=_all_work(ways, "forwarded", 6), tunnels=_all_work(ways, "vxlan", 6, 4))
        )
    tables.put([_as_json(way) for way in ways], output, lambda: _show(ways))
    common.end(common.OK if _all_work(ways, "direct", 6, 4) else common.FAILED)


def _all_work(ways: Sequence[Way], name: str, *versions: int) -> bool:
    found = [way.works for way in ways if way.name == name and way.version in versions]
    return bool(found) and all(found)


def _as_json(way: Way) -> dict[str, Any]:
    def flow(found: Any) -> dict[str, Any]:
        return {
            "bitsPerSecond": found.bits_per_second,
            "packets": found.packets,
            "meanBytes": found.mean_bytes,
            "largestBytes": found.largest_bytes,
            "packetsOver64KB": found.big,
        }

    return {
        "way": way.name,
        "family": f"IPv{way.version}",
        "works": way.works,
        "ratio": way.ratio,
        "with64KB": flow(way.legacy),
        "withBigTcp": flow(way.big),
    }


def _show(ways: Sequence[Way]) -> None:
    rows = []
    for way in ways:
        less = {"direct": "", "forwarded": ": redirected, or left at 64 KB", "redirected": ": left at 64 KB"}
        verdict = "works" if way.works else f"does not work{less.get(way.name, ': left at 64 KB')}"
        rates = (f"{flow.bits_per_second / GIGA:.2f}" for flow in (way.legacy, way.big))
        sizes = (f"{way.big.mean_bytes:,.0f}", f"{way.big.largest_bytes:,}")
        rows.append((way.name, f"IPv{way.version}", *rates, f"{way.ratio:.3g}", *sizes, verdict))
    tables.show(("way", "family", "64 KB Gbit/s", "BIG TCP Gbit/s", "ratio", "mean bytes", "largest", "verdict"), rows)


def register(app: typer.Typer) -> None:
    part = typer.Typer(help="BIG TCP on this node: sizes of devices, and a test with real transfers.")
    part.command(name="status")(status)
    part.command(name="test")(run_test)
    app.add_typer(part, name="bigtcp")
