"""A gateway that is changed and disturbed for a long time under numbered packets: does it grow, lose, or fail to mend?

    python -m bench.soak [--minutes M] [--json FILE]

One round changes every sort of thing and takes it back: backends and weights of a balancer, a gateway with a pool, a
device; then somebody else detaches a program, removes a pin and takes a route away. At the end of each round, with
everything as it was at its beginning, the process and the kernel are counted. What grows from round to round is a leak.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import harness
from bench.harness import Goal, Report, Row, progress
from bench.nat64_labs import CLIENT, EXAMPLE, HOSTS, SERVER, negative_control, untranslated_escape
from e2e.lab import stamp, topology, traffic
from e2e.lab.run import LabError, LabRun
from e2e.lab.sixgate import NODE, Sixgate
from sixgate.errors import BpfError
from sixgate.node import names
from sixgate.node.bpf import Link, info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RATE = 2_000  # packets per second: seen to be lost at any moment, and no load
WARM = 0.2  # part of the rounds in which caches may fill
SPARE = "spare"
PATIENCE_S = 120.0


def balancer(backends: int) -> dict[str, Any]:
    """A LoadBalancer with so many backends, of which the weights differ."""
    return _object(
        "LoadBalancer",
        "udp",
        {
            "vips": ["192.0.2.80"],
            "ports": [{"port": 4433, "protocol": "UDP"}],
            "backends": [{"address": f"203.0.113.{20 + n}", "weight": 1 + n} for n in range(backends)],
        },
    )


def pool() -> dict[str, Any]:
    """A stateful gateway of another prefix."""
    return _object(
        "NAT46Gateway", "pool", {"prefix": "2001:db8:65::/96", "stateful": {"pools": [{"cidr": "192.0.2.96/30"}]}}
    )


def _object(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    chosen = {"nodeSelector": {"matchLabels": {"kubernetes.io/hostname": NODE}}}
    return {"apiVersion": "sixgate.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": chosen | spec}


@dataclass(frozen=True, slots=True)
class Count:
    """What a process holds and what it left in the kernel and on disk. `rss` in KiB."""

    rss: int
    descriptors: int
    threads: int
    pins: int
    files: int


@dataclass(slots=True)
class Soak:
    """The gateway of one lab, and what was done to it."""

    lab: LabRun
    gateway: Sixgate
    revision: str
    repairs: list[float] = field(default_factory=list)  # seconds

    def put(self, document: dict[str, Any] | None, name: str) -> None:
        """Write an object's file, or remove it, and wait until the node is as it says."""
        path = self.gateway.manifests / f"{name}.json"
        if document is None:
            path.unlink()
        else:
            new = path.with_suffix(".new")
            new.write_text(json.dumps(document))
            new.rename(path)
        self.revision = self.gateway.wait_ready(self.revision)

    def round(self) -> None:
        for backends in (5, 2, 3):
            self.put(balancer(backends), "udp")
        self.put(pool(), "pool")
        self.put(None, "pool")
        self.device()
        for disturb in (self.detach, self.unpin, self.cut):
            self.disturb(disturb)

    def device(self) -> None:
        """A device comes, is hooked, and goes."""
        add_device(self.lab, "guest", "2001:db8:9::1/64")
        device = self.lab.device("guest")
        until(lambda: self.hooked("guest"), f"{device} has a program")
        self.lab.ip(topology.GATEWAY, f"link del {device}")
        until(lambda: not any(device in pin.name for pin in self.links()), f"the pin of {device} is gone")

    def disturb(self, break_it: Callable[[], Callable[[], bool]]) -> None:
        mended = break_it()
        began = time.monotonic()
        until(mended, f"what {break_it.__name__} broke is mended", pause_s=0.01)
        self.repairs.append(time.monotonic() - began)

    def links(self) -> list[Path]:
        return list((self.gateway.bpffs / names.LINKS).iterdir())

    def hooked(self, name: str) -> bool:
        """Whether a program of ours is at the tc ingress of a device of the gateway's."""
        return self._runs(self.lab.device(name))

    def _runs(self, device: str) -> bool:
        def query() -> bool:
            with contextlib.suppress(OSError, BpfError):
                return bool(info.query_tcx(socket.if_nametoindex(device), "tc-ingress")[0])
            return False

        return self.lab.call(topology.GATEWAY, query)

    def _pin(self) -> Path:
        device = self.lab.device(SPARE)
        return self.gateway.bpffs / names.LINKS / names.join(device, "tc-ingress")

    def detach(self) -> Callable[[], bool]:
        pin = self._pin()
        with Link.from_pin(pin) as link:
            link.detach()
        return lambda: self.hooked(SPARE) and pin.exists()  # attached first, pinned then

    def unpin(self) -> Callable[[], bool]:
        pin = self._pin()
        pin.unlink()
        return lambda: self.hooked(SPARE) and pin.exists()

    def cut(self) -> Callable[[], bool]:
        """The slow device goes, and with it all that hangs on it."""
        self.lab.ip(topology.GATEWAY, "link del sg-slow0")
        pin = self.gateway.bpffs / names.LINKS / names.join("sg-slow1", "tc-ingress")
        return lambda: self._runs("sg-slow1") and pin.exists()

    def _descriptors(self) -> int:
        """A look at the node has some of its own open: the least of several counts are those that stay."""
        time.sleep(0.02)
        return len(os.listdir(f"/proc/{self.gateway.pid}/fd"))

    def count(self) -> Count:
        process = self.gateway.pid
        status = Path(f"/proc/{process}/status").read_text()
        told = dict(line.split(":", 1) for line in status.splitlines())
        return Count(
            rss=int(told["VmRSS"].split()[0]),
            descriptors=min(self._descriptors() for _ in range(20)),
            threads=int(told["Threads"]),
            pins=sum(len(files) for _, _, files in os.walk(self.gateway.bpffs)),
            files=sum(len(files) for _, _, files in os.walk(self.gateway.state_dir)),
        )


def add_device(lab: LabRun, name: str, address: str) -> None:
    """A device of the gateway's with an address, joined to nobody of importance."""
    lab.add_veth(topology.GATEWAY, name, CLIENT.role, f"{name}-peer")
    lab.ip(topology.GATEWAY, f"addr add {address} dev {lab.device(name)} nodad")


def until(holds: Callable[[], bool], what: str, pause_s: float = 0.05) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise LabError(f"After {PATIENCE_S:g} s it is not so that {what}.")
        time.sleep(pause_s)


@contextlib.contextmanager
def prepared() -> Iterator[tuple[Soak, int]]:
    """A gateway with a balancer and a spare device, and how many packets pass untranslated where there is none."""
    with LabRun() as lab:
        topology.build(lab, HOSTS)
        add_device(lab, SPARE, "2001:db8:8::1/64")
        untranslated_escape(lab)
        stamp.send(lab, CLIENT.role, CLIENT.address, SERVER.seen_from(6), count=1)
        control = negative_control(
            lab, lambda count: stamp.send(lab, CLIENT.role, CLIENT.address, SERVER.seen_from(6), count=count)
        )
        manifests = lab.workdir / "manifests"
        manifests.mkdir()
        (manifests / "lab.yaml").write_text((EXAMPLE / "lab.yaml").read_text())
        (manifests / "udp.json").write_text(json.dumps(balancer(3)))
        gateway = Sixgate(lab, manifests)
        gateway.start()
        soak = Soak(lab, gateway, gateway.wait_ready())
        if not traffic.ping(lab, CLIENT.role, SERVER.seen_from(6)).received:
            raise LabError("The gateway is ready and yet carries no ping; there is nothing to measure.")
        yield soak, control


def measure(report: Report, minutes: float) -> None:
    """Adds the rows."""
    progress(f"changes and disturbances for {minutes:g} minutes under {RATE:,} packets per second")
    with prepared() as (soak, control):
        lab, most = soak.lab, int((minutes * 60 + 120) * RATE)
        with stamp.Receiver(lab, SERVER.role, 4, most, idle_ms=1000) as receiver:
            argv = stamp.send_command(
                lab, CLIENT.role, CLIENT.address, SERVER.seen_from(6), count=most, rate=RATE, seconds=minutes * 60
            )
            sender = lab.spawn(CLIENT.role, argv, stdout=subprocess.PIPE)
            counts = []
            while sender.poll() is None:
                soak.round()
                counts.append(soak.count())
            sent = stamp.Sent(**json.loads(sender.communicate()[0])).sent
            tally = receiver.result()
    if len(counts) < 5:
        raise LabError(f"In {minutes:g} minutes there were only {len(counts)} rounds; give more time.")
    missing = sent - tally.received - tally.missed_by_receiver
    note = f"of {sent:,}; {control:,} of {control:,} where no gateway is"
    none = Goal("value", "==", 0)
    report.rows += [
        Row("packets lost", "packets", (float(missing),), goal=none, note=f"of {sent:,}"),
        Row("packets untranslated or damaged", "packets", (float(tally.untranslated + tally.damaged),), (), none, note),
        *growth(counts),
        Row("repair of what others break", "s", tuple(soak.repairs)),
        Row("longest repair", "s", (max(soak.repairs),), goal=Goal("value", "<=", 1)),
    ]
    report.remarks.append(
        f"Soak: {len(counts)} rounds, each with 5 changes of objects, a device that comes and goes, 3 disturbances."
    )


def growth(counts: list[Count]) -> Iterator[Row]:
    """From the end of the warm-up to the end."""
    warm = counts[max(1, int(len(counts) * WARM)) - 1 :]
    third = max(1, len(warm) // 3)
    before, after = (sum(each.rss for each in part) / third for part in (warm[:third], warm[-third:]))
    yield Row(
        "growth of resident memory",
        "%",
        (100 * (after - before) / before,),
        goal=Goal("value", "<=", 1),
        note=f"from {before / 1024:.1f} MiB in the first third to {after / 1024:.1f} in the last",
    )
    for name in ("descriptors", "threads", "pins", "files"):
        most, now = (max(getattr(each, name) for each in part) for part in (warm[:third], warm[-third:]))
        yield Row(
            f"more {name} than in the first third",
            "",
            (float(now - most),),
            goal=Goal("value", "<=", 0),
            note=f"{now} in the last",
        )


def run(minutes: float = 30.0) -> Report:
    """All rows of this benchmark."""
    return harness.report_of("A long time under changes and disturbances", lambda report: measure(report, minutes))


def main() -> int:
    parser = harness.command("Change and disturb a gateway for a long time.")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long")
    return harness.main(parser, lambda args: run(args.minutes))


if __name__ == "__main__":
    sys.exit(main())
