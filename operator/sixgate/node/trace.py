"""One packet through the programs of this node, and what they would do with it; nothing is sent and nothing changes.

The same object files, by digest, with the same constants are loaded once more. They share the tables that the running
programs read (what a NodeConfig and the node fill), and get empty ones of their own for everything that programs write:
counters, caches, logs. What a private counter says after one run is why the packet took its way.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sixgate.errors import SixgateError
from sixgate.node import devices, names, packets, resolve_tables
from sixgate.node.bpf.layouts import SgReason
from sixgate.node.bpf.prog import SkbContext, XdpContext
from sixgate.node.catalogue import Catalogue
from sixgate.node.inspect import count_of
from sixgate.node.lookup import RouteLookup
from sixgate.node.metrics import object_counters
from sixgate.node.netlink import Netlink
from sixgate.node.observe import observe
from sixgate.node.statedir import StateDir
from sixgate.node.verdicts import meaning_of, verdict_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sixgate.api.nodeconfig import Attachment, NodeConfigSpec
    from sixgate.api.nodeconfig import BpfObject as ObjectSpec
    from sixgate.node.bpf.object import BpfObject
    from sixgate.node.model import Device, Observed
    from sixgate.node.options import NodeOptions
    from sixgate.node.packets import Seen

_HOOKS = ("xdp", "tc-ingress")  # in the order in which a packet meets them
_TC_REDIRECT, _TC_DROP = 7, 2
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

    @property
    def verdict(self) -> str:
        return verdict_of(self.reason)[0] if self.reason else "pass"

    def __str__(self) -> str:
        who = f"{self.program} ({self.hook} on {self.device})"
        why = meaning_of(self.reason) or "it is none of its business"
        by = f" for {self.object}" if self.object else ""
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
    """All steps of one packet, and how it leaves: `route` is a sentence of the kernel's own look-up."""

    packet: Seen
    device: str
    steps: tuple[Step, ...]
    route: str

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
            "sentences": list(self.sentences()),
        }


def trace(frame: bytes, spec: NodeConfigSpec, options: NodeOptions, device: str = "") -> Trace:
    """Send `frame` through the programs that `spec` attaches to `device`, or to the one that leads to its sender.

    SixgateError where there is no such device; BpfError without the permission to load programs.
    """
    packet = packets.read(frame)
    if packet is None:
        raise SixgateError("A trace needs an Ethernet frame with an IPv4 or IPv6 packet in it.")
    with Netlink() as netlink, RouteLookup() as routing:
        have = observe(spec, options, netlink, StateDir(options.state_dir))
        name = device or routing.device_towards(str(packet.source.address))
        if name not in have.devices:
            raise SixgateError(f"A packet should arrive at {name or 'some device'}, but this node has no such device.")
        with _Bench(spec, options, have) as bench:
            steps, frame = bench.run(frame, have.devices[name])
        last = steps[-1] if steps else None
        leaves = last is None or last.verdict in {"pass", "ok"}
        seen = packets.read(frame) or packet
        route = routing.explain(str(seen.target.address)) if leaves else ""
    return Trace(packet, name, tuple(steps), route)


class _Bench:
    """Private copies of the programs, loaded when they are first needed; closed with the `with` block."""

    def __init__(self, spec: NodeConfigSpec, options: NodeOptions, have: Observed) -> None:
        self._spec, self._options, self._have = spec, options, have
        self._catalogue = Catalogue(options.objects)
        self._catalogue.files(spec)
        self._owners = object_counters(spec)
        self._loaded: dict[str, BpfObject] = {}
        self._stack = ExitStack()

    def __enter__(self) -> _Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, frame: bytes, device: Device) -> tuple[list[Step], bytes]:
        """Every program that the packet meets, and the frame that comes out at the end."""
        steps: list[Step] = []
        for hook in _HOOKS:
            found = self._attached(device, hook)
            if found is None:
                continue
            step, out, done = self._one(*found, frame, device, hook)
            steps.append(step)
            if step.verdict == "slow" and hook == "tc-ingress" and step.reason not in _SENDS_CLONES:
                return self._slow(steps, frame)
            if done:
                return steps, out
        return steps, frame

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
        step = Step(
            device.name, hook, attachment.program, reason, self._owner(loaded), seen, packets.read(result.data) or seen
        )
        passes = result.retval == _XDP_PASS if hook == "xdp" else result.retval not in {_TC_REDIRECT, _TC_DROP}
        return step, result.data, not passes

    def _load(self, item: ObjectSpec) -> BpfObject:
        if item.name not in self._loaded:
            by_name = {device.name: device.ifindex for device in self._have.devices.values()}
            loaded = self._stack.enter_context(self._catalogue.open(item.name))
            loaded.set_constants(item.constants, resolve=by_name.__getitem__)
            pinned = {names.map_name(pin) for pin in self._have.maps if pin.startswith(f"{names.MAPS}/")}
            filled = {table.map for table in self._spec.tables} | set(resolve_tables.NODE_MAPS)
            shared = filled & pinned & set(loaded.maps)
            loaded.reuse_pinned(self._options.bpffs / names.MAPS, sorted(shared))
            loaded.load()
            self._loaded[item.name] = loaded
        return self._loaded[item.name]

    @staticmethod
    def _counts(loaded: BpfObject) -> Mapping[int, int]:
        with loaded.map("sg_metrics") as counters:
            return {int(str(key)): count_of(value).packets for key, value in counters.sums()}

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


def _reason(before: Mapping[int, int], after: Mapping[int, int]) -> str:
    """The last reason that was counted: what answers a packet is counted before what became of it."""
    counted = [number for number, count in after.items() if count > before.get(number, 0)]
    known = [SgReason(number).name for number in counted if number in SgReason._value2member_map_]
    drops = [name for name in known if verdict_of(name)[0] == "drop"]
    return (drops or known or [""])[0]
