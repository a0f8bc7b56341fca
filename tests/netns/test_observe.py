"""`sixgate observe` on a standalone gateway with packets that really arrive."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from scapy.layers.inet import IP
from scapy.utils import PcapNgReader

from sixgate.node import packets
from sixgate.node.bpf import layouts
from sixgate.node.bpf.map import Map
from sixgate.node.packets import parse_end
from tests.netns.standalone import PATIENCE_S, Gateway, environment, ready

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLIENT, SERVER = "[2001:db8:64::c633:6407]:40000", "[2001:db8:64::c000:0202]:80"  # 198.51.100.7, 192.0.2.2


@pytest.fixture
def running(gateway: Gateway) -> Iterator[Gateway]:
    gateway.write(stateless={"ipv4CIDRs": ["198.51.100.0/24"]})
    gateway.start()
    gateway.wait(ready)
    return gateway


def send(*frames: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("e1", 0))
        for frame in frames:
            wire.send(frame)


def frame(proto: Any = "tcp", ttl: int = 64, target: str = SERVER) -> bytes:
    return packets.build(parse_end(CLIENT), parse_end(target), proto, ttl=ttl)


class Watcher:
    """`sixgate observe` in a process of its own."""

    def __init__(self, of: Gateway, *words: str) -> None:
        self.of = of
        command = of.words("observe", *words)
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )

    def __enter__(self) -> Watcher:
        deadline = time.monotonic() + PATIENCE_S
        while not asked(self.of)["sample"]:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, "the programs should be asked to look, and were not"
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def end(self) -> tuple[list[dict[str, Any]], str]:
        """What was told until now, once it ends by itself."""
        out, err = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 0, err
        return [json.loads(line) for line in out.splitlines()], err


def asked(of: Gateway) -> dict[str, Any]:
    with Map.from_pin(of.bpffs / "maps" / "sg_obs_conf", spec=layouts.MAPS["sg_obs_conf"]) as table:
        found: Any = table.get(0)
        return dict(found)


def test_a_translated_packet_is_told_before_and_after(running: Gateway) -> None:
    with Watcher(running, "-o", "json", "--address", "2001:db8:64::/96", "--verdict", "ok", "--count", "1") as watcher:
        send(frame())
        (event,), _ = watcher.end()
    assert (event["hook"], event["device"], event["reason"]) == ("tc", "e0", "SG_OK_64")
    assert event["object"] == "NAT46Gateway/lab"
    assert (event["before"]["destination"], event["before"]["destinationPort"]) == ("2001:db8:64::c000:202", 80)
    assert (event["after"]["source"], event["after"]["destination"]) == ("198.51.100.7", "192.0.2.2")
    assert event["after"]["hopLimit"] == 63
    assert asked(running)["sample"] == 0, "nobody looks any more"


def test_filters_of_verdict_port_and_protocol(running: Gateway) -> None:
    words = ("-o", "json", "--verdict", "drop", "--verdict", "slow", "--proto", "udp", "--count", "2")
    with Watcher(running, *words) as watcher:
        send(frame(), frame(ttl=1), frame("udp"), frame("udp", ttl=1))
        events, _ = watcher.end()
    assert [(e["hook"], e["verdict"]) for e in events] == [("tc", "slow"), ("slow", "drop")]
    assert events[1]["reason"] == "SG_DROP_TTL"
    assert events[1]["meaning"] == "TTL or hop limit exceeded"


def test_a_capture_that_others_open(running: Gateway, tmp_path: Path) -> None:
    capture = tmp_path / "seen.pcapng"
    words = ("--pcap", str(capture), "--address", "2001:db8:64::/96", "--verdict", "ok", "--count", "2")
    with Watcher(running, *words) as watcher:
        send(frame(), frame("udp"))
        watcher.end()
    with PcapNgReader(str(capture)) as reader:
        seen = list(reader)
    assert [packet.haslayer(IP) for packet in seen] == [False, True, False, True]
    assert seen[1][IP].dst == "192.0.2.2"
    told = subprocess.run(["tcpdump", "-nr", str(capture)], capture_output=True, text=True, check=True).stdout
    assert len(told.splitlines()) == 4


def test_events_are_bounded_and_what_is_kept_out_is_said(running: Gateway) -> None:
    with Watcher(running, "-o", "json", "--verdict", "ok", "--rate", "10", "--seconds", "5") as watcher:
        send(*[frame("udp")] * 500)
        events, said = watcher.end()
    assert 1 <= len(events) < 100
    assert "more packets were met than the 10 per second that are told" in said


def test_one_observer_at_a_time_and_a_killed_one_is_forgotten(running: Gateway) -> None:
    with Watcher(running) as watcher:
        second = running.call(*running.words("observe", "--seconds", "1"))
        assert second.returncode == 1
        assert "another `sixgate observe` is looking at this node" in second.stderr
        watcher.process.send_signal(signal.SIGKILL)
    done = None
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        done = running.call(*running.words("observe", "--seconds", "0.1"))
        if done.returncode == 0:
            break
    assert done is not None
    assert done.returncode == 0


def test_nothing_loaded_and_wrong_addresses_get_a_sentence(gateway: Gateway) -> None:
    done = gateway.call(*gateway.words("observe", "--seconds", "1"))
    assert done.returncode == 1
    assert "sg_obs_conf" in done.stderr
    wrong = gateway.call(*gateway.words("observe", "--address", "nowhere"))
    assert wrong.returncode == 2
    assert "It must be an address or a CIDR" in wrong.stderr
