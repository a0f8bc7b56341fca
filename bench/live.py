"""Packets handed to a lab's gateway as a network card's driver would hand them: XDP frames, with room in front.

A packet that a program sends through a veth pair has no room for a longer header, so that a gateway would be measured
copying packets. live.c has the kernel send frames of its own (BPF_F_TEST_XDP_LIVE_FRAMES) instead.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.lab.compiled import bpf_object, program
from e2e.lab.packets import DPORT, SPORT, udp_packet
from e2e.lab.stamp import hardware_address

if TYPE_CHECKING:
    from e2e.lab.run import LabRun

HERE = Path(__file__).parent
PAYLOAD = bytes(16)  # 64 bytes of IPv6 altogether


def programs() -> tuple[str, str]:
    """Paths of the sender and of the BPF object that it loads, compiled."""
    return program(HERE / "live.c", "bpf"), str(bpf_object(HERE / "live.bpf.c"))


def frame(lab: LabRun, role: str, source: str, destination: str, ports: tuple[int, int] = (SPORT, DPORT)) -> bytes:
    """An Ethernet frame with a UDP packet from a host to its gateway."""
    macs = hardware_address(lab, "gw", role) + hardware_address(lab, role, "up")
    ethertype = b"\x86\xdd" if ":" in source else b"\x08\x00"
    return bytes.fromhex(macs.replace(":", "")) + ethertype + udp_packet(source, destination, PAYLOAD, ports=ports)


@dataclass(frozen=True, slots=True)
class Sent:
    """How many frames, in how many seconds; `core`: for how many of them the sender, with all that its frames met
    before they came to rest, had its core."""

    runs: int
    seconds: float
    core: float


def transmit(lab: LabRun, role: str, data: bytes, seconds: float, *, flows: tuple[int, int, int] | None = None) -> Sent:
    """Sends one frame from a host again and again, all of it on one core.

    `flows`: how many sources take turns, how many of one address, and how far apart neighbours in time are.
    """
    sender, obj = programs()
    words = [sender, obj, lab.device("up"), data.hex(), str(seconds), *map(str, flows or ())]
    done = lab.run(role, words, timeout=seconds + 30)
    return Sent(**json.loads(done.stdout))
