"""Which device of a gateway carries an egress address."""

from __future__ import annotations

import pytest

from sixgate.node.egress.floating import no_device
from sixgate.node.egress.uplink import device_for
from sixgate.node.model import AddressSeen, Device

LO = Device("lo", 1, loopback=True, addresses=(AddressSeen("198.51.100.10", 24),))
WAN = Device("eth0", 2, addresses=(AddressSeen("192.0.2.1", 24), AddressSeen("2001:db8::1", 64)))
LAN = Device("eth1", 3, addresses=(AddressSeen("198.51.100.1", 24),))
OURS = Device("eth9", 4, ours=True)
DMZ = Device("dmz0", 5)
DEVICES = {device.name: device for device in (LO, WAN, LAN, OURS, DMZ)}


@pytest.mark.parametrize(
    ("address", "asked", "defaults", "expected"),
    [
        ("198.51.100.77", "auto", {4: "eth0"}, "eth1"),
        ("203.0.113.1", "auto", {4: "eth0"}, "eth0"),
        ("203.0.113.1", "auto", {}, "eth0"),  # it has the node's own address
        ("2001:db8:9::1", "auto", {6: "eth1"}, "eth1"),
        ("198.51.100.77", "dmz0", {4: "eth0"}, "dmz0"),
        ("198.51.100.77", "eth77", {4: "eth0"}, ""),
        ("198.51.100.77", "eth*", {4: "eth0"}, "eth1"),
        ("203.0.113.1", "eth*", {4: "eth1"}, "eth1"),
        ("203.0.113.1", "eth*", {}, "eth0"),
        ("203.0.113.1", "dmz*", {4: "eth0"}, "dmz0"),
        ("203.0.113.1", "eth[19]", {}, "eth1"),  # never one that sixgate made
        ("203.0.113.1", "bond*", {4: "eth0"}, ""),
    ],
)
def test_the_device_of_an_address(address: str, asked: str, defaults: dict[int, str], expected: str) -> None:
    assert device_for(address, asked, DEVICES, defaults, "192.0.2.1") == expected


def test_auto_without_any_sign_is_no_device() -> None:
    assert not device_for("203.0.113.1", "auto", {"dmz0": DMZ}, {}, "192.0.2.1")


@pytest.mark.parametrize(
    ("asked", "own", "said"),
    [
        ("eth7", "192.0.2.1", "203.0.113.1 should be put on eth7, and this node has no such device"),
        (
            "auto",
            "192.0.2.1",
            "203.0.113.1 should be put on the device that leads to it, and there is none: no device has its subnet, "
            "this node has no IPv4 default route, and none has 192.0.2.1, the node's own address",
        ),
    ],
)
def test_what_is_missing_is_named(asked: str, own: str, said: str) -> None:
    assert no_device("203.0.113.1", asked, own) == said
