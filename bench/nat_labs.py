"""The labs that bench/nat.py compares: one shape (client, gateway, server), and who translates in the gateway.

kernel   IPv4 client -> DNAT and masquerade of nftables -> IPv4 server
nat64    IPv6 client -> sixgate, pool -> IPv4 server
nat46    IPv4 client -> sixgate, VIP and source NAT -> IPv6 server
"""

from __future__ import annotations

import json
import socket
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import yaml

from bench import live
from bench.nat64_labs import prepare_packets
from e2e.lab import natlab, topology, traffic
from e2e.lab.compiled import program
from e2e.lab.natlab import CLIENT4, CLIENT6, SERVER4, SERVER6, VIP4, NatHost
from e2e.lab.packets import DPORT, SPORT
from e2e.lab.run import LabError
from e2e.lab.sixgate import NODE, Sixgate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.lab.run import LabRun

CONNS_SOURCE = FilePath(__file__).with_name("conns.c")
CONNS_PORT = 7000
AT_ONCE = 64
POOL = "198.51.100.0/26"
NFT = """\
table ip nat {{
	chain to_server {{
		type nat hook prerouting priority dstnat
		ip daddr {vip} dnat to {server}
	}}
	chain from_gateway {{
		type nat hook postrouting priority srcnat
		oifname "{device}" masquerade
	}}
}}
"""


def conns_program() -> str:
    """Path of the compiled program."""
    return program(CONNS_SOURCE)


@dataclass(frozen=True, slots=True)
class NatPath:
    """One way from the client through the gateway to the server, who is called `target` by the client.

    `seen` is the address and port that the server sees of the client's UDP flow from SPORT to DPORT; its replies go
    there.
    """

    lab: LabRun
    client: NatHost
    server: NatHost
    target: str
    seconds: float
    seen: tuple[str, int] = field(default=("", 0))

    def tcp_bits(self, *, reverse: bool = False) -> float:
        """Payload of one TCP flow, Gbit/s; from the server to the client where `reverse` is set."""
        done = traffic.iperf(self.lab, self.client.role, self.target, seconds=self.seconds, reverse=reverse)
        return done.bits_per_second / 1e9

    def packets(self, *, reverse: bool = False) -> float:
        """UDP packets of one flow, 16 bytes of payload, that reach the other end's device, thousands per second."""
        if reverse:
            sender, receiver = self.server, self.client
            frame = live.frame(self.lab, sender.role, sender.ip, self.seen[0], (DPORT, self.seen[1]))
        else:
            sender, receiver = self.client, self.server
            frame = live.frame(self.lab, sender.role, sender.ip, self.target, (SPORT, DPORT))
        before = self.arrived(receiver.role)
        seconds = live.transmit(self.lab, sender.role, frame, self.seconds).seconds
        arrived = self.arrived(receiver.role) - before
        if arrived < 1000:
            raise LabError(f"Only {arrived} packets from {sender.role} arrived at {receiver.role}.")
        return arrived / seconds / 1e3

    def connections(self) -> float:
        """TCP connections opened and reset again, thousands per second. LabError where more than 1 % failed."""
        words = [conns_program(), "open", self.target, str(CONNS_PORT), str(self.seconds), str(AT_ONCE)]
        done = json.loads(self.lab.run(self.client.role, words, timeout=self.seconds + 30).stdout)
        if done["failed"] * 100 > done["opened"]:
            raise LabError(f"{done['failed']} of {done['failed'] + done['opened']} connections failed.")
        return float(done["opened"]) / float(done["seconds"]) / 1e3

    def arrived(self, role: str) -> int:
        """Packets that a host's device has received so far."""
        text = self.lab.run(role, ["ip", "-s", "-json", "link", "show", "dev", self.lab.device("up")]).stdout
        return int(json.loads(text)[0]["stats64"]["rx"]["packets"])

    def learn(self) -> NatPath:
        """The same path with `seen`: one packet goes to the server. LabError where none arrives."""

        def udp(host: NatHost, port: int) -> socket.socket:
            def make() -> socket.socket:
                made = socket.socket(socket.AF_INET6 if host.family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
                made.bind((host.ip, port))
                made.settimeout(0.2)
                return made

            return self.lab.call(host.role, make)

        with udp(self.server, DPORT) as server, udp(self.client, SPORT) as client:
            for _ in range(25):
                client.sendto(b"who am I", (self.target, DPORT))
                try:
                    address = server.recvfrom(64)[1]
                except TimeoutError:
                    continue
                seen = (str(address[0]), int(address[1]))
                return NatPath(self.lab, self.client, self.server, self.target, self.seconds, seen)
        raise LabError(f"{self.client.role} cannot reach {self.target} through the gateway.")


def kernel_path(lab: LabRun, seconds: float) -> NatPath:
    """IPv4 all the way, a virtual address in front, the source hidden: nftables in the gateway."""
    natlab.build(lab, (CLIENT4, SERVER4))
    rules = lab.workdir / "nat.nft"
    rules.write_text(NFT.format(vip=VIP4, server=SERVER4.ip, device=lab.device(SERVER4.role)))
    lab.run(topology.GATEWAY, ["nft", "-f", str(rules)])
    return NatPath(lab, CLIENT4, SERVER4, VIP4, seconds).learn()


def nat64_path(lab: LabRun, seconds: float, **stateful: Any) -> NatPath:
    """Stateful NAT64 through a pool; `stateful` goes over the defaults of spec.stateful."""
    natlab.build(lab, (CLIENT6, SERVER4))
    start(lab, gateway({"prefix": str(natlab.PREFIX), "stateful": {"pools": [{"cidr": POOL}], **stateful}}))
    return NatPath(lab, CLIENT6, SERVER4, natlab.embed(SERVER4.ip), seconds).learn()


def nat46_path(lab: LabRun, seconds: float) -> NatPath:
    """An IPv4 VIP in front of an IPv6 server, source NAT to the gateway's own IPv6 address."""
    natlab.build(lab, (CLIENT4, SERVER6))
    services = [
        {"vip": VIP4, "port": port, "protocol": protocol, "backends": [{"address": SERVER6.ip, "port": port}]}
        for port, protocol in ((traffic.IPERF_PORT, "TCP"), (CONNS_PORT, "TCP"), (DPORT, "UDP"))
    ]
    start(lab, gateway({"services": services}))
    return NatPath(lab, CLIENT4, SERVER6, VIP4, seconds).learn()


def gateway(spec: dict[str, Any], name: str = "lab") -> dict[str, Any]:
    """A NAT46Gateway for the lab's node."""
    return {
        "apiVersion": "sixgate.io/v1alpha1",
        "kind": "NAT46Gateway",
        "metadata": {"name": name},
        "spec": {"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": NODE}}, **spec},
    }


def start(lab: LabRun, *objects: dict[str, Any]) -> Sixgate:
    """sixgate standalone on these objects, ready."""
    manifests = lab.workdir / "manifests"
    manifests.mkdir(exist_ok=True)
    (manifests / "lab.yaml").write_text("---\n".join(yaml.safe_dump(item) for item in objects))
    sixgate = Sixgate(lab, manifests)
    sixgate.start()
    sixgate.wait_ready()
    return sixgate


@contextmanager
def conns_server(lab: LabRun, host: NatHost) -> Iterator[None]:
    """Accepts connections at CONNS_PORT."""
    words = [conns_program(), "serve", host.ip, str(CONNS_PORT)]
    process = lab.spawn(host.role, words, stderr=subprocess.DEVNULL)
    try:
        traffic.wait_listening(lab, host.role, CONNS_PORT, process)
        yield
    finally:
        process.terminate()
        process.wait()


def ready_for_packets(path: NatPath) -> NatPath:
    prepare_packets(path.lab, (path.client.role, path.server.role))
    return path
