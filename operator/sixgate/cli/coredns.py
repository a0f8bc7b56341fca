"""`sixgate coredns`: puts a gateway's resolver behind CoreDNS."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sixgate.cli import common
from sixgate.errors import ManifestError

COREFILE = "Corefile"


def coredns(
    manifests: Annotated[Path, typer.Option("-f", "--filename", help="A file or a directory of YAML files.")],
    gateway: Annotated[str, typer.Option("--gateway", help="Name of the NAT46Gateway whose resolver is meant.")],
) -> None:
    """Read CoreDNS' ConfigMap and print it with `forward .` leading to the resolver of a gateway.

    kubectl -n kube-system get configmap coredns -o json | sixgate coredns -f DIR --gateway NAME | kubectl apply -f -
    """
    from sixgate.api.nat46gateway import NAT46Gateway  # noqa: PLC0415
    from sixgate.render.dns64 import forward_to  # noqa: PLC0415
    from sixgate.standalone.directory import Directory  # noqa: PLC0415

    found = Directory(manifests, lambda: "").read()
    for located in found.problems:
        common.complain(str(located))
    listen = [
        str(address)
        for item in found.objects
        if isinstance(item, NAT46Gateway) and item.metadata.name == gateway and item.spec.dns64 is not None
        for address in item.spec.dns64.listen_addresses
    ]
    if not listen:
        raise ManifestError(f"{manifests} should have a NAT46Gateway {gateway} with spec.dns64.listenAddresses.")
    typer.echo(json.dumps(_changed(sys.stdin.read(), tuple(listen), forward_to), indent=2))


def _changed(text: str, addresses: tuple[str, ...], forward_to: Any) -> dict[str, Any]:
    """The ConfigMap without what only the API server writes, its Corefile changed. ManifestError for anything else."""
    import yaml  # noqa: PLC0415

    try:
        body = yaml.safe_load(text)
        metadata = {key: body["metadata"][key] for key in ("name", "namespace", "labels") if key in body["metadata"]}
        data = {**body["data"], COREFILE: forward_to(body["data"][COREFILE], addresses)}
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"The input should be a ConfigMap with a {COREFILE}: {error}") from error
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def register(app: typer.Typer) -> None:
    app.command(name="coredns")(coredns)
