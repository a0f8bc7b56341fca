"""The demo's balancer: one virtual address, three backends, one of which goes while connections are busy.

Backends get what DSR needs from `sixgate decap` and nothing else; the balancer is `sixgate standalone`.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

from e2e.lab.balance import BALANCER, CLIENT, PORT, VIP4, VIP6, BalancerLab, address
from e2e.lab.run import LabRun
from e2e.lab.sixgate import NODE, SIXGATE, Sixgate

if TYPE_CHECKING:
    from collections.abc import Iterator

BACKENDS = ("b1", "b2", "b3")
GONE = "b2"
CONNECTIONS, NEW = 60, 20
LINE_TIMEOUT_S = 5.0
BUSY_S = 1.0  # after the change


class Line:
    """A connection that stays: what is said on it is answered with the server's name and a number."""

    def __init__(self, lab: LabRun, vip: str) -> None:
        self.stream = lab.call(CLIENT, lambda: socket.create_connection((vip, PORT), timeout=LINE_TIMEOUT_S))
        self.file = self.stream.makefile("rb")
        self.count = 0
        self.name = ""
        self.broken = not self.say()

    def say(self) -> bool:
        """Whether the same server answers with the next number."""
        try:
            self.stream.sendall(b"x\n")
            name, _, number = self.file.readline().decode().strip().partition(" ")
        except OSError:
            return False
        self.count += 1
        self.name = self.name or name
        return (name, number) == (self.name, str(self.count)) and bool(name)

    def close(self) -> None:
        self.file.close()
        self.stream.close()


class Busy:
    """Talks on all lines, again and again, until it is told to stop."""

    def __init__(self, lines: list[Line]) -> None:
        self.lines, self.rounds = lines, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            for line in self.lines:
                line.broken = line.broken or not line.say()
            self.rounds += 1

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def spec(backends: tuple[str, ...]) -> str:
    document = {
        "apiVersion": "sixgate.io/v1alpha1",
        "kind": "LoadBalancer",
        "metadata": {"name": "web"},
        "spec": {
            "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": NODE}},
            "vips": [VIP4],
            "ports": [{"port": PORT}],
            "backends": [{"address": address(role, 4)} for role in backends],
        },
    }
    return json.dumps(document)


def unpack(lab: LabRun, gateway: Sixgate) -> None:
    """Backends take the outer header off and have the virtual address, by one command each."""
    lab.workdir.chmod(0o711)
    for role in BACKENDS:
        lab.ip(role, f"addr del {VIP4}/32 dev lo", f"addr del {VIP6}/128 dev lo")
        words = [str(SIXGATE), "decap", "--vip", VIP4, "--from", address(BALANCER, 4), "--device", lab.device("up")]
        places = ["--bpffs", str(gateway.bpffs.parent / f"decap-{role}"), "--state-dir", str(lab.workdir / role)]
        lab.run(role, [*words, *places, "--objects", str(gateway.objects)])


def lines(stack: ExitStack, lab: LabRun, count: int) -> Iterator[Line]:
    for _ in range(count):
        line = Line(lab, VIP4)
        stack.callback(line.close)
        yield line


def change_backends() -> tuple[str, str, bool]:
    """Takes one of three backends away under traffic; what was done, what came of it, and whether it was right."""
    with LabRun() as lab, ExitStack() as stack:
        net = BalancerLab(lab, BACKENDS)
        net.build()
        manifests = lab.workdir / "manifests"
        manifests.mkdir()
        (manifests / "web.json").write_text(spec(BACKENDS))
        gateway = Sixgate(lab, manifests, role=BALANCER)
        unpack(lab, gateway)
        for role in BACKENDS:
            net.serve(role)
        gateway.start()
        revision = gateway.wait_ready()
        old = list(lines(stack, lab, CONNECTIONS))
        busy = Busy(old)
        try:
            (manifests / "web.json").write_text(spec(tuple(role for role in BACKENDS if role != GONE)))
            gateway.wait_ready(revision_not=revision)
            new = Counter(line.name for line in lines(stack, lab, NEW) if not line.broken)
            time.sleep(BUSY_S)
        finally:
            busy.stop()
        gateway.stop()
    others = [line for line in old if line.name != GONE]
    broken, own = sum(line.broken for line in others), [line for line in old if line.name == GONE]
    right = not broken and {line.name for line in old} == set(BACKENDS)
    right = right and GONE not in new and new.total() == NEW and busy.rounds > 1
    outcome = (
        f"{broken} of {len(others)} connections to other backends broken, {sum(line.broken for line in own)} of "
        f"{len(own)} to {GONE}; {new.total()} of {NEW} new ones went to {' and '.join(sorted(new)) or 'nobody'}"
    )
    return f"{CONNECTIONS} connections to {VIP4}, then {GONE} of {', '.join(BACKENDS)} is taken away", outcome, right
