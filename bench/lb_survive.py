"""kill -9, restart and upgrade of a balancer's process under numbered packets: what is lost.

    python -m bench.lb_survive [--rate N] [--packets N]

Packets are made and counted by XDP programs (numbered.c), because sockets at both ends of a lab on two cores carry a
third of the rate that is to be had. The process is the shipped one, `sixgate standalone`, with XDP at its devices.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import harness, live
from bench.harness import Goal, Report, Row, progress
from e2e.lab.compiled import bpf_object, program
from e2e.lab.run import LabError, LabRun
from e2e.lab.sixgate import NODE, Sixgate
from e2e.lab.stamp import hardware_address

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
CLIENT, VIP, PORT = "198.51.100.2", "203.0.113.1", 40001
BACKENDS = ("192.0.2.2", "192.0.2.3", "192.0.2.4")
OUTER = 20  # bytes of IPv4 around a packet
KILLS, UPGRADES, RATE, PACKETS = 8, 2, 200_000, 1_000_000
BLINK_S, SEED = 0.05, 7


@dataclass(frozen=True, slots=True)
class Count:
    """What numbered.c printed; `waits` is how often too many frames were under way."""

    sent: int
    seconds: float
    received: int
    duplicated: int
    damaged: int
    waits: int

    @property
    def lost(self) -> int:
        return self.sent - self.received

    @property
    def rate(self) -> float:
        """Packets per second, as sent."""
        return self.sent / self.seconds


@dataclass(frozen=True, slots=True)
class Survived:
    """`control` is what a link that was down for BLINK_S lost, to show that loss is seen."""

    kills: int
    upgrades: int
    count: Count
    control: int


class Upgradable(Sixgate):
    """A process whose objects can be replaced by others with the same behaviour and another digest."""

    def argv(self) -> list[str]:
        words = super().argv()
        words[words.index("--objects") + 1] = str(self.objects)
        return words

    def upgrade(self, directory: Path) -> None:
        """The next process begins with new objects: each file grows by a byte that no section has."""
        shutil.copytree(self.objects, directory)
        manifest = json.loads((directory / "manifest.json").read_text())
        for name in manifest["objects"]:
            path = directory / f"{name}.bpf.o"
            path.write_bytes(path.read_bytes() + b"\0")
            manifest["objects"][name] = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        (directory / "manifest.json").write_text(json.dumps(manifest))
        self.objects = directory


def programs() -> tuple[str, str]:
    """Paths of the sender and of the BPF object that it loads, compiled."""
    return program(HERE / "numbered.c", "bpf"), str(bpf_object(HERE / "numbered.bpf.c"))


class Numbered:
    """Numbered packets from the client to the VIP while the `with` lasts, `least` of them in any case."""

    def __init__(self, lab: LabRun, least: int, rate: int) -> None:
        frame = live.frame(lab, "client", CLIENT, VIP, (1024, PORT))
        self.frame = frame[:40] + bytes(2) + frame[42:]  # IPv4 may go without a checksum, and what varies needs none
        words = [*programs(), lab.device("up"), f"/run/netns/{lab.netns('be')}", lab.device("up"), self.frame.hex()]
        argv = [*words, str(len(self.frame) + OUTER), str(least), str(rate)]
        self.process = lab.spawn("client", argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def __enter__(self) -> Numbered:
        if self.process.stdout is None or self.process.stdout.readline() != "ready\n":
            raise LabError(f"The numbered packets did not begin: {self.process.communicate()[1]}")
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def running(self) -> bool:
        return self.process.poll() is None

    def result(self, timeout: float = 120) -> Count:
        """Ends the sending as soon as enough are sent."""
        self.process.terminate()
        out, err = self.process.communicate(timeout=timeout)
        if self.process.returncode:
            raise LabError(f"The numbered packets ended early: {err.strip()}")
        return Count(**json.loads(out.splitlines()[-1]))


def build(lab: LabRun) -> None:
    """A client, `gw`, and one host that is all backends; veths that take XDP frames."""
    for role in ("client", "gw", "be"):
        lab.add_netns(role)
    lab.sysctl("gw", "net/ipv4/conf/all/forwarding", "1")
    for role, near, far in (("client", "198.51.100.1", (CLIENT,)), ("be", "192.0.2.1", BACKENDS)):
        lab.add_veth(role, "up", "gw", role)
        up, down = lab.device("up"), lab.device(role)
        lab.ip("gw", f"addr add {near}/24 dev {down}")
        lab.ip(role, *(f"addr add {each}/24 dev {up}" for each in far), f"route add default via {near}")
        mac = hardware_address(lab, role, "up")
        lab.ip("gw", *(f"neigh add {each} lladdr {mac} dev {down}" for each in far))
        for where, device in (("gw", down), (role, up)):
            lab.run(where, ["ethtool", "-K", device, "gro", "on"])


def balancer(lab: LabRun) -> Upgradable:
    """The process with its one LoadBalancer, started and ready."""
    manifests = lab.workdir / "manifests"
    manifests.mkdir()
    spec = {
        "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": NODE}},
        "vips": [VIP],
        "ports": [{"port": PORT, "protocol": "UDP"}],
        "backends": [{"address": address} for address in BACKENDS],
        "devices": [lab.device("client"), lab.device("be")],
        "acceleration": "Native",
    }
    kind = {"apiVersion": "sixgate.io/v1alpha1", "kind": "LoadBalancer", "metadata": {"name": "udp"}, "spec": spec}
    (manifests / "udp.json").write_text(json.dumps(kind))
    process = Upgradable(lab, manifests, role="gw")
    process.start()
    process.wait_ready()
    return process


def blink(lab: LabRun, rate: int) -> int:
    """Packets that are lost while the backends' link is down for a moment."""
    up = lab.device("up")
    with Numbered(lab, rate // 4, rate) as packets:
        time.sleep(BLINK_S)
        lab.ip("be", f"link set {up} down")
        time.sleep(BLINK_S)
        lab.ip("be", f"link set {up} up")
        return packets.result().lost


def story(lab: LabRun, process: Upgradable, packets: Numbered) -> Iterator[str]:
    """Kills at moments of any kind: of a process that is ready, that is beginning, that replaces programs."""
    moments = random.Random(SEED)
    for number in range(KILLS):
        if not packets.running():
            return
        process.kill()
        yield "kill"
        if number in {2, 5}:
            process.upgrade(lab.workdir / f"objects-{number}")
        process.start()
        if number in {1, 3, 6, KILLS - 1}:
            process.wait_ready()
            if number in {3, 6}:
                yield "upgrade"
        else:
            time.sleep(moments.uniform(0.1, 1.0))


def survive(packets: int = PACKETS, rate: int = RATE) -> Survived:
    """LabError where the lab itself fails."""
    with LabRun() as lab:
        build(lab)
        process = balancer(lab)
        with Numbered(lab, 1000, rate) as warm:
            warm.result()
        control = blink(lab, rate)
        lab.run("client", ["ping", "-c1", "-W2", "192.0.2.2"], check=False)
        with Numbered(lab, packets, rate) as numbered:
            done = list(story(lab, process, numbered))
            count = numbered.result()
        return Survived(done.count("kill"), done.count("upgrade"), count, control)


def measure(report: Report, packets: int = PACKETS, rate: int = RATE) -> None:
    """Adds the rows."""
    progress(f"balancer: {KILLS} kill -9, {UPGRADES} upgrades under {rate:,} packets per second")
    told = survive(packets, rate)
    count = told.count
    note = f"of {count.sent:,} (a link that was down for {1000 * BLINK_S:g} ms loses {told.control:,})"
    name = f"packets lost in {told.kills} kill -9 and {told.upgrades} program upgrades"
    wrong = float(count.damaged + count.duplicated)
    report.rows += [
        Row(name, "packets", (float(count.lost),), goal=Goal("value", "==", 0), note=note),
        Row("damaged or doubled on the way", "packets", (wrong,), goal=Goal("value", "==", 0)),
        Row("rate of these packets", "kpps", (count.rate / 1e3,), goal=Goal("value", ">=", 0.98 * rate / 1e3)),
    ]
    if told.kills < KILLS or told.upgrades < UPGRADES or not told.control or count.sent < packets:
        raise LabError(f"The story did not come to its end: {told}")


def run(packets: int, rate: int) -> Report:
    return harness.report_of("Balancer under kill -9 and upgrade", lambda report: measure(report, packets, rate))


def main() -> int:
    parser = harness.command("Kill and upgrade a balancer under traffic.")
    parser.add_argument("--rate", type=int, default=RATE, help="packets per second")
    parser.add_argument("--packets", type=int, default=PACKETS, help="how many at least")
    return harness.main(parser, lambda args: run(args.packets, args.rate))


if __name__ == "__main__":
    sys.exit(main())
