"""Deterministic port blocks (RFC 7422), live: what can be computed is not logged, what cannot is."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from e2e.lab.natlab import CLIENT6, SERVER4, embed
from sixgate.node.bpf import missing_permission
from tests.netns.nat import Stage, nat64, staged

SIZE, FIRST = 64, 2048
POOL = [{"cidr": "198.51.100.0/30", "ports": {"first": FIRST, "last": FIRST + 64 * SIZE - 1}}]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    if reason := missing_permission():
        pytest.skip(reason)
    with staged(nat64(pools=POOL, portBlockSize=SIZE)) as made:
        yield made


def test_ports_of_a_client_come_from_blocks_and_only_more_of_them_are_logged(stage: Stage) -> None:
    """7422"""
    server = stage.udp(SERVER4, 4600)
    seen = []
    for _ in range(SIZE + 10):
        client = stage.udp(CLIENT6)
        client.sendto(b"x", (embed(SERVER4.ip), 4600))
        seen.append(server.recvfrom(10)[1])
    blocks = [(address, (port - FIRST) // SIZE) for address, port in seen]
    assert len(set(blocks[:SIZE])) == 1, "one block holds as many as it has ports"
    assert len(set(blocks)) == 2
    (more,) = set(blocks) - {blocks[0]}
    assert stage.stat("overflow") == 1
    deadline = time.monotonic() + 60  # beside any load
    lines: list[str] = []
    while not lines and time.monotonic() < deadline:
        lines = [line for line in stage.sixgate.log_tail(100).splitlines() if "Port block" in line]
        time.sleep(0.1)
    (line,) = lines
    first = FIRST + more[1] * SIZE
    assert re.search(
        rf"Port block of lab given to {CLIENT6.ip}: UDP ports {first} to {first + SIZE - 1} of {more[0]}", line
    )
