"""What plan must know beside objects and nodes: endpoints of the Services that objects refer to, and Service CIDRs.

EndpointSlices of other Services are never asked for: a cluster has thousands, and each readiness probe may change one.
There is one watch per namespace with a selector that names its Services; beyond MAX_NAMES of them, or in more than
MAX_NAMESPACES namespaces, watches get wider, because each costs the API server more than the objects that it spares.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sixgate.controller.mirror import Mirror
from sixgate.kube.client import object_path
from sixgate.plan.snapshot import Endpoint, EndpointPort, Endpoints, ServiceKey

if TYPE_CHECKING:
    from sixgate.controller.store import Store
    from sixgate.kube import KubeClient

log = logging.getLogger(__name__)

SERVICE_NAME = "kubernetes.io/service-name"
DISCOVERY, NETWORKING = "discovery.k8s.io/v1", "networking.k8s.io/v1"
MAX_NAMES = 64
MAX_NAMESPACES = 64
LISTED_S = 20.0

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """One watch of EndpointSlices: in one namespace, empty for all, with one label selector."""

    namespace: str
    selector: str


def scopes_of(services: Iterable[ServiceKey]) -> dict[Scope, frozenset[ServiceKey]]:
    """The watches that see the EndpointSlices of `services`, and which of them each sees."""
    by_namespace: dict[str, set[ServiceKey]] = {}
    for service in services:
        by_namespace.setdefault(service.namespace, set()).add(service)
    if len(by_namespace) > MAX_NAMESPACES:
        by_namespace = {"": set().union(*by_namespace.values())}
    scopes = {}
    for namespace, members in by_namespace.items():
        names = sorted({service.name for service in members})
        selector = SERVICE_NAME if len(names) > MAX_NAMES else f"{SERVICE_NAME} in ({','.join(names)})"
        scopes[Scope(namespace, selector)] = frozenset(members)
    return scopes


@dataclass(frozen=True, slots=True)
class Slice:
    """What is kept of one EndpointSlice."""

    service: ServiceKey
    endpoints: tuple[Endpoint, ...]


def read_slice(raw: Json) -> Slice:
    """An EndpointSlice as plan sees it; what has no address or no number for a port is left out.

    Conditions that are not given are those that the API documents: ready, serving as ready, not terminating.
    """
    meta = raw["metadata"]
    service = ServiceKey(str(meta.get("namespace", "")), str((meta.get("labels") or {}).get(SERVICE_NAME, "")))
    if raw.get("addressType") not in {"IPv4", "IPv6"}:
        return Slice(service, ())
    ports = tuple(
        EndpointPort(str(port.get("name") or ""), str(port.get("protocol") or "TCP"), int(port["port"]))
        for port in raw.get("ports") or ()
        if port.get("port") is not None
    )
    found = []
    for item in raw.get("endpoints") or ():
        conditions = item.get("conditions") or {}
        ready = conditions.get("ready") is not False
        serving = conditions.get("serving")
        found += [
            Endpoint(
                address=str(address),
                node=str(item.get("nodeName") or ""),
                ready=ready,
                serving=ready if serving is None else bool(serving),
                terminating=bool(conditions.get("terminating")),
                ports=tuple(sorted(ports)),
            )
            for address in (item.get("addresses") or ())[:1]  # the others are not defined to mean anything
        ]
    return Slice(service, tuple(found))


def joined(service: ServiceKey, slices: Iterable[Slice]) -> Endpoints:
    """All endpoints of `service`. One that is in two slices, as while it moves, counts once: as the better of both."""
    best: dict[str, Endpoint] = {}
    ports: dict[str, set[EndpointPort]] = {}
    for endpoint in (endpoint for part in slices for endpoint in part.endpoints):
        ports.setdefault(endpoint.address, set()).update(endpoint.ports)
        other = best.get(endpoint.address)
        if other is None or _rank(endpoint) > _rank(other):
            best[endpoint.address] = endpoint
    made = (
        Endpoint(e.address, e.node, e.ready, e.serving, e.terminating, tuple(sorted(ports[e.address])))
        for e in best.values()
    )
    return Endpoints(service, tuple(sorted(made)))


def _rank(endpoint: Endpoint) -> tuple[bool, bool, bool, str]:
    return endpoint.ready, endpoint.serving, not endpoint.terminating, endpoint.node


@dataclass(slots=True)
class Surroundings:
    """Feeds `store`. `changed` is called when there is news for plan."""

    client: KubeClient
    store: Store
    changed: Callable[[], None]
    _group: asyncio.TaskGroup | None = field(default=None, init=False)
    _watches: dict[Scope, tuple[Mirror[Slice], asyncio.Task[None]]] = field(default_factory=dict, init=False)
    _cidrs: Mirror[tuple[str, ...]] | None = field(default=None, init=False)
    _wanted: frozenset[ServiceKey] = field(default=frozenset(), init=False)

    async def run(self) -> None:
        """Until cancelled; raises what makes a watch end, which nothing should."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            path = object_path("servicecidrs", group=NETWORKING)
            self._cidrs = Mirror(self.client, path, {}, read_cidrs, self._told_cidrs, optional=True)
            group.create_task(self._cidrs.run())
            await asyncio.Event().wait()

    async def known(self, timeout_s: float = LISTED_S) -> bool:
        """Whether everything that objects refer to now has been listed, waiting for it that long.

        Until then nothing may be planned: an endpoint that is not known would look like one that is gone.
        """
        if self._group is None or self._cidrs is None:
            await asyncio.sleep(0)
            if self._group is None or self._cidrs is None:
                return False
        self._follow(self.store.services)
        try:
            async with asyncio.timeout(timeout_s):
                await self._cidrs.listed.wait()
                for mirror, _ in list(self._watches.values()):
                    await mirror.listed.wait()
        except TimeoutError:
            log.warning("Endpoints and ServiceCIDRs must be listed before anything is planned, and are not yet.")
            return False
        return True

    def _follow(self, services: frozenset[ServiceKey]) -> None:
        """Watch the EndpointSlices of `services` and no others."""
        if services == self._wanted or self._group is None:
            return
        self._wanted = services
        scopes = scopes_of(services)
        for scope in [scope for scope in self._watches if scope not in scopes]:
            _, task = self._watches.pop(scope)
            task.cancel()
        for scope in scopes:
            if scope not in self._watches:
                path = object_path("endpointslices", group=DISCOVERY, namespace=scope.namespace)
                mirror = Mirror(self.client, path, {"labelSelector": scope.selector}, read_slice, self._told)
                self._watches[scope] = (mirror, self._group.create_task(mirror.run()))
        self._told()

    def _told(self) -> None:
        """What has been listed goes to the store; of a Service whose list is under way, what was known before stays."""
        slices: dict[ServiceKey, list[Slice]] = {}
        pending: set[ServiceKey] = set()
        for scope, members in scopes_of(self._wanted).items():
            mirror, _ = self._watches[scope]
            if not mirror.listed.is_set():
                pending |= members
            for item in mirror.items.values():
                slices.setdefault(item.service, []).append(item)
        endpoints = {
            service: joined(service, slices.get(service, ())) for service in self._wanted if service not in pending
        }
        endpoints |= {service: old for service, old in self.store.endpoints.items() if service in pending}
        if self.store.put_endpoints(endpoints):
            self.changed()

    def _told_cidrs(self) -> None:
        found = self._cidrs.items.values() if self._cidrs is not None else ()
        if self.store.put_service_cidrs(tuple(sorted({cidr for cidrs in found for cidr in cidrs}))):
            self.changed()


def read_cidrs(raw: Json) -> tuple[str, ...]:
    """The CIDRs of one ServiceCIDR."""
    return tuple(str(cidr) for cidr in (raw.get("spec") or {}).get("cidrs") or ())
