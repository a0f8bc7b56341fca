"""A mirror that hears of changes knows what one knows that lists everything: after any sequence of what CNIs, routers
and administrators do."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from e2e.lab.run import LabRun
from sixgate.node.mirror import Mirror
from tests.netns.streams import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST, POD = "host", "pod"
STEPS = 60


@pytest.fixture
def lab() -> Iterator[LabRun]:
    with LabRun() as run:
        for role in (HOST, POD):
            run.add_netns(role)
        run.ip(HOST, "link set lo up", "link add br0 type bridge", "link set br0 up")
        yield run


def known(mirror: Mirror) -> dict[str, object]:
    """Everything that a mirror tells."""
    devices = {
        name: replace(device, addresses=tuple(sorted(device.addresses))) for name, device in mirror.devices.items()
    }
    return {**devices, "hosts": mirror.host_routes, "defaults": mirror.defaults, "out": mirror.default_devices}


def check(lab: LabRun, mirror: Mirror, done: object) -> None:
    """The kernel may be at work still, so a difference must stay to be one."""

    def differences() -> list[tuple[str, object, object]]:
        with Mirror() as fresh:
            fresh.look()
            mirror.look()
        heard, listed = known(mirror), known(fresh)
        names = sorted(heard.keys() | listed.keys())
        return [(name, heard.get(name), listed.get(name)) for name in names if heard.get(name) != listed.get(name)]

    for _ in range(100):
        found = lab.call(HOST, differences)
        if not found:
            return
        time.sleep(0.05)
    assert not found, done


def born(lab: LabRun, number: int) -> list[str]:
    """A pod as Calico makes it: a veth whose other end is in the pod, and routes to it."""
    name = f"v{number}"
    return [
        f"link add {name} type veth peer name p{number}",
        f"link set p{number} netns {lab.netns(POD)}",
        f"link set {name} up",
        f"addr add fe80::1/64 dev {name} nodad",
        f"route add 10.0.0.{number}/32 dev {name}",
        f"route add fd00::{number:x}/128 dev {name}",
    ]


def changes(number: int, choice: random.Random) -> list[str]:
    """Something that happens to a pod's device, or to the node."""
    name = f"v{number}"
    return choice.choice(
        [
            [f"link del {name}"],
            [f"link set {name} down"],
            [f"link set {name} up", f"route replace 10.0.0.{number}/32 dev {name}"],
            [f"link set {name} mtu {choice.randrange(1280, 1500)}"],
            [f"link set {name} master br0"],
            [f"link set {name} nomaster"],
            [f"link set {name} down", f"link set {name} name w{number}", f"link set w{number} name {name}"],
            [f"addr add 192.0.2.{number}/24 dev {name}", f"addr add 2001:db8::{number:x}/64 dev {name} nodad"],
            [f"addr add 198.51.100.{number}/32 dev {name}", f"addr del 198.51.100.{number}/32 dev {name}"],
            [f"route add 10.0.0.{number}/32 dev {name} metric {choice.randrange(1, 9)}"],
            [f"route add 10.0.0.{number}/32 dev {name} table 77"],
            [f"route replace 10.0.0.{number}/32 dev br0"],
            [f"route del 10.0.0.{number}/32"],
            [f"route del fd00::{number:x}/128 dev {name}"],
            [
                f"addr add 203.0.113.1/24 dev {name}",
                f"route add 10.9.9.9/32 dev {name} src 203.0.113.1",
                f"addr del 203.0.113.1/24 dev {name}",
            ],
            [f"route add default dev {name} metric {choice.randrange(10, 20)}"],
            ["route del default"],
            [f"route add 10.8.0.{number}/32 via 192.0.2.9 dev br0 onlink"],
            [f"link set {name} up alias pod-{number}"],  # of one that is down nothing is told
        ]
    )


@pytest.mark.parametrize("seed", range(3))
def test_events_tell_what_a_listing_tells(lab: LabRun, seed: int) -> None:
    choice = random.Random(seed)
    mirror = lab.call(HOST, Mirror)
    with mirror:
        lab.call(HOST, mirror.look)
        for step in range(STEPS):
            number = choice.randrange(1, 9)
            there = f"v{number}" in mirror.devices
            done = changes(number, choice) if there else born(lab, number)
            for each in done:
                lab.run(HOST, ["ip", *each.split()], check=False)  # many are refused in some states, which is fine
            check(lab, mirror, (seed, step, done))


def test_lost_events_are_noticed(lab: LabRun) -> None:
    mirror = lab.call(HOST, Mirror)
    with mirror:
        lab.call(HOST, mirror.look)
        mirror._socket.setsockopt(1, 33, 2304)  # SOL_SOCKET, SO_RCVBUFFORCE: room for one message
        for number in range(1, 6):
            lab.ip(HOST, *born(lab, number))
        lab.ip(HOST, "link del v2")
        check(lab, mirror, "events that did not fit")


def test_a_look_says_which_devices_are_not_as_they_were(lab: LabRun) -> None:
    mirror = lab.call(HOST, Mirror)
    with mirror:
        assert lab.call(HOST, mirror.look)
        # The kernel says of a new device that it has no carrier when it finds the time to.
        wait_for(lambda: lab.call(HOST, mirror.look) == frozenset(), "something changes all the time")
        version = mirror.version
        lab.ip(HOST, *born(lab, 1))
        index = lab.call(HOST, lambda: (mirror.look(), mirror.devices["v1"])[1]).ifindex
        assert mirror.version != version
        assert mirror.devices["v1"].netnsid >= 0
        lab.ip(HOST, "link del v1")
        assert index in lab.call(HOST, mirror.look)
        assert mirror.host_routes == {}
