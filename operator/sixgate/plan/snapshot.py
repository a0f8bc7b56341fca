"""What plan is computed from: one consistent view of the cluster, or of a directory of files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sixgate.api.base import UserObject


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node of the cluster, as far as plan needs it; `addresses` and `pod_cidrs` as text of either family."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    ready: bool = True
    cordoned: bool = False


@dataclass(frozen=True, slots=True, order=True)
class ServiceKey:
    """Names one Service of the cluster."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class EndpointPort:
    """A port of an endpoint under the name that the Service has for it, empty for its only one."""

    name: str
    protocol: str
    port: int


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One address of a Service and the node it is on, empty where that is not known.

    As in an EndpointSlice: `ready` is never true of one that is `terminating`, whose `serving` says whether it still
    answers. Ports are the endpoint's own: pods of one Service may give one name to different numbers.
    """

    address: str
    node: str = ""
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    ports: tuple[EndpointPort, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoints:
    """All endpoints of one Service, of both families, from all its EndpointSlices, sorted; an address occurs once."""

    service: ServiceKey
    endpoints: tuple[Endpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Objects (valid ones), nodes and endpoints at one moment, and the digests of the BPF objects by name.

    The order of no tuple matters. `endpoints` has every Service that objects refer to (`services_of`), without any
    where it has no EndpointSlice or does not exist; standalone mode knows of none. `service_cidrs` are the
    addresses that the cluster gives to Services, as text.
    """

    objects: tuple[UserObject, ...] = ()
    nodes: tuple[NodeInfo, ...] = ()
    endpoints: Mapping[ServiceKey, Endpoints] = field(default_factory=dict)
    service_cidrs: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
