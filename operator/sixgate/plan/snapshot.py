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


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a service and the node it is on, empty where that is not known."""

    address: str
    node: str = ""
    ready: bool = True
    terminating: bool = False


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """Endpoints of one service; `ports` are (name, protocol, number)."""

    namespace: str
    service: str
    name: str
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[tuple[str, str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Objects (valid ones), nodes and endpoints at one moment, and the digests of the BPF objects by name.

    The order of no tuple matters.
    """

    objects: tuple[UserObject, ...] = ()
    nodes: tuple[NodeInfo, ...] = ()
    endpoint_slices: tuple[EndpointSlice, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
