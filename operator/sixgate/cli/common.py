"""What the commands share: exit codes, options, and how a failure is shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sixgate.errors import SixgateError

if TYPE_CHECKING:
    from sixgate.exposition import MetricsServer
    from sixgate.metrics import Source
    from sixgate.node.agent import NodeAgent
    from sixgate.node.options import NodeOptions

OK, FAILED, USAGE, NO_PERMISSION = 0, 1, 2, 3
BPFFS = Path("/sys/fs/bpf/sixgate")
STATE_DIR = Path("/var/lib/sixgate")
RUN_DIR = Path("/run/sixgate")
_INSTALLED = Path("/usr/lib/sixgate/bpf")
_SOURCE_TREE = Path(__file__).resolve().parents[3] / "build" / "bpf"

BpffsOption = Annotated[Path, typer.Option("--bpffs", help="Directory of pins, on a BPF file system.")]
StateOption = Annotated[Path, typer.Option("--state-dir", help="Directory of what must outlive the process.")]
RunOption = Annotated[Path, typer.Option("--run-dir", help="Directory of what runs beside this process: resolvers.")]
ObjectsOption = Annotated[
    Path | None,
    typer.Option(
        "--objects",
        envvar="SIXGATE_OBJECTS",
        help="Directory of the BPF objects and their manifest; by default build/bpf of the source tree, else "
        "/usr/lib/sixgate/bpf.",
    ),
]
NodeOption = Annotated[str, typer.Option("--node", help="Name of this node: the value of its kubernetes.io/hostname.")]
ClusterOption = Annotated[
    Path | None,
    typer.Option(
        "--cluster",
        help="File or directory of Node, Namespace and Pod objects, as `kubectl get -o json` writes them: for kinds "
        "that span nodes or select pods.",
    ),
]
LabelOption = Annotated[
    list[str] | None, typer.Option("--label", help="Another label of this node, as KEY=VALUE; may be repeated.")
]
TemplatesOption = Annotated[
    Path | None, typer.Option("--templates", help="Directory of templates that replace those of the same name.")
]


LogFormatOption = Annotated[Literal["text", "json"], typer.Option("--log-format", help="How log lines look.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Log what does not change anything, too.")]


class NoPermissionError(SixgateError):
    """This process lacks a capability; the text names it."""


def objects_dir(chosen: Path | None) -> Path:
    """The directory of BPF objects: as chosen, else of the source tree, else as installed."""
    if chosen is not None:
        return chosen
    return _SOURCE_TREE if (_SOURCE_TREE / "manifest.json").exists() else _INSTALLED


def as_address(text: str, option: str) -> IPv4Address | IPv6Address:
    """An address that was given for `option`."""
    try:
        return ip_address(text)
    except ValueError as error:
        raise typer.BadParameter(f"It must be an address: {error}.", param_hint=option) from error


def as_network(text: str, option: str, *, strict: bool = True) -> IPv4Network | IPv6Network:
    """An address or a CIDR that was given for `option`; `strict`: without bits beyond its length."""
    try:
        return ip_network(text, strict)
    except ValueError as error:
        raise typer.BadParameter(f"It must be an address or a CIDR: {error}.", param_hint=option) from error


def parse_labels(words: list[str] | None) -> Mapping[str, str]:
    labels = {}
    for word in words or ():
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"A label must be KEY=VALUE, found {word!r}.", param_hint="--label")
        labels[key] = value
    return labels


def require_permission() -> None:
    """NoPermissionError unless this process may use BPF and change the network."""
    from sixgate.node.bpf.probe import missing_permission  # noqa: PLC0415 - commands without BPF do not need libbpf

    missing = missing_permission()
    if missing:
        raise NoPermissionError(missing)


def serve_metrics(address: tuple[str, int] | None, sources: Mapping[str, Source]) -> MetricsServer | None:
    """The endpoint of `sources` by the part they tell of, to be closed by the caller; None without an address."""
    from sixgate.exposition import Exposition, MetricsServer  # noqa: PLC0415 - costs memory that not everybody needs

    return MetricsServer(*address, Exposition(sources)) if address else None


def answer_questions(options: NodeOptions, keeper: NodeAgent) -> AbstractContextManager[object]:
    """While it is open, commands that ask about this node are answered by this process."""
    from sixgate.node.answering import Answers  # noqa: PLC0415
    from sixgate.node.questions import tracer  # noqa: PLC0415

    return Answers(options.state_dir, {"trace": tracer(options, lambda: keeper.metrics.spec)})


def as_yaml(value: object) -> str:
    """Keys in their order; texts of several lines are shown as such."""
    import yaml  # noqa: PLC0415 - a fifth of the time of a short command

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: Dumper, text: str) -> yaml.ScalarNode:
        style = "|" if "\n" in text else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True)


def camel(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same with its names as users write them: `left_s` is leftS."""

    def name(text: str) -> str:
        first, *rest = text.split("_")
        return first + "".join(word.capitalize() for word in rest)

    return {name(key): value for key, value in row.items()}


def document(body: Any, output: str) -> None:
    """Print for machines: `output` is json or yaml."""
    typer.echo(as_yaml(body) if output == "yaml" else json.dumps(body, indent=2), nl=output != "yaml")


def complain(sentence: str) -> None:
    typer.echo(sentence, err=True)


def end(code: int) -> None:
    """Leave at once with an exit code; what was printed is printed."""
    sys.stdout.flush()
    if code:
        raise typer.Exit(code)
