"""Reads an installation from the API server: a few requests at once, whatever its size."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sixgate.api.parse import KINDS
from sixgate.cli.cluster.model import Installation, NodeRow, ObjectRow, node_rows, object_row, operator_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sixgate.kube import KubeClient

AS_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
PAGE = "1000"
LEASE = "sixgate-operator"
LIST_TIMEOUT_S = 30.0


async def connect(kubeconfig: Path | None, context: str) -> KubeClient:
    """As kubectl does: the file that is named, else ~/.kube/config, else the pod's service account."""
    from sixgate.kube import KubeClient  # noqa: PLC0415 - most of a second to import

    home = Path("~/.kube/config").expanduser()
    return await KubeClient.connect(
        kubeconfig or (home if home.exists() else None), agent="kubectl-sixgate", context=context or None
    )


async def installation(client: KubeClient, namespace: str) -> Installation:
    """All of it. ApiError where a request is refused, with the server's own words."""
    lease, nodes, objects = await asyncio.gather(_lease(client, namespace), nodes_of(client), objects_of(client, KINDS))
    return Installation(operator_row(lease, datetime.now(UTC)), nodes, objects)


async def nodes_of(client: KubeClient) -> tuple[NodeRow, ...]:
    from sixgate.kube.client import object_path  # noqa: PLC0415

    rows: list[NodeRow] = []
    async for page in _pages(client, object_path("nodeconfigs"), AS_TABLE):
        rows += node_rows(page)
    return tuple(sorted(rows, key=lambda row: row.name))


async def objects_of(client: KubeClient, kinds: Iterable[str]) -> tuple[ObjectRow, ...]:
    from sixgate.kube.client import object_path  # noqa: PLC0415

    async def one(kind: str) -> list[ObjectRow]:
        path = object_path(KINDS[kind].info.plural)
        return [object_row(kind, raw) for raw in await items(client, path)]

    found = await asyncio.gather(*(one(kind) for kind in kinds))
    return tuple(sorted((row for rows in found for row in rows), key=lambda row: (row.kind, row.name)))


async def items(client: KubeClient, path: str, params: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Everything at `path`, as the server has it."""
    return [raw async for page in _pages(client, path, more=params or {}) for raw in page["items"]]


async def _pages(
    client: KubeClient, path: str, accept: str = "application/json", more: Mapping[str, str] | None = None
) -> Any:
    token = ""
    while True:
        params = {"limit": PAGE, **(more or {}), **({"continue": token} if token else {})}
        page = await client.request("GET", path, params=params, accept=accept, timeout_s=LIST_TIMEOUT_S)
        yield page
        token = str(page["metadata"].get("continue") or "")
        if not token:
            return


async def _lease(client: KubeClient, namespace: str) -> dict[str, Any] | None:
    from sixgate.kube import ApiError  # noqa: PLC0415
    from sixgate.kube.client import object_path  # noqa: PLC0415

    try:
        path = object_path("leases", LEASE, group="coordination.k8s.io/v1", namespace=namespace)
        return await client.request("GET", path)
    except ApiError as error:
        if error.status == 404:
            return None
        raise
