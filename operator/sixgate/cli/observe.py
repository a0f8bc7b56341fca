"""`sixgate observe`: packets as the data plane meets them."""

from __future__ import annotations

import json
import select
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sixgate.cli import common
from sixgate.cli.common import BPFFS, STATE_DIR
from sixgate.cli.complete import names_on_node
from sixgate.errors import ManifestError

if TYPE_CHECKING:
    from sixgate.api.nodeconfig import NodeConfigSpec
    from sixgate.node.flow_events import FlowEvent
    from sixgate.node.pcapng import PcapNg

_SNAP_BYTES = 128


class VerdictName(StrEnum):
    """What was done with a packet."""

    PASS = "pass"
    OK = "ok"
    SLOW = "slow"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Filter:
    """What is left out of what the data plane tells; empty and 0 mean everything."""

    port: int = 0
    protocol: str = ""
    reason: str = ""
    object: str = ""
    device: str = ""

    def admits(self, event: FlowEvent) -> bool:
        ends = (event.before.source, event.before.target, event.after.source, event.after.target)
        return (
            (not self.port or self.port in {end.port for end in ends})
            and (not self.protocol or event.before.protocol.startswith(self.protocol))
            and (not self.reason or self.reason.lower() in event.reason.lower())
            and (not self.object or self.object in {event.object, event.object.partition("/")[2]})
            and (not self.device or self.device == event.device)
        )


def observe(  # noqa: PLR0917 - options, which are given by name
    address: Annotated[
        str, typer.Option(help="Only packets from or to this address or CIDR, before translation.")
    ] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Only packets with this port on either side.")] = 0,
    proto: Annotated[str, typer.Option(help="Only this protocol: tcp, udp, icmp.")] = "",
    verdict: Annotated[list[VerdictName] | None, typer.Option(help="Only these verdicts; may be repeated.")] = None,
    reason: Annotated[
        str, typer.Option(help="Only reasons that contain this word, as `sixgate status` has them.")
    ] = "",
    obj: Annotated[
        str,
        typer.Option(
            "--object", help="Only packets of this object: Kind/name, or a name.", autocompletion=names_on_node()
        ),
    ] = "",
    device: Annotated[str, typer.Option(help="Only packets that arrive at this device.")] = "",
    sample: Annotated[int, typer.Option(min=1, max=1_000_000, help="Look at one packet of so many.")] = 1,
    rate: Annotated[int, typer.Option(min=10, max=1_000_000, help="At most so many events per second and CPU.")] = 1000,
    count: Annotated[int, typer.Option(min=0, help="End after so many events; 0: when interrupted.")] = 0,
    seconds: Annotated[float, typer.Option(min=0, help="End after so many seconds; 0: when interrupted.")] = 0,
    pcap: Annotated[Path | None, typer.Option(help="Write packets to this pcapng file, before and after.")] = None,
    output: Annotated[Literal["text", "json"], typer.Option("-o", "--output", help="How to print.")] = "text",
    bpffs: common.BpffsOption = BPFFS,
    state_dir: common.StateOption = STATE_DIR,
) -> None:
    """Show packets as the programs of this node meet them: verdict, reason, object, and what they become.

    Costs nothing while nobody looks. While one looks, `--sample` and `--rate` bound what it costs, and what they keep
    out is said at the end.
    """
    from sixgate.node.flow_events import Observer, Wish  # noqa: PLC0415
    from sixgate.node.owners import Owners  # noqa: PLC0415

    common.require_permission()
    network = common.as_network(address, "--address") if address else None
    wanted = Filter(port, proto, reason, obj, device)
    owners = Owners.of(_applied(state_dir))
    verdicts = frozenset(chosen.value for chosen in verdict or ())
    with ExitStack() as stack:
        capture = _capture(stack, pcap)
        observer = stack.enter_context(Observer(bpffs.absolute(), Wish(sample, rate, network, verdicts)))
        shown, end = 0, time.monotonic() + seconds if seconds else float("inf")
        try:
            while (not count or shown < count) and time.monotonic() < end:
                select.select([observer.fileno()], [], [], 0.2)
                for event in observer.events():
                    named = replace(event, object=owners.owner(event.before, event.hook))
                    if wanted.admits(named) and (not count or shown < count):
                        shown += 1
                        _show(named, output, capture)
        except KeyboardInterrupt:
            pass
        withheld, lost = observer.missed()
    if withheld or lost:
        common.complain(
            f"{withheld} more packets were met than the {rate} per second that are told (--rate, --sample), and {lost} "
            "found no room on their way."
        )


def _applied(state_dir: Path) -> NodeConfigSpec | None:
    from sixgate.cli.trace import applied  # noqa: PLC0415

    try:
        return applied(state_dir)
    except ManifestError:
        return None  # programs may be there all the same; only names are missing


def _capture(stack: ExitStack, path: Path | None) -> PcapNg | None:
    from sixgate.node.pcapng import PcapNg  # noqa: PLC0415

    if path is None:
        return None
    return PcapNg(stack.enter_context(path.open("wb")), ("before", "after"), _SNAP_BYTES)


def _show(event: FlowEvent, output: str, capture: PcapNg | None) -> None:
    if capture is None or output == "json":
        sys.stdout.write((json.dumps(event.document()) if output == "json" else str(event)) + "\n")
        sys.stdout.flush()
    if capture is not None:
        comment = f"{event.hook} on {event.device}: {event.verdict} {event.reason} {event.object}".rstrip()
        capture.packet(0, event.time_s, event.frames[0], event.size, comment)
        if event.changed:
            capture.packet(1, event.time_s, event.frames[1], event.size_after, comment)


def register(app: typer.Typer) -> None:
    app.command(name="observe")(observe)
