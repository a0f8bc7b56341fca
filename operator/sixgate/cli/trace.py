"""`sixgate trace`: why would this packet go there?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sixgate.cli import common
from sixgate.cli.common import BPFFS, STATE_DIR
from sixgate.errors import ManifestError, SixgateError

if TYPE_CHECKING:
    from pathlib import Path

    from sixgate.api.nodeconfig import NodeConfigSpec


FromOption = Annotated[str, typer.Option("--from", help="Sender: ADDRESS or ADDRESS:PORT, IPv6 in brackets.")]
ToOption = Annotated[str, typer.Option("--to", help="Destination, as the sender writes it.")]
ProtoOption = Annotated[Literal["tcp", "udp", "icmp"], typer.Option(help="Protocol; icmp is an echo request.")]
LengthOption = Annotated[int, typer.Option(min=0, max=65000, help="Bytes of payload.")]
OutputOption = Annotated[Literal["text", "json", "yaml"], typer.Option("-o", "--output", help="How to print.")]


def trace(  # noqa: PLR0917 - options, which are given by name
    source: FromOption,
    target: ToOption,
    proto: ProtoOption = "tcp",
    device: Annotated[
        str, typer.Option("--device", help="Device that it arrives at; by default the one that leads to the sender.")
    ] = "",
    length: LengthOption = 0,
    flags: Annotated[str, typer.Option(help="TCP flags, some of fin,syn,rst,psh,ack.")] = "syn",
    ttl: Annotated[int, typer.Option(min=0, max=255, help="Hop limit of the packet.")] = 64,
    bpffs: common.BpffsOption = BPFFS,
    state_dir: common.StateOption = STATE_DIR,
    objects: common.ObjectsOption = None,
    output: OutputOption = "text",
) -> None:
    """Tell what this node would do with a packet: which object catches it, what it becomes, where it leaves, or why it
    is dropped.

    The packet is built and sent through copies of the programs that run, with the tables that they use. Nothing leaves
    the node and nothing is counted. The process that keeps the node is asked, and where none is alive, this one finds
    out by itself. Ends with 1 where the packet is dropped.
    """
    from sixgate.node.asking import ask  # noqa: PLC0415

    question: dict[str, Any] = {
        "bpffs": str(bpffs.absolute()),
        "objects": "" if objects is None else str(objects.absolute()),
        "source": source,
        "target": target,
        "proto": proto,
        "device": device,
        "length": length,
        "flags": flags,
        "ttl": ttl,
    }
    answer = ask(state_dir, "trace", question)
    if answer is None:
        found = _alone(question, state_dir, objects)
    elif "refused" in answer:
        raise SixgateError(str(answer["refused"]))
    else:
        found = answer["answer"]
    if output == "text":
        typer.echo("\n".join(found["sentences"]))
    else:
        common.document(found, output)
    common.end(common.FAILED if found["dropped"] else common.OK)


def _alone(question: dict[str, Any], state_dir: Path, objects: Path | None) -> Any:
    """The same from this process, which loads for it what the one that keeps the node has in memory."""
    from pathlib import Path  # noqa: PLC0415

    from sixgate.node.options import NodeOptions  # noqa: PLC0415
    from sixgate.node.questions import TraceQuestion  # noqa: PLC0415
    from sixgate.node.trace import trace as run  # noqa: PLC0415

    frame = TraceQuestion.model_validate(question).frame()
    common.require_permission()
    options = NodeOptions(
        bpffs=Path(question["bpffs"]), state_dir=state_dir.absolute(), objects=common.objects_dir(objects)
    )
    return run(frame, applied(options.state_dir), options, question["device"]).document()


def applied(state_dir: Path) -> NodeConfigSpec:
    """What this node was told last, by an operator or by a directory. ManifestError where nobody has told it."""
    from sixgate.api.nodeconfig import NodeConfigSpec  # noqa: PLC0415
    from sixgate.node.statedir import StateDir  # noqa: PLC0415
    from sixgate.node.watch import LAST_GOOD  # noqa: PLC0415
    from sixgate.standalone.service import APPLIED_FILE  # noqa: PLC0415

    for name in (APPLIED_FILE, LAST_GOOD):
        found = StateDir(state_dir).read(name)
        if isinstance(found, dict):
            return NodeConfigSpec.model_validate(found)
    raise ManifestError(
        f"{state_dir} should hold what this node was told; there is nothing, so sixgate does nothing here. "
        "Another --state-dir may be meant."
    )


def register(app: typer.Typer) -> None:
    app.command(name="trace")(trace)
