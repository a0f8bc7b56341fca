"""Many packets through the tc program of a NatLab: one BPF_PROG_TEST_RUN, a source of its own for every packet.

flood = Flood(lab, tcp("2001:db8:1::", 1024, dst, 80, SYN))
flood.random(10_000_000)                   # spoofed sources
flood.each(0, 64512, ports=4032)           # 64,512 client ports, each once
"""

from __future__ import annotations

from contextlib import ExitStack

from e2e.lab.compiled import bpf_object
from sixgate.node.bpf import BpfObject, SkbContext
from tests.bpf.harness import ROOT
from tests.bpf.nat_lab import NatLab
from tests.kept import Kept

SOURCE = ROOT / "bench" / "bpf" / "wrap_tc.bpf.c"


class Flood(Kept):
    """The wrapper around one lab's program, for one IPv6 packet."""

    def __init__(self, lab: NatLab, packet: bytes, *, floor: bool = False) -> None:
        """`floor` calls a program that only changes the family, to know what the wrapper costs."""
        self.lab, self.packet = lab, packet
        super().__init__()
        with ExitStack() as undo:
            undo.callback(self.stack.close)
            self.object = self.stack.enter_context(BpfObject.open(bpf_object(SOURCE)))
            frame = {"len": len(packet), "bytes": list(packet.ljust(128, b"\0"))}
            self.object.set_constants({"sg_tc_original": frame})
            self.object.load()
            self.program = self.stack.enter_context(self.object.program("sg_wrap_tc"))
            target = self.stack.enter_context(self.object.program("sg_floor_tc")) if floor else lab.loaded.program
            with self.object.map("sg_target") as jump:
                jump.set(0, target.fd)
            self.vary = self.stack.enter_context(self.object.map("sg_vary"))
            undo.pop_all()

    def random(self, packets: int) -> int:
        """Packets of random clients; nanoseconds per packet, the wrapper's own included."""
        self.vary.set(0, {"random": 1})
        return self._run(packets)

    def each(self, first: int, count: int, *, ports: int, packets: int | None = None, stride: int = 1) -> int:
        """Packets of `count` client ports from number `first`, round and round; `ports` are of one client."""
        self.vary.set(0, {"first": first, "count": count, "ports": ports, "stride": stride})
        return self._run(count if packets is None else packets)

    def _run(self, packets: int) -> int:
        return self.program.test_run(self.packet, repeat=packets, context=SkbContext(ifindex=self.lab.v6)).duration_ns
