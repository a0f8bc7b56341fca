"""How long a node with a thousand devices takes to be set for BIG TCP, and how much it writes when nothing changed."""

from __future__ import annotations

import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.lab.run import LabError, LabRun
from e2e.lab.sixgate import ROOT
from sixgate.api.nodeconfig import NodeConfigSpec
from sixgate.node.agent import NodeAgent
from sixgate.node.netlink import Netlink
from sixgate.node.options import NodeOptions

if TYPE_CHECKING:
    from collections.abc import Callable

DEVICES = 1000
BIG = 196608
_RTMGRP_LINK = 1


@dataclass(frozen=True, slots=True)
class Scale:
    set_seconds: float
    again_seconds: float
    again_writes: int
    back_seconds: float


def reconcile_many(temporary: Path) -> Scale:
    """One node of its own with DEVICES devices, half of them the other ends. LabError where a size is not as wanted."""
    with LabRun() as lab, tempfile.TemporaryDirectory(dir=temporary) as state:
        lab.add_netns("node")
        lab.ip("node", *(f"link add d{n} type veth peer name e{n}" for n in range(DEVICES // 2)))
        options = NodeOptions(bpffs=lab.add_bpffs() / "sixgate", state_dir=Path(state), objects=ROOT / "build" / "bpf")
        return lab.call("node", lambda: _measure(options))


def _measure(options: NodeOptions) -> Scale:
    item = {"owners": ["BIGTCPPolicy/p"], "include": ["d*", "e*"], "ipv6Size": BIG, "ipv4Size": BIG}
    wanted = NodeConfigSpec.model_validate({"formatVersion": 1, "bigTcp": [item]}).hashed()
    nothing = NodeConfigSpec(format_version=1).hashed()
    with NodeAgent(options) as agent:
        first = _timed(agent, wanted)
        _expect(BIG)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            listener.bind((0, _RTMGRP_LINK))
            listener.setblocking(False)
            again = _timed(agent, wanted)
            writes = _heard(listener)
        back = _timed(agent, nothing)
        _expect(65536)
    return Scale(first, again, writes, back)


def _timed(agent: NodeAgent, spec: NodeConfigSpec) -> float:
    begin = time.perf_counter()
    status = agent.apply(spec)
    took = time.perf_counter() - begin
    if not status.ready:
        raise LabError(f"A node with {DEVICES} devices is not ready: {status.message}")
    return took


def _expect(size: int) -> None:
    with Netlink() as netlink:
        devices = [d for d in netlink.devices().values() if d.kind == "veth"]
    wrong = [d.name for d in devices if {d.sizes.gso6, d.sizes.gro6, d.sizes.gso4, d.sizes.gro4} != {size}]
    if wrong or len(devices) != DEVICES:
        raise LabError(f"{len(wrong)} of {len(devices)} devices do not have {size} bytes, {wrong[:1]} among them.")


def _heard(listener: socket.socket) -> int:
    """Datagrams about links since the socket was made: every write of a size makes at least one."""
    count = 0
    receive: Callable[[int], bytes] = listener.recv
    while True:
        try:
            receive(1 << 16)
        except BlockingIOError:
            return count
        count += 1
