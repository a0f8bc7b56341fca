"""The labs that bench/nat64.py compares: one shape (client, gateway, server), three ways through the gateway."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from bench import live
from e2e.lab import stamp, topology, traffic
from e2e.lab.run import LabError
from e2e.lab.sixgate import ROOT, Sixgate

if TYPE_CHECKING:
    from collections.abc import Callable

    from e2e.lab.run import LabRun

CLIENT, SERVER = topology.CLIENT6, topology.SERVER4
HOSTS = (CLIENT, SERVER)
BACK = (SERVER.address, CLIENT.seen_from(4))
EXAMPLE = ROOT / "examples" / "nat46gateway"
UDP_PROTOCOL = 17
CONTROL_PACKETS = 1000

TAYGA_CLIENT = "2001:db8:6:1::10"
TAYGA_CONF = """\
tun-device nat64
ipv4-addr 192.0.2.1
ipv6-addr 2001:db8:6:ffff::1
prefix {prefix}
map {client4} {client6}
data-dir {directory}
"""


@dataclass(frozen=True, slots=True)
class Path:
    """One way from the client through the gateway to the server; `seconds` is how long one measurement takes."""

    lab: LabRun
    client_address: str
    server_address: str  # as the client calls it
    udp_back: tuple[str, str]  # source and destination of what the server sends to the client
    seconds: float

    def tcp_bits(self, *, reverse: bool = False) -> float:
        """Payload of one TCP flow, Gbit/s; from the server to the client where `reverse` is set."""
        done = traffic.iperf(self.lab, CLIENT.role, self.server_address, seconds=self.seconds, reverse=reverse)
        return done.bits_per_second / 1e9

    def packets(self, *, reverse: bool = False) -> float:
        """UDP packets, 64 bytes as IPv6 and 44 as IPv4, that reach the other end's device, thousands per second.

        They are sent as fast as the one core can that also forwards them; see bench/live.py.
        """
        sender, receiver = (SERVER, CLIENT) if reverse else (CLIENT, SERVER)
        source, destination = self.udp_back if reverse else (self.client_address, self.server_address)
        frame = live.frame(self.lab, sender.role, source, destination)
        before = self._arrived(receiver.role)
        seconds = live.transmit(self.lab, sender.role, frame, self.seconds).seconds
        arrived = self._arrived(receiver.role) - before
        if not arrived:
            raise LabError(f"None of the packets from {source} arrived at {destination}.")
        return arrived / seconds / 1e3

    def _arrived(self, role: str) -> int:
        text = self.lab.run(role, ["ip", "-s", "-json", "link", "show", "dev", self.lab.device("up")]).stdout
        return int(json.loads(text)[0]["stats64"]["rx"]["packets"])


def prepare_packets(lab: LabRun, roles: tuple[str, ...] = (CLIENT.role, SERVER.role)) -> None:
    """Readies a lab for `Path.packets`.

    GRO on all devices makes veth take XDP frames. Dropping UDP at the hosts' doors makes packets per second the
    gateway's figure and not the receiver's.
    """
    up = lab.device("up")
    for role in roles:
        lab.run(topology.GATEWAY, ["ethtool", "-K", lab.device(role), "gro", "on"])
        lab.run(role, ["ethtool", "-K", up, "gro", "on"])
        lab.run(role, ["tc", "qdisc", "add", "dev", up, "clsact"])
        for family, offset in (("ipv6", 14 + 6), ("ip", 14 + 9)):  # the next header, the protocol
            code = f"4,48 0 0 {offset},21 0 1 {UDP_PROTOCOL},6 0 0 2,6 0 0 4294967295"
            words = ["tc", "filter", "add", "dev", up, "ingress", "protocol", family, "bpf", "bytecode", code, "da"]
            lab.run(role, words)


def plain_path(lab: LabRun, seconds: float) -> Path:
    """IPv6 all the way, forwarded by the kernel."""
    topology.build(lab, HOSTS)
    address = topology.add_plain_ipv6(lab, SERVER)
    return _warm(Path(lab, CLIENT.address, address, (address, CLIENT.address), seconds))


def sixgate_path(lab: LabRun, seconds: float, *, acceleration: str = "") -> Path:
    """Translated by sixgate, running on the example of the demo; `acceleration` replaces the example's."""
    topology.build(lab, HOSTS)
    manifests = EXAMPLE
    if acceleration:
        manifests = lab.workdir / "manifests"
        manifests.mkdir()
        gateway = yaml.safe_load((EXAMPLE / "lab.yaml").read_text())
        gateway["spec"]["acceleration"] = acceleration
        (manifests / "lab.yaml").write_text(yaml.safe_dump(gateway))
    sixgate = Sixgate(lab, manifests)
    sixgate.start()
    sixgate.wait_ready()
    return _warm(Path(lab, CLIENT.address, SERVER.seen_from(6), BACK, seconds))


def tayga_path(lab: LabRun, seconds: float) -> Path:
    """Translated by Debian's tayga."""
    topology.build(lab, HOSTS)
    up, gw = lab.device("up"), topology.GATEWAY
    # tayga refuses sources inside its own prefix: the client gets an address outside it and an explicit mapping.
    lab.ip(CLIENT.role, f"addr del {CLIENT.address}/128 dev {up}", f"addr add {TAYGA_CLIENT}/64 dev {up} nodad")
    conf = lab.workdir / "tayga.conf"
    conf.write_text(
        TAYGA_CONF.format(prefix=topology.PREFIX, client4=CLIENT.ipv4, client6=TAYGA_CLIENT, directory=str(lab.workdir))
    )
    lab.run(gw, ["tayga", "--mktun", "--config", str(conf)])
    lab.ip(
        gw,
        "link set nat64 up",
        f"route add {topology.PREFIX} dev nat64",
        f"route add {topology.TRANSLATABLE} dev nat64",
    )
    lab.spawn(gw, ["tayga", "--nodetach", "--config", str(conf)])
    return _warm(Path(lab, TAYGA_CLIENT, SERVER.seen_from(6), BACK, seconds))


def _warm(path: Path) -> Path:
    """The same path once it carries a ping; neighbours are known then. LabError where it carries none."""
    for _ in range(50):
        if traffic.ping(path.lab, CLIENT.role, path.server_address, count=1).received:
            return path
    raise LabError(f"The client cannot ping {path.server_address} through the gateway.")


def untranslated_escape(lab: LabRun) -> None:
    """Gives the gateway's kernel a way for what nobody translates: it reaches the server as IPv6, and is seen."""
    device = lab.device(SERVER.role)
    mac = stamp.hardware_address(lab, SERVER.role, "up")
    lab.ip(
        topology.GATEWAY,
        f"addr add fe80::1/64 dev {device} nodad",
        f"neigh replace fe80::2 lladdr {mac} dev {device} nud permanent",
        f"route add {topology.PREFIX} via fe80::2 dev {device}",
    )


def negative_control(lab: LabRun, send: Callable[[int], object]) -> int:
    """Sends CONTROL_PACKETS while nothing translates; LabError unless the receiver finds every one untranslated."""
    with stamp.Receiver(lab, SERVER.role, 4, CONTROL_PACKETS) as receiver:
        send(CONTROL_PACKETS)
        seen = receiver.result().untranslated
    if seen != CONTROL_PACKETS:
        raise LabError(f"Only {seen} of {CONTROL_PACKETS} untranslated packets were seen: this lab cannot tell them.")
    return seen
