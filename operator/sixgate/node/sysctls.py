"""Sysctls of the network namespace of the calling thread."""

from __future__ import annotations

from pathlib import Path

from sixgate.errors import ApplyError

_PROC = Path("/proc/sys")


def read(path: str) -> str | None:
    """The value with its white space made single; None where there is no such sysctl."""
    try:
        return " ".join((_PROC / path).read_text().split())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ApplyError(f"Sysctl {path} cannot be read: {error.strerror}.", error.errno or 0) from error


def write(path: str, value: str) -> None:
    """Set and read back."""
    try:
        (_PROC / path).write_text(value + "\n")
    except OSError as error:
        raise ApplyError(f"Sysctl {path} cannot be set to {value}: {error.strerror}.", error.errno or 0) from error
    found = read(path)
    if found != value:
        raise ApplyError(f"Sysctl {path} should be {value}, but stays {found}.")
