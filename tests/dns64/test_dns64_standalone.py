"""Standalone mode with DNS64: the resolver is killed, the gateway is killed, and packets do not notice."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.lab import topology, traffic
from e2e.lab.run import LabRun
from e2e.lab.sixgate import ROOT, Sixgate
from e2e.lab.topology import CLIENT6, SERVER4
from sixgate.node.bpf import missing_permission

PATIENCE_S = 60.0  # beside any load


def wait(gateway: Sixgate, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The one resolver's row of `sixgate status` as soon as `holds` says yes."""
    deadline = time.monotonic() + PATIENCE_S
    rows: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        rows = gateway.status().get("resolvers", [])
        if len(rows) == 1 and holds(rows[0]):
            return rows[0]
        time.sleep(0.05)
    raise AssertionError(f"{rows}\n{gateway.log_tail()}")


def test_the_resolver_and_the_translation_are_apart() -> None:
    if reason := missing_permission():
        pytest.skip(reason)
    with LabRun() as lab:
        topology.build(lab)
        gateway = Sixgate(lab, ROOT / "examples" / "nat46gateway-dns64")
        gateway.start()
        gateway.wait_ready()
        first = wait(gateway, lambda row: row["state"] == "Ready")
        assert gateway.status()["ready"]

        pings: list[traffic.Ping] = []
        address = SERVER4.seen_from(6)
        pinging = threading.Thread(
            target=lambda: pings.append(traffic.ping(lab, CLIENT6.role, address, count=100, interval=0.02))
        )
        pinging.start()
        time.sleep(0.5)
        os.kill(first["pid"], signal.SIGKILL)
        second = wait(gateway, lambda row: row["state"] == "Ready" and row["pid"] != first["pid"])
        pinging.join()
        assert second["restarts"] == 1
        assert (pings[0].received, pings[0].sent) == (100, 100)

        gateway.kill()
        deadline = time.monotonic() + PATIENCE_S
        while Path(f"/proc/{second['pid']}").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not Path(f"/proc/{second['pid']}").exists()
        status = gateway.status()
        assert not status["ready"]
        assert traffic.ping(lab, CLIENT6.role, address).received == 5

        gateway.start()
        third = wait(gateway, lambda row: row["state"] == "Ready" and row["pid"] != second["pid"])
        assert third["restarts"] == 0
        gateway.stop()
        assert not Path(f"/proc/{third['pid']}").exists()
