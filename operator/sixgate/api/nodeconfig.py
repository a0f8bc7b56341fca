"""NodeConfig: what sixgate wants on one node, and what that node says it has.

The only thing that controller and node share. It knows no feature: a node loads objects, fills tables, makes links and
sets sysctls as they are written here. Names of fields inside `constants`, `key` and `value` are those of the C structs
of the BPF object; the node encodes them by the object's own BTF. Three C typedefs let the node fill in what only it
can know: `sg_ifindex_t` takes a device name, `struct sg_addr` an address (IPv4 is stored as ::ffff:a.b.c.d), and
`__be16`/`__be32` take numbers in host order. Inside keys and values of tables, three objects stand for what a node
works out:

    {"$number": "SPACE/NAME", "plus": 7}        the number that the node gave this item of `numbers`, and 7
    {"$address": 6}                             the node's own address of that family
    {"$maglev": [["KEY", 3], ...], "size": S}   the weighted Maglev ring of these keys, as S indexes into the list
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel

from sixgate.api.nodeconfig_base import DeviceName, MapName, Model, Owned, OwnerRef
from sixgate.api.nodeconfig_lb import Balancer, BalancerReport, BalancerVip

API_VERSION = "sixgate.io/v1alpha1"
FORMAT_VERSION = 1


class Attachment(Model):
    """One program on one hook of some devices."""

    program: str = Field(description="Name of the program inside the object.")
    hook: Literal["tc-ingress", "tc-egress", "xdp"] = Field(description="Where the program is attached.")
    devices: tuple[str, ...] = Field(
        min_length=1,
        description="Device names or shell patterns; `auto` means every uplink that the node finds: up, not loopback, "
        "not a port of a bridge, not made by sixgate, and with a global address or a default route; `pods` means every "
        "device that leads to a pod, and bridges of such; `@forwarding` every device whose IPv6 super-packets of more "
        "than 64 KB must not be forwarded by the kernel, unless another program of this document has its hook; "
        "`@behind-egress` the devices of `pods`, for what egress lets pass.",
    )
    required: bool = Field(
        default=True,
        description="False where the program is an acceleration: a device that refuses it is reported, no more.",
    )
    super_packets: Literal["", "Forwarded", "Translated", "TranslatedAndForwarded"] = Field(
        default="",
        description="What the program does with TCP packets of more than 64 KB: it forwards IPv6 ones that the kernel "
        "would drop, and it makes IPv6 of IPv4 ones, which have to be cut unless they are for a pod of this node.",
    )


class MapSetup(Model):
    """What an object file leaves open about one of its maps."""

    name: MapName = Field(description="Name of the map.")
    max_entries: Annotated[int, Field(ge=1, le=1 << 27)] | None = Field(
        default=None, description="Entries that it has room for; left out, what the object file says."
    )
    carry: bool = Field(
        default=False,
        description="True for state: where the map has to be made anew, its entries are carried over to the new one.",
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
    maps: tuple[MapSetup, ...] = Field(
        default=(), description="Sizes of maps, and which of them hold state; the same in every object that shares one."
    )
    attachments: tuple[Attachment, ...] = Field(default=(), description="Where its programs go.")


class Entry(Model):
    key: JsonValue = Field(description="A number, an address or an object, as the key's C type wants it.")
    value: JsonValue = Field(description="As the value's C type wants it; fields left out are zero.")


class Table(Owned):
    """Wanted contents of one map, or of one inner map of a map of maps.

    A node first upserts every `entries` table, then swaps every `swap` table, then deletes surplus entries: what a
    swapped table refers to exists before the swap and goes only after it.
    """

    map: MapName = Field(description="Name of the map, or of the map of maps.")
    swap: bool = Field(default=False, description="True: build a new inner map and put it at `outerKey` in one step.")
    outer_key: JsonValue = Field(default=None, description="Key in the outer map; only for swapped tables.")
    entries: tuple[Entry, ...] = Field(default=(), description="Everything that the table holds.")


class NumberItem(Owned):
    name: str = Field(min_length=1, max_length=400, description="What the numbers are for.")
    count: int = Field(default=1, ge=1, description="How many numbers in a row.")


class NumberSpace(Model):
    """Numbers that a node hands out by name: an item keeps those it has for as long as it is wanted.

    Indexes of arrays whose entries refer to each other must not move when something else comes or goes.
    """

    space: str = Field(pattern=r"^[a-z0-9_]{1,20}$", description="Name of the space.")
    size: int = Field(ge=1, le=1 << 27, description="Numbers are from 0 up to, and not including, this.")
    items: tuple[NumberItem, ...] = Field(default=(), description="What has numbers.")


class Link(Owned):
    """A device that sixgate makes and owns."""

    name: DeviceName = Field(description="Name of the device.")
    kind: Literal["veth", "vxlan", "ipip", "ip6tnl"] = Field(description="Kind of the device.")
    peer: DeviceName | None = Field(default=None, description="Name of the other end of a veth pair.")
    mtu: int = Field(default=1500, ge=68, le=65535, description="MTU of the device, and of its peer, bytes.")
    offloads: bool = Field(
        default=True,
        description="False switches segmentation and checksum offloads off, so that what crosses the device is whole.",
    )


class Address(Owned):
    device: DeviceName = Field(description="Device that has the address.")
    address: str = Field(description="Address with prefix length.")


class Route(Owned):
    destination: str = Field(description="CIDR.")
    device: DeviceName | None = Field(default=None, description="Device that the route leads through.")
    via: str | None = Field(default=None, description="Next hop, of either family.")
    table: int = Field(default=254, ge=1, le=4294967295, description="Routing table; 254 is the main one.")
    mtu: int | None = Field(default=None, description="MTU of the route, bytes; left out, that of the device.")
    kind: Literal["unicast", "blackhole", "unreachable", "prohibit"] = Field(
        default="unicast", description="What the route does with packets."
    )


class Sysctl(Owned):
    key: str = Field(
        pattern=r"^net(/[A-Za-z0-9_.@-]+)+$",
        description="Path under /proc/sys; a part `@attached` stands for every device that has a program.",
    )
    value: str = Field(description="Text that is written.")


class BigTcp(Owned):
    """Largest TCP super-packets of some devices.

    Of several items for one device the first that names a family counts for that family. What a device had before is
    recorded and given back when no item names it any more.
    """

    include: tuple[str, ...] = Field(
        min_length=1, description="Device names or shell patterns; `auto` means every uplink, as in attachments."
    )
    exclude: tuple[str, ...] = Field(default=(), description="Device names or shell patterns that are left alone.")
    ipv6_size: int | None = Field(
        default=None, ge=65536, le=524280, description="Of IPv6, bytes; 65536 is no BIG TCP; left out: not touched."
    )
    ipv4_size: int | None = Field(
        default=None, ge=65536, le=524280, description="Of IPv4, bytes; 65536 is no BIG TCP; left out: not touched."
    )
    pods: Literal["Off", "HostSide", "Live"] = Field(
        default="Off",
        description="HostSide adds veth and netkit devices whose other end is in another network namespace; Live sets "
        "that other end, too, which needs CAP_SYS_ADMIN.",
    )
    forwarding: Literal["Auto", "Redirect", "Kernel"] = Field(
        default="Auto",
        description="Who forwards IPv6 packets of more than 64 KB: a program, in Auto only where netfilter has no "
        "rules for forwarded IPv6 packets; with Kernel, nobody, and devices that forward stay at 64 KB.",
    )


class LabelTerm(Model):
    """One requirement on labels."""

    key: str = Field(description="Name of the label.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(description="What is asked of its value.")
    values: tuple[str, ...] = Field(default=(), description="Values for In and NotIn.")


class EgressPods(Model):
    """Pods of this node that leave by a policy: all terms must hold."""

    namespaces: tuple[LabelTerm, ...] = Field(min_length=1, description="Of the labels of the pod's namespace.")
    pods: tuple[LabelTerm, ...] = Field(default=(), description="Of the pod's own labels; empty for every pod.")


class EgressPair(Model):
    """Source addresses that go to the same pods. `id` is the tunnel id of their packets."""

    id: int = Field(ge=1, le=0x3FFFFF, description="Number of the pair, the same on every node.")
    ipv4: str | None = Field(default=None, description="IPv4 source address.")
    ipv6: str | None = Field(default=None, description="IPv6 source address.")


class EgressMember(Model):
    """A gateway of a policy."""

    node: str = Field(description="Name of the node.")
    address: str = Field(description="Its address, which tunnel packets and heartbeats are sent to.")
    leaving: bool = Field(default=False, description="True for one that gets no pair if another gateway is alive.")


class EgressPolicy(Owned):
    """Egress of one object. Of two policies with equal destinations the first in the list counts.

    Which pods of the node it means, and which of the gateways is alive, only the node can know: it fills the maps of
    egress (`sg_eg_*`) by itself, and puts addresses on and takes them off.
    """

    name: str = Field(description="Name of the object.")
    stat: int = Field(ge=1, le=4095, description="Index of its counters.")
    pods: tuple[EgressPods, ...] = Field(default=(), description="Pods of this node that it selects.")
    destinations: tuple[str, ...] = Field(description="CIDRs that are reached through a gateway.")
    excluded: tuple[str, ...] = Field(default=(), description="CIDRs that are not, in spite of `destinations`.")
    pairs: tuple[EgressPair, ...] = Field(default=(), description="Source addresses; each pod keeps one pair.")
    members: tuple[EgressMember, ...] = Field(default=(), description="Gateways; without any, packets are dropped.")
    transport: Literal["VXLAN", "Direct"] = Field(
        default="VXLAN",
        description="How packets come to a gateway; Direct: by VXLAN where it is on no segment of ours.",
    )
    device: str = Field(default="auto", description="Device that carries the addresses, or `auto`.")
    announce: Literal["L2", "None"] = Field(default="L2", description="How the owner is made known.")
    mss_clamp: bool = Field(default=True, description="Lower the MSS of SYNs to what the tunnel carries.")
    new_pods: Literal["Drop", "Hold"] = Field(default="Drop", description="Drop: pods without a rule are told so.")
    no_gateway: Literal["Drop", "Hold"] = Field(default="Drop", description="Drop: pods without a gateway are told so.")
    heartbeat_ms: int = Field(default=50, ge=20, description="Time between heartbeats, milliseconds.")
    missed: int = Field(default=4, ge=2, description="Heartbeats in a row whose loss means that a gateway is dead.")
    drain_s: int = Field(default=300, ge=0, description="How long a former owner serves old connections, seconds.")


class Announcement(Owned):
    """Addresses of gateways that nodes answer for on the segment."""

    addresses: tuple[BalancerVip, ...] = Field(description="The addresses, and the nodes that may have each.")
    devices: tuple[str, ...] = Field(default=("auto",), description="One of these has a subnet with the address.")


class NodeConfigSpec(Model):
    """What sixgate wants on one node."""

    format_version: Literal[1] = Field(description="Version of this document's format; a node refuses others whole.")
    revision: str = Field(
        default="", description="Hash of everything else in spec; what the node has applied is named by it."
    )
    objects: tuple[BpfObject, ...] = Field(default=(), description="BPF objects that are loaded and attached.")
    numbers: tuple[NumberSpace, ...] = Field(default=(), description="Numbers that tables refer to by name.")
    tables: tuple[Table, ...] = Field(default=(), description="Contents of BPF maps.")
    links: tuple[Link, ...] = Field(default=(), description="Devices that sixgate makes.")
    addresses: tuple[Address, ...] = Field(default=(), description="Addresses that sixgate adds to devices.")
    routes: tuple[Route, ...] = Field(default=(), description="Routes that sixgate adds.")
    sysctls: tuple[Sysctl, ...] = Field(default=(), description="Settings of the kernel, restored when they go.")
    big_tcp: tuple[BigTcp, ...] = Field(
        default=(), description="Largest TCP super-packets of devices, the first item for a device counts."
    )
    egress: tuple[EgressPolicy, ...] = Field(default=(), description="Egress of pods, of the oldest object first.")
    balancers: tuple[Balancer, ...] = Field(
        default=(), description="Virtual addresses in front of backends; the node fills the maps of the balancer."
    )
    announcements: tuple[Announcement, ...] = Field(default=(), description="Addresses that are announced (ARP, NDP).")

    def hashed(self) -> NodeConfigSpec:
        """The same spec with `revision` set to the hash of its canonical JSON without `revision`."""
        body: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude={"revision"})
        digest = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        return self.model_copy(update={"revision": digest[:32]})


class ItemResult(Model):
    """What became of one user's object on this node."""

    owner: OwnerRef = Field(description="The user's object, as Kind/name.")
    state: Literal["Programmed", "Degraded"] = Field(description="What became of it.")
    reason: str = Field(default="", description="Why it is not programmed, in one word.")
    message: str = Field(default="", description="Why it is not programmed, in a sentence.")


class DeviceReport(Model):
    name: str = Field(description="Name of the device.")
    ifindex: int = Field(description="Index of the device.")
    hooks: dict[str, str] = Field(
        default_factory=dict, description="Hook to what is attached, `tcx`, `clsact`, `xdp-native`."
    )


class BigTcpReport(Model):
    """Super-packet sizes of one device, bytes; 0 for a family that nobody wants anything of."""

    device: str = Field(description="Name of the device; of one inside a pod, NETNS/NAME.")
    ipv6_wanted: int = Field(default=0, description="IPv6 size that a policy asks for, bytes.")
    ipv6_gso: int = Field(default=0, description="Largest IPv6 packet that is sent, bytes.")
    ipv6_gro: int = Field(default=0, description="Largest IPv6 packet that is merged, bytes.")
    ipv4_wanted: int = Field(default=0, description="IPv4 size that a policy asks for, bytes.")
    ipv4_gso: int = Field(default=0, description="Largest IPv4 packet that is sent, bytes.")
    ipv4_gro: int = Field(default=0, description="Largest IPv4 packet that is merged, bytes.")
    message: str = Field(default="", description="Why the device has less than is wanted, in a sentence.")


class EgressReport(Model):
    """A pair as this node sees it; told by its owner and by nodes that have pods for it."""

    object: str = Field(description="Name of the EgressGateway.")
    pair: int = Field(description="Number of the pair.")
    ipv4: str = Field(default="", description="IPv4 source address.")
    ipv6: str = Field(default="", description="IPv6 source address.")
    owner: str = Field(default="", description="Node that has the addresses as far as this node knows.")
    here: bool = Field(default=False, description="Whether that is this node.")
    epoch: int = Field(default=0, description="How often the pair has changed hands.")
    reason: str = Field(default="", description="Why this node took the pair.")
    hindrance: str = Field(
        default="", description="Why this node does not take the pair although it should; empty if nothing keeps it."
    )
    pods: int = Field(default=0, description="Pods of this node that use the pair.")
    sessions: int = Field(default=0, description="Connections through this node, as the owner.")
    standby: str = Field(default="", description="Gateway that connections are copied to, as the owner tells.")
    copies: int = Field(default=0, description="Connections that the standby has.")
    behind_seconds: int = Field(default=0, description="Age of what the standby has.")
    uncopied: str = Field(
        default="", description="Why connections would not survive the owner's death; empty if copies are there."
    )
    uncopied_reason: str = Field(default="", description="The same in one word, `Copying` while they may come soon.")


class NodeConfigStatus(Model):
    """What the node has. Written by the node only."""

    applied_revision: str = Field(default="", description="Revision of spec that the node has applied last.")
    observed_generation: int = Field(default=0, description="Generation that this status was computed from.")
    ready: bool = Field(default=False, description="Whether the node has all that it should have.")
    message: str = Field(default="", description="What is wrong, in sentences; empty if nothing is.")
    objects: tuple[ItemResult, ...] = Field(default=(), description="What became of the users' objects.")
    devices: tuple[DeviceReport, ...] = Field(
        default=(), description="Devices that programs are attached to, without those of pods."
    )
    big_tcp: tuple[BigTcpReport, ...] = Field(
        default=(), description="Super-packet sizes of selected devices, at most 100, those that fall short first."
    )
    egress: tuple[EgressReport, ...] = Field(default=(), description="Pairs of egress, at most 200.")
    balancers: tuple[BalancerReport, ...] = Field(
        default=(), description="Balancers, at most 200, those with backends that get no new flows first."
    )
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
