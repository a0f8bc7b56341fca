"""Bent packets through the live gateway, a checksum oracle over everything that leaves, and a look at the kernel's log.

    python -m tests.rfc.fuzz --packets 10000000 [--seed N]

tools/fuzz.c does the work, from a corpus of generated packets for each node. Fails where a packet left damaged, or
where the kernel warned of anything meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import struct
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from e2e.lab.compiled import program
from tests.rfc.generate import Generator
from tests.rfc.live import MAC, OWN4, OWN6, LiveGateway
from tests.rfc.nodes import NODES

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tools" / "fuzz.c"
CORPUS = 3000
COMPLAINT = re.compile("WARNING:|BUG:|Oops|general protection|refcount|UBSAN|KASAN|skb_over_panic|csum fail")


@dataclass(slots=True)
class Result:
    """Packets in, of them faultless, out, and out damaged; what tools/fuzz.c said; complaints of the kernel."""

    sent: int = 0
    clean: int = 0
    received: int = 0
    damaged: int = 0
    said: str = ""
    warnings: tuple[str, ...] = ()


class KernelLog:
    """Lines of the kernel's log from now on."""

    def __init__(self) -> None:
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.fd, 0, os.SEEK_END)

    def complaints(self) -> tuple[str, ...]:
        """Warnings since the start."""
        found: list[str] = []
        while True:
            try:
                line = os.read(self.fd, 1 << 14).decode(errors="replace")
            except BlockingIOError:
                return tuple(found)
            except BrokenPipeError:  # overwritten before it was read: the next read goes on
                continue
            if COMPLAINT.search(line):
                found.append(line.strip())

    def close(self) -> None:
        os.close(self.fd)


def write_corpus(path: Path, number: int, seed: int) -> None:
    generator = Generator(seed)
    packets = (generator.valid(NODES[number]) for _ in range(CORPUS))
    path.write_bytes(b"".join(struct.pack("!H", len(each)) + each for each in packets))


def run(gateway: LiveGateway, packets: int, seed: int) -> Result:
    """About `packets` packets, shared among the nodes."""
    binary, total, log = program(SOURCE), Result(), KernelLog()
    share = -(-packets // len(NODES))
    with tempfile.TemporaryDirectory() as directory:
        for number, node in enumerate(NODES):
            corpus = Path(directory, f"{number}")
            write_corpus(corpus, number, seed * len(NODES) + number)
            gateway.configure(node)
            command = [str(binary), str(corpus), str(share), str(seed + number)]
            command += ["h6", MAC["g6"], "h4", MAC["g4"], OWN6, OWN4]
            done = gateway.run_outside(command)
            if done.returncode not in (0, 1):
                raise OSError(done.returncode, f"{binary.name}: {done.stderr.strip()}")
            counts = json.loads(done.stdout)
            total.sent += counts["in"]
            total.clean += counts["clean"]
            total.received += counts["out"]
            total.damaged += counts["damaged"]
            total.said += done.stderr
    total.warnings = log.complaints()
    log.close()
    return total


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packets", type=int, default=10_000_000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of corpus and mutations (default: %(default)s)")
    parser.add_argument("--xdp", action="store_true", help="with sg_xdp in front of sg_tc")
    options = parser.parse_args()
    with LiveGateway(xdp=options.xdp) as gateway:
        result = run(gateway, options.packets, options.seed)
    sys.stderr.write(result.said)
    for line in result.warnings:
        print(f"the kernel says: {line}")
    print(
        f"{result.sent} packets in, {result.clean} of them faultless, {result.received} out, {result.damaged} damaged, "
        f"{len(result.warnings)} kernel warnings"
    )
    return 1 if result.damaged or result.warnings else 0


if __name__ == "__main__":
    sys.exit(main())
