"""The real gateway, live: the shipped programs attached in a private network namespace, packets by AF_PACKET.

    with LiveGateway() as gateway:
        gateway.configure(node)
        seen = gateway.translate(packet)        # an Observed, to be compared with model.translate(node, packet)

Two namespaces without names, gone with the process. One is the gateway's: devices `g6` and `g4` with sg_tc on their
ingress, and the pair sg-slow0 and sg-slow1 with sg_slow. The other holds the far ends, deaf: nothing answers there.
What the programs leave to the kernel is dropped by nftables and told by the counters.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import socket
import struct
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.lab.netns import inside, new_netns, open_netns
from sixgate.node.bpf import BpfObject, Link, Map, load_manifest
from sixgate.node.bpf.layouts import SgFeature, SgReason
from tests.kept import Kept
from tests.rfc.tables import Tables, tables
from tests.rfc.verdict import Observed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rfc.config import Node

ROOT = Path(__file__).resolve().parents[2]
OBJECTS = Path(os.environ.get("SIXGATE_OBJECTS", ROOT / "build" / "bpf"))
BPFFS = Path("/sys/fs/bpf")
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 3, 0x0800, 0x86DD
MAC = {"g6": "02:00:00:00:06:01", "h6": "02:00:00:00:06:02", "g4": "02:00:00:00:04:01", "h4": "02:00:00:00:04:02"}
OWN6, OWN4, VIA6, VIA4 = "2001:db8:f::1", "198.51.100.1", "fe80::6", "198.51.100.254"
ATTACHED = (("sg_tc", ("g6", "g4")), ("sg_slow", ("sg-slow1",)))
XDP = (("sg_xdp", ("g6", "g4")),)
# XDP remembers next hops, their MTU included, for a second.
MEMORY_S = 1.1
# Everything that the kernel would forward or answer itself ends here.
RULES = "table inet q { chain p { type filter hook prerouting priority -450; policy drop; iif lo accept; }; }"
SETTINGS = {
    "ipv4/conf/all/forwarding": "1",
    "ipv6/conf/all/forwarding": "1",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv6/conf/all/accept_dad": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/default/router_solicitations": "0",
}


class LiveGateway(Kept):
    """One gateway of the shipped objects. Needs root, bpffs, tcx (Linux 6.6) and nft; raises OSError or BpfError."""

    def __init__(
        self, objects: Path = OBJECTS, *, xdp: bool = False, icmp_rate: int = 1_000_000, icmp_burst: int = 1_000_000
    ) -> None:
        """`xdp` attaches sg_xdp to both devices as well, in front of sg_tc."""
        super().__init__()
        self.objects, self.xdp = objects, xdp
        self.icmp_rate, self.icmp_burst = icmp_rate, icmp_burst
        self.generation = 0
        self.node: Node | None = None
        self.mappings: list[bytes] = []
        self.mtus: tuple[object, ...] = ()
        with ExitStack() as undo:
            undo.callback(self.stack.close)
            self._build()
            undo.pop_all()

    # Use

    def configure(self, node: Node) -> None:
        """Makes the gateway behave as `node`: a new generation of mappings, the table swapped, the old ones deleted."""
        self.generation += 1
        wanted = tables(node, self.generation)
        with inside(self.gw_ns):
            if self._set_mtus(node) and self.xdp:
                time.sleep(MEMORY_S)
            for key in (0, *self.indices.values()):
                self.maps["sg_dev"].set(key, wanted.device)
        self._fill(wanted)
        self.node = node

    def ensure(self, node: Node) -> None:
        """The same, where it is not so configured already."""
        if node != self.node:
            self.configure(node)

    def late(self) -> tuple[bytes, ...]:
        """Packets that arrive within a moment although their cause has been looked at already."""
        return tuple(self._received(0.2))

    def translate(self, packet: bytes) -> Observed:
        """What becomes of one layer-3 packet.

        On an idle machine all is done when `send` returns. On a busy one the kernel may finish later: a verdict that is
        not final yet is waited for, and so is the first packet of one that sends.
        """
        before = self.reasons()
        family = "6" if packet[0] >> 4 == 6 else "4"
        self.sockets[f"h{family}"].send(self._frame(family, packet))
        moved = self._verdict(before)
        if moved and all(name.startswith("PASS_") for name in moved):
            return Observed(reason=moved[0], passed=True)  # whatever came out was the kernel's own
        packets = tuple(self._received(1.0 if any(name.startswith("OK_") for name in moved) else 0.0))
        if len(packet) > layer3_length(packet):  # link-layer padding may travel on
            packets = tuple(each[: layer3_length(each)] for each in packets)
        drops = [name for name in moved if name.startswith("DROP_")]
        return Observed(packets, drops[0] if drops else (moved[-1] if moved else "no counter moved"))

    def _verdict(self, before: dict[str, int]) -> list[str]:
        """The reasons that were counted, once a final one is among them."""
        give_up = time.monotonic() + 2
        while True:
            moved = [name for name, count in self.reasons().items() if count != before.get(name, 0)]
            if any(not name.startswith("SLOW_") for name in moved) or time.monotonic() > give_up:
                return moved
            time.sleep(0.0002)

    def run_outside(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Runs a program where the far ends are."""
        with inside(self.deaf_ns):
            return subprocess.run(command, capture_output=True, text=True, check=False)

    # Building

    def _build(self) -> None:
        self.gw_ns, self.deaf_ns = self._new_namespace(), self._new_namespace()
        with inside(self.deaf_ns):
            _write("ipv6/conf/default/disable_ipv6", "1")
        with inside(self.gw_ns):
            for key, value in SETTINGS.items():
                _write(key, value)
            self._devices()
            self.indices = {name: socket.if_nametoindex(name) for name in ("g6", "g4", "sg-slow0", "sg-slow1")}
            self._load()
        with inside(self.deaf_ns):
            self.sockets = {name: self._listen(name) for name in ("h6", "h4")}

    def _devices(self) -> None:
        deaf = f"/proc/self/fd/{self.deaf_ns}"
        batch = ["link set lo up"]
        width = 3000 if self.xdp else 65535  # veth runs XDP only where the other end's frames fit in a page
        for near, far in (("g6", "h6"), ("g4", "h4")):
            batch += [
                f"link add {near} address {MAC[near]} mtu 65535 type veth peer name {far} mtu {width}",
                f"link set {far} address {MAC[far]}",
                f"link set {near} up",
                f"link set {far} netns {deaf}",
            ]
        batch += [
            "link add sg-slow0 mtu 65535 type veth peer name sg-slow1 mtu 65535",
            "link set sg-slow0 up",
            "link set sg-slow1 up",
            f"addr add {OWN6}/128 dev g6 nodad",
            f"addr add {OWN4}/32 dev g4",
            f"neigh replace {VIA6} lladdr {MAC['h6']} dev g6 nud permanent",
            f"neigh replace {VIA4} lladdr {MAC['h4']} dev g4 nud permanent",
        ]
        self._ip(batch)
        with inside(self.deaf_ns):
            self._ip(["link set h6 up", "link set h4 up"])
            if self.xdp:  # a veth takes redirected frames only where its other end polls
                for name in ("h6", "h4"):
                    _run(["ethtool", "-K", name, "gro", "on"])
        for name in ("sg-slow0", "sg-slow1"):
            _run(["ethtool", "-K", name, "tx", "off", "tso", "off", "gso", "off", "gro", "off"])
        _run(["nft", "-f", "-"], RULES)

    def _load(self) -> None:
        """The objects share maps through pins that go as soon as they are loaded: a kill leaves nothing."""
        pins = BPFFS / f"sgtest-{secrets.token_hex(6)}"
        pins.mkdir(mode=0o700)
        try:
            self._attach(pins)
        finally:
            shutil.rmtree(pins)

    def _attach(self, pins: Path) -> None:
        manifest = load_manifest(self.objects)
        config = {
            "features": int(SgFeature.SG_F_NAT),
            "slow_dev": "sg-slow0",
            "l2_len": 14,
            "icmp_rate": self.icmp_rate,
            "icmp_burst": self.icmp_burst,
        }
        self.maps: dict[str, Map] = {}
        for name, devices in (*ATTACHED, *(XDP if self.xdp else ())):
            with BpfObject.open(name, data=manifest.read(name)) as loaded:
                loaded.set_constants({"sg_cfg": config}, resolve=socket.if_nametoindex)
                loaded.reuse_pinned(pins)
                loaded.load()
                (program_name,) = loaded.programs
                with loaded.program(program_name) as program:
                    for device in devices:
                        index = self.indices[device]
                        xdp = name == "sg_xdp"
                        self.stack.enter_context(Link.xdp(program, index) if xdp else Link.tcx(program, index))
                for each in loaded.maps:
                    if each not in self.maps:
                        self.maps[each] = self.stack.enter_context(loaded.map(each))
                if name == "sg_xdp":
                    self.maps["sg_tx"].set_many((self.indices[each], self.indices[each]) for each in devices)
                if name == "sg_tc":
                    self.prototype = loaded.maps["sg_nat"].inner

    # Configuration

    def _fill(self, wanted: Tables) -> None:
        assert self.prototype is not None
        mappings = self.maps["sg_nat_map"]
        mappings.set_many(wanted.mappings)
        with Map.create(self.prototype) as inner:
            inner.set(0, wanted.nat)
            self.maps["sg_nat"].set(0, inner)
        mappings.delete_batch(self.mappings)
        self.mappings = [key for key in mappings.keys_raw() if int.from_bytes(key[4:8], "little") == self.generation]

    def _set_mtus(self, node: Node) -> bool:
        """Whether anything changed."""
        mtus = (node.mtu4, node.mtu6, node.routes4, node.routes6)
        if mtus == self.mtus:
            return False
        self.mtus = mtus
        batch = [
            f"link set g4 mtu {node.mtu4}",
            f"link set g6 mtu {node.mtu6}",
            f"route replace default via {VIA4} dev g4 onlink",
            f"route replace default via {VIA6} dev g6",
        ]
        batch += [f"route replace {net} via {VIA4} dev g4 onlink mtu {mtu}" for net, mtu in node.routes4]
        batch += [f"route replace {net} via {VIA6} dev g6 mtu {mtu}" for net, mtu in node.routes6]
        self._ip(batch)
        return True

    # Packets

    def _frame(self, family: str, packet: bytes) -> bytes:
        near, far = MAC[f"g{family}"], MAC[f"h{family}"]
        proto = ETH_P_IPV6 if family == "6" else ETH_P_IP
        return bytes.fromhex((near + far).replace(":", "")) + struct.pack("!H", proto) + packet

    def _received(self, patience_s: float) -> Iterator[bytes]:
        """Layer-3 packets that came out, in order; link-layer multicast is the kernel's own.

        The first one is waited for as long as `patience_s`; what follows it is there with it, or is `late`.
        """
        while True:
            ready, _, _ = select.select(list(self.sockets.values()), [], [], patience_s)
            if not ready:
                return
            patience_s = 0.0
            for each in ready:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        frame = each.recv(1 << 17, socket.MSG_DONTWAIT)
                        if not frame[0] & 1:
                            yield frame[14:]

    def reasons(self) -> dict[str, int]:
        """The counters by name without `SG_`."""
        found: dict[str, int] = {}
        for key, raw in self.maps["sg_metrics"].lookup_batch():
            if any(raw):
                name = SgReason(int.from_bytes(key, "little")).name.removeprefix("SG_")
                found[name] = sum(struct.unpack(f"={len(raw) // 8}Q", raw)[0::2])
        return found

    # Namespaces

    def _new_namespace(self) -> int:
        """A descriptor of a namespace without a name."""
        with new_netns():
            handle = open_netns()
        self.stack.callback(os.close, handle)
        return handle

    def _listen(self, device: str) -> socket.socket:
        raw = self.stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)))
        raw.bind((device, ETH_P_ALL))
        raw.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        return raw

    def _ip(self, batch: list[str]) -> None:
        _run(["ip", "-batch", "-"], "\n".join(batch) + "\n", (self.deaf_ns,))


def layer3_length(packet: bytes) -> int:
    """What the packet's own header says of its length; its real one where it has no whole header."""
    if packet[0] >> 4 == 4 and len(packet) >= 20:
        return int.from_bytes(packet[2:4], "big")
    if packet[0] >> 4 == 6 and len(packet) >= 40:
        return 40 + int.from_bytes(packet[4:6], "big")
    return len(packet)


def _run(command: list[str], text: str = "", pass_fds: tuple[int, ...] = ()) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, pass_fds=pass_fds, check=False)
    if done.returncode:
        raise OSError(done.returncode, f"{' '.join(command)}: {done.stderr.strip()}")


def _write(key: str, value: str) -> None:
    Path("/proc/sys/net", key).write_text(value, encoding="ascii")
