"""Labs of bench/egress.py: nodes under sixgate and the same path by the kernel alone, and the traffic through both."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Self

from e2e.lab.egress import SERVER, SERVER4, SOURCE4, SOURCE6, EgressLab, settled
from e2e.lab.run import LabRun
from sixgate.node.egress.sessions import PORT as COPIES

if TYPE_CHECKING:
    from types import TracebackType

PORT, TCP_PORT = 9000, 9001


@contextlib.contextmanager
def ready_lab(transport: str = "VXLAN", gateways: tuple[str, ...] = ("g1", "g2")) -> Iterator[EgressLab]:
    """A node with a selected pod, gateways, settled."""
    with LabRun() as run:
        yield settled(run, *gateways, sessions=131072, transport=transport)


def sent_copies(lab: EgressLab, gateway: str) -> Callable[[], int]:
    """Counts bytes of packets to other gateways with copies, from now on; how many there were."""
    run = lab.lab
    rules = run.workdir / f"copies-{gateway}.nft"
    rules.write_text(
        "table inet c\ndelete table inet c\n"
        f"table inet c {{\n chain o {{\n  type filter hook output priority 0\n  tcp dport {COPIES} counter\n }}\n}}\n"
    )
    run.run(gateway, ["nft", "-f", str(rules)])

    def sent() -> int:
        told = json.loads(run.run(gateway, ["nft", "-j", "list", "table", "inet", "c"]).stdout)
        rule = next(item["rule"] for item in told["nftables"] if "rule" in item)
        return int(next(part["counter"]["bytes"] for part in rule["expr"] if "counter" in part))

    return sent


@contextlib.contextmanager
def baseline() -> Iterator[EgressLab]:
    """The same nodes with a VXLAN device of the kernel, a policy route, and nft masquerade."""
    with LabRun() as run:
        lab = EgressLab(run)
        for name in ("n1", "g1"):
            lab.add_node(name)
        lab.add_pod("pay", "n1")
        pod = lab.pods["pay"]
        for name, other, own in (("n1", 2, 1), ("g1", 1, 2)):
            run.ip(
                name,
                f"link add vx0 mtu 1450 type vxlan id 42 dstport 4789 local 198.51.100.{own} remote 198.51.100.{other}",
                f"addr add 10.200.0.{own}/30 dev vx0",
                f"addr add fd42::{own}/64 dev vx0 nodad",
                "link set vx0 up",
            )
        run.ip(
            "n1",
            f"rule add from {pod.ipv4} table 100",
            "route add default via 10.200.0.2 dev vx0 table 100",
            "route add ::/0 via fd42::2 dev vx0 table 100",
        )
        run.run("n1", ["ip", "-6", "rule", "add", "from", pod.ipv6, "table", "100"])
        run.ip(
            "g1",
            f"addr add {SOURCE4}/32 dev {run.device('up')}",
            f"addr add {SOURCE6}/128 dev {run.device('up')} nodad",
            f"route add {pod.ipv4}/32 via 10.200.0.1 dev vx0",
            f"route add {pod.ipv6}/128 via fd42::1 dev vx0",
        )
        rules = run.workdir / "nat.nft"
        device = run.device("up")
        rules.write_text(
            "table inet n {\n chain p {\n  type nat hook postrouting priority srcnat\n"
            f"  oifname {device} ip saddr {pod.ipv4} snat ip to {SOURCE4}\n"
            f"  oifname {device} ip6 saddr {pod.ipv6} snat ip6 to {SOURCE6}\n }}\n}}\n"
        )
        run.run("g1", ["nft", "-f", str(rules)])
        yield lab


class Stream:
    """Numbered datagrams from a pod to the server, which notes when each came and from whom. With `echo` it answers,
    and what does not come back is lost."""

    def __init__(self, lab: EgressLab, pod: str, *, rate: int = 1000, echo: bool = False) -> None:
        self._lab, self._pod, self._pause, self._echo = lab, pod, 1 / rate, echo
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._times: list[float] = []
        self.sources: Counter[str] = Counter()
        self._sent: set[int] = set()
        self._back: set[int] = set()

    def __enter__(self) -> Self:
        def listen() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            made.bind((SERVER4, PORT))
            made.settimeout(0.2)
            return made

        def speak() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.settimeout(0.2)
            return made

        self._receiver = self._lab.lab.call(SERVER, listen)
        self._sender = self._lab.lab.call(self._pod, speak)
        work = [self._receive, self._send, *([self._hear] if self._echo else [])]
        self._threads = [threading.Thread(target=body, daemon=True) for body in work]
        for thread in self._threads:
            thread.start()
        time.sleep(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._receiver.close()
        self._sender.close()

    def _send(self) -> None:
        number, start = 0, time.monotonic()
        while not self._stop.is_set():
            with contextlib.suppress(OSError):
                self._sender.sendto(number.to_bytes(4, "big"), (SERVER4, PORT))
                self._sent.add(number)
            number += 1
            time.sleep(max(0.0, start + number * self._pause - time.monotonic()))

    def _receive(self) -> None:
        while not self._stop.is_set():
            try:
                data, source = self._receiver.recvfrom(64)
            except TimeoutError:
                continue
            self._times.append(time.monotonic())
            self.sources[source[0]] += 1
            if self._echo:
                self._receiver.sendto(data, source)

    def _hear(self) -> None:
        while not self._stop.is_set():
            try:
                self._back.add(int.from_bytes(self._sender.recv(64), "big"))
            except TimeoutError:
                continue

    def shout(self, count: int) -> None:
        """Datagrams of the calling namespace to the same server."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(count):
                with contextlib.suppress(OSError):
                    sender.sendto(b"shout", (SERVER4, PORT))

    def clear(self) -> None:
        self._times.clear()
        self._sent.clear()
        self._back.clear()

    def longest_gap_ms(self) -> float:
        times = list(self._times)
        return max((b - a for a, b in pairwise(times)), default=float("inf")) * 1000

    def lost(self) -> int:
        """Of what was sent since `clear`, what has not come back."""
        sent = set(self._sent)
        time.sleep(0.5)
        return len(sent - self._back)


@dataclass
class Connections:
    """TCP connections that each carry a byte to the server and back, round after round."""

    lab: EgressLab
    pod: str
    count: int
    broken: int = 0
    longest_stall_s: float = 0.0
    _mine: list[socket.socket] = field(default_factory=list)
    _theirs: list[socket.socket] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        def listen() -> socket.socket:
            made = socket.socket()
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((SERVER4, TCP_PORT))
            made.listen(1024)
            return made

        def connect() -> list[socket.socket]:
            return [socket.create_connection((SERVER4, TCP_PORT), 10) for _ in range(self.count)]

        with self.lab.lab.call(SERVER, listen) as listener:

            def accept() -> None:
                self._theirs.extend(listener.accept()[0] for _ in range(self.count))

            thread = threading.Thread(target=accept)
            thread.start()
            self._mine = self.lab.lab.call(self.pod, connect)
            thread.join(30)
        for end in (*self._mine, *self._theirs):
            end.settimeout(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for end in (*self._mine, *self._theirs):
            end.close()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._talk)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _talk(self) -> None:
        bad: set[int] = set()
        while not self._stop.is_set():
            sent: dict[int, float] = {}
            for number, end in enumerate(self._mine):
                if number in bad:
                    continue
                try:
                    sent[number] = time.monotonic()
                    end.sendall(b"x")
                except OSError:
                    bad.add(number)
            for ends, others in ((self._theirs, self._mine), (self._mine, None)):
                for number, end in enumerate(ends):
                    if number in bad:
                        continue
                    try:
                        if not end.recv(1):
                            bad.add(number)
                        elif others is not None:
                            end.sendall(b"y")
                    except OSError:
                        bad.add(number)
            took = time.monotonic() - min(sent.values(), default=time.monotonic())
            self.longest_stall_s = max(self.longest_stall_s, took)
            self.broken = len(bad)
