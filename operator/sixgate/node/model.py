"""What a node wants and what it has, as plain values: the input of `diff`.

`Desired` is a NodeConfig after `resolve` has looked up devices and encoded keys and values; `Observed` is what
`observe` read from pins, netlink and /proc. Neither holds a file descriptor, so two of them can be compared, printed
and made up in a test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.node.egress.ports import Ports

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sixgate.errors import Problem
    from sixgate.node.carry import MapFields
    from sixgate.node.host_ports import HostPorts
    from sixgate.node.numbers import Numbers

Owners = tuple[str, ...]
Contents = tuple[tuple[bytes, bytes], ...]  # sorted by key, keys distinct

SCOPE_LINK = 253  # of an address that means something on its own link only
HOOKS = ("tc-ingress", "tc-egress", "xdp")


@dataclass(frozen=True, slots=True, order=True)
class Sizes:
    """Largest super-packets of a device, bytes: what it sends (GSO) and merges (GRO), of IPv6 and IPv4."""

    gso6: int = 65536
    gro6: int = 65536
    gso4: int = 65536
    gro4: int = 65536

    @property
    def has_ipv4(self) -> bool:
        """False on kernels before 6.3, where IPv4 knows no size of its own."""
        return bool(self.gso4 and self.gro4)

    def __str__(self) -> str:
        return f"gso {self.gso6}/{self.gso4} gro {self.gro6}/{self.gro4} (IPv6/IPv4)"


@dataclass(frozen=True, slots=True, order=True)
class SizeKey:
    """One device for as long as it lives. `netns` is the file of its network namespace, empty for the node's own."""

    netns: str
    ifindex: int
    name: str

    def __str__(self) -> str:
        return f"{self.netns.rpartition('/')[2]}/{self.name}" if self.netns else self.name


@dataclass(frozen=True, slots=True)
class Device:
    """A network device as netlink shows it; `addresses` are (address, prefix length, scope, flags, made by sixgate)."""

    name: str
    ifindex: int
    kind: str = ""
    up: bool = True
    loopback: bool = False
    port: bool = False  # of a bridge
    ours: bool = False
    alias: str = ""
    group: int = 0
    mtu: int = 1500
    peer_ifindex: int = 0
    ethernet: bool = True
    addresses: tuple[AddressSeen, ...] = ()
    xdp: tuple[Attached, ...] = ()  # programs, whoever attached them
    xdp_transmit: bool | None = None  # None: this kernel does not tell
    master: int = 0  # index of the bridge or bond that it is a port of
    lower: int = 0  # index of the device below (VLAN, macvlan) or of the other end (veth, netkit)
    netnsid: int = -1  # of the other network namespace that the other end of a veth or netkit is in
    sizes: Sizes = Sizes()
    tso_max: int = 65536  # the driver's own bound of GSO, 0 where the kernel does not tell


@dataclass(frozen=True, slots=True, order=True)
class AddressSeen:
    address: str  # canonical text without prefix length
    prefix_len: int
    scope: int = 0  # 0 is global
    flags: int = 0
    ours: bool = False
    floating: bool = False  # put on by egress, which takes it off


@dataclass(frozen=True, slots=True)
class MapShape:
    """What must be equal for a program to use a pinned map. `map_type` is the kernel's number, sizes in bytes."""

    map_type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int

    @property
    def is_array(self) -> bool:
        return self.map_type in (2, 6)  # BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_PERCPU_ARRAY

    @property
    def is_outer(self) -> bool:
        return self.map_type in (12, 13)  # BPF_MAP_TYPE_ARRAY_OF_MAPS, BPF_MAP_TYPE_HASH_OF_MAPS


@dataclass(frozen=True, slots=True)
class MapPin:
    pin: str  # path under the bpffs directory
    map_id: int
    shape: MapShape


@dataclass(frozen=True, slots=True, order=True)
class ProgName:
    """One loaded program: object, program and the hash of object digest and resolved constants."""

    object: str
    program: str
    key: str

    def __str__(self) -> str:
        return f"{self.object}:{self.program}:{self.key}"


@dataclass(frozen=True, slots=True)
class ProgPin:
    name: ProgName
    prog_id: int
    map_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Hook:
    device: str
    hook: str  # one of HOOKS

    def __str__(self) -> str:
        return f"{self.hook} on {self.device}"


@dataclass(frozen=True, slots=True)
class LinkPin:
    """A pinned bpf_link; `ifindex` is 0 once its device is gone. `target` is `xdp`, `tcx-ingress` or `tcx-egress`."""

    hook: Hook
    link_id: int
    prog_id: int
    ifindex: int


@dataclass(frozen=True, slots=True)
class Attached:
    """One program found on a hook by asking the hook. `link_id` is 0 for clsact filters and netlink XDP."""

    prog_id: int
    link_id: int = 0
    clsact: bool = False  # our filter: handle and priority are ours
    mode: str = ""  # xdp: native, generic, offloaded


@dataclass(frozen=True, slots=True)
class SlotSeen:
    map: str
    outer_key: bytes
    inner_id: int


@dataclass(frozen=True, slots=True)
class InnerPin:
    map: str
    outer_key: str  # as in the file name
    digest: str
    map_id: int
    shape: MapShape


@dataclass(frozen=True, slots=True, order=True)
class RouteKey:
    """A route as the kernel keeps it; `device` is empty for the kinds that have none."""

    destination: str
    device: str
    via: str
    table: int
    mtu: int
    kind: str


@dataclass(frozen=True, slots=True)
class Pod:
    """Another network namespace that a device of the node leads into; `forwards6` are indexes of devices in it."""

    netns: str  # the file that keeps it
    netnsid: int
    devices: Mapping[str, Device] = field(default_factory=dict)
    forwards6: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Kernel:
    release: str
    tcx: bool
    bpffs: bool = True
    sys_admin: bool = False
    forwards_big6: bool = False  # `sixgate bigtcp test` found that it forwards IPv6 super-packets over 64 KB
    tunnels_big: bool = False  # and that it carries super-packets over 64 KB through tunnels


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the state directory keeps of this boot."""

    sysctls: Mapping[str, str] = field(default_factory=dict)  # path under /proc/sys to the original value
    prog_ids: frozenset[int] = frozenset()  # every program that was loaded
    qdiscs: frozenset[str] = frozenset()  # devices whose clsact qdisc was made here
    filters: frozenset[str] = frozenset()  # devices that got a clsact filter
    tables: frozenset[str] = frozenset()  # maps whose contents come from a NodeConfig
    layouts: Mapping[str, str] = field(default_factory=dict)  # pin path of a map to hash of its key and value types
    mounted: str = ""  # where a bpffs was mounted


@dataclass(frozen=True, slots=True)
class Observed:
    """What the node has. Map contents are there only for maps that were asked for.

    `quiet` are devices of pods that were as wanted and have not changed since: they, their hooks, and what tables of
    the node hold of them are in none of the other fields, and nothing is wanted of them but what they have.
    """

    kernel: Kernel
    devices: Mapping[str, Device] = field(default_factory=dict)
    quiet: Mapping[str, Device] = field(default_factory=dict)
    defaults: Mapping[int, str] = field(default_factory=dict)  # address family (4, 6) to device of the default route
    maps: Mapping[str, MapPin] = field(default_factory=dict)  # by pin path
    programs: Mapping[ProgName, ProgPin] = field(default_factory=dict)
    links: Mapping[Hook, LinkPin] = field(default_factory=dict)
    attached: Mapping[Hook, tuple[Attached, ...]] = field(default_factory=dict)
    entries: Mapping[str, Contents] = field(default_factory=dict)  # by pin path
    slots: Mapping[str, tuple[SlotSeen, ...]] = field(default_factory=dict)  # by pin path
    inner: tuple[InnerPin, ...] = ()
    routes: tuple[RouteKey, ...] = ()  # only those marked as ours
    sysctls: Mapping[str, str | None] = field(default_factory=dict)  # asked for; None where the file is missing
    offloads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # own devices to what is still switched on
    remembered: Remembered = Remembered()
    forwards6: frozenset[int] = frozenset()  # indexes of devices whose IPv6 packets the kernel forwards
    shaped: frozenset[int] = frozenset()  # indexes of devices where somebody looks at what is transmitted: tc, a qdisc
    rules6: tuple[str, ...] = ()  # chains and tables of netfilter that forwarded IPv6 packets come past
    pods: tuple[Pod, ...] = ()
    originals: Mapping[SizeKey, Sizes] = field(default_factory=dict)  # of devices whose sizes were changed
    pod_ports: Ports = field(default_factory=Ports)  # found only where somebody asks for them
    numbers: Numbers = field(default_factory=dict)  # handed out so far
    host_ports: HostPorts | None = None  # where a pool is wanted

    def index_of(self, name: str) -> int:
        """KeyError where no device has this name."""
        device = self.devices.get(name)
        return (self.quiet[name] if device is None else device).ifindex

    def device_by_index(self, ifindex: int) -> Device | None:
        return next((d for d in self.devices.values() if d.ifindex == ifindex), None)


@dataclass(frozen=True, slots=True)
class ObjectWant:
    """One object to be loaded with one set of constants. `constants` is canonical JSON."""

    name: str
    key: str
    constants: str
    programs: tuple[str, ...]
    maps: tuple[tuple[str, MapShape], ...]
    owners: Owners
    inner: Mapping[str, MapShape] = field(default_factory=dict)  # of its maps of maps
    layouts: Mapping[str, str] = field(default_factory=dict)  # hash of each map's key and value types
    sizes: tuple[tuple[str, int], ...] = ()  # maps whose room the NodeConfig sets
    carried: Mapping[str, MapFields] = field(default_factory=dict)  # maps that hold state


@dataclass(frozen=True, slots=True)
class HookWant:
    hook: Hook
    ifindex: int
    prog: ProgName
    required: bool
    owners: Owners
    super_packets: str = ""  # what the program does with TCP packets of more than 64 KB, as in nodeconfig.Attachment


@dataclass(frozen=True, slots=True)
class TableWant:
    """Whole contents of one map. `array`: the kernel never deletes entries, they go back to zero."""

    map: str
    contents: Contents
    array: bool
    owners: Owners
    entry_owners: Mapping[bytes, Owners] = field(default_factory=dict)  # where they differ from `owners`


@dataclass(frozen=True, slots=True)
class SlotWant:
    map: str
    outer_key: bytes
    contents: Contents
    digest: str
    shape: MapShape  # of the inner map
    owners: Owners


@dataclass(frozen=True, slots=True)
class LinkWant:
    name: str
    kind: str
    peer: str
    mtu: int
    offloads: bool
    owners: Owners


@dataclass(frozen=True, slots=True)
class AddressWant:
    device: str
    address: str
    prefix_len: int
    owners: Owners


@dataclass(frozen=True, slots=True)
class RouteWant:
    route: RouteKey
    owners: Owners


@dataclass(frozen=True, slots=True)
class SysctlWant:
    path: str
    value: str
    owners: Owners


@dataclass(frozen=True, slots=True)
class SizeWant:
    """Sizes that one device is to have. `wanted6`, `wanted4` are what policies ask for, 0 for nothing; `why` says why
    the device gets less."""

    key: SizeKey
    sizes: Sizes
    owners: Owners
    wanted6: int = 0
    wanted4: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Desired:
    """What the node wants, encoded; `problems` is what could not be resolved and is left out of everything else.

    `frozen` names objects, `frozen_maps` maps that could not be resolved just now: whatever there is of them stays.
    `notes` are findings that degrade nothing.
    """

    objects: tuple[ObjectWant, ...] = ()
    hooks: tuple[HookWant, ...] = ()
    tables: tuple[TableWant, ...] = ()
    slots: tuple[SlotWant, ...] = ()
    links: tuple[LinkWant, ...] = ()
    addresses: tuple[AddressWant, ...] = ()
    routes: tuple[RouteWant, ...] = ()
    sysctls: tuple[SysctlWant, ...] = ()
    sizes: tuple[SizeWant, ...] = ()
    numbers: Numbers = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()
    floating: frozenset[str] = frozenset()  # addresses that egress may have put on
    frozen: frozenset[str] = frozenset()
    frozen_maps: frozenset[str] = frozenset()
    balance: str = ""  # names the want of the balancer while its maps are not as wanted
    balance_owners: Owners = ()
    balance_maps: tuple[str, ...] = ()
