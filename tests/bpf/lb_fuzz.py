"""Bent packets through the balancer: every verdict and every packet that leaves is looked at, every drop is counted.

    python -m tests.bpf.lb_fuzz --packets 10000000 [--seed N]

tools/lb_fuzz.c does the work, half of it in XDP, half in tc, from the packets of test_lb_packets.py.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.bpf.balancer import Balancer
from tests.bpf.test_lb_packets import BACKEND4, BACKEND6, KEPT, NEIGHBOUR, SENT, Case, Hooked, configure, frame, run

ROOT = Path(__file__).resolve().parents[2]
SOURCE, BINARY = ROOT / "tools" / "lb_fuzz.c", ROOT / "build" / "lb_fuzz"
LINKS = f"""
link add fz0 type veth peer name fz1
link set fz0 up
link set fz1 up
addr add 192.0.2.1/24 dev fz0
addr add 2001:db8::1/64 dev fz0 nodad
neigh add {BACKEND4} lladdr {NEIGHBOUR} dev fz0
neigh add {BACKEND6} lladdr {NEIGHBOUR} dev fz0
"""


@dataclass(frozen=True, slots=True)
class Result:
    """Packets by what became of them; `uncounted` drops have no reason in sg_metrics. `said` is what the tool said."""

    sent: int
    dropped: int
    passed: int
    wrong: int
    uncounted: int
    said: str


def build() -> Path:
    """tools/lb_fuzz.c, compiled where it is newer than its program."""
    if not BINARY.exists() or BINARY.stat().st_mtime < SOURCE.stat().st_mtime:
        BINARY.parent.mkdir(exist_ok=True)
        fresh = BINARY.with_suffix(f".{os.getpid()}")
        flags = ["-O2", "-Wall", "-Wextra", "-Werror"]
        subprocess.run(["cc", *flags, "-o", str(fresh), str(SOURCE), "-lbpf"], check=True)
        fresh.replace(BINARY)
    return BINARY


def fuzz(name: str, device: str, packets: int, seed: int) -> Result:
    """`packets` bent packets through one object, in this network namespace."""
    balancer = Balancer(name, device=device)
    configure(balancer)
    for case in (*SENT, *KEPT):  # next hops are known then
        run(Hooked(balancer, ""), Case("", case.packet, ""))
    before = drops(balancer)
    fd = balancer.loaded.program.fd
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch, "corpus")
        frames = [frame(packet) for case in (*SENT, *KEPT) for packet in (*case.before, case.packet)]
        corpus.write_bytes(b"".join(struct.pack("!H", len(each)) + each for each in frames))
        hook = "xdp" if name == "sg_xdp" else "tc"
        words = [str(build()), str(fd), hook, str(socket.if_nametoindex(device)), str(corpus), str(packets), str(seed)]
        done = subprocess.run(words, capture_output=True, text=True, pass_fds=(fd,), check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stderr)
    told = json.loads(done.stdout)
    uncounted = told["dropped"] - (drops(balancer) - before)
    balancer.close()
    return Result(told["sent"], told["dropped"], told["passed"], told["wrong"], uncounted, done.stderr)


def drops(balancer: Balancer) -> int:
    """Packets that were dropped for a reason."""
    return sum(count.packets for name, count in balancer.loaded.metrics().items() if name.startswith("SG_DROP_"))


def main() -> int:
    parser = argparse.ArgumentParser(description="Send bent packets through the balancer.")
    parser.add_argument("--packets", type=int, default=1_000_000, help="how many, half of them in tc")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.here:
        words = [sys.executable, "-m", "tests.bpf.lb_fuzz", "--here", "--seed", str(args.seed)]
        environment = os.environ | {"PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}"}
        command = ["unshare", "--net", *words, "--packets", str(args.packets)]
        return subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode
    for line in LINKS.strip().splitlines():
        subprocess.run(["ip", *line.split()], check=True)
    for family in ("ipv4", "ipv6"):
        Path(f"/proc/sys/net/{family}/conf/all/forwarding").write_text("1")
    bad = 0
    for name in ("sg_xdp", "sg_tc"):
        found = fuzz(name, "fz0", args.packets // 2, args.seed)
        bad += found.wrong + abs(found.uncounted)
        sys.stdout.write(
            f"{name}: {found.sent:,} sent, {found.dropped:,} dropped, {found.passed:,} left to the kernel; "
            f"{found.wrong} wrong, {found.uncounted} dropped without a reason\n{found.said}"
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
