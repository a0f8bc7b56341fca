"""Leaving out quiet devices changes nothing: after any sequence of what happens to pods' devices, what is done about a
node that is looked at in part is what is done about one that is looked at whole."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field, replace

import pytest

from sixgate.api.nodeconfig import NodeConfigSpec
from sixgate.node import actions as act
from sixgate.node.bpf.ctype import U32, MapSpec
from sixgate.node.diff import diff
from sixgate.node.egress.ports import PortFinder, find_ports
from sixgate.node.model import (
    SCOPE_LINK,
    AddressSeen,
    Attached,
    Device,
    Hook,
    Kernel,
    LinkPin,
    MapPin,
    Observed,
    ProgName,
    ProgPin,
)
from sixgate.node.names import prog_path
from sixgate.node.quiet import Frame, Quiet
from sixgate.node.resolve import ObjectFile, resolve
from sixgate.node.shapes import map_shape
from tests.unit.test_node_resolve import DIGEST, FILE, spec

LINK_LOCAL = AddressSeen("fe80::1", 64, SCOPE_LINK)
UPLINK = Device("eth0", 2, addresses=(AddressSeen("192.0.2.1", 24),))
BRIDGE = Device("br0", 3, kind="bridge")
ROLES = MapSpec("sg_eg_dev", 1, U32, U32, 4096)
EGRESS = ObjectFile("sg_t", DIGEST, ("sg_t_tc", "sg_t_xdp"), {"sg_eg_dev": ROLES}, FILE.rodata)


def wanted(*patterns: str, features: int = 1) -> NodeConfigSpec:
    attachments = [
        {"program": "sg_t_tc", "hook": "tc-ingress", "devices": ["pods", *patterns]},
        {"program": "sg_t_tc", "hook": "tc-egress", "devices": ["auto"]},
    ]
    constants = {"sg_cfg": {"features": features}}
    made = {"name": "sg_t", "digest": DIGEST, "owners": ["G/a"], "constants": constants, "attachments": attachments}
    return spec(objects=[made])


@dataclass
class Node:
    """A kernel with devices, hooks and one table, which does what actions say."""

    devices: dict[str, Device] = field(default_factory=lambda: {"eth0": UPLINK, "br0": BRIDGE})
    routed: set[int] = field(default_factory=set)
    pins: dict[Hook, LinkPin] = field(default_factory=dict)
    attached: dict[Hook, tuple[Attached, ...]] = field(default_factory=dict)
    programs: dict[ProgName, ProgPin] = field(default_factory=dict)
    roles: dict[bytes, bytes] | None = None
    next_id: int = 10

    def observed(self, quiet: Quiet) -> Observed:
        out = quiet.devices
        return Observed(
            kernel=Kernel("6.18", tcx=True),
            devices={name: device for name, device in self.devices.items() if name not in out},
            quiet=dict(out),
            defaults={4: "eth0"},
            maps={} if self.roles is None else {"maps/sg_eg_dev": MapPin("maps/sg_eg_dev", 1, map_shape(ROLES))},
            programs=dict(self.programs),
            links={hook: pin for hook, pin in self.pins.items() if hook.device not in out},
            attached={hook: found for hook, found in self.attached.items() if hook.device not in out},
            entries={"maps/sg_eg_dev": tuple(sorted(e for e in (self.roles or {}).items() if e[0] not in quiet.keys))},
            pod_ports=find_ports(self.devices, self.routed, ["eth0"]),
        )

    def do(self, action: act.Action) -> None:
        self.next_id += 1
        match action:
            case act.LoadObject():
                self.roles = {} if self.roles is None else self.roles
                for number, program in enumerate(action.programs):
                    name = ProgName(action.name, program, action.key)
                    self.programs[name] = ProgPin(name, 1000 * self.next_id + number, ())
            case act.Attach() | act.UpdateLink():
                program = self.programs[action.prog].prog_id
                self.pins[action.hook] = LinkPin(action.hook, self.next_id, program, action.ifindex)
                self.attached[action.hook] = (Attached(program, self.next_id),)
            case act.Detach():
                self.pins.pop(action.hook, None)
                self.attached.pop(action.hook, None)
            case act.WriteEntries():
                assert self.roles is not None
                self.roles.update(action.contents)
            case act.DeleteEntries():
                assert self.roles is not None
                for key in action.keys:
                    self.roles.pop(key, None)
            case act.Unpin():
                self.programs = {name: pin for name, pin in self.programs.items() if prog_path(name) != action.path}
            case _:
                raise AssertionError(action)


def step(node: Node, wanted_now: NodeConfigSpec, quiet: Quiet) -> None:
    """Rounds until nothing is to be done; in each, what a whole look finds is what one in part does."""
    if quiet.frame is not None and quiet.frame.spec is not wanted_now:
        quiet.wake_all()
    quiet.keep(find_ports(node.devices, node.routed, ["eth0"]).pods)
    for _ in range(8):
        seen = node.observed(quiet)
        want = resolve(wanted_now, seen, {"sg_t": EGRESS})
        frame = Frame.of(wanted_now, want)
        if quiet.frame is not None and not frame.same(quiet.frame):
            quiet.wake_all()
            continue
        whole = node.observed(Quiet())
        plan = diff(want, seen)
        all_that_is_wanted = resolve(wanted_now, whole, {"sg_t": EGRESS})
        assert sorted(map(str, plan)) == sorted(map(str, diff(all_that_is_wanted, whole)))
        assert {p.message for p in want.problems} == {p.message for p in all_that_is_wanted.problems}
        quiet.settle(frame, want, seen, plan)
        if not plan:
            return
        for action in plan:
            node.do(action)
            if isinstance(action, act.Attach | act.UpdateLink | act.Detach):
                quiet.wake((action.hook.device,))
            elif isinstance(action, act.LoadObject):
                quiet.wake_all()
    raise AssertionError(plan)


def happens(node: Node, choice: random.Random) -> set[int]:
    """Something to a pod's device, or a birth or death; indexes that the kernel tells of."""
    names = [name for name in node.devices if name.startswith("v")]
    if not names or choice.random() < 0.4:
        index = 10 + node.next_id
        node.next_id += 1
        name = f"v{choice.randrange(30)}"
        gone = node.devices.get(name)
        node.devices[name] = Device(name, index, "veth", addresses=(LINK_LOCAL,), netnsid=index, lower=2)
        if choice.random() < 0.7:
            node.routed.add(index)
        return {index} | ({gone.ifindex} if gone else set())
    name = choice.choice(names)
    device = node.devices[name]
    told = {device.ifindex}
    match choice.randrange(8):
        case 0:
            del node.devices[name]  # its hooks go with it; the pin of its link stays, and leads nowhere
            node.attached.pop(Hook(name, "tc-ingress"), None)
            pin = node.pins.get(Hook(name, "tc-ingress"))
            if pin is not None:
                node.pins[pin.hook] = replace(pin, ifindex=0)
        case 1:
            node.devices[name] = replace(device, mtu=choice.randrange(1280, 1500))
        case 2:
            node.devices[name] = replace(device, port=True, master=BRIDGE.ifindex)
        case 3:
            node.devices[name] = replace(device, addresses=(*device.addresses, AddressSeen("192.0.2.9", 32)))
        case 4 if f"{name}x" not in node.devices:
            del node.devices[name]
            node.devices[f"{name}x"] = replace(device, name=f"{name}x")
        case 5:
            node.pins.pop(Hook(name, "tc-ingress"), None)  # with the pin the link goes, and its program off the hook
            node.attached.pop(Hook(name, "tc-ingress"), None)
        case 6:
            node.devices[name] = replace(device, netnsid=-1)
        case 7:
            node.routed.discard(device.ifindex)  # of routes the finder of ports hears
            told = set()
    return told


@pytest.mark.parametrize("seed", range(12))
def test_what_is_done_is_what_would_be_done_after_a_whole_look(seed: int) -> None:
    choice = random.Random(seed)
    node, quiet, now = Node(), Quiet(), wanted()
    most = 0
    for _ in range(60):
        for _ in range(choice.randrange(1, 4)):
            quiet.wake_indexes(happens(node, choice))
        if choice.random() < 0.1:
            now = choice.choice([wanted(), wanted("v1*"), wanted("v3", "v4"), wanted(features=choice.randrange(9))])
        step(node, now, quiet)
        most = max(most, len(quiet.devices))
    assert most > 3, "nothing was ever left out, so nothing was tried"


def test_devices_that_are_spoken_of_are_never_left_out() -> None:
    node, quiet = Node(), Quiet()
    for number, name in enumerate(("v1", "v2", "w1", "w2")):
        node.devices[name] = Device(name, 20 + number, "veth", addresses=(LINK_LOCAL,), netnsid=number)
    node.devices["w2"] = replace(node.devices["w2"], addresses=(AddressSeen("192.0.2.9", 32),), port=True)
    step(node, wanted("v1", "v2*"), quiet)
    assert set(quiet.devices) == {"w1"}
    assert quiet.keys == {(22).to_bytes(4, sys.byteorder)}


def test_what_a_whole_look_finds_about_a_quiet_device_was_missed() -> None:
    node, quiet, now = Node(), Quiet(), wanted()
    node.devices["v1"] = Device("v1", 20, "veth", addresses=(LINK_LOCAL,), netnsid=1)
    step(node, now, quiet)
    assert set(quiet.devices) == {"v1"}
    node.attached.clear()
    node.pins.pop(Hook("v1", "tc-ingress"))
    assert node.roles is not None
    node.roles.clear()
    whole = node.observed(Quiet())
    found = diff(resolve(now, whole, {"sg_t": EGRESS}), whole)
    assert [str(action) for action in quiet.missed(found)] == ["attach sg_t_tc to tc-ingress on v1"]
    node.do(quiet.missed(found)[0])
    whole = node.observed(Quiet())
    assert len(quiet.missed(diff(resolve(now, whole, {"sg_t": EGRESS}), whole))) == 1  # its role


def test_a_finder_of_ports_finds_what_a_new_one_does() -> None:
    choice, node, finder = random.Random(1), Node(), PortFinder()
    for _ in range(300):
        happens(node, choice)
        ways_out = choice.choice([["eth0"], ["eth0", "v1"], ["br0"]])
        assert finder.find(node.devices, node.routed, ways_out) == find_ports(node.devices, node.routed, ways_out)
