"""Sysctls of the network namespace of the calling thread, whatever directory they are reached through."""

from __future__ import annotations

from pathlib import Path

from sixgate.errors import ApplyError

_PROC = Path("/proc/sys")
_reached = _PROC


def reach_through(directory: Path) -> None:
    """Where /proc/sys can be written: a container has its own read-only, and the node's may be mounted elsewhere."""
    global _reached  # noqa: PLW0603 - one for the process, as /proc is
    _reached = directory


def read(path: str) -> str | None:
    """The value with its white space made single; None where there is no such sysctl."""
    try:
        return " ".join((_reached / path).read_text().split())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ApplyError(f"Sysctl {path} cannot be read: {error.strerror}.", error.errno or 0) from error


def write(path: str, value: str) -> None:
    """Set and read back."""
    try:
        (_reached / path).write_text(value + "\n")
    except OSError as error:
        raise ApplyError(f"Sysctl {path} cannot be set to {value}: {error.strerror}.", error.errno or 0) from error
    found = read(path)
    if found != value:
        raise ApplyError(f"Sysctl {path} should be {value}, but stays {found}.")
