"""What the operator knows of the cluster, fed with raw objects in any order, and the snapshots it gives.

The same object comes from several mouths (kopf's list, kopf's watch, our own audit, the answers to our own writes).
The resourceVersion decides: it grows with every change of etcd (comparable as a number, KEP-5504), so what is older
than what is known is ignored, and an object that was deleted is not brought back by a list made before that.
Nothing here raises for what a user wrote.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from sixgate.api.nodeconfig import NodeConfigStatus
from sixgate.api.parse import KINDS, parse_object
from sixgate.errors import Problem, Ref
from sixgate.plan.kinds import services_of
from sixgate.plan.snapshot import Endpoints, NodeInfo, ServiceKey, Snapshot

if TYPE_CHECKING:
    from sixgate.api.base import UserObject

Json = Mapping[str, Any]

NODE = "Node"
NODE_CONFIG = "NodeConfig"
MANAGED_BY = "app.kubernetes.io/managed-by"
OPERATOR = "sixgate-operator"
MAX_TOMBSTONES = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class UserEntry:
    """One version of one object of a user: its model, or what is wrong with it; `status` as it is stored."""

    ref: Ref
    uid: str
    version: int
    generation: int
    parsed: UserObject | None
    problems: tuple[Problem, ...]
    status: Json
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class NodeEntry:
    info: NodeInfo
    uid: str
    version: int


@dataclass(frozen=True, slots=True)
class ConfigEntry:
    """One stored NodeConfig without its contents: `digest` names them, whatever its `revision` claims."""

    name: str
    uid: str
    version: int
    generation: int
    revision: str
    digest: str
    managed: bool
    status: NodeConfigStatus


Entry = UserEntry | NodeEntry | ConfigEntry


def without_nulls(value: Any) -> Any:
    """`value` as an API server keeps it: fields that are null are dropped where the schema says nothing else."""
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list | tuple) else value


def as_sent(spec: Json) -> dict[str, Any]:
    """A spec of a NodeConfig without nulls and without the sections that are empty.

    A section that a CRD or an agent of another version does not know then hurts only the nodes that need it.
    """
    return {key: value for key, value in without_nulls(spec).items() if value != []}


def spec_digest(spec: Json) -> str:
    """Names the contents of a spec of a NodeConfig, whatever its `revision` claims."""
    body = {key: value for key, value in as_sent(spec).items() if key != "revision"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


@dataclass(slots=True)
class Store:
    """All methods are called from one event loop; snapshots are immutable and may go to a thread."""

    _entries: dict[str, dict[str, Entry]] = field(default_factory=dict, init=False)
    _gone: dict[tuple[str, str], int] = field(default_factory=dict, init=False)
    inputs: int = field(default=0, init=False)
    """Grows whenever something that `plan` sees has changed."""
    reports: int = field(default=0, init=False)
    """Grows whenever something that only statuses and the diff of writes see has changed."""
    endpoints: Mapping[ServiceKey, Endpoints] = field(default_factory=dict, init=False)
    service_cidrs: tuple[str, ...] = field(default=(), init=False)
    resolver_addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict, init=False)
    """Where the resolver of a gateway is reached, by the gateway's name."""
    _services: Counter[ServiceKey] = field(default_factory=Counter, init=False)

    def put(self, raw: Json) -> bool:
        """Take note of one object; True if it says anything new."""
        kind, meta = str(raw["kind"]), raw["metadata"]
        name, version = str(meta["name"]), int(meta["resourceVersion"])
        entries = self._entries.setdefault(kind, {})
        known = entries.get(name)
        if (known is not None and known.version >= version) or self._gone.get((kind, name), -1) >= version:
            return False
        entry = _entry(kind, raw, version, known)
        entries[name] = entry
        return self._count(known, entry)

    def put_answer(self, raw: Json) -> bool:
        """Take note of the answer to a write of our own; True if it also shows what somebody else has changed.

        The watch will bring the same version again, which is no news then: what is overlooked here stays overlooked.
        """
        kind, name = str(raw["kind"]), str(raw["metadata"]["name"])
        before = self._entries.get(kind, {}).get(name)
        self.put(raw)
        after = self._entries.get(kind, {}).get(name)
        if isinstance(after, ConfigEntry):
            was = before.status if isinstance(before, ConfigEntry) else NodeConfigStatus()
            return was != after.status
        return _wish(before) != _wish(after)

    def drop(self, kind: str, name: str, version: int, *, tombstone: bool = True) -> bool:
        """Take note of a deletion that happened at `version`; True if that is new."""
        known = self._entries.get(kind, {}).get(name)
        if known is not None and known.version > version:
            return False
        if tombstone:
            self._gone.pop((kind, name), None)  # so that the dict stays in order of deletion
            self._gone[kind, name] = version
            if len(self._gone) > MAX_TOMBSTONES:
                del self._gone[next(iter(self._gone))]
        if known is None:
            return False
        del self._entries[kind][name]
        return self._count(known, None)

    def prune(self, kind: str, present: Iterable[str], version: int) -> tuple[str, ...]:
        """Drop what a list made at `version` does not contain; returns the names of what was dropped."""
        keep = set(present)
        lost = [e for n, e in self._entries.get(kind, {}).items() if n not in keep and e.version <= version]
        names = tuple(_name_of(entry) for entry in lost)
        for name in names:
            self.drop(kind, name, version, tombstone=False)
        return names

    @property
    def services(self) -> frozenset[ServiceKey]:
        """Services that objects refer to."""
        return frozenset(self._services)

    def put_endpoints(self, endpoints: Mapping[ServiceKey, Endpoints]) -> bool:
        """Take note of all endpoints of all Services that objects refer to; True if that says anything new."""
        news = dict(endpoints) != dict(self.endpoints)
        self.endpoints = dict(endpoints)
        self.inputs += news
        return news

    def put_service_cidrs(self, cidrs: tuple[str, ...]) -> bool:
        """Take note of the addresses that the cluster gives to Services; True if that says anything new."""
        news = cidrs != self.service_cidrs
        self.service_cidrs = cidrs
        self.inputs += news
        return news

    def put_resolver_addresses(self, addresses: Mapping[str, tuple[str, ...]]) -> None:
        """Take note of the addresses of all resolvers."""
        self.inputs += dict(addresses) != dict(self.resolver_addresses)
        self.resolver_addresses = dict(addresses)

    def versions(self, kind: str) -> dict[str, int]:
        """Names and resourceVersions of everything known of `kind`."""
        return {name: entry.version for name, entry in self._entries.get(kind, {}).items()}

    def users(self) -> tuple[UserEntry, ...]:
        # Each kind is copied in one step: the thread of a scrape asks, too, while watches put and drop.
        found = (entry for kind in KINDS for entry in tuple(self._entries.get(kind, {}).values()))
        return tuple(entry for entry in found if isinstance(entry, UserEntry))

    def configs(self) -> dict[str, ConfigEntry]:
        return {n: e for n, e in tuple(self._entries.get(NODE_CONFIG, {}).items()) if isinstance(e, ConfigEntry)}

    def snapshot(self, digests: Mapping[str, str]) -> Snapshot:
        """What `plan` is computed from. An object that is being deleted claims nothing any more."""
        return Snapshot(
            objects=tuple(e.parsed for e in self.users() if e.parsed is not None and not e.deleting),
            nodes=tuple(e.info for e in self._entries.get(NODE, {}).values() if isinstance(e, NodeEntry)),
            endpoints=self.endpoints,
            service_cidrs=self.service_cidrs,
            digests=digests,
        )

    def _count(self, before: Entry | None, after: Entry | None) -> bool:
        match before or after:
            case NodeEntry():
                differs = _info(before) != _info(after)
                self.inputs += differs
                return differs
            case UserEntry():
                changed = _wish(before) != _wish(after)
                self.inputs += changed
                if changed:
                    self._refer(before, after)
                self.reports += 1
                return True
            case _:
                self.reports += 1
                return True

    def _refer(self, before: Entry | None, after: Entry | None) -> None:
        """Keeps count of the Services that objects refer to."""
        self._services.update(_services(after))
        self._services.subtract(_services(before))
        for service in _services(before):
            if not self._services[service]:
                del self._services[service]


def _services(entry: Entry | None) -> tuple[ServiceKey, ...]:
    if not isinstance(entry, UserEntry) or entry.parsed is None or entry.deleting:
        return ()
    return services_of(entry.parsed)


def _info(entry: Entry | None) -> NodeInfo | None:
    return entry.info if isinstance(entry, NodeEntry) else None


def _wish(entry: Entry | None) -> tuple[object, ...] | None:
    """What of a user's object concerns `plan`."""
    if not isinstance(entry, UserEntry):
        return None
    return (entry.uid, entry.generation, entry.deleting, entry.problems)


def _name_of(entry: Entry) -> str:
    match entry:
        case NodeEntry():
            return entry.info.name
        case ConfigEntry():
            return entry.name
        case UserEntry():
            return entry.ref.name


def _entry(kind: str, raw: Json, version: int, known: Entry | None) -> Entry:
    """One version of one object. A generation is parsed once: what is computed from its model can be used again."""
    meta = raw["metadata"]
    uid, generation = str(meta.get("uid", "")), int(meta.get("generation", 0))
    if kind == NODE:
        return NodeEntry(node_info(raw), uid, version)
    status = raw.get("status") or {}
    if kind == NODE_CONFIG:
        spec = raw.get("spec") or {}
        managed = (meta.get("labels") or {}).get(MANAGED_BY) == OPERATOR
        return ConfigEntry(
            str(meta["name"]), uid, version, generation, str(spec.get("revision", "")), spec_digest(spec), managed,
            _node_status(status),
        )  # fmt: skip
    if isinstance(known, UserEntry) and (known.uid, known.generation) == (uid, generation):
        model, problems = known.parsed, known.problems
    else:
        parsed = parse_object(raw)
        model, problems = (None, parsed) if isinstance(parsed, tuple) else (parsed, ())
    ref = Ref(kind, str(meta["name"]))
    return UserEntry(ref, uid, version, generation, model, problems, status, "deletionTimestamp" in meta)


def _node_status(raw: Json) -> NodeConfigStatus:
    """A node's report; one that cannot be read counts as none, which is what it is worth."""
    try:
        return NodeConfigStatus.model_validate_json(json.dumps(raw))
    except ValidationError:
        return NodeConfigStatus(message="The node's report cannot be read by this version of the operator.")


def node_info(raw: Json) -> NodeInfo:
    """The part of a Node that plan sees."""
    spec, status = raw.get("spec") or {}, raw.get("status") or {}
    conditions = {c.get("type"): c.get("status") for c in status.get("conditions") or ()}
    return NodeInfo(
        name=str(raw["metadata"]["name"]),
        labels=dict(raw["metadata"].get("labels") or {}),
        addresses=tuple(str(a["address"]) for a in status.get("addresses") or () if str(a.get("type")).endswith("IP")),
        pod_cidrs=tuple(spec.get("podCIDRs") or ()),
        ready=conditions.get("Ready", "True") == "True",
        cordoned=bool(spec.get("unschedulable")),
    )
