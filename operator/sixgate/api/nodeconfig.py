"""NodeConfig: what sixgate wants on one node, and what that node says it has.

The only thing that controller and node share. It knows no feature: a node loads objects, fills tables, makes links and
sets sysctls as they are written here. Names of fields inside `constants`, `key` and `value` are those of the C structs
of the BPF object; the node encodes them by the object's own BTF. Three C typedefs let the node fill in what only it
can know: `sg_ifindex_t` takes a device name, `struct sg_addr` an address (IPv4 is stored as ::ffff:a.b.c.d), and
`__be16`/`__be32` take numbers in host order.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel

API_VERSION = "sixgate.io/v1alpha1"
FORMAT_VERSION = 1

DeviceName = Annotated[str, Field(min_length=1, max_length=15, pattern=r"^[^/\s:]+$")]
MapName = Annotated[str, Field(pattern=r"^sg_[a-z0-9_]{1,12}$")]
OwnerRef = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+/[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]


class Model(BaseModel):
    """Base of every model whose bytes come from outside: camelCase on the wire, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True, frozen=True)


class Owned(Model):
    owners: tuple[OwnerRef, ...] = Field(
        default=(), description="The users' objects that need this item, as Kind/name; results are reported under them."
    )


class Attachment(Model):
    """One program on one hook of some devices."""

    program: str = Field(description="Name of the program inside the object.")
    hook: Literal["tc-ingress", "tc-egress", "xdp"] = Field(description="Where the program is attached.")
    devices: tuple[str, ...] = Field(
        min_length=1,
        description="Device names or shell patterns; `auto` means every uplink that the node finds: up, not loopback, "
        "not a port of a bridge, not made by sixgate, and with a global address or a default route.",
    )
    required: bool = Field(
        default=True,
        description="False where the program is an acceleration: a device that refuses it is reported, no more.",
    )


class BpfObject(Owned):
    """One prebuilt object file, loaded once per distinct set of constants."""

    name: str = Field(pattern=r"^sg_[a-z0-9_]+$", description="File name without `.bpf.o`.")
    digest: str = Field(
        pattern=r"^sha256:[0-9a-f]{64}$", description="Digest of the object file; another one is refused."
    )
    constants: dict[str, JsonValue] = Field(
        default_factory=dict, description="Values of `const volatile` variables by name; structs as objects."
    )
    attachments: tuple[Attachment, ...] = ()


class Entry(Model):
    key: JsonValue = Field(description="A number, an address or an object, as the key's C type wants it.")
    value: JsonValue = Field(description="As the value's C type wants it; fields left out are zero.")


class Table(Owned):
    """Wanted contents of one map, or of one inner map of a map of maps.

    A node first upserts every `entries` table, then swaps every `swap` table, then deletes surplus entries: what a
    swapped table refers to exists before the swap and goes only after it.
    """

    map: MapName
    swap: bool = Field(default=False, description="True: build a new inner map and put it at `outerKey` in one step.")
    outer_key: JsonValue = Field(default=None, description="Key in the outer map; only for swapped tables.")
    entries: tuple[Entry, ...] = ()


class Link(Owned):
    """A device that sixgate makes and owns."""

    name: DeviceName
    kind: Literal["veth", "vxlan", "ipip", "ip6tnl"]
    peer: DeviceName | None = Field(default=None, description="Name of the other end of a veth pair.")
    mtu: int = Field(default=1500, ge=68, le=65535)
    offloads: bool = Field(
        default=True,
        description="False switches segmentation and checksum offloads off, so that what crosses the device is whole.",
    )


class Address(Owned):
    device: DeviceName
    address: str = Field(description="Address with prefix length.")


class Route(Owned):
    destination: str = Field(description="CIDR.")
    device: DeviceName | None = None
    via: str | None = Field(default=None, description="Next hop, of either family.")
    table: int = Field(default=254, ge=1, le=4294967295)
    mtu: int | None = None
    kind: Literal["unicast", "blackhole", "unreachable", "prohibit"] = "unicast"


class Sysctl(Owned):
    key: str = Field(
        pattern=r"^net(/[A-Za-z0-9_.@-]+)+$",
        description="Path under /proc/sys; a part `@attached` stands for every device that has a program.",
    )
    value: str


class NodeConfigSpec(Model):
    """What sixgate wants on one node."""

    format_version: Literal[1] = Field(description="Version of this document's format; a node refuses others whole.")
    revision: str = Field(
        default="", description="Hash of everything else in spec; what the node has applied is named by it."
    )
    objects: tuple[BpfObject, ...] = ()
    tables: tuple[Table, ...] = ()
    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    sysctls: tuple[Sysctl, ...] = ()

    def hashed(self) -> NodeConfigSpec:
        """The same spec with `revision` set to the hash of its canonical JSON without `revision`."""
        body: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude={"revision"})
        digest = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        return self.model_copy(update={"revision": digest[:32]})


class ItemResult(Model):
    """What became of one user's object on this node."""

    owner: OwnerRef
    state: Literal["Programmed", "Degraded", "NotSupportedYet"]
    reason: str = ""
    message: str = ""


class DeviceReport(Model):
    name: str
    ifindex: int
    hooks: dict[str, str] = Field(
        default_factory=dict, description="Hook to what is attached, `tcx`, `clsact`, `xdp-native`."
    )


class NodeConfigStatus(Model):
    """What the node has. Written by the node only."""

    applied_revision: str = ""
    observed_generation: int = 0
    ready: bool = False
    message: str = ""
    objects: tuple[ItemResult, ...] = ()
    devices: tuple[DeviceReport, ...] = ()
    kernel: dict[str, JsonValue] = Field(default_factory=dict, description="Release and probed features of the kernel.")


class ObjectMeta(BaseModel):
    """The part of an object's metadata that sixgate reads."""

    model_config = ConfigDict(extra="ignore", alias_generator=to_camel, populate_by_name=True, frozen=True)

    name: str
    generation: int = 0
    uid: str = ""
    creation_timestamp: str = ""
    resource_version: str = ""
    labels: dict[str, str] = Field(default_factory=dict)


class NodeConfig(Model):
    api_version: Literal["sixgate.io/v1alpha1"] = "sixgate.io/v1alpha1"
    kind: Literal["NodeConfig"] = "NodeConfig"
    metadata: ObjectMeta
    spec: NodeConfigSpec
    status: NodeConfigStatus = NodeConfigStatus()
