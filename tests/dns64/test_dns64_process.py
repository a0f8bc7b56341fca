"""The resolver as a process: killed, reloaded, given nonsense, taken away."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dns.exception
import dns.message
import pytest

from tests.dns64.conftest import PATIENCE_S, RESOLVER, Running
from tests.dns64.test_dns64_answers import rows


@pytest.fixture
def standard(resolver: Running) -> Iterator[Running]:
    """The resolver, with its usual files again afterwards."""
    yield resolver
    resolver.want()
    resolver.wait(lambda status: status.state == "Ready" and not status.message and _settled(resolver))


def _settled(resolver: Running) -> bool:
    texts = resolver.files().texts
    directory = resolver.directory / "dns64" / "lab"
    return all((directory / name).exists() and (directory / name).read_text() == text for name, text in texts.items())


def test_killed_it_comes_back(standard: Running) -> None:
    before = standard.wait(lambda status: status.state == "Ready")
    os.kill(before.pid, signal.SIGKILL)
    after = standard.wait(lambda status: status.state == "Ready" and status.pid not in (0, before.pid))
    assert after.restarts == before.restarts + 1
    assert rows(standard.ask("v4only.example"))


def test_it_holds_one_capability_and_is_another_user(standard: Running) -> None:
    status = standard.wait(lambda status: status.state == "Ready")
    lines = Path(f"/proc/{status.pid}/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 1 << 10  # CAP_NET_BIND_SERVICE
    assert fields["NoNewPrivs"] == "1"
    assert "0" not in fields["Uid"].split()


def test_another_prefix_is_followed_without_a_new_process(standard: Running) -> None:
    before = standard.wait(lambda status: status.state == "Ready")
    assert {row[3] for row in rows(standard.ask("v4only.example"))} == {"64:ff9b::c058:6221"}
    standard.want(prefixes=[{"ipv4CIDR": "0.0.0.0/0", "prefix": "2001:db8:99::/96"}])
    after = standard.wait(lambda status: status.reloads > before.reloads)
    assert (after.pid, after.restarts) == (before.pid, before.restarts)
    assert {row[3] for row in rows(standard.ask("v4only.example"))} == {"2001:db8:99::c058:6221"}


def test_a_reload_loses_no_question(standard: Running) -> None:
    """Questions come all the time; what is waiting while the files are read is answered afterwards."""
    before = standard.wait(lambda status: status.state == "Ready")
    query = dns.message.make_query("native.example", "AAAA").to_wire()
    lost, stop = [], threading.Event()

    def ask() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
            client.settimeout(30)
            client.connect((RESOLVER, 53))
            while not stop.is_set():
                client.send(query)
                try:
                    client.recv(4096)
                except OSError as error:
                    lost.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(3):
            standard.want(neverSynthesize=["cluster.local", f"n{number}.example"])
            standard.wait(lambda status, number=number: status.reloads > before.reloads + number)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not lost


def test_other_addresses_need_another_process(standard: Running) -> None:
    before = standard.wait(lambda status: status.state == "Ready")
    standard.want(listenAddresses=["fd00::1"], upstreams=[{"address": "fd00::1", "port": 53}])
    standard.wait(lambda status: status.restarts > before.restarts)
    standard.want()
    after = standard.wait(lambda status: status.state == "Ready" and status.pid not in (0, before.pid))
    assert after.restarts > before.restarts


def test_nonsense_from_a_template_changes_nothing(standard: Running) -> None:
    before = standard.wait(lambda status: status.state == "Ready")
    texts = dict(standard.files().texts)
    texts["unbound.conf"] += "\nnonsense: yes\n"
    standard.pool.want({"NAT46Gateway/lab": ("lab", texts)})
    status = standard.wait(lambda status: bool(status.message))
    assert "refused" in status.message
    assert (status.state, status.pid) == ("Ready", before.pid)
    assert rows(standard.ask("v4only.example"))


def test_taken_away_and_given_again(standard: Running) -> None:
    before = standard.wait(lambda status: status.state == "Ready")
    standard.pool.want({})
    deadline = time.monotonic() + PATIENCE_S
    while (standard.directory / "dns64" / "lab").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{before.pid}").exists()
    assert not standard.pool.statuses
    with pytest.raises((dns.exception.Timeout, OSError)):
        standard.ask("v4only.example", timeout=0.3)
