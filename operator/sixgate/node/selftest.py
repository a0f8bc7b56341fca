"""Does BIG TCP really work here? Real transfers between network namespaces of this process's own, both families, the
sizes of what arrives counted by a BPF program.

The namespaces have no names: they belong to threads of this process and end with it, however it ends. Four ways are
tried: two hosts side by side, a kernel that forwards between them, the same with the program of policies that
redirects IPv6 packets past it, and a VXLAN tunnel. What was found of forwarding kernel and tunnel is kept in the state
directory: policies leave such ways at 64 KB, or redirect, unless they are known to work.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pyroute2 import IPRoute

from sixgate.errors import ApplyError
from sixgate.node.bpf.link import Link
from sixgate.node.bpf.manifest import load_manifest
from sixgate.node.bpf.object import BpfObject
from sixgate.node.bpf.probe import has_tcx
from sixgate.node.model import Hook, Sizes
from sixgate.node.netlink import Netlink, NetlinkError
from sixgate.node.resolve_passage import FORWARD, LEGACY_BYTES
from sixgate.node.resolve_tables import BIG_MAP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sixgate.node.bpf.map import Map

T = TypeVar("T")
GOOD_RATIO = 0.8  # of what 64 KB reach; a way that does not carry super-packets falls to a hundredth
_CLONE_NEWNET = 0x40000000
_NODAD = 0x02  # IFA_F_NODAD
_FORWARD, _FORWARD_PROGRAM = "sg_fwd", "sg_fwd_tc"
_OBJECT, _PROGRAM, _MAP = "sg_count", "sg_count_tc", "sg_seen"
_CHUNK_BYTES = 4 << 20
_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Transfer:
    """One TCP flow: bits of payload per second, and what arrived in packets: number, mean and largest size, and how
    many had more than 64 KB."""

    bits_per_second: float
    packets: int
    mean_bytes: float
    largest_bytes: int
    big: int


@dataclass(frozen=True, slots=True)
class Way:
    """One way through the lab, with 64 KB and with more."""

    name: str  # direct, forwarded, redirected, vxlan
    version: int
    legacy: Transfer
    big: Transfer

    @property
    def ratio(self) -> float:
        return self.big.bits_per_second / self.legacy.bits_per_second if self.legacy.bits_per_second else 0.0

    @property
    def works(self) -> bool:
        """Super-packets arrive, and at no lower rate."""
        return self.big.big > 0 and self.ratio >= GOOD_RATIO


class Place(Protocol):
    """A network namespace that functions can be run in."""

    def do(self, function: Callable[[], T]) -> T: ...


class Room:
    """A network namespace without a name, and a thread that lives in it."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sixgate-test")
        self.fd = self.do(_unshare)
        self._ip: IPRoute = self.do(IPRoute)
        self.do(lambda: self._up("lo"))

    def do(self, function: Callable[[], T]) -> T:
        """Result of `function` on the thread inside."""
        return self._pool.submit(function).result()

    def join(self, name: str, other: Room, peer: str) -> None:
        """A veth from here to another room, both ends up."""
        pair = {"ifname": peer, "net_ns_fd": other.fd}
        self.do(lambda: self._ip.link("add", ifname=name, kind="veth", peer=pair))
        self.do(lambda: self._up(name))
        other.do(lambda: other._up(peer))

    def tunnel(self, name: str, device: str, local: str, remote: str) -> None:
        fields = {"vxlan_id": 5, "vxlan_local6": local, "vxlan_group6": remote, "vxlan_port": 4789}
        self.do(lambda: self._ip.link("add", ifname=name, kind="vxlan", vxlan_link=self.index(device), **fields))
        self.do(lambda: self._up(name))

    def address(self, device: str, *addresses: str) -> None:
        for text in addresses:
            length = 64 if ":" in text else 24
            flags = {"flags": _NODAD} if ":" in text else {}
            self.do(
                lambda text=text, length=length, flags=flags: self._ip.addr(  # type: ignore[misc]
                    "add", index=self.index(device), address=text, prefixlen=length, **flags
                )
            )

    def route(self, destination: str, gateway: str) -> None:
        self.do(lambda: self._ip.route("add", dst=destination, gateway=gateway))

    def forward(self) -> None:
        def write() -> None:
            for key in ("ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"):
                Path("/proc/sys/net", key).write_text("1\n")

        self.do(write)

    def size(self, device: str, sizes: Sizes) -> None:
        def set_them() -> None:
            with Netlink() as netlink:
                now = netlink.devices()[device]
                top = now.tso_max or LEGACY_BYTES
                bounded = Sizes(*(min(top, size) for size in (sizes.gso6, sizes.gro6, sizes.gso4, sizes.gro4)))
                if not now.sizes.has_ipv4:
                    bounded = Sizes(bounded.gso6, bounded.gro6, 0, 0)
                netlink.set_sizes(device, now.ifindex, bounded)

        self.do(set_them)

    def index(self, device: str) -> int:
        """To be called on the thread inside."""
        return socket.if_nametoindex(device)

    def close(self) -> None:
        self.do(self._ip.close)
        os.close(self.fd)
        self._pool.shutdown()

    def _up(self, device: str) -> None:
        self._ip.link("set", index=self.index(device), state="up")


def _unshare() -> int:
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
        number = ctypes.get_errno()
        text = f"The test makes network namespaces, which needs CAP_SYS_ADMIN: {os.strerror(number)}."
        raise ApplyError(text, number)
    for scope in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{scope}/accept_dad").write_text("0\n")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def rooms(count: int) -> Iterator[list[Room]]:
    made: list[Room] = []
    try:
        made.extend(Room() for _ in range(count))
        yield made
    finally:
        for room in made:
            room.close()


class Counter:
    """The BPF program that looks at what arrives at a device."""

    def __init__(self, objects: Path) -> None:
        """BpfError where the object is missing or does not load."""
        self._object = BpfObject.open(_OBJECT, data=load_manifest(objects).read(_OBJECT))
        self._object.load()

    @property
    def _seen(self) -> Map:
        return self._object.map(_MAP)

    @contextlib.contextmanager
    def on(self, room: Place, device: str) -> Iterator[None]:
        """Counts what arrives at a device inside `room`."""
        with _attached(self._object, _PROGRAM, room, device):
            yield

    def read(self, version: int) -> tuple[int, int, int, int]:
        """Packets, bytes, packets over 64 KB, and the largest, since the last `clear`."""
        value: Any = self._seen.get(int(version == 6))
        fields = ("packets", "bytes", "big")
        packets, total, big = (sum(int(cpu[field]) for cpu in value) for field in fields)
        return packets, total, big, max(int(cpu["largest"]) for cpu in value)

    def clear(self) -> None:
        zero = {"packets": 0, "bytes": 0, "big": 0, "largest": 0}
        for key in (0, 1):
            self._seen.set(key, [zero] * len(self._seen.get(key)))  # type: ignore[arg-type]

    def close(self) -> None:
        self._object.close()


def transfer(sender: Room, receiver: Room, address: str, seconds: float, counter: Counter) -> Transfer:
    """One TCP flow from `sender` to `address` of `receiver`. ApplyError where no connection comes about."""
    version = 6 if ":" in address else 4
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    server = receiver.do(lambda: socket.create_server((address, 0), family=family))
    received = [0]

    def receive() -> None:
        with contextlib.suppress(OSError):
            connection, _ = server.accept()
            with connection:
                while got := connection.recv_into(buffer, _CHUNK_BYTES, socket.MSG_TRUNC):
                    received[0] += got

    buffer = bytearray(_CHUNK_BYTES)
    server.settimeout(_PATIENCE_S)
    thread = threading.Thread(target=receive, name="sixgate-test-receiver")
    thread.start()
    client = sender.do(lambda: socket.socket(family, socket.SOCK_STREAM))
    try:
        client.settimeout(_PATIENCE_S)
        client.connect(server.getsockname()[:2])
        counter.clear()
        begin, before = time.monotonic(), received[0]
        _send_for(client, seconds)
        took, got = time.monotonic() - begin, received[0] - before
        packets, total, big, largest = counter.read(version)
    except OSError as error:
        raise ApplyError(
            f"The test of this kernel should connect to {address} by TCP, and failed: {error}.", error.errno or 0
        ) from error
    finally:
        # What is still queued would take its time on a way that hardly carries anything.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        thread.join()
        server.close()
    return Transfer(got * 8 / took, packets, total / packets if packets else 0.0, largest, big)


def _send_for(client: socket.socket, seconds: float) -> None:
    end = time.monotonic() + seconds
    data = memoryview(bytes(_CHUNK_BYTES))
    while (left := end - time.monotonic()) > 0:
        client.settimeout(left)
        with contextlib.suppress(TimeoutError):
            client.send(data)


def run(objects: Path, size: int, seconds: float) -> tuple[Way, ...]:
    """Every way, both families. ApplyError or BpfError where the test itself cannot be done; nothing is left behind."""
    counter = Counter(objects)
    try:
        direct, tunnel = _direct(counter, size, seconds), _tunnel(counter, size, seconds)
        return (*direct, *_forwarded(objects, counter, size, seconds), *tunnel)
    except NetlinkError as error:
        raise ApplyError(f"The kernel refused a part of the test's lab: {error.args[1]}.", error.code) from error
    finally:
        counter.close()


def _direct(counter: Counter, size: int, seconds: float) -> Iterator[Way]:
    with rooms(2) as (a, b):
        a.join("t0", b, "t1")
        a.address("t0", "fd00:1::1", "192.0.2.1")
        b.address("t1", "fd00:1::2", "192.0.2.2")
        sized = ((a, "t0"), (b, "t1"))
        with counter.on(b, "t1"):
            for to in ("fd00:1::2", "192.0.2.2"):
                yield _both("direct", a, b, to, sized, size, seconds, counter)


def _forwarded(objects: Path, counter: Counter, size: int, seconds: float) -> Iterator[Way]:
    with rooms(3) as (a, middle, b):
        middle.forward()
        a.join("t0", middle, "t1")
        middle.join("t2", b, "t3")
        a.address("t0", "fd00:1::1", "192.0.2.1")
        middle.address("t1", "fd00:1::9", "192.0.2.9")
        middle.address("t2", "fd00:2::9", "198.51.100.9")
        b.address("t3", "fd00:2::2", "198.51.100.2")
        for room, near, far in ((a, "fd00:1::9", "192.0.2.9"), (b, "fd00:2::9", "198.51.100.9")):
            room.route("fd00::/16", near)
            room.route("0.0.0.0/0", far)
        sized = ((a, "t0"), (middle, "t1"), (middle, "t2"), (b, "t3"))
        with counter.on(middle, "t1"):
            for to in ("fd00:2::2", "198.51.100.2"):
                yield _both("forwarded", a, b, to, sized, size, seconds, counter)
        # The same way, with the program of policies in place of the kernel; it ends the chain of programs at t1.
        with _redirecting(objects, middle, "t1", "t2"), counter.on(b, "t3"):
            yield _both("redirected", a, b, "fd00:2::2", sized, size, seconds, counter)


@contextlib.contextmanager
def _redirecting(objects: Path, room: Room, *devices: str) -> Iterator[None]:
    """sg_fwd at the ingress of devices, told to forward what arrives there."""
    with BpfObject.open(_FORWARD, data=load_manifest(objects).read(_FORWARD)) as program, ExitStack() as stack:
        program.load()
        for device in devices:
            index = room.do(lambda device=device: room.index(device))  # type: ignore[misc]
            program.map(BIG_MAP).set(index, {"flags": FORWARD})
            stack.enter_context(_attached(program, _FORWARD_PROGRAM, room, device))
        yield


@contextlib.contextmanager
def _attached(found: BpfObject, name: str, room: Place, device: str) -> Iterator[None]:
    """A program at the ingress of a device inside `room`."""
    with found.program(name) as program:
        index = room.do(lambda: socket.if_nametoindex(device))
        if has_tcx():
            with room.do(lambda: Link.tcx(program, index, "ingress")):
                yield
            return

        def attach() -> None:
            with Netlink() as netlink:
                netlink.add_clsact(index, device)
                hook = Hook(device, "tc-ingress")
                netlink.set_filter(index, hook, prog_fd=program.fd, prog_id=program.info.id, name=name)

        room.do(attach)
        yield


def _tunnel(counter: Counter, size: int, seconds: float) -> Iterator[Way]:
    with rooms(2) as (a, b):
        a.join("t0", b, "t1")
        a.address("t0", "fd00:1::1")
        b.address("t1", "fd00:1::2")
        try:
            a.tunnel("t4", "t0", "fd00:1::1", "fd00:1::2")
            b.tunnel("t4", "t1", "fd00:1::2", "fd00:1::1")
        except NetlinkError:
            return  # this kernel makes no VXLAN devices: there is nothing to test
        a.address("t4", "fd00:3::1", "203.0.113.1")
        b.address("t4", "fd00:3::2", "203.0.113.2")
        sized = ((a, "t0"), (a, "t4"), (b, "t1"), (b, "t4"))
        with counter.on(b, "t4"):
            for to in ("fd00:3::2", "203.0.113.2"):
                yield _both("vxlan", a, b, to, sized, size, seconds, counter)


def _both(  # noqa: PLR0917 - one measurement, with all that it is made of
    name: str,
    sender: Room,
    receiver: Room,
    address: str,
    sized: Sequence[tuple[Room, str]],
    size: int,
    seconds: float,
    counter: Counter,
) -> Way:
    found = []
    for bytes_ in (LEGACY_BYTES, size):
        for room, device in sized:
            room.size(device, Sizes(bytes_, bytes_, bytes_, bytes_))
        found.append(transfer(sender, receiver, address, seconds, counter))
    return Way(name, 6 if ":" in address else 4, found[0], found[1])
