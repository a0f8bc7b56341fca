"""`kubectl sixgate sysdump`: everything that a bug report about an installation needs, in one file.

Secrets are never asked for; values of environment variables are struck out of pods, and so is what clients remember
of what was applied.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import typer

from sixgate import __version__
from sixgate.cli.archive import STRUCK, Archive
from sixgate.cli.cluster.commands import ContextOption, KubeconfigOption, NamespaceOption
from sixgate.cli.sysdump import OutputOption, target

if TYPE_CHECKING:
    import asyncio

    from sixgate.kube import KubeClient

LOG_LINES = 2000
MAX_PODS = 200  # whose logs are taken
AT_ONCE = 8


def sysdump(
    output: OutputOption = None,
    namespace: NamespaceOption = "sixgate-system",
    kubeconfig: KubeconfigOption = None,
    context: ContextOption = "",
) -> None:
    """Collect objects, reports and logs of the whole installation into one file for a bug report, without secrets.

    `sixgate sysdump` on a node collects what only the node knows.
    """
    import asyncio  # noqa: PLC0415

    path = target(output, "cluster")

    async def run() -> Archive:
        from sixgate.cli.cluster.fetch import connect  # noqa: PLC0415

        async with await connect(kubeconfig, context) as client:
            with Archive(path, path.name.removesuffix(".tar.gz")) as archive:
                archive.json("about.json", {"version": __version__, "time": time.time(), "namespace": namespace})
                await _collect(client, namespace, archive)
                return archive

    archive = asyncio.run(run())
    typer.echo(f"{path} holds {archive.total:,} bytes, {len(archive.errors)} things could not be read.")


def _paths(namespace: str) -> dict[str, str]:
    """Name in the archive to path of a list at the API server."""
    from sixgate.api.parse import KINDS  # noqa: PLC0415
    from sixgate.kube.client import object_path  # noqa: PLC0415

    found = {f"objects/{kind}.json": object_path(entry.info.plural) for kind, entry in KINDS.items()}
    found["objects/NodeConfig.json"] = object_path("nodeconfigs")
    for plural, group in (
        ("pods", "v1"),
        ("configmaps", "v1"),
        ("services", "v1"),
        ("events", "v1"),
        ("deployments", "apps/v1"),
        ("daemonsets", "apps/v1"),
        ("leases", "coordination.k8s.io/v1"),
    ):
        found[f"namespace/{plural}.json"] = object_path(plural, group=group, namespace=namespace)
    found["cluster/nodes.json"] = object_path("nodes", group="v1")
    # Events about objects without a namespace are kept in this one.
    found["cluster/events-default.json"] = object_path("events", group="v1", namespace="default")
    return found


async def _collect(client: KubeClient, namespace: str, archive: Archive) -> None:
    import asyncio  # noqa: PLC0415

    from sixgate.cli.cluster.fetch import items  # noqa: PLC0415
    from sixgate.kube import ApiError  # noqa: PLC0415

    try:
        archive.json("cluster/version.json", await client.request("GET", "/version"))
    except ApiError as error:
        archive.missing("cluster/version.json", error)
    pods: list[dict[str, Any]] = []
    for name, path in _paths(namespace).items():
        try:
            found = await items(client, path)
        except ApiError as error:
            archive.missing(name, error)
            continue
        if name == "namespace/pods.json":
            pods = found
        archive.json(name, [cleaned(item) for item in found])
    room = asyncio.Semaphore(AT_ONCE)
    await asyncio.gather(*(_logs(client, namespace, pod, archive, room) for pod in pods[:MAX_PODS]))
    if len(pods) > MAX_PODS:
        archive.missing("logs", f"logs of {MAX_PODS} of {len(pods)} pods were taken")


async def _logs(
    client: KubeClient, namespace: str, pod: dict[str, Any], archive: Archive, room: asyncio.Semaphore
) -> None:
    from sixgate.kube import ApiError  # noqa: PLC0415
    from sixgate.kube.client import object_path  # noqa: PLC0415

    name = pod["metadata"]["name"]
    path = f"{object_path('pods', name, group='v1', namespace=namespace)}/log"
    for state in (pod.get("status") or {}).get("containerStatuses", ()):
        for previous in (False, True):
            if previous and not state.get("restartCount"):
                continue
            asked = {"container": state["name"], "tailLines": str(LOG_LINES), "previous": str(previous).lower()}
            file = f"logs/{name}/{state['name']}{'-previous' if previous else ''}.log"
            try:
                async with room:
                    archive.text(file, await client.read(path, params=asked), end=True)
            except ApiError as error:
                archive.missing(file, error)


def cleaned(item: dict[str, Any]) -> dict[str, Any]:
    """An object without what clients have noted in it, and without values of environment variables."""
    meta = {key: value for key, value in item.get("metadata", {}).items() if key != "managedFields"}
    noted = meta.get("annotations")
    if noted:
        meta["annotations"] = {
            key: value for key, value in noted.items() if key != "kubectl.kubernetes.io/last-applied-configuration"
        }
    return {**_without_env(item), "metadata": meta}


def _without_env(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_env(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: _without_env(item) for key, item in value.items()}
    if isinstance(found.get("env"), list):
        found["env"] = [
            {**item, "value": STRUCK} if isinstance(item, dict) and "value" in item else item for item in found["env"]
        ]
    return found
