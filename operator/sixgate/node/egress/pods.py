"""Pods of one node and the labels of namespaces, from the API server or from files. Only this package knows of pods."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from sixgate.node.egress.tables import Pod

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
    from pathlib import Path

    from sixgate.kube import KubeClient

log = logging.getLogger(__name__)

POLL_S = 0.1
ENDED = frozenset({"Succeeded", "Failed"})
SUFFIXES = (".json", ".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Population:
    """Pods of the node by namespace and name, and labels of namespaces by name."""

    pods: Mapping[tuple[str, str], Pod] = field(default_factory=dict)
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class PodSource(Protocol):
    """Says who lives on this node, at first and after every change."""

    def populations(self) -> AsyncIterator[Population]: ...


def read_pod(raw: Mapping[str, Any]) -> Pod | None:
    """A Pod as the API server writes it; None for one that has ended or has the node's own addresses."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    if spec.get("hostNetwork") or status.get("phase") in ENDED:
        return None
    found = [str(item["ip"]) for item in status.get("podIPs") or () if item.get("ip")]
    if not found and status.get("podIP"):
        found = [str(status["podIP"])]
    return Pod(
        namespace=str(metadata.get("namespace") or "default"),
        name=str(metadata["name"]),
        labels=dict(metadata.get("labels") or {}),
        addresses=tuple(str(ipaddress.ip_address(text)) for text in found),
    )


def _key(raw: Mapping[str, Any]) -> tuple[str, str]:
    return str(raw["metadata"].get("namespace") or "default"), str(raw["metadata"]["name"])


@dataclass(slots=True)
class KubePods:
    """Watches the pods of `node`, by field selector, and all namespaces."""

    node: str
    connect: Callable[[], Awaitable[KubeClient]]
    inactivity_s: float = 70.0
    _pods: dict[tuple[str, str], Pod] = field(default_factory=dict, init=False)
    _namespaces: dict[str, Mapping[str, str]] = field(default_factory=dict, init=False)
    _changed: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _listed: set[str] = field(default_factory=set, init=False)

    async def populations(self) -> AsyncIterator[Population]:
        """Nothing until both have been listed: half of the truth would let packets out."""
        client = await self.connect()
        tasks = [
            asyncio.create_task(self._follow(client, "/api/v1/pods", {"fieldSelector": f"spec.nodeName={self.node}"})),
            asyncio.create_task(self._follow(client, "/api/v1/namespaces", {})),
        ]
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                for task in tasks:
                    if task.done():
                        task.result()
                if len(self._listed) == len(tasks):
                    yield Population(dict(self._pods), dict(self._namespaces))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await client.close()

    async def _follow(self, client: KubeClient, path: str, params: dict[str, str]) -> None:
        from sixgate.kube import Listed, Reflector  # noqa: PLC0415 - a node without a cluster needs no client

        put, drop = (self._put_pod, self._drop_pod) if path.endswith("/pods") else (self._put_space, self._drop_space)
        async for event in Reflector(client, path, params, inactivity_s=self.inactivity_s).events():
            if isinstance(event, Listed):
                (self._pods if path.endswith("/pods") else self._namespaces).clear()
                for item in event.items:
                    put(item)
                self._listed.add(path)
            elif event.kind == "DELETED":
                drop(event.item)
            else:
                put(event.item)
            self._changed.set()

    def _put_pod(self, raw: Mapping[str, Any]) -> None:
        pod = read_pod(raw)
        if pod is None:
            self._drop_pod(raw)
        else:
            self._pods[_key(raw)] = pod

    def _drop_pod(self, raw: Mapping[str, Any]) -> None:
        self._pods.pop(_key(raw), None)

    def _put_space(self, raw: Mapping[str, Any]) -> None:
        self._namespaces[str(raw["metadata"]["name"])] = dict(raw["metadata"].get("labels") or {})

    def _drop_space(self, raw: Mapping[str, Any]) -> None:
        self._namespaces.pop(str(raw["metadata"]["name"]), None)


def read_objects(path: Path) -> Iterator[Mapping[str, Any]]:
    """Kubernetes objects of a file or of the files of a directory, Lists taken apart. Raises OSError and ValueError."""
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
    for file in files:
        text = file.read_text()
        documents = [json.loads(text)] if file.suffix == ".json" and text.strip() else yaml.safe_load_all(text)
        for document in documents:
            if not isinstance(document, dict):
                continue
            items = document.get("items")
            yield from (item for item in (items if isinstance(items, list) else [document]) if isinstance(item, dict))


def read_signature(path: Path) -> object:
    """Something that changes whenever a file does; None where there is none."""
    try:
        files = [path] if path.is_file() else sorted(path.iterdir())
        stats = [(file.name, file.stat()) for file in files]
    except OSError:
        return None
    return tuple((name, stat.st_mtime_ns, stat.st_size, stat.st_ino) for name, stat in stats)


@dataclass(slots=True)
class FilePods:
    """Pod and Namespace objects of files, as `kubectl get pods,namespaces -o json` writes them; those of other nodes
    are passed over. A file that cannot be read keeps what was known."""

    node: str
    path: Path
    _known: dict[tuple[str, str], tuple[Mapping[str, Any], Pod | None]] = field(default_factory=dict, init=False)

    async def populations(self) -> AsyncIterator[Population]:
        seen: object = None
        while True:
            signature = await asyncio.to_thread(read_signature, self.path)
            if signature != seen:
                seen = signature
                try:
                    yield await asyncio.to_thread(self.read)
                except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
                    log.error("%s must hold Pod and Namespace objects; what was known stays: %s", self.path, error)
            await asyncio.sleep(POLL_S)

    def read(self) -> Population:
        """A pod that is told of in the same words is the same object as before."""
        pods: dict[tuple[str, str], Pod] = {}
        namespaces: dict[str, Mapping[str, str]] = {}
        before, self._known = self._known, {}
        for raw in read_objects(self.path):
            kind = raw.get("kind")
            if kind == "Namespace":
                namespaces[str(raw["metadata"]["name"])] = dict(raw["metadata"].get("labels") or {})
            elif kind == "Pod" and (raw.get("spec") or {}).get("nodeName", self.node) == self.node:
                key = _key(raw)
                known = before.get(key)
                pod = known[1] if known is not None and known[0] == raw else read_pod(raw)
                self._known[key] = (raw, pod)
                if pod is not None:
                    pods[key] = pod
        return Population(pods, namespaces)
