"""Bent packets through the balancer: every verdict and every packet that leaves is looked at, every drop is counted.

    python -m tests.bpf.lb_fuzz --packets 10000000 --nat 10000000 [--seed N]

tools/lb_fuzz.c does the work: half of the packets in XDP, half in tc, bent from those of test_lb_packets.py; others
for VIPs in mode NAT (lb_nat_fuzz.py).
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bpf import lb_nat_fuzz
from tests.bpf.balancer import Balancer
from tests.bpf.lb_tool import ROOT, Result, drops, run_tool
from tests.bpf.test_lb_packets import BACKEND4, BACKEND6, KEPT, NEIGHBOUR, SENT, Case, Hooked, configure, frame, run

LINKS = f"""
link add fz0 type veth peer name fz1
link set fz0 up
link set fz1 up
addr add 192.0.2.1/24 dev fz0
addr add 2001:db8::1/64 dev fz0 nodad
neigh add {BACKEND4} lladdr {NEIGHBOUR} dev fz0
neigh add {BACKEND6} lladdr {NEIGHBOUR} dev fz0
"""


def fuzz(name: str, device: str, packets: int, seed: int) -> Result:
    """`packets` bent packets through one object, in this network namespace."""
    balancer = Balancer(name, device=device)
    configure(balancer)
    for case in (*SENT, *KEPT):  # next hops are known then
        run(Hooked(balancer, ""), Case("", case.packet, ""))
    before = drops(balancer.loaded)
    frames = [frame(packet) for case in (*SENT, *KEPT) for packet in (*case.before, case.packet)]
    with tempfile.TemporaryDirectory() as scratch:
        hook, index = "xdp" if name == "sg_xdp" else "tc", socket.if_nametoindex(device)
        found = run_tool(balancer.loaded, hook, index, frames, packets=packets, seed=seed, scratch=Path(scratch))
    found = found.counted(drops(balancer.loaded) - before)
    balancer.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Send bent packets through the balancer.")
    parser.add_argument("--packets", type=int, default=1_000_000, help="how many, half of them in tc")
    parser.add_argument("--nat", type=int, default=1_000_000, help="how many more for VIPs in mode NAT")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.here:
        words = [sys.executable, "-m", "tests.bpf.lb_fuzz", "--here", "--seed", str(args.seed)]
        environment = os.environ | {"PYTHONPATH": f"{ROOT / 'operator'}:{ROOT}"}
        command = ["unshare", "--net", *words, "--packets", str(args.packets), "--nat", str(args.nat)]
        return subprocess.run(command, check=False, cwd=ROOT, env=environment).returncode
    for line in LINKS.strip().splitlines():
        subprocess.run(["ip", *line.split()], check=True)
    for family in ("ipv4", "ipv6"):
        Path(f"/proc/sys/net/{family}/conf/all/forwarding").write_text("1")
    bad = 0
    for name in ("sg_xdp", "sg_tc", "mode NAT"):
        nat = name == "mode NAT"
        found = lb_nat_fuzz.fuzz(args.nat, args.seed) if nat else fuzz(name, "fz0", args.packets // 2, args.seed)
        bad += found.wrong + abs(found.uncounted)
        sys.stdout.write(
            f"{name}: {found.sent:,} sent, {found.dropped:,} dropped, {found.passed:,} left to the kernel; "
            f"{found.wrong} wrong, {found.uncounted} dropped without a reason\n{found.said}"
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
