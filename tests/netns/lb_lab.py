"""A client, a balancer and two backends in namespaces; the shipped objects attached by hand, tables filled by hand.

client ── lb ──┬── be1      VIPs stand on the loopback devices of the backends, and nowhere else.
               └── be2      Backends answer by themselves; their way to the client leads through lb's kernel.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sixgate.node.bpf import BpfObject, Link, Map, load_manifest
from sixgate.node.bpf.layouts import SgFeature
from tests.bpf.balancer import Slots, Tables
from tests.bpf.harness import OBJECTS, reason_name
from tests.netns.streams import offloads

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from e2e.lab.run import LabRun

CLIENT4, CLIENT6 = "198.51.100.2", "2001:db8:c::2"
VIP4, VIP6 = "203.0.113.80", "2001:db8:a::80"
BACKENDS = ("be1", "be2")
OUTER4, OUTER6 = "192.0.2.0", "2001:db8:ff::"  # sources of outer headers, /24 and /112


def address(number: int, v6: bool) -> str:
    return f"2001:db8:b:{number}::2" if v6 else f"10.9.{number}.2"


class Attached:
    """Objects in one namespace that share maps, and their links; what was attached goes with it."""

    def __init__(self, lab: LabRun, role: str, pins: Path) -> None:
        self.lab, self.role, self.pins = lab, role, pins
        self.stack = ExitStack()
        self.maps: dict[str, Map] = {}
        pins.mkdir()

    def load(self, name: str, constants: dict[str, object], *places: tuple[str, str, str]) -> None:
        """Loads an object and attaches (program, hook, device); hooks are xdp, ingress and egress."""
        self.lab.call(self.role, lambda: self._load(name, constants, places))

    def _load(self, name: str, constants: dict[str, object], places: tuple[tuple[str, str, str], ...]) -> None:
        opened = self.stack.enter_context(BpfObject.open(name, data=load_manifest(OBJECTS).read(name)))
        opened.set_constants(constants, resolve=socket.if_nametoindex)
        opened.reuse_pinned(self.pins)
        opened.load()
        for each in opened.maps:
            if each not in self.maps:
                self.maps[each] = self.stack.enter_context(opened.map(each, resolve=socket.if_nametoindex))
        for program, hook, device in places:
            index, loaded = socket.if_nametoindex(device), self.stack.enter_context(opened.program(program))
            if hook == "xdp":
                self.stack.enter_context(Link.xdp(loaded, index, "native"))
            else:
                self.stack.enter_context(Link.tcx(loaded, index, "ingress" if hook == "ingress" else "egress"))

    def reasons(self) -> dict[str, int]:
        """Packets by reason, those that there were."""
        found = {}
        for key, value in self.maps["sg_metrics"].sums():
            assert isinstance(value, dict)
            if value["packets"]:
                found[reason_name(int(str(key)))] = int(str(value["packets"]))
        return found

    def close(self) -> None:
        self.stack.close()


class LbLab:
    """The lab with programs attached; `xdp` says whether in XDP before tc, or in tc alone."""

    def __init__(self, lab: LabRun, *, xdp: bool, mtu: int = 0) -> None:
        """`mtu`: what replies' SYNs make room for (sg_decap_config.mtu)."""
        self.lab, self.xdp = lab, xdp
        self.stack = ExitStack()
        self._build()
        bpffs = lab.add_bpffs()
        self.lb = self._attach_lb(bpffs / "lb")
        self.backends = {role: self._attach_backend(role, bpffs / role, mtu) for role in BACKENDS}
        if xdp:
            # What XDP_TX sends lies in the ring of a veth's peer until something else comes, unless XDP is there, too.
            client = self.stack.enter_context(contextlib.closing(Attached(lab, "client", bpffs / "client")))
            client.load("sg_decap_xdp", {}, ("sg_unpack_xdp", "xdp", lab.device("up")))
        self.tables = Tables(self.lb.maps)

    def _build(self) -> None:
        lab = self.lab
        for role in ("client", "lb", *BACKENDS):
            lab.add_netns(role)
            lab.sysctl(role, "net/ipv4/conf/all/rp_filter", "0")
            lab.sysctl(role, "net/ipv4/conf/default/rp_filter", "0")
        for key in ("ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"):
            lab.sysctl("lb", f"net/{key}", "1")
        self._join("client", "198.51.100.1/24", f"{CLIENT4}/24", "2001:db8:c::1/64", f"{CLIENT6}/64")
        for number, role in enumerate(BACKENDS, 1):
            near4, near6 = f"10.9.{number}.1/24", f"2001:db8:b:{number}::1/64"
            self._join(role, near4, f"{address(number, False)}/24", near6, f"{address(number, True)}/64")
            lab.ip(role, f"addr add {VIP4}/32 dev lo", f"addr add {VIP6}/128 dev lo nodad")
        lab.add_veth("lb", "slow0", "lb", "slow1")
        offloads(lab, "lb", "slow0", "tx", "off", "tso", "off", "gso", "off")

    def _join(self, role: str, near4: str, far4: str, near6: str, far6: str) -> None:
        lab = self.lab
        lab.add_veth(role, "up", "lb", role)
        up, down = lab.device("up"), lab.device(role)
        lab.ip("lb", f"addr add {near4} dev {down}", f"addr add {near6} dev {down} nodad")
        lab.ip(role, f"addr add {far4} dev {up}", f"addr add {far6} dev {up} nodad")
        via4, via6 = (near.partition("/")[0] for near in (near4, near6))
        lab.ip(role, f"route add default via {via4}", f"route add default via {via6}")
        if self.xdp:
            offloads(lab, role, "up", "tx", "off", "tso", "off", "gso", "off", "gro", "on")

    def _attach_lb(self, pins: Path) -> Attached:
        made = self.stack.enter_context(contextlib.closing(Attached(self.lab, "lb", pins)))
        device, slow0, slow1 = (self.lab.device(each) for each in ("client", "slow0", "slow1"))
        config = {
            "features": int(SgFeature.SG_F_LB),
            "l2_len": 14,
            "slow_dev": slow0,
            "icmp_rate": 100,
            "icmp_burst": 9,
        }
        made.load("sg_tc", {"sg_cfg": config}, ("sg_uplink_tc", "ingress", device))
        made.load("sg_slow", {"sg_cfg": config}, ("sg_slow_tc", "ingress", slow1))
        if self.xdp:
            made.load("sg_xdp", {"sg_cfg": config}, ("sg_uplink_xdp", "xdp", device))
            self.lab.call("lb", lambda: self._fill_devices(made))
        own = {"addr4": "198.51.100.1", "addr6": "2001:db8:c::1", "mtu": 1500}
        made.maps["sg_dev"].set(0, own)
        return made

    def _fill_devices(self, made: Attached) -> None:
        for role in ("client", *BACKENDS):
            index = socket.if_nametoindex(self.lab.device(role))
            made.maps["sg_tx"].set(index, index)

    def _attach_backend(self, role: str, pins: Path, mtu: int) -> Attached:
        made = self.stack.enter_context(contextlib.closing(Attached(self.lab, role, pins)))
        up = self.lab.device("up")
        places = (("sg_unpack_tc", "ingress", up), ("sg_reply_tc", "egress", up))
        config: dict[str, object] = {"sg_cfg": {"l2_len": 14}}
        made.load("sg_decap", config | {"sg_decap_cfg": {"mtu": mtu}}, *places)
        if self.xdp:
            made.load("sg_decap_xdp", config, ("sg_unpack_xdp", "xdp", up))
        number = BACKENDS.index(role) + 1
        roles = {address(number, False): 1, address(number, True): 1, VIP4: 2, VIP6: 2}
        for each, value in roles.items():
            made.maps["sg_decap_addr"].set(each, value)
        made.maps["sg_decap_from"].set({"prefixlen": 120, "addr": OUTER4}, 1)
        made.maps["sg_decap_from"].set({"prefixlen": 112, "addr": OUTER6}, 1)
        return made

    def balance(self, v6: bool, outer6: bool, ports: tuple[int, int], proto: int) -> None:
        """A VIP whose slots are shared by the backends, reached through IPv4 or IPv6; ports of VIP and backends."""
        port, target = ports
        base = 20 if outer6 else 10
        for number in (1, 2):
            spread: dict[str, Any] = {"src": OUTER6 if outer6 else OUTER4, "src_mask": 0xFF}
            self.tables.backend(base + number, address(number, outer6), **spread)
        self.tables.table(base, Slots([(base + 1 + slot % 2, 0) for slot in range(251)]))
        vip = VIP6 if v6 else VIP4
        self.tables.vip(vip)
        self.tables.vip(vip, port, proto, table=base, port_delta=(target - port) & 0xFFFF)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()


class Servers:
    """A TCP or UDP server on the VIP at each backend, which sends its name and then what it got."""

    def __init__(self, lab: LabRun, vip: str, port: int, *, udp: bool = False) -> None:
        self.seen: dict[str, int] = dict.fromkeys(BACKENDS, 0)
        self.sockets = [
            (role, lab.call(role, lambda: _listen(vip, port, udp))) for role in BACKENDS
        ]  # fmt: skip
        serve: Callable[[str, socket.socket], None] = self._udp if udp else self._tcp
        for role, each in self.sockets:
            threading.Thread(target=serve, args=(role, each), daemon=True).start()

    def _tcp(self, role: str, listener: socket.socket) -> None:
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:
                return
            self.seen[role] += 1
            threading.Thread(target=_echo, args=(role, stream), daemon=True).start()

    def _udp(self, role: str, served: socket.socket) -> None:
        while True:
            try:
                data, peer = served.recvfrom(65535)
            except OSError:
                return
            if not data:
                return
            self.seen[role] += 1
            served.sendto(role.encode() + data, peer)

    def close(self) -> None:
        for _, each in self.sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def _listen(vip: str, port: int, udp: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in vip else socket.AF_INET
    if not udp:
        return socket.create_server((vip, port), family=family)
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.bind((vip, port))
    return made


def _echo(role: str, stream: socket.socket) -> None:
    with stream:
        stream.sendall(role.encode())
        while data := stream.recv(65536):
            stream.sendall(data)


def connect(lab: LabRun, vip: str, port: int, timeout: float = 20) -> tuple[socket.socket, str]:
    """A connection of the client, and the name of the backend that answered."""
    stream = lab.call("client", lambda: socket.create_connection((vip, port), timeout=timeout))
    return stream, read(stream, 3).decode()


def read(stream: socket.socket, count: int) -> bytes:
    """Exactly `count` bytes; fewer where the peer ends the stream."""
    parts = bytearray()
    while len(parts) < count and (data := stream.recv(count - len(parts))):
        parts += data
    return bytes(parts)


def transfer(stream: socket.socket, data: bytes) -> bytes:
    """What the server sends back for `data`."""
    sender = threading.Thread(target=stream.sendall, args=(data,))
    sender.start()
    back = read(stream, len(data))
    sender.join()
    return back
