"""Asking the process that keeps this node: it has long loaded what a command would take most of a second to load.

One question, one answer, each a JSON document, over a socket in the state directory that root alone may open. Nothing
that can be asked changes anything. This half is the asker's and imports next to nothing; answering.py is the other.
"""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING, Any

from sixgate import __version__

if TYPE_CHECKING:
    from pathlib import Path

SOCKET = "ask.sock"
MAX_BYTES = 1 << 20
PATIENCE_S = 5.0


def ask(state_dir: str | Path, about: str, question: dict[str, Any]) -> Any:
    """The answer; None where nobody answers who could: no such process, another version, or none of its business.

    The caller then finds the answer out by itself, which takes longer.
    """
    try:
        directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(PATIENCE_S)
            peer.connect(reachable(directory))
            peer.sendall(json.dumps({"version": __version__, "about": about, "question": question}).encode())
            peer.shutdown(socket.SHUT_WR)
            answer = json.loads(read_all(peer))
    except (OSError, ValueError):
        return None
    finally:
        os.close(directory)
    return answer if isinstance(answer, dict) and answer else None


def reachable(directory: int) -> str:
    """A path of the socket in an open directory that is short enough for an address, however deep the directory is."""
    return f"/proc/self/fd/{directory}/{SOCKET}"


def read_all(peer: socket.socket) -> bytes:
    """What is sent until the other side has ended. OSError where it is more than MAX_BYTES or comes too slowly."""
    found = bytearray()
    while piece := peer.recv(1 << 16):
        found += piece
        if len(found) > MAX_BYTES:
            raise OSError("The message is longer than any that is understood.")
    return bytes(found)
