"""One packet through the programs of this node, and what they would do with it; nothing is sent and nothing changes.

The same object files, by digest, with the same constants are loaded once more. They share the tables that the running
programs read (what a NodeConfig and the node fill), and get ones of their own for everything that programs write:
counters, caches, logs, empty but for what the balancer remembers of this very flow. What a private counter says after
one run is why the packet took its way. Stateful NAT is switched off in the copies; sessions.py answers for it.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sixgate.errors import SixgateError
from sixgate.node import devices, flow_state, names, packets, resolve_tables
from sixgate.node.bpf.layouts import SgEgWayFlag, SgFeature, SgReason
from sixgate.node.bpf.manifest import load_manifest
from sixgate.node.bpf.mapspec import MapType
from sixgate.node.bpf.object import BpfObject
from sixgate.node.bpf.prog import SkbContext, XdpContext
from sixgate.node.columns import columns_of
from sixgate.node.inspect import count_of
from sixgate.node.lookup import Hop, RouteLookup
from sixgate.node.metrics import object_counters
from sixgate.node.observe import observe_devices
from sixgate.node.owners import Owners
from sixgate.node.sessions import Sessions
from sixgate.node.statedir import StateDir
from sixgate.node.verdicts import meaning_of, verdict_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sixgate.api.nodeconfig import Attachment, NodeConfigSpec
    from sixgate.api.nodeconfig import BpfObject as ObjectSpec
    from sixgate.node.bpf.ctype import MapSpec
    from sixgate.node.model import Device, Observed
    from sixgate.node.options import NodeOptions
    from sixgate.node.packets import Seen

# Filled by the node as it goes, not from tables of the NodeConfig: configuration of the balancer and of egress.
_FILLED = frozenset(
    {"sg_lb_vip", "sg_lb_range", "sg_lb_backend", "sg_lb_source", "sg_lb_quic", "sg_lb_table"}
    | {"sg_eg_pod", "sg_eg_dst", "sg_eg_way", "sg_eg_own"}
)
_SESSION_MAPS = "sg_st_"
# Arrays of which an entry that is not there is passed over: counters, and translations that are remembered.
_ONLY_COUNTED = frozenset({"sg_lb_stats", "sg_lb_way", "sg_flows_tc", "sg_flows_xdp"})
_HASHES = frozenset({MapType.HASH, MapType.LRU_HASH, MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH})
_ARRAYS = frozenset({MapType.ARRAY, MapType.PERCPU_ARRAY})
_FEW = 1024
_HOOK_OF_PODS = {"sg_pod_tc": "pod", "sg_tunnel_tc": "tunnel"}
_HOOKS = ("xdp", "tc-ingress")  # in the order in which a packet meets them
_TC_REDIRECT, _TC_DROP = 7, 2
_NO_ENGINE = "SG_DROP_STALE"  # what a program without stateful NAT says of a packet that is the engine's
_XDP_PASS = 2
# A run of the slow path on a packet that is to be fragmented would send the fragments: clones go out at once.
_SENDS_CLONES = frozenset({"SG_SLOW_FRAGMENT"})


@dataclass(frozen=True, slots=True)
class Step:
    """What one program did. `reason` is the name in C, empty where the program counted nothing; `object` the user's
    object that counted the packet, empty where none did."""

    device: str
    hook: str
    program: str
    reason: str
    object: str
    before: Seen
    after: Seen
    told: str = ""  # in other words than those of the reason

    @property
    def verdict(self) -> str:
        return verdict_of(self.reason)[0] if self.reason else "pass"

    def __str__(self) -> str:
        who = f"{self.program} ({self.hook} on {self.device})"
        why = meaning_of(self.reason) or "it is none of its business"
        by = f" for {self.object}" if self.object else ""
        if self.told:
            return f"{who}: {self.told}"
        match self.verdict:
            case "drop":
                return f"{who} drops it: {why}."
            case "slow":
                return f"{who} hands it on: {why}."
            case "ok":
                return f"{who}{by}: {why}; it becomes {self.after}."
            case _:
                return f"{who} leaves it to the kernel: {why}."


@dataclass(frozen=True, slots=True)
class Trace:
    """All steps of one packet, what it is at the end, and how it leaves: `hop` is the kernel's own look-up, None where
    the packet does not. `arrives` is the device that it comes in at where it goes, where that is known."""

    packet: Seen
    device: str
    steps: tuple[Step, ...]
    hop: Hop | None
    after: Seen
    arrives: str = ""

    @property
    def route(self) -> str:
        return self.hop.sentence if self.hop is not None else ""

    @property
    def dropped(self) -> bool:
        return bool(self.steps) and self.steps[-1].verdict == "drop"

    def sentences(self) -> tuple[str, ...]:
        arrives = f"{self.packet} arrives at {self.device}."
        if not self.steps:
            return (arrives, f"No program of sixgate is attached to {self.device}.", self.route)
        return (arrives, *map(str, self.steps), *((self.route,) if self.route else ()))

    def document(self) -> dict[str, object]:
        """For machines."""
        return {
            "packet": str(self.packet),
            "device": self.device,
            "dropped": self.dropped,
            "steps": [
                {
                    "device": step.device,
                    "hook": step.hook,
                    "program": step.program,
                    "verdict": step.verdict,
                    "reason": step.reason,
                    "meaning": meaning_of(step.reason),
                    "object": step.object,
                    "before": str(step.before),
                    "after": str(step.after),
                }
                for step in self.steps
            ],
            "route": self.route,
            "after": _ends(self.after),
            "hop": {
                "device": self.hop.device,
                "address": self.hop.address,
                "here": self.hop.here,
                "arrives": self.arrives,
            }
            if self.hop is not None
            else None,
            "sentences": list(self.sentences()),
        }


def trace(frame: bytes, spec: NodeConfigSpec, options: NodeOptions, device: str = "") -> Trace:
    """Send `frame` through the programs that `spec` attaches to `device`, or to the one that leads to its sender.

    SixgateError where there is no such device; BpfError without the permission to load programs.
    """
    packet = packets.read(frame)
    if packet is None:
        raise SixgateError("A trace needs an Ethernet frame with an IPv4 or IPv6 packet in it.")
    with RouteLookup() as routing:
        have = observe_devices(spec, options)
        name = device or routing.device_towards(str(packet.source.address))
        if name not in have.devices:
            raise SixgateError(f"A packet should arrive at {name or 'some device'}, but this node has no such device.")
        with _Bench(spec, options, have) as bench:
            steps, frame = bench.run(frame, have.devices[name])
            target = bench.target
        last = steps[-1] if steps else None
        leaves = last is None or last.verdict in {"pass", "ok"}
        seen = packets.read(frame) or packet
        hop = routing.explain(target or str(seen.target.address)) if leaves else None
    after = last.after if last is not None else packet
    return Trace(packet, name, tuple(steps), hop, after, bench.arrives)


def _ends(seen: Seen) -> dict[str, object]:
    """A packet as the question that it would be at its next node."""
    inner = _ends(seen.inner) if seen.inner is not None else None
    return {"source": str(seen.source), "target": str(seen.target), "proto": seen.protocol, "inner": inner}


class _Bench:
    """Private copies of the programs, loaded when they are first needed; closed with the `with` block."""

    def __init__(self, spec: NodeConfigSpec, options: NodeOptions, have: Observed) -> None:
        self._spec, self._options, self._have = spec, options, have
        self._owners, self._networks = object_counters(spec), Owners.of(spec)
        self._sessions = Sessions.of(options.bpffs, spec, StateDir(options.state_dir).numbers())
        self._packet: Seen | None = None
        self.target = ""  # where the packet goes, where that is not in the frame
        self.arrives = ""  # the device that it comes in at there, of a tunnel
        self._loaded: dict[str, BpfObject] = {}
        self._stack = ExitStack()

    def __enter__(self) -> _Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, frame: bytes, device: Device) -> tuple[list[Step], bytes]:
        """Every program that the packet meets, and the frame that comes out at the end."""
        self._packet = packets.read(frame)
        steps: list[Step] = []
        for hook in _HOOKS:
            found = self._attached(device, hook)
            if found is None:
                continue
            told = self._stateful(*found, frame, device, hook)
            if told is not None:
                return [*steps, told], frame
            step, out, done = self._one(*found, frame, device, hook)
            step = self._through_nat(step)
            steps.append(step)
            if step.verdict == "pass" and not done and (chained := self._chained(*found)) is not None:
                told = self._stateful(*chained, frame, device, hook)
                if told is not None:
                    return [*steps, told], frame
                step, out, done = self._one(*chained, frame, device, hook)
                steps.append(step)
            if step.verdict == "slow" and hook == "tc-ingress" and step.reason not in _SENDS_CLONES:
                return self._slow(steps, frame)
            if done:
                return steps, out
        return steps, frame

    def _chained(self, item: ObjectSpec, attachment: Attachment) -> tuple[ObjectSpec, Attachment] | None:
        """Who is asked for what egress lets pass at a pod's device: the program of the gateway's other devices."""
        if attachment.program != "sg_pod_tc" or not item.constants.get("sg_eg_chained"):
            return None
        found = ((o, a) for o in self._spec.objects for a in o.attachments if a.program == "sg_uplink_tc")
        return next(found, None)

    def _stateful(
        self, item: ObjectSpec, attachment: Attachment, frame: bytes, device: Device, hook: str
    ) -> Step | None:
        """What stateful NAT says, where this program asks it and the packet is its own."""
        seen = packets.read(frame)
        if seen is None or not _features(item) & SgFeature.SG_F_STATEFUL or hook != "tc-ingress":
            return None
        told = None
        if attachment.program == "sg_pod_tc":
            way = flow_state.egress_way(self._options.bpffs, seen)
            if way is not None and way.flags & SgEgWayFlag.SG_EG_HERE:
                number = flow_state.egress_object(self._options.bpffs, way.pair, seen)
                told = self._sessions.outbound(seen, number) if number is not None else None
        elif attachment.program == "sg_tunnel_tc":
            told = self._sessions.of_any(
                seen, flow_state.egress_objects(self._options.bpffs, seen.source.address.version)
            )
        elif not flow_state.is_vip(self._options.bpffs, seen):
            told = self._sessions.look(seen)
        if told is None:
            return None
        self.target = told.target
        after = told.after or seen
        return Step(device.name, hook, attachment.program, told.reason, told.object, seen, after, told.sentence)

    def _through_nat(self, step: Step) -> Step:
        """`step`, or what the engine says: a balancer hands it packets in mode NAT, and the copy has none."""
        number = flow_state.service_of(self._options.bpffs, step.before) if step.reason == _NO_ENGINE else None
        if number is None:
            return step
        told = self._sessions.balanced(step.before, number)
        self.target = told.target
        after = told.after or step.before
        return Step(step.device, step.hook, step.program, told.reason, told.object, step.before, after, told.sentence)

    def _slow(self, steps: list[Step], frame: bytes) -> tuple[list[Step], bytes]:
        """The device that the slow path is reached through, and its program, of any object that says so."""
        for item in self._spec.objects:
            for attachment in item.attachments:
                made = {link.peer for link in self._spec.links}
                device = self._have.devices.get(attachment.devices[0])
                if device is not None and device.name in made and attachment.hook == "tc-ingress":
                    step, out, _ = self._one(item, attachment, frame, device, "tc-ingress")
                    return [*steps, step], out
        return steps, frame

    def _attached(self, device: Device, hook: str) -> tuple[ObjectSpec, Attachment] | None:
        for item in self._spec.objects:
            for attachment in item.attachments:
                if attachment.hook == hook and any(
                    device.name == matched.name
                    for pattern in attachment.devices
                    for matched in devices.match(pattern, self._have)
                ):
                    return item, attachment
        return None

    def _one(
        self, item: ObjectSpec, attachment: Attachment, frame: bytes, device: Device, hook: str
    ) -> tuple[Step, bytes, bool]:
        """One program: what it did, the frame afterwards, and whether the packet goes no further up this device."""
        loaded = self._load(item)
        context = XdpContext(ingress_ifindex=device.ifindex) if hook == "xdp" else SkbContext(ifindex=device.ifindex)
        before = self._counts(loaded)
        with loaded.program(attachment.program) as program:
            result = program.test_run(frame, context=context)
        reason = _reason(before, self._counts(loaded))
        seen = packets.read(frame)
        assert seen is not None  # it was read before it came here
        after = packets.read(result.data) or seen
        owner = self._owner(loaded) or (
            self._networks.owner(seen, _HOOK_OF_PODS.get(attachment.program, "")) if reason else ""
        )
        told = ""
        if reason == "SG_OK_EGRESS" and (way := flow_state.egress_way(self._options.bpffs, seen)) is not None:
            self.target = way.gateway
            direct = bool(way.flags & SgEgWayFlag.SG_EG_DIRECT)
            self.arrives = "" if direct else next((x.name for x in self._spec.links if x.kind == "vxlan"), "")
            how = "straight" if direct else "through the tunnel"
            told = f"for {owner} it goes {how} to gateway {way.gateway}, which changes its source."
        step = Step(
            device.name, hook, attachment.program, reason, "" if _is_foreign(reason) else owner, seen, after, told
        )
        passes = result.retval == _XDP_PASS if hook == "xdp" else result.retval not in {_TC_REDIRECT, _TC_DROP}
        return step, result.data, not passes

    def _load(self, item: ObjectSpec) -> BpfObject:
        if item.name not in self._loaded:
            by_name = {device.name: device.ifindex for device in self._have.devices.values()}
            data = load_manifest(self._options.objects).read(item.name, item.digest)
            loaded = self._stack.enter_context(BpfObject(item.name, data))
            loaded.set_constants(_without_sessions(item.constants), resolve=by_name.__getitem__)
            loaded.set_autoload({attachment.program for attachment in item.attachments})
            pinned = {path.name for path in (self._options.bpffs / names.MAPS).iterdir()}
            filled = {table.map for table in self._spec.tables} | set(resolve_tables.NODE_MAPS) | _FILLED
            shared = {name for name in filled & pinned & set(loaded.maps) if not name.startswith(_SESSION_MAPS)}
            for room in item.maps:
                if room.name in shared and room.max_entries:
                    loaded.set_max_entries(room.name, room.max_entries)
            for name, spec in loaded.maps.items():
                if name not in shared and (room_enough := _room(spec)) is not None:
                    loaded.set_max_entries(name, room_enough)
            loaded.reuse_pinned(self._options.bpffs / names.MAPS, sorted(shared))
            loaded.load()
            flow_state.copy_balancer(self._options.bpffs, loaded, self._packet)
            self._loaded[item.name] = loaded
        return self._loaded[item.name]

    @staticmethod
    def _counts(loaded: BpfObject) -> Mapping[int, int]:
        with loaded.map("sg_metrics") as counters:
            return dict(enumerate(columns_of(counters, SgReason.SG_REASON_MAX, 0)[0]))

    def _owner(self, loaded: BpfObject) -> str:
        for name, owners in self._owners.items():
            if name not in loaded.maps:
                continue
            with loaded.map(name) as counters:
                for index, owner in owners.items():
                    value = counters.sum(int(index))
                    if isinstance(value, dict) and any(count_of(way).packets for way in value.values()):
                        return owner
        return ""


def _room(private: MapSpec) -> int | None:
    """What a map that one packet meets needs of entries, where making it as large as the running one takes long; None
    where it must have all of them."""
    if private.type in _HASHES:
        return min(private.max_entries, _FEW)
    if private.name in _ONLY_COUNTED or (private.name.startswith(_SESSION_MAPS) and private.type in _ARRAYS):
        return 1
    return None


def _features(item: ObjectSpec) -> int:
    config = item.constants.get("sg_cfg")
    return int(str(config.get("features", 0))) if isinstance(config, dict) else 0


def _without_sessions(constants: Mapping[str, Any]) -> dict[str, Any]:
    """The same with stateful NAT switched off."""
    config = constants.get("sg_cfg")
    if not isinstance(config, dict):
        return dict(constants)
    features = int(config.get("features", 0)) & ~int(SgFeature.SG_F_STATEFUL)
    return {**constants, "sg_cfg": {**config, "features": features}}


def _is_foreign(reason: str) -> bool:
    return not reason or verdict_of(reason)[0] == "pass"


def _reason(before: Mapping[int, int], after: Mapping[int, int]) -> str:
    """The last reason that was counted: what answers a packet is counted before what became of it."""
    counted = [number for number, count in after.items() if count > before.get(number, 0)]
    known = [SgReason(number).name for number in counted if number in SgReason._value2member_map_]
    drops = [name for name in known if verdict_of(name)[0] == "drop"]
    return (drops or known or [""])[0]
