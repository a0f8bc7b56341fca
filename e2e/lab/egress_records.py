"""Connections as gateways tell each other of them, made by hand: struct sg_eg_session."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Any

from e2e.lab.egress import SERVER4, SOURCE4
from sixgate.node.bpf.layouts import SG_EG_SESSION, SgStState

RECORD = struct.Struct("=16s16s16s16sHHHHBB6sII")
ESTABLISHED, DATAGRAMS, ENDED = int(SgStState.SG_ST_EST), int(SgStState.SG_ST_UDP), 0
assert RECORD.size == SG_EG_SESSION.size


def record(obj: int, **changed: Any) -> bytes:
    """A TCP connection of a pod that nobody else has; `changed` replaces parts of it."""
    parts: dict[str, Any] = {
        "near": "10.99.0.1",
        "far": SERVER4,
        "to": SOURCE4,
        "near_port": 5000,
        "to_port": 40000,
        "proto": socket.IPPROTO_TCP,
        "state": ESTABLISHED,
        "left": 100,
        **changed,
    }
    near, far, to = (wide(parts[name]) for name in ("near", "far", "to"))
    ports = [socket.htons(parts["near_port"]), socket.htons(80), socket.htons(parts["to_port"])]
    tail = (parts["proto"], parts["state"], bytes(6), parts["left"], 0)
    return RECORD.pack(near, far, to, bytes(16), *ports, obj, *tail)


def wide(text: str) -> bytes:
    """An address as the engine has it."""
    address = ipaddress.ip_address(text)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
