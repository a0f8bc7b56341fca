"""Questions to the process that keeps a node: who may ask, what is answered, and what is left to the asker."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import tempfile
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sixgate import __version__
from sixgate.errors import SixgateError
from sixgate.node.answering import Answers
from sixgate.node.asking import SOCKET, ask

if TYPE_CHECKING:
    from collections.abc import Iterator


def doubled(question: dict[str, Any]) -> int | None:
    if question["number"] < 0:
        raise SixgateError("A number should not be negative.")
    return None if question["number"] == 0 else 2 * question["number"]


def broken(question: dict[str, Any]) -> None:
    raise RuntimeError(str(question))


SUBJECTS = {"double": doubled, "broken": broken}


def test_an_answer(tmp_path: Path) -> None:
    with Answers(tmp_path, SUBJECTS):
        assert ask(tmp_path, "double", {"number": 21}) == {"answer": 42}
        assert ask(tmp_path, "double", {"number": -1}) == {"refused": "A number should not be negative."}


@pytest.mark.parametrize(("about", "number"), [("double", 0), ("weather", 1), ("broken", 1)])
def test_what_the_asker_finds_out_itself(tmp_path: Path, about: str, number: int) -> None:
    with Answers(tmp_path, SUBJECTS):
        assert ask(tmp_path, about, {"number": number}) is None
        assert ask(tmp_path, "double", {"number": 1}) == {"answer": 2}  # and the thread lives on


def test_nobody_answers(tmp_path: Path) -> None:
    assert ask(tmp_path / "nowhere", "double", {"number": 1}) is None
    assert ask(tmp_path, "double", {"number": 1}) is None
    with closing(socket.socket(socket.AF_UNIX)) as left:  # by a process that was killed
        left.bind(str(tmp_path / SOCKET))
    assert ask(tmp_path, "double", {"number": 1}) is None
    with Answers(tmp_path, SUBJECTS):
        assert ask(tmp_path, "double", {"number": 1}) == {"answer": 2}
    assert not (tmp_path / SOCKET).exists()


def asked(**change: object) -> bytes:
    return json.dumps({"version": __version__, "about": "double", "question": {"number": 1}} | change).encode()


@pytest.mark.parametrize("message", [b"", b"{", b"[]", b"7", asked(version="0"), asked(question=7), asked(about=7)])
def test_a_message_that_is_none_is_not_answered(tmp_path: Path, message: bytes) -> None:
    with Answers(tmp_path, SUBJECTS), socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(tmp_path / SOCKET))
        peer.sendall(message)
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(100) == b"{}"


def test_only_root_may_ask(tmp_path: Path) -> None:
    with Answers(tmp_path / "state", SUBJECTS):
        found = (tmp_path / "state" / SOCKET).stat()
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A directory that every user may pass through."""
    with tempfile.TemporaryDirectory(prefix="sixgate-answers-", dir="/tmp") as name:
        path = Path(name)
        path.chmod(0o711)
        yield path


@pytest.mark.skipif(os.geteuid() != 0, reason="to become another user needs root")
def test_another_user_gets_no_answer(open_dir: Path) -> None:
    """Even where somebody has opened the directory and the file to all."""
    program = f"""
import socket
with socket.socket(socket.AF_UNIX) as peer:
    peer.settimeout(20)
    peer.connect({str(open_dir / "state" / SOCKET)!r})
    print(peer.recv(100))
"""
    words = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "/usr/bin/python3", "-c", program]
    with Answers(open_dir / "state", SUBJECTS):
        (open_dir / "state").chmod(0o755)
        shut = subprocess.run(words, capture_output=True, text=True, check=False)
        assert "PermissionError" in shut.stderr
        (open_dir / "state" / SOCKET).chmod(0o666)
        told = subprocess.run(words, capture_output=True, text=True, check=False)
        assert told.stdout == "b''\n", told.stderr


def test_a_deep_directory(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    with Answers(deep, SUBJECTS):
        assert ask(deep, "double", {"number": 4}) == {"answer": 8}


def test_the_socket_of_a_later_process_stays(tmp_path: Path) -> None:
    with ExitStack() as later:
        with Answers(tmp_path, SUBJECTS):
            later.enter_context(Answers(tmp_path, SUBJECTS))
        assert ask(tmp_path, "double", {"number": 3}) == {"answer": 6}


def test_a_directory_that_cannot_be_written_is_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with Answers(tmp_path / "file" / "state", SUBJECTS):
        assert "Commands look by themselves" in caplog.text
