"""What has to be written, as data: a pure comparison of what is wanted with what is stored."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sixgate.api.base import API_VERSION
from sixgate.api.nodeconfig import FORMAT_VERSION, NodeConfigSpec
from sixgate.controller.store import (
    MANAGED_BY,
    NODE_CONFIG,
    OPERATOR,
    ConfigEntry,
    UserEntry,
    as_sent,
    spec_digest,
)
from sixgate.render.dns64 import CONFIG_MAP

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sixgate.errors import Ref
    from sixgate.render.dns64 import ClusterResolvers

DIGEST = "sixgate.io/digest"
EMPTY_REVISION = NodeConfigSpec.model_validate({"formatVersion": FORMAT_VERSION}).hashed().revision


@dataclass(frozen=True, slots=True)
class Document:
    """A spec as it is sent, and the digest by which it is known again when it is stored."""

    revision: str
    raw: Mapping[str, Any]
    digest: str

    @classmethod
    def of(cls, spec: NodeConfigSpec) -> Document:
        raw = as_sent(spec.model_dump(mode="json", by_alias=True))
        return cls(spec.revision, raw, spec_digest(raw))


@dataclass(frozen=True, slots=True)
class ApplyConfig:
    node: str
    document: Document

    def body(self) -> dict[str, Any]:
        return {
            "apiVersion": API_VERSION,
            "kind": NODE_CONFIG,
            "metadata": {"name": self.node, "labels": {MANAGED_BY: OPERATOR}},
            "spec": self.document.raw,
        }


@dataclass(frozen=True, slots=True)
class DeleteConfig:
    """Deletes exactly the object that was seen; one that changed since is left alone and looked at again."""

    node: str
    uid: str
    version: int

    def body(self) -> dict[str, Any]:
        return {"preconditions": {"uid": self.uid, "resourceVersion": str(self.version)}}


@dataclass(frozen=True, slots=True)
class ApplyStatus:
    """The uid makes the server refuse the status of an object that was deleted and made anew meanwhile."""

    ref: Ref
    uid: str
    status: Mapping[str, Any]
    before: Mapping[str, Any]

    def body(self) -> dict[str, Any]:
        return {
            "apiVersion": API_VERSION,
            "kind": self.ref.kind,
            "metadata": {"name": self.ref.name, "uid": self.uid},
            "status": dict(self.status),
        }


@dataclass(frozen=True, slots=True)
class StoredResolvers:
    """The ConfigMap of the resolvers as it is stored; `digest` is what its last writer said it had written."""

    data: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> StoredResolvers:
        return cls(dict(raw.get("data") or {}), str((raw["metadata"].get("annotations") or {}).get(DIGEST, "")))


@dataclass(frozen=True, slots=True)
class ApplyResolvers:
    """Server-side apply takes away the files that are ours and not in `data`, and leaves those of others."""

    namespace: str
    data: Mapping[str, str]

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(dict(self.data), sort_keys=True).encode()).hexdigest()[:32]

    def body(self) -> dict[str, Any]:
        labels, annotations = {MANAGED_BY: OPERATOR}, {DIGEST: self.digest}
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": CONFIG_MAP, "namespace": self.namespace, "labels": labels, "annotations": annotations,
            },
            "data": dict(self.data),
        }  # fmt: skip


Write = ApplyConfig | DeleteConfig | ApplyStatus | ApplyResolvers


def resolver_writes(
    wanted: ClusterResolvers, stored: StoredResolvers | None, namespace: str
) -> tuple[ApplyResolvers, ...]:
    """The ConfigMap of the resolvers, if it has to be written; of gateways whose template failed, what is stored stays.

    It is emptied and never deleted, and not made before somebody needs it.
    """
    if stored is None:
        return ()
    kept = tuple(f"{ref.name}." for ref in wanted.failed)
    data = {name: text for name, text in stored.data.items() if name.startswith(kept)} if kept else {}
    write = ApplyResolvers(namespace, {**data, **wanted.data})
    same = stored.digest == write.digest and all(stored.data.get(name) == text for name, text in write.data.items())
    return () if same or not (write.data or stored.digest) else (write,)


def config_writes(
    wanted: Mapping[str, Document], keep: frozenset[str], stored: Mapping[str, ConfigEntry]
) -> tuple[Write, ...]:
    """NodeConfigs to apply and to delete, by node name.

    `wanted` are those of nodes that are planned; nodes in `keep` could not be rendered and keep what they have.
    A NodeConfig that nobody needs is deleted only if it carries our label.
    """
    writes: list[Write] = []
    for node in sorted(wanted):
        document = wanted[node]
        if document.revision != EMPTY_REVISION and not _is(stored.get(node), document):
            writes.append(ApplyConfig(node, document))
    for node in sorted(stored):
        have = stored[node]
        needed = node in keep or (node in wanted and wanted[node].revision != EMPTY_REVISION)
        if have.managed and not needed:
            writes.append(DeleteConfig(node, have.uid, have.version))
    return tuple(writes)


def _is(have: ConfigEntry | None, document: Document) -> bool:
    return have is not None and have.managed and (have.revision, have.digest) == (document.revision, document.digest)


OUR_CONDITIONS = frozenset({"Ready", "Programmed", "Conflicted", "Degraded", "Copied", "Reconciling", "Stalled"})


def status_writes(
    statuses: Mapping[Ref, Mapping[str, Any]], stored: Mapping[Ref, UserEntry]
) -> tuple[ApplyStatus, ...]:
    """Statuses that differ from the stored ones. Times of transitions are the caller's to keep."""
    return tuple(
        ApplyStatus(ref, stored[ref].uid, statuses[ref], stored[ref].status)
        for ref in sorted(statuses)
        if ref in stored and _ours(statuses[ref]) != _ours(stored[ref].status)
    )


def _ours(status: Mapping[str, Any]) -> dict[str, Any]:
    """A status without conditions that others added and without the order of those that are ours."""
    conditions = {c["type"]: c for c in status.get("conditions") or () if c["type"] in OUR_CONDITIONS}
    return {**status, "conditions": conditions}
