"""LoadBalancers: from an object and its endpoints to one plan that all its nodes share."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address

from sixgate.api.loadbalancer import LoadBalancer, NatForwardingSpec, ServicePortSpec
from sixgate.errors import Problem, Ref
from sixgate.plan.lbcheck import check_plan
from sixgate.plan.lbnat import MODE_UNFIT, with_clients_family, with_engine, with_sources
from sixgate.plan.lbplan import BackendPlan, BalancerPlan, NatSourcePlan, PortPlan, VipPlan
from sixgate.plan.nat46 import (
    DEFAULT_ICMP_BURST,
    DEFAULT_ICMP_RATE,
    ETHERNET_HEADER_BYTES,
    SLOW_DEVICE,
    SLOW_PEER,
)
from sixgate.plan.nodeplan import AttachmentPlan, ConfigPlan, Feature, MapPlan, NodePlan, ObjectPlan
from sixgate.plan.snapshot import Endpoint, Endpoints, ServiceKey

NO_ENDPOINTS = "NoEndpoints"
PORT_UNKNOWN = "PortUnknown"
TABLE_SMALL = "TableTooSmall"
SERVER_ID = "ServerIdTwice"
LOOP = "BackendIsVip"
MAX_ANNOUNCERS = 3
MAX_BACKENDS = 4096  # SG_MG_MAX_BACKEND
# Slots by number of backends: a hundred or more for each, so that shares are right to 2 %. Few sizes, because a table
# of another size moves flows.
SIZES = ((20, 2039), (160, 16381), (MAX_BACKENDS, 65537))
SERVICE_SIZES = SIZES[1:]
BALANCING = frozenset({"sg_tc", "sg_slow", "sg_xdp"})  # objects that have the balancer's maps
TRACKED = ("sg_lb_flow", "sg_lb_affinity")
# Maps that take memory when they are made, not when they are filled.
ROOMY = (
    *TRACKED,
    "sg_lb_backend",
    "sg_lb_cpu",
    "sg_lb_drops",
    "sg_lb_limit",
    "sg_lb_pending",
    "sg_lb_quic",
    "sg_lb_stats",
    "sg_lb_table",
    "sg_lb_vip",
)
ROOMY_XDP = ("sg_lb_recent", "sg_lb_way")  # that sg_xdp alone has: a node without it has nothing to set up


@dataclass(frozen=True, slots=True)
class BalancerPart:
    """A LoadBalancer as its nodes do it, as far as `plan` needs it beside what a template writes."""

    ref: Ref
    acceleration: str
    plan: BalancerPlan


def balancer(
    item: LoadBalancer, endpoints: Mapping[ServiceKey, Endpoints], announcers: Iterable[str]
) -> tuple[BalancerPart, tuple[Problem, ...]]:
    """The plan of `item`, and what is wrong with it; `announcers` are the nodes that work and may announce.

    What is wrong is left out of the plan as narrowly as it can be: a port, a backend, the health checks.
    """
    spec, problems = item.spec, list[Problem]()
    found = _Endpoints(item, endpoints, problems) if spec.service is not None else None
    backends = found.backends() if found is not None else _listed(item)
    ports = tuple(port for each in spec.ports if (port := _port(each, found)) is not None)
    nodes = tuple(announcers) if spec.announce == "L2" else ()
    quic = spec.quic
    if quic is not None:
        backends = _with_server_ids(item.ref, backends, quic.length, problems)
    size = spec.maglev.table_size or default_size(len(backends), of_service=found is not None)
    if len(backends) > min(size, MAX_BACKENDS):
        text = f"{item.ref} has {len(backends)} backends, and a table of {size} slots takes {min(size, MAX_BACKENDS)}"
        problems.append(Problem(item.ref, TABLE_SMALL, f"{text}; those with the highest addresses are left out"))
        backends = backends[: min(size, MAX_BACKENDS)]
    _check_mode(item, backends, ports, problems)
    forwarding = spec.forwarding
    nat = (forwarding.nat or NatForwardingSpec()) if forwarding.mode == "NAT" else None
    if nat is not None and nat.preserve_client_ip:
        backends = with_clients_family(item.ref, map(str, spec.vips), backends, problems)
    elif nat is not None:
        backends = with_sources(item.ref, [str(source) for source in nat.source_addresses], backends, problems)
    made = BalancerPlan(
        owner=item.ref,
        vips=tuple(VipPlan(str(vip), preference(str(vip), nodes)) for vip in sorted(spec.vips, key=_rank)),
        ports=ports,
        all_ports=spec.all_ports,
        backends=backends,
        table_size=size,
        seed=seed_of(item.ref),
        mode=spec.forwarding.mode,
        devices=spec.devices,
        outer_source_ipv4=_text(spec.forwarding.outer_source_ipv4_cidr),
        outer_source_ipv6=_text(spec.forwarding.outer_source_ipv6_cidr),
        drain_s=spec.drain_seconds,
        check=check_plan(item, ports, problems),
        allow=tuple(sorted(map(str, spec.source_ranges.allow))),
        deny=tuple(sorted(map(str, spec.source_ranges.deny))),
        affinity_s=spec.session_affinity.timeout_seconds if spec.session_affinity else 0,
        quic_offset=quic.offset if quic else 0,
        quic_length=quic.length if quic else 0,
        new_flows_per_s=spec.new_flows_per_second,
        icmp_echo=spec.icmp_echo,
        nat=_sources(nat) if nat is not None else None,
    )
    return BalancerPart(item.ref, spec.acceleration, made), tuple(problems)


def _sources(nat: NatForwardingSpec) -> NatSourcePlan:
    return NatSourcePlan(tuple(map(str, nat.source_addresses)), nat.max_sessions, nat.preserve_client_ip)


def default_size(backends: int, *, of_service: bool) -> int:
    """Slots for so many backends. The backends of a Service come and go, so its table does not begin with the smallest
    size."""
    sizes = SERVICE_SIZES if of_service else SIZES
    return next((size for most, size in sizes if backends <= most), sizes[-1][1])


def seed_of(ref: Ref) -> int:
    """53 bits, the same wherever the object has this name."""
    return int.from_bytes(hashlib.sha256(f"seed {ref}".encode()).digest()[:8], "big") >> 11


def preference(vip: str, nodes: Iterable[str]) -> tuple[str, ...]:
    """The nodes that should announce `vip`, by rendezvous: one that goes moves only the addresses that it had."""
    return tuple(sorted(nodes, key=lambda node: hashlib.sha256(f"{vip} {node}".encode()).digest())[:MAX_ANNOUNCERS])


def with_balancers(made: NodePlan, parts: tuple[BalancerPart, ...], digests: Mapping[str, str]) -> NodePlan:
    """`made` and these balancers, which use the same objects on the union of all devices."""
    config = made.config or ConfigPlan(
        features=Feature(0),
        slow_device=SLOW_DEVICE,
        slow_peer=SLOW_PEER,
        l2_len=ETHERNET_HEADER_BYTES,
        icmp_rate=DEFAULT_ICMP_RATE,
        icmp_burst=DEFAULT_ICMP_BURST,
    )
    owners = tuple(part.ref for part in parts)
    objects = {item.name: item for item in made.objects}
    uplink = AttachmentPlan("sg_uplink_tc", "tc-ingress", _devices(parts))
    slow = AttachmentPlan("sg_slow_tc", "tc-ingress", (SLOW_PEER,))
    wanted = {"sg_tc": (uplink,), "sg_slow": (slow,), "sg_xdp": _accelerated(parts)}
    for name, attachments in wanted.items():
        if attachments:
            objects[name] = _joined(objects.get(name), name, digests[name], owners, attachments)
    balancers = tuple(part.plan for part in parts)
    made = replace(
        made,
        objects=tuple(objects.values()),
        config=replace(config, features=config.features | Feature.LB),
        balancers=balancers,
    )
    return with_engine(made, balancers)


def with_lb_maps(made: NodePlan) -> NodePlan:
    """`made` with as much room in the balancer's maps as it needs: where nothing balances they have one entry each, and
    where something does, the sizes of the object file, with what was tracked carried over should a map be made anew."""
    if made.balancers:
        maps = tuple(MapPlan(name, 0, True) for name in TRACKED)
    else:
        maps = tuple(MapPlan(name, 1, False) for name in ROOMY)
    xdp = () if made.balancers else tuple(MapPlan(name, 1, False) for name in ROOMY_XDP)
    objects = tuple(
        replace(item, maps=(*item.maps, *maps, *(xdp if item.name == "sg_xdp" else ())))
        if item.name in BALANCING
        else item
        for item in made.objects
    )
    return replace(made, objects=objects)


def objects_needed(item: LoadBalancer) -> tuple[str, ...]:
    """Names of the BPF objects without which this balancer cannot work."""
    always = ("sg_tc", "sg_slow", "sg_maglev")
    return always if item.spec.acceleration == "Disabled" else (*always, "sg_xdp")


def _accelerated(parts: tuple[BalancerPart, ...]) -> tuple[AttachmentPlan, ...]:
    must = _devices(part for part in parts if part.acceleration == "Native")
    willing = (part for part in parts if part.acceleration == "BestEffort")
    may = tuple(device for device in _devices(willing) if device not in must)
    wanted = ((must, True), (may, False))
    return tuple(AttachmentPlan("sg_uplink_xdp", "xdp", devices, needed) for devices, needed in wanted if devices)


def _joined(
    old: ObjectPlan | None, name: str, digest: str, owners: tuple[Ref, ...], more: tuple[AttachmentPlan, ...]
) -> ObjectPlan:
    """An object that others may use, too: hooks of one kind become one attachment with all devices."""
    if old is None:
        return ObjectPlan(name, digest, owners, more)
    devices: dict[tuple[str, str, bool], set[str]] = {}
    said: dict[
        tuple[str, str], str
    ] = {}  # what is done with super-packets: it is the program's, wherever it is attached
    for attachment in (*old.attachments, *more):
        program, hook = attachment.program, attachment.hook
        devices.setdefault((program, hook, attachment.required), set()).update(attachment.devices)
        said[program, hook] = said.get((program, hook)) or attachment.super_packets
    for (program, hook, required), names in devices.items():
        if not required:
            names.difference_update(devices.get((program, hook, True), ()))
    return replace(
        old,
        owners=tuple(dict.fromkeys((*old.owners, *owners))),
        attachments=tuple(
            AttachmentPlan(program, hook, tuple(sorted(names)), required, said[program, hook])
            for (program, hook, required), names in devices.items()
            if names
        ),
    )


def _devices(parts: Iterable[BalancerPart]) -> tuple[str, ...]:
    return tuple(sorted({device for part in parts for device in part.plan.devices}))


def _listed(item: LoadBalancer) -> tuple[BackendPlan, ...]:
    made = (
        BackendPlan(str(each.address), each.weight, "Maintenance" if each.maintenance else "Active", "")
        for each in item.spec.backends
    )
    return tuple(sorted(made, key=lambda backend: _rank(backend.address)))


def _rank(address: object) -> bytes:
    packed = ip_address(str(address)).packed
    return len(packed).to_bytes() + packed


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)


class _Endpoints:
    """Backends and ports of a Service. A port whose name means different numbers in different pods leads to the number
    that most of them have, because a packet does not say which pod it will get to."""

    def __init__(self, item: LoadBalancer, endpoints: Mapping[ServiceKey, Endpoints], problems: list[Problem]) -> None:
        self.item, self.problems = item, problems
        service = item.spec.service
        assert service is not None
        self.key = ServiceKey(service.namespace, service.name)
        found = endpoints.get(self.key)
        vips = {str(vip) for vip in item.spec.vips}
        usable = tuple(each for each in (found.endpoints if found else ()) if each.ready or each.terminating)
        self.all = tuple(each for each in usable if each.address not in vips)
        if len(self.all) < len(usable):
            loop = next(each.address for each in usable if each.address in vips)
            text = f"{item.ref} leaves out the endpoint {loop} of the Service {self.key}, which is its own VIP"
            problems.append(Problem(item.ref, LOOP, text, "spec.service"))
        # A Service all of whose pods leave is served by those that still do, as kube-proxy has it (KEP-1669).
        self.others = any(not each.terminating for each in self.all)
        self.left_out: set[str] = set()
        if not self.all:
            text = f"{item.ref} refers to the Service {self.key}, which has no endpoints that are ready"
            problems.append(Problem(item.ref, NO_ENDPOINTS, f"{text}; new flows are refused", "spec.service"))

    def target(self, port: ServicePortSpec) -> int | None:
        numbers = {each.address: self._number(each, port) for each in self.all}
        known = Counter(number for number in numbers.values() if number is not None)
        if not known:
            if self.all:
                name = f"named {port.name} " if port.name else ""
                text = f"{self.item.ref} wants the {port.protocol} port {name}of the Service {self.key}, which has none"
                self.problems.append(Problem(self.item.ref, PORT_UNKNOWN, text, "spec.ports"))
            return None
        most = max(sorted(known), key=lambda number: known[number])
        self.left_out |= {address for address, number in numbers.items() if number != most}
        return most

    @staticmethod
    def _number(endpoint: Endpoint, port: ServicePortSpec) -> int | None:
        of_protocol = [each for each in endpoint.ports if each.protocol == port.protocol]
        named = [each.port for each in of_protocol if each.name == (port.name or "")]
        if named:
            return named[0]
        return of_protocol[0].port if port.name is None and len(of_protocol) == 1 else None

    def backends(self) -> tuple[BackendPlan, ...]:
        for port in self.item.spec.ports:
            if port.target_port is None and port.end_port is None:
                self.target(port)
        if self.left_out and len(self.left_out) < len(self.all):
            text = f"{self.item.ref} leaves out {len(self.left_out)} endpoints of the Service {self.key}"
            text += ", whose ports have other numbers than those of most"
            self.problems.append(Problem(self.item.ref, PORT_UNKNOWN, text, "spec.service"))
        self.problems[:] = dict.fromkeys(self.problems)
        made = (
            BackendPlan(each.address, 1, self._state(each), "")
            for each in self.all
            if each.address not in self.left_out
        )
        return tuple(sorted(made, key=lambda backend: _rank(backend.address)))

    def _state(self, endpoint: Endpoint) -> str:
        leaves = endpoint.terminating and (self.others or not endpoint.serving)
        return "Terminating" if leaves else "Active"


def _port(port: ServicePortSpec, endpoints: _Endpoints | None) -> PortPlan | None:
    last = port.end_port or port.port
    if port.target_port is not None or endpoints is None or port.end_port is not None:
        return PortPlan(port.protocol, port.port, last, port.target_port or port.port)
    target = endpoints.target(port)
    endpoints.problems[:] = dict.fromkeys(endpoints.problems)
    if target is None:
        return PortPlan(port.protocol, port.port, last, port.port) if not endpoints.all else None
    return PortPlan(port.protocol, port.port, last, target)


def _with_server_ids(
    ref: Ref, backends: tuple[BackendPlan, ...], length: int, problems: list[Problem]
) -> tuple[BackendPlan, ...]:
    """The server id of a backend is the end of its address; of two with one id neither is routed by it."""
    ids = {each.address: ip_address(each.address).packed.rjust(length, b"\0")[-length:].hex() for each in backends}
    counted = Counter(ids.values())
    twice = sorted(address for address, name in ids.items() if counted[name] > 1)
    if twice:
        text = f"{ref} has backends whose addresses end in the same {length} bytes, {twice[0]} and {twice[1]}"
        text += "; their QUIC packets are routed by addresses and ports"
        problems.append(Problem(ref, SERVER_ID, text, "spec.quic.length"))
    return tuple(replace(each, server_id="" if each.address in twice else ids[each.address]) for each in backends)


def _check_mode(
    item: LoadBalancer, backends: tuple[BackendPlan, ...], ports: tuple[PortPlan, ...], problems: list[Problem]
) -> None:
    """With L2 a packet reaches its backend as it is: nobody there could know of another port or family."""
    if item.spec.forwarding.mode != "L2":
        return
    mapped = next((port for port in ports if port.target != port.first), None)
    if mapped is not None:
        text = f"{item.ref} maps port {mapped.first} to {mapped.target}, which the mode L2 cannot tell a backend"
        problems.append(Problem(item.ref, MODE_UNFIT, f"{text}; use DSR or NAT", "spec.forwarding.mode"))
    families = {ip_address(str(vip)).version for vip in item.spec.vips}
    foreign = next((each for each in backends if {ip_address(each.address).version} != families), None)
    if foreign is not None:
        text = f"{item.ref} has the backend {foreign.address}, and VIPs of another family, which L2 cannot join"
        problems.append(Problem(item.ref, MODE_UNFIT, f"{text}; use DSR or NAT", "spec.forwarding.mode"))
