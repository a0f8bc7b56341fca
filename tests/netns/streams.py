"""What the tests of real stacks share: a gateway of one manifest, its counters, TCP and UDP through it.

with LabRun() as lab:
    topology.build(lab)
    start_gateway(lab, mssClamp=True)
    data, expected = random_data(3_000_000)
    assert tcp_transfer(lab, CLIENT6, SERVER4, data) == expected
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from e2e.lab.sixgate import Sixgate
from e2e.lab.topology import CLIENT4, CLIENT6, GATEWAY, PREFIX, TRANSLATABLE
from tests.rfc.config import Gateway, Node

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from e2e.lab.run import LabRun
    from e2e.lab.topology import Host

PORT = 7000
STALL_SECONDS = 40.0  # far beyond any retransmission timer that a lost packet needs
MODEL = Gateway(prefix=PREFIX, ranges=(TRANSLATABLE,))
NODE = Node((MODEL,), IPv4Address(CLIENT4.gateway), IPv6Address(CLIENT6.gateway))

IP_MTU_DISCOVER, UDP_SEGMENT = 10, 103


def start_gateway(
    lab: LabRun,
    *,
    acceleration: str = "Disabled",
    icmp_rate: int = 10_000,
    role: str = GATEWAY,
    devices: Iterable[str] = ("auto",),
    beside: Mapping[str, dict[str, Any]] = MappingProxyType({}),
    **stateless: Any,
) -> Sixgate:
    """`sixgate standalone` on the lab's prefix with more fields of `stateless`; ready when this returns.

    `beside` are further gateways: name to spec.
    """
    spec = {
        "prefix": str(PREFIX),
        "acceleration": acceleration,
        "devices": list(devices),
        "icmpRateLimit": {"perSecond": icmp_rate, "burst": icmp_rate},
        "stateless": {"ipv4CIDRs": [str(TRANSLATABLE)], **stateless},
    }
    manifests = lab.workdir / "manifests"
    manifests.mkdir()
    for name, wanted in {"test": spec, **beside}.items():
        document = {
            "apiVersion": "sixgate.io/v1alpha1",
            "kind": "NAT46Gateway",
            "metadata": {"name": name},
            "spec": {"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "gw-1"}}, **wanted},
        }
        (manifests / f"{name}.yaml").write_text(json.dumps(document))
    sixgate = Sixgate(lab, manifests, role=role)
    sixgate.start()
    sixgate.wait_ready()
    return sixgate


def counters(sixgate: Sixgate) -> dict[str, int]:
    """Packets by reason, as `sg_metrics` has them now, without `SG_`."""
    # Imported here: the harness needs libbpf, which importing this module must not.
    from sixgate.node.bpf import Map  # noqa: PLC0415
    from sixgate.node.bpf.layouts import SgReason  # noqa: PLC0415

    found = {}
    with Map.from_pin(sixgate.bpffs / "maps" / "sg_metrics") as metrics:
        for key, raw in metrics.lookup_batch():
            if packets := sum(struct.unpack(f"={len(raw) // 8}Q", raw)[0::2]):
                found[SgReason(int.from_bytes(key, "little")).name.removeprefix("SG_")] = packets
    return found


def moved(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """The counters that have grown, and by how much."""
    return {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}


def offloads(lab: LabRun, role: str, device: str, *words: str) -> None:
    """`ethtool -K` on a device of the lab, such as "tso", "off"; nothing where there are no words."""
    if words:
        lab.run(role, ["ethtool", "-K", lab.device(device), *words])


@contextmanager
def switched(lab: LabRun, role: str, device: str, *features: str, on: bool) -> Iterator[None]:
    """Features of a device switched on or off for a while, and back again."""
    words, back = ("on", "off") if on else ("off", "on")
    offloads(lab, role, device, *(word for each in features for word in (each, words)))
    try:
        yield
    finally:
        offloads(lab, role, device, *(word for each in reversed(features) for word in (each, back)))


def bind(lab: LabRun, host: Host, kind: socket.SocketKind, port: int = PORT) -> socket.socket:
    """A socket bound to the host's one address."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET6 if host.family == 6 else socket.AF_INET, kind)
        # Without a port the kernel chooses one, and with this option it may choose one that another socket has.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(port != 0))
        made.bind((host.address, port))
        made.settimeout(STALL_SECONDS)
        return made

    return lab.call(host.role, make)


@dataclass(frozen=True, slots=True)
class Arrived:
    """What a receiver got."""

    size_bytes: int
    sha256: str


def tcp_pair(
    lab: LabRun, client: Host, server: Host, *, options: Iterable[tuple[int, int, int]] = ()
) -> tuple[socket.socket, socket.socket]:
    """A connection from client to server; `options` are set on the client's end before it connects."""
    with bind(lab, server, socket.SOCK_STREAM) as listener:
        near = bind(lab, client, socket.SOCK_STREAM, 0)
        for option in options:
            near.setsockopt(*option)
        listener.listen()
        near.connect((server.seen_from(client.family), PORT))
        far, _ = listener.accept()
        far.settimeout(STALL_SECONDS)
        return near, far


def tcp_transfer(
    lab: LabRun, sender: Host, receiver: Host, data: bytes, *, options: Iterable[tuple[int, int, int]] = ()
) -> Arrived:
    """Sends data over one connection that the sender opens. TimeoutError where nothing moves for STALL_SECONDS."""
    near, far = tcp_pair(lab, sender, receiver, options=options)
    with near, far:
        return pump(near, far, data)


@contextmanager
def tcp_connect(lab: LabRun, sender: str, receiver: str, address: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection to `address`, an IPv6 address of `receiver`."""
    server = lab.call(receiver, lambda: socket.create_server((address, 0), family=socket.AF_INET6))
    near = lab.call(sender, lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM))
    with server, near:
        near.settimeout(STALL_SECONDS)
        server.settimeout(STALL_SECONDS)
        near.connect(server.getsockname()[:2])
        far, _ = server.accept()
        with far:
            far.settimeout(STALL_SECONDS)
            yield near, far


def pump(near: socket.socket, far: socket.socket, data: bytes) -> Arrived:
    """Sends data into one end and reads it from the other, to the end."""
    errors: list[BaseException] = []

    def send() -> None:
        try:
            near.sendall(data)
            near.shutdown(socket.SHUT_WR)
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    digest, size = hashlib.sha256(), 0
    try:
        while part := far.recv(1 << 20):
            digest.update(part)
            size += len(part)
    finally:
        far.close()
        thread.join()
    if errors:
        raise errors[0]
    return Arrived(size, digest.hexdigest())


def random_data(size_bytes: int) -> tuple[bytes, Arrived]:
    """Data, and how it must arrive."""
    data = os.urandom(size_bytes)
    return data, Arrived(size_bytes, hashlib.sha256(data).hexdigest())


def with_mtus(node: Node, *, mtu4: int = 1500, mtu6: int = 1500, **gateway: Any) -> Node:
    return replace(node, mtu4=mtu4, mtu6=mtu6, gateways=(replace(node.gateways[0], **gateway),))


def wait_for(condition: Any, what: str, seconds: float = 60.0) -> None:
    """Returns once `condition()` holds; fails with `what` where it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
