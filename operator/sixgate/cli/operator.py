"""`sixgate operator`: plans and renders for a whole cluster."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from sixgate.cli import common
from sixgate.cli.common import ObjectsOption, TemplatesOption, objects_dir
from sixgate.errors import ManifestError

GC_YOUNG = 50_000  # allocations between two collections of the youngest generation; Python's own is 700


def read_digests(objects: Path) -> dict[str, str]:
    """Digests of the BPF objects by name, from the manifest beside them. ManifestError names what is wrong."""
    path = objects / "manifest.json"
    try:
        listed = json.loads(path.read_bytes())["objects"]
        if not isinstance(listed, Mapping) or not all(isinstance(item, str) for item in listed.values()):
            raise TypeError
        return dict(listed)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(
            f'{path} must be the manifest of the BPF objects, {{"objects": {{name: digest}}}}: {error}'
        ) from error


def operator(  # noqa: PLR0917 - options, which are given by name
    objects: ObjectsOption = None,
    kubeconfig: Annotated[
        Path | None, typer.Option(envvar="KUBECONFIG", help="Credentials; without it, the pod's service account.")
    ] = None,
    namespace: Annotated[
        str, typer.Option(envvar="SIXGATE_NAMESPACE", help="Namespace of the lease that elects the leader.")
    ] = "sixgate-system",
    identity: Annotated[
        str, typer.Option(envvar="POD_NAME", help="Name of this replica in the lease; made up if empty.")
    ] = "",
    templates: TemplatesOption = None,
    health: Annotated[str, typer.Option(help="Address and port of /healthz and /readyz; empty for none.")] = "",
    metrics: Annotated[str, typer.Option(help="Address and port of /metrics for Prometheus; empty for none.")] = "",
    write_rate: Annotated[
        float, typer.Option(min=1, help="Writes per second to the API server, in the long run.")
    ] = 200,
    audit_seconds: Annotated[float, typer.Option(min=1, help="Time between two comparisons with the API server.")] = 30,
    log_format: common.LogFormatOption = "text",
    verbose: common.VerboseOption = False,
) -> None:
    """Plan and render for a whole cluster: objects and nodes in, one NodeConfig per node out.

    Ends with 0 after SIGTERM and with 1 when a part of it has stopped working, so that it is started anew.
    """
    import asyncio  # noqa: PLC0415

    from sixgate.cli.logs import configure  # noqa: PLC0415
    from sixgate.controller.operator import OperatorOptions, run  # noqa: PLC0415 - kopf takes a second to import
    from sixgate.controller.writer import Limits  # noqa: PLC0415

    configure(verbose, log_format)
    # A cache of thousands of documents is walked by every full collection and never freed: collect when a good deal of
    # new objects has come, and leave out what the imports made.
    gc.freeze()
    gc.set_threshold(GC_YOUNG, 20, 50)
    options = OperatorOptions(
        digests=read_digests(objects_dir(objects)),
        kubeconfig=kubeconfig,
        namespace=namespace,
        templates=templates,
        health=parse_address(health),
        metrics=parse_address(metrics),
        limits=Limits(per_s=write_rate),
        audit_s=audit_seconds,
        identity=identity,
    )
    raise typer.Exit(asyncio.run(run(options)))


def parse_address(text: str) -> tuple[str, int] | None:
    """Host and port of `HOST:PORT`, None of an empty text."""
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise typer.BadParameter(f"An address must be HOST:PORT with a port up to 65535, found {text!r}.")
    return host.strip("[]"), int(port)


def register(app: typer.Typer) -> None:
    app.command(name="operator")(operator)
