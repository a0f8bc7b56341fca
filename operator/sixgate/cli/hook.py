"""`sixgate hook`: what the chart's jobs run in the cluster, and nobody else needs.

`apply` puts objects into the API server that a chart cannot hold itself: Helm looks up every kind of a chart before it
makes the first object, and these kinds come with the chart. `leave` is the way off the nodes, `test` is `helm test`.
"""

from __future__ import annotations

import ipaddress
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sixgate.errors import ManifestError, SixgateError

if TYPE_CHECKING:
    from sixgate.kube import KubeClient

MANAGER = "sixgate-chart"
LABEL = "sixgate.io/made-by-chart"
KINDS = {"BIGTCPPolicy": "bigtcppolicies", "NAT46Gateway": "nat46gateways"}
TEST_POD = "sixgate-test"
API = "/apis/sixgate.io/v1alpha1"
QUIET_S = 3.0  # for so long no operator may have written a NodeConfig anew

hook = typer.Typer(help="What the chart's jobs run.", no_args_is_help=True)


class HookError(SixgateError):
    """What a hook waits for did not come."""


@hook.command(name="apply")
def apply(
    manifests: Annotated[Path, typer.Option("-f", "--filename", help="A file of objects; it may be empty.")],
    timeout: Annotated[float, typer.Option(help="Seconds until the API server must have taken them.")] = 60,
) -> None:
    """Apply the chart's objects, and delete those of an earlier version that are not in the file any more."""
    import asyncio  # noqa: PLC0415

    import yaml  # noqa: PLC0415

    documents = [item for item in yaml.safe_load_all(manifests.read_text()) if item]
    for item in documents:
        if item.get("kind") not in KINDS:
            raise ManifestError(f"{manifests} must hold {' and '.join(KINDS)} only, and it has {item.get('kind')!r}.")
    asyncio.run(_within(timeout, _apply, documents))


async def _apply(client: KubeClient, documents: list[dict[str, Any]]) -> None:
    wanted = set()
    for item in documents:
        name, plural = item["metadata"]["name"], KINDS[item["kind"]]
        item["metadata"].setdefault("labels", {})[LABEL] = "true"
        await client.apply(f"{API}/{plural}/{name}", item, manager=MANAGER)
        wanted.add((plural, name))
        typer.echo(f"{item['kind']} {name} applied.")
    for plural in KINDS.values():
        for item in await _listed(client, plural, {"labelSelector": f"{LABEL}=true"}):
            if (plural, name := item["metadata"]["name"]) not in wanted:
                await client.request("DELETE", f"{API}/{plural}/{name}")
                typer.echo(f"{plural}/{name} deleted: the chart has it no longer.")


@hook.command(name="leave")
def leave(
    namespace: Annotated[str, typer.Option(envvar="SIXGATE_NAMESPACE", help="Where the operator runs.")],
    deployment: Annotated[str, typer.Option(help="The operator's Deployment.")] = "sixgate-operator",
    timeout: Annotated[float, typer.Option(help="Seconds until it must be done.")] = 120,
) -> None:
    """Stop the operator and delete every NodeConfig, so that agents take everything off their nodes when they end.

    Objects that users made stay; those of the chart go.
    """
    import asyncio  # noqa: PLC0415

    places = (f"/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}", f"/api/v1/namespaces/{namespace}/pods")
    asyncio.run(_within(timeout, _leave, *places))


async def _leave(client: KubeClient, deployment: str, pods: str) -> None:
    import asyncio  # noqa: PLC0415

    from sixgate.kube import ApiError  # noqa: PLC0415

    try:
        scale = await client.request("GET", f"{deployment}/scale")
        scale["spec"]["replicas"] = 0
        await client.request("PUT", f"{deployment}/scale", body=scale)
    except ApiError as error:
        if error.status != 404:
            raise
    try:
        await client.request("DELETE", f"{pods}/{TEST_POD}")  # Helm keeps what `helm test` made
    except ApiError as error:
        if error.status != 404:
            raise
    await _apply(client, [])
    last = time.monotonic()
    while time.monotonic() - last < QUIET_S:
        for item in await _listed(client, "nodeconfigs", {}):
            name = item["metadata"]["name"]
            await client.request("DELETE", f"{API}/nodeconfigs/{name}")
            typer.echo(f"NodeConfig {name} deleted.")
            last = time.monotonic()
        await asyncio.sleep(0.5)


@hook.command(name="test")
def packets(
    target: Annotated[list[str] | None, typer.Option(help="HOST:PORT to be reached over TCP; may be repeated.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds until every node must be ready.")] = 60,
) -> None:
    """Send packets as a pod does: to the API server, to `target`, and through every stateful gateway to a node."""
    import asyncio  # noqa: PLC0415

    asyncio.run(_within(timeout, _test, [parse_target(item) for item in target or ()]))


def parse_target(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise typer.BadParameter(f"A target must be HOST:PORT, found {text!r}.", param_hint="--target")
    return host.strip("[]"), int(port)


async def _test(client: KubeClient, targets: list[tuple[str, int]]) -> None:
    import asyncio  # noqa: PLC0415

    from sixgate.kube import ApiError  # noqa: PLC0415

    version = await client.request("GET", "/version")
    typer.echo(f"The API server answers, version {version['gitVersion']}.")
    configs = await _listed(client, "nodeconfigs", {})
    waiting = [item["metadata"]["name"] for item in configs if not item.get("status", {}).get("ready")]
    if waiting or not configs:
        raise ApiError(f"Every node must be ready, and {', '.join(waiting) or 'no node at all'} is not.")
    typer.echo(f"{len(configs)} nodes are ready.")
    nodes = (await client.request("GET", "/api/v1/nodes"))["items"]
    for gateway in await _listed(client, "nat46gateways", {}):
        targets = [*targets, *_through(gateway, nodes)]
    for host, port in targets:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 10)
        except (OSError, TimeoutError) as error:
            raise HookError(f"{host} port {port} must be reached over TCP: {error or 'no answer in 10 s'}") from error
        writer.close()
        typer.echo(f"{host} port {port} answers over TCP.")


def _through(gateway: dict[str, Any], nodes: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """The kubelet of a node, which has an IPv4 address, as a pod sees it behind a stateful gateway."""
    spec = gateway["spec"]
    addresses = [a["address"] for node in nodes for a in node["status"].get("addresses", ()) if "." in a["address"]]
    if "stateful" not in spec or not addresses or not str(spec["prefix"]).endswith("/96"):
        return []
    network = ipaddress.IPv6Network(spec["prefix"])
    return [(str(network[int(ipaddress.IPv4Address(addresses[0]))]), 10250)]


async def _listed(client: KubeClient, plural: str, params: dict[str, str]) -> list[dict[str, Any]]:
    from sixgate.kube import ApiError  # noqa: PLC0415

    try:
        found: list[dict[str, Any]] = (await client.request("GET", f"{API}/{plural}", params=params))["items"]
    except ApiError as error:
        if error.status == 404:  # no such kind: there is nothing of it
            return []
        raise
    return found


async def _within(timeout_s: float, work: Any, *arguments: Any) -> None:
    """`work` again and again until it succeeds; HookError with its last complaint after `timeout_s`."""
    import asyncio  # noqa: PLC0415

    from sixgate.kube import ApiError, KubeClient  # noqa: PLC0415

    deadline, said = time.monotonic() + timeout_s, ""
    async with await KubeClient.connect(None, agent=MANAGER) as client:
        while True:
            try:
                await work(client, *arguments)
                return
            except ApiError as error:
                lasting = not error.temporary and error.status != 404
                if lasting or time.monotonic() > deadline:
                    raise HookError(f"It must be done in {timeout_s:.0f} s, and it was not: {error}") from error
                if str(error) != said:
                    typer.echo(f"Trying again: {error}")
                said = str(error)
            await asyncio.sleep(1)


def register(app: typer.Typer) -> None:
    app.add_typer(hook, name="hook", hidden=True)
