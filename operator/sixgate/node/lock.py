"""One process at a time keeps a node: a lock on a file of the state directory, which the kernel drops when it dies."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sixgate.errors import ApplyError

if TYPE_CHECKING:
    from pathlib import Path

_FILE = "lock"


@dataclass(slots=True)
class NodeLock:
    state_dir: Path
    _fd: int = -1

    def acquire(self) -> None:
        """Take the lock, or keep it; ApplyError naming the process that has it."""
        if self._fd >= 0:
            return
        while True:
            fd = self._open()
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                pid = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
                os.close(fd)
                raise ApplyError(
                    f"Another sixgate process (pid {pid}) keeps this node with state directory {self.state_dir}; "
                    "stop it first.",
                    error.errno or 0,
                ) from error
            if self._is_current(fd):
                break
            os.close(fd)  # `sixgate down` removed the file after it was opened here
        os.truncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    @property
    def held(self) -> bool:
        """Whether this process keeps the node."""
        return self._fd >= 0

    def remove(self) -> None:
        """Remove the file and let go; for the one that holds the lock."""
        (self.state_dir / _FILE).unlink(missing_ok=True)
        self.release()

    def _open(self) -> int:
        path = self.state_dir / _FILE
        try:
            self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ApplyError(f"{path} cannot be opened: {error.strerror}.", error.errno or 0) from error

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self.state_dir / _FILE))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def holder(state_dir: Path) -> int | None:
    """Pid of the process that keeps the node; None where none does."""
    try:
        fd = os.open(state_dir / _FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        text = os.pread(fd, 32, 0).decode(errors="replace").strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(fd)
    return None
