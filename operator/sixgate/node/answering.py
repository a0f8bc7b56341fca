"""Answers what `asking.ask` asks, in a thread of the process that keeps this node.

Only root may ask: the socket and its directory are root's, and the kernel says who is at the other end. There is
nothing to ask for that changes anything, and one question is answered at a time, so that answers cost one thread.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, Self

from sixgate import __version__
from sixgate.errors import SixgateError
from sixgate.node.asking import PATIENCE_S, SOCKET, reachable, read_all

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_BACKLOG = 8


class Answers:
    """Listens below `state_dir` from the beginning of the `with` block to its end.

    `subjects` answer by what is asked about, each with the question as it came. One gives None where it is not asked
    for what it knows, and raises SixgateError for what the asker is to be told instead of an answer.
    """

    def __init__(self, state_dir: Path, subjects: Mapping[str, Callable[[dict[str, Any]], Any]]) -> None:
        self._state_dir, self._subjects = state_dir, subjects
        self._listener: socket.socket | None = None
        self._made = 0  # inode of the socket's file
        self._thread = threading.Thread(target=self._serve, name="answers", daemon=True)

    def __enter__(self) -> Self:
        try:
            self._listener = _listen(self._state_dir)
        except OSError as error:
            log.warning(
                "Questions of commands should be answered at %s, which failed: %s. Commands look by themselves.",
                self._state_dir / SOCKET,
                error,
            )
            return self
        self._made = os.stat(self._state_dir / SOCKET).st_ino
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._listener is None:
            return
        with contextlib.suppress(OSError):
            if os.stat(self._state_dir / SOCKET).st_ino == self._made:  # and not that of a process that came after
                (self._state_dir / SOCKET).unlink()
        self._listener.shutdown(socket.SHUT_RDWR)  # which wakes the thread
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        assert self._listener is not None
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return  # the end of the block
            with peer, contextlib.suppress(OSError):  # an asker that has gone
                peer.settimeout(PATIENCE_S)
                if _is_allowed(peer):
                    peer.sendall(json.dumps(self._answer(read_all(peer))).encode())

    def _answer(self, message: bytes) -> dict[str, Any]:
        """Empty where the asker should find out by itself."""
        try:
            asked = json.loads(message)
        except ValueError:
            return {}
        if not isinstance(asked, dict) or asked.get("version") != __version__:
            return {}
        subject, question = self._subjects.get(str(asked.get("about"))), asked.get("question")
        if subject is None or not isinstance(question, dict):
            return {}
        try:
            found = subject(question)
        except (SixgateError, OSError) as error:
            return {"refused": str(error)}
        except Exception:  # whatever it is, it must not end the thread; the asker sees it when it looks itself
            log.exception("A question about %s could not be answered", asked["about"])
            return {}
        return {} if found is None else {"answer": found}


def _listen(state_dir: Path) -> socket.socket:
    """A socket that root alone may connect to, in the place of one that a former process has left."""
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    directory = os.open(state_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)  # which the file is made with
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SOCKET, dir_fd=directory)
        listener.bind(reachable(directory))
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(directory)
    return listener


def _is_allowed(peer: socket.socket) -> bool:
    """Root, and who runs this process."""
    _, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return uid in {0, os.geteuid()}
