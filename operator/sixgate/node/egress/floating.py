"""Addresses that move between nodes, on this node's devices: put on, taken off, announced, asked for. What was there
already stays."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sixgate.errors import ApplyError
from sixgate.node.egress.probe import Segment
from sixgate.node.egress.uplink import AUTO, device_for
from sixgate.node.mirror import Mirror
from sixgate.node.netlink import Netlink

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sixgate.node.model import Device

log = logging.getLogger(__name__)

RESYNC_S = 60.0
ANNOUNCEMENTS_S = (0.0, 0.1, 0.4, 1.5)  # pauses before each: one may be lost, and switches learn while links settle


@dataclass(frozen=True, slots=True)
class Place:
    device: str
    prefix_len: int
    ours: bool


@dataclass(slots=True)
class Floating:
    """`look` reads what has changed in the kernel, and everything now and then; everything else works on what was seen
    last and keeps it up to date. `pool` has one thread."""

    pool: Executor
    _mirror: Mirror | None = None  # of that thread
    _anew_due: float = 0.0
    _devices: dict[str, Device] = field(default_factory=dict)
    _defaults: dict[int, str] = field(default_factory=dict)
    _places: dict[str, Place] = field(default_factory=dict)
    _segments: dict[str, Segment] = field(default_factory=dict)

    async def look(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self.pool, self._read)

    def holds(self, address: str) -> Place | None:
        """Where an address is on this node."""
        return self._places.get(address)

    async def put_on(self, addresses: Iterable[str], asked: str, node_address: str) -> None:
        """ApplyError where there is no device for one of them, or the kernel refuses."""
        for address in addresses:
            if address in self._places:
                continue
            device = device_for(address, asked, self._devices, self._defaults, node_address)
            if not device:
                raise ApplyError(f"{no_device(address, asked, node_address)}.")
            await asyncio.get_running_loop().run_in_executor(self.pool, self._add, device, address)
            log.info("Added %s to %s.", address, device)

    async def take_off(self, addresses: Iterable[str]) -> None:
        """What somebody else put on stays."""
        for address in addresses:
            place = self._places.get(address)
            if place is None or not place.ours:
                continue
            await asyncio.get_running_loop().run_in_executor(self.pool, self._remove, address, place)
            log.info("Removed %s from %s.", address, place.device)

    async def announce(self, addresses: Iterable[str]) -> None:
        """Several times, as long as this node has them."""
        for pause in ANNOUNCEMENTS_S:
            await asyncio.sleep(pause)
            for address in addresses:
                place = self._places.get(address)
                if place is not None:
                    self._segment(place.device).announce((address,))

    async def alive(self, addresses: Iterable[str], asked: str, node_address: str) -> bool:
        """Whether somebody else on the segment has one of the addresses; also where nobody can be asked."""
        by_device: dict[str, list[str]] = {}
        for address in addresses:
            device = device_for(address, asked, self._devices, self._defaults, node_address)
            if not device or not self._devices[device].up:
                return True
            by_device.setdefault(device, []).append(address)
        answers = await asyncio.gather(*(self._segment(device).alive(group) for device, group in by_device.items()))
        return any(answers)

    def hindrance(self, addresses: Iterable[str], asked: str, node_address: str) -> str:
        """Why this node can't have the addresses, as of the last look; empty if it can."""
        for address in addresses:
            device = device_for(address, asked, self._devices, self._defaults, node_address)
            if not device:
                return no_device(address, asked, node_address)
            if not self._devices[device].up:
                return f"{address} should be put on {device}, which is down"
        return ""

    async def answered(self, addresses: Iterable[str], device: str) -> frozenset[str]:
        """Those of the addresses that somebody else on the segment has."""
        group = tuple(addresses)
        return await self._segment(device).answered(group, len(group))

    def device(self, address: str, asked: str) -> str:
        """The device that carries an address, as of `put_on`; empty where there is none."""
        return device_for(address, asked, self._devices, self._defaults, "")

    def seen(self) -> Mapping[str, Device]:
        """Devices by name, as they were at the last look."""
        return self._devices

    def close(self) -> None:
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()
        self.pool.submit(self._forget)  # after a look that goes on

    def _segment(self, device: str) -> Segment:
        if device not in self._segments:
            self._segments[device] = Segment(device)
        return self._segments[device]

    def _read(self) -> None:
        self._mirror = mirror = self._mirror or Mirror()
        anew = time.monotonic() >= self._anew_due
        try:
            mirror.look(anew=anew)
        except ApplyError:
            self._anew_due = 0.0
            raise
        if anew:
            self._anew_due = time.monotonic() + RESYNC_S
        devices = dict(mirror.devices)
        by_index = {device.ifindex: device.name for device in devices.values()}
        self._devices = devices
        self._defaults = {f: by_index[i] for f, i in mirror.defaults.items() if i in by_index}
        self._places = {
            seen.address: Place(device.name, seen.prefix_len, seen.floating)
            for device in devices.values()
            for seen in device.addresses
        }

    def _forget(self) -> None:
        if self._mirror is not None:
            self._mirror.close()
        self._mirror, self._anew_due = None, 0.0

    def _add(self, device: str, address: str) -> None:
        with Netlink() as netlink:
            netlink.add_floating(device, address)
        self._places[address] = Place(device, 128 if ":" in address else 32, ours=True)

    def _remove(self, address: str, place: Place) -> None:
        with Netlink() as netlink:
            netlink.remove_address(place.device, address, place.prefix_len)
        self._places.pop(address, None)


def no_device(address: str, asked: str, node_address: str) -> str:
    """In a sentence without its full stop: why `device_for` finds nothing."""
    if asked != AUTO:
        return f"{address} should be put on {asked}, and this node has no such device"
    family = "IPv6" if ":" in address else "IPv4"
    return (
        f"{address} should be put on the device that leads to it, and there is none: no device has its subnet, this "
        f"node has no {family} default route, and none has {node_address}, the node's own address"
    )
