"""Short runs of the balancer's fuzzers; `make fuzz-lb` runs the long ones."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.bpf import lb_nat_fuzz
from tests.bpf.conftest import Pair
from tests.bpf.lb_fuzz import fuzz
from tests.bpf.test_lb_packets import BACKEND4, BACKEND6, NEIGHBOUR


@pytest.mark.parametrize("name", ["sg_xdp", "sg_tc"])
def test_bent_packets_are_sent_right_or_not_at_all(name: str, veth: Pair) -> None:
    device = veth.names[0]
    for command in ("addr add 192.0.2.1/24", "addr add 2001:db8::1/64"):
        subprocess.run(["ip", *command.split(), "dev", device], check=True)
    for address in (BACKEND4, BACKEND6):
        subprocess.run(["ip", "neigh", "add", address, "lladdr", NEIGHBOUR, "dev", device], check=True)
    for family in ("ipv4", "ipv6"):
        Path(f"/proc/sys/net/{family}/conf/all/forwarding").write_text("1")
    found = fuzz(name, device, 50_000, seed=3)
    assert (found.wrong, found.uncounted, found.said) == (0, 0, "")
    assert min(found.sent, found.dropped, found.passed) > 1000


def test_bent_packets_to_vips_in_mode_nat_are_sent_right_or_not_at_all() -> None:
    found = lb_nat_fuzz.fuzz(100_000, seed=3)
    assert (found.wrong, found.uncounted, found.said) == (0, 0, "")
    assert min(found.sent, found.dropped, found.passed) > 10_000


def test_the_fuzzer_of_mode_nat_sees_packets_that_go_astray() -> None:
    assert lb_nat_fuzz.fuzz(1000, seed=3, backends=lb_nat_fuzz.BACKENDS[:1]).wrong > 10
