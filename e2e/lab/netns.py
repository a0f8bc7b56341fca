"""Entering a network namespace from one thread of this process."""

from __future__ import annotations

import ctypes
import os
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
CLONE_NEWNET = 0x40000000


def call_in_netns(name: str, function: Callable[[], T]) -> T:
    """Result of `function`, run on a short-lived thread inside /run/netns/`name`; its exception is raised here.

    A socket made there belongs to that namespace for good, and the calling thread never leaves its own.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            handle = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if libc.setns(handle, CLONE_NEWNET):
                    number = ctypes.get_errno()
                    raise OSError(number, f"namespace {name} cannot be entered: {os.strerror(number)}")
            finally:
                os.close(handle)
            results.append(function())
        except BaseException as error:  # handed to the caller as it is
            errors.append(error)

    thread = threading.Thread(target=body, name=f"netns-{name}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
