"""`sixgate trace` and the metrics endpoint, of a standalone gateway that is running."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests.netns.standalone import Gateway, ready

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator


@pytest.fixture
def running(gateway: Gateway) -> Gateway:
    gateway.write(stateless={"ipv4CIDRs": ["198.51.100.0/24"]})
    gateway.start()
    gateway.wait(ready)
    return gateway


def trace(of: Gateway, *words: str) -> subprocess.CompletedProcess[str]:
    return of.call(*of.words("trace", *words))


def told(of: Gateway, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(trace(of, *words, "-o", "json").stdout)
    return found


CLIENT, SERVER = "[2001:db8:64::c633:6407]:40000", "[2001:db8:64::c000:0202]:80"  # 198.51.100.7, 192.0.2.2


def test_a_packet_that_is_translated(running: Gateway) -> None:
    found = told(running, "--from", CLIENT, "--to", SERVER, "--device", "e0")
    step = found["steps"][-1]
    assert (step["program"], step["reason"], step["object"]) == ("sg_uplink_tc", "SG_OK_64", "NAT46Gateway/lab")
    assert step["after"] == "tcp 198.51.100.7:40000 → 192.0.2.2:80, hop limit 63"
    assert found["route"].startswith("It leaves through e0 straight to 192.0.2.2")
    assert not found["dropped"]


def test_nothing_is_counted_and_nothing_is_sent(running: Gateway) -> None:
    before = counted(running)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003)) as tap:
        tap.bind(("e1", 0))
        tap.settimeout(0.5)
        told(running, "--from", CLIENT, "--to", SERVER, "--device", "e0", "--proto", "udp", "--length", "100")
        told(running, "--from", CLIENT, "--to", SERVER, "--device", "e0", "--ttl", "1")
        assert [frame.hex() for frame in _heard(tap) if _is_ours(frame)] == []
    assert counted(running) == before


def counted(of: Gateway) -> tuple[dict[str, Any], dict[str, Any]]:
    """Without what is none of ours: the kernel asks for neighbours at any time."""
    status = of.status()
    return {r: c for r, c in status["counters"].items() if not r.startswith("SG_PASS_")}, status["traffic"]


def _heard(tap: socket.socket) -> Iterator[bytes]:
    """Frames until half a second has passed without one."""
    with contextlib.suppress(TimeoutError):
        while True:
            yield tap.recv(2048)


def _is_ours(frame: bytes) -> bool:
    """Neighbour discovery of the kernel's own is on the wire, too; nothing that carries our ports or a TTL error."""
    ether = frame[12:14]
    return ether == b"\x08\x00" or (ether == b"\x86\xdd" and (frame[20] in (6, 17) or frame[54:55] == b"\x03"))


def test_why_a_packet_is_dropped_and_who_answers(running: Gateway) -> None:
    done = trace(running, "--from", CLIENT, "--to", SERVER, "--device", "e0", "--ttl", "1")
    assert done.returncode == 1
    assert "hands it on: needs an ICMP error of our own." in done.stdout
    assert "sg_slow_tc (tc-ingress on sg-slow1) drops it: TTL or hop limit exceeded." in done.stdout


def test_a_packet_that_is_nobodys(running: Gateway) -> None:
    found = told(running, "--from", "192.0.2.2:1", "--to", "192.0.2.1:2")
    assert (found["device"], found["steps"][-1]["reason"]) == ("e0", "SG_PASS_NO_MATCH")
    assert found["route"] == "192.0.2.1 is an address of this host, which takes the packet itself."


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--from", "192.0.2.2:1", "--to", SERVER), "A packet has addresses of one family"),
        (("--from", "nowhere", "--to", SERVER), "An end of a flow must be ADDRESS or ADDRESS:PORT"),
        (("--from", CLIENT, "--to", SERVER, "--device", "e9"), "this node has no such device"),
        (("--from", CLIENT, "--to", "2001:db8:64::c000:0202"), "needs the port that it is sent to"),
        (("--from", CLIENT, "--to", SERVER, "--flags", "xmas"), "TCP flags are some of"),
    ],
)
def test_mistakes_get_a_sentence(running: Gateway, words: tuple[str, ...], sentence: str) -> None:
    done = trace(running, *words)
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_node_that_was_told_nothing(gateway: Gateway) -> None:
    done = trace(gateway, "--from", CLIENT, "--to", SERVER, "--device", "e0")
    assert done.returncode == 2
    assert "should hold what this node was told" in done.stderr


def test_metrics_are_those_of_the_maps(gateway: Gateway) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    gateway.ns.run("ip", "link", "set", "lo", "up")
    gateway.write()
    gateway.start("--metrics", f"127.0.0.1:{port}")
    gateway.wait(ready)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    counters = gateway.status()["counters"]
    assert len(re.findall(r"^sixgate_packets_total\{", text, re.MULTILINE)) == len(counters)
    assert 'sixgate_object_packets_total{kind="NAT46Gateway",name="lab",direction="to4"} 0.0' in text
    assert 'sixgate_hook_attached{device="e0",hook="tc-ingress",mechanism="tcx"} 1.0' in text
    assert "sixgate_node_ready 1.0" in text
