"""The resolvers of a cluster: the ConfigMap that their pods mount, and what their Services say of them.

The operator writes that one ConfigMap and nothing else: Deployment and Service are the chart's, so that nobody who
applies the chart again finds them changed, and so that the operator needs no right to start pods.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sixgate.controller.mirror import Mirror
from sixgate.controller.surroundings import DISCOVERY, Slice, joined, read_slice
from sixgate.controller.writes import StoredResolvers
from sixgate.kube.client import object_path
from sixgate.plan.snapshot import ServiceKey
from sixgate.plan.status import ResolverReport
from sixgate.render.dns64 import CONFIG_MAP

if TYPE_CHECKING:
    from sixgate.controller.store import Store
    from sixgate.errors import Ref
    from sixgate.kube import KubeClient

LABEL = "sixgate.io/dns64"

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class ResolverService:
    """A Service with LABEL: the name of the gateway that it says, its own, and its addresses."""

    gateway: str
    name: str
    addresses: tuple[str, ...]


def read_service(raw: Json) -> ResolverService:
    """A Service as far as it matters here; a headless one has no address."""
    meta, spec = raw["metadata"], raw.get("spec") or {}
    listed = spec.get("clusterIPs") or [spec.get("clusterIP")]
    addresses = tuple(str(address) for address in listed if address and address != "None")
    return ResolverService(str((meta.get("labels") or {}).get(LABEL, "")), str(meta["name"]), addresses)


@dataclass(slots=True)
class Resolvers:
    """Feeds `store` with the addresses of resolvers; `changed` is called for all news."""

    client: KubeClient
    namespace: str
    store: Store
    changed: Callable[[], None]
    _map: Mirror[StoredResolvers] = field(init=False)
    _services: Mirror[ResolverService] = field(init=False)
    _slices: Mirror[Slice] = field(init=False)

    def __post_init__(self) -> None:
        def mirror(plural: str, group: str, params: dict[str, str], read: Any, told: Callable[[], None]) -> Mirror[Any]:
            return Mirror(self.client, object_path(plural, group=group, namespace=self.namespace), params, read, told)

        named, labelled = {"fieldSelector": f"metadata.name={CONFIG_MAP}"}, {"labelSelector": LABEL}
        self._map = mirror("configmaps", "v1", named, StoredResolvers.read, self.changed)
        self._services = mirror("services", "v1", labelled, read_service, self._told)
        self._slices = mirror("endpointslices", DISCOVERY, labelled, read_slice, self.changed)

    async def run(self) -> None:
        """Until cancelled."""
        await asyncio.gather(self._map.run(), self._services.run(), self._slices.run())

    @property
    def stored(self) -> StoredResolvers | None:
        """The ConfigMap as it is, empty where there is none; None as long as that is not known."""
        if not self._map.listed.is_set():
            return None
        return self._map.items.get((self.namespace, CONFIG_MAP), StoredResolvers())

    def report(self, gateway: Ref) -> ResolverReport:
        """What is known of the resolver of one gateway."""
        if not (self._services.listed.is_set() and self._slices.listed.is_set()):
            return ResolverReport(known=False)
        found = min((item for item in self._services.items.values() if item.gateway == gateway.name), default=None)
        if found is None:
            return ResolverReport(namespace=self.namespace, label=f"{LABEL}={gateway.name}")
        service = ServiceKey(self.namespace, found.name)
        endpoints = joined(service, (item for item in self._slices.items.values() if item.service == service)).endpoints
        # A pod of two families is in the slices of both.
        pods = {":" in e.address: [o for o in endpoints if (":" in o.address) == (":" in e.address)] for e in endpoints}
        return ResolverReport(
            namespace=self.namespace,
            service=found.name,
            addresses=found.addresses,
            ready=max((sum(e.ready for e in family) for family in pods.values()), default=0),
            pods=max((sum(not e.terminating for e in family) for family in pods.values()), default=0),
        )

    def _told(self) -> None:
        listed = sorted(self._services.items.values(), reverse=True)
        self.store.put_resolver_addresses({item.gateway: item.addresses for item in listed})
        self.changed()
