"""Network namespaces of threads of this process, with a name and without."""

from __future__ import annotations

import ctypes
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
CLONE_NEWNET = 0x40000000


def open_netns(path: str = "/proc/thread-self/ns/net") -> int:
    """A descriptor of a namespace, this thread's own by default; the caller closes it."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def enter_netns(handle: int) -> None:
    """Moves this thread, and what it starts from now on, to a namespace by its descriptor. OSError."""
    if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"The network namespace cannot be entered: {os.strerror(number)}")


def enter_new_netns() -> None:
    """Moves this thread to a new namespace without a name, which goes when nobody is in it any more. OSError."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"No network namespace can be made: {os.strerror(number)}")


@contextmanager
def coming_back() -> Iterator[None]:
    """Moves this thread back to where it is now."""
    home = open_netns()
    try:
        yield
    finally:
        try:
            enter_netns(home)
        finally:
            os.close(home)


@contextmanager
def inside(handle: int) -> Iterator[None]:
    """This thread in a namespace, by its descriptor, for the time of the block."""
    with coming_back():
        enter_netns(handle)
        yield


@contextmanager
def new_netns() -> Iterator[None]:
    """This thread in a new namespace without a name for the time of the block: nothing of it is left."""
    with coming_back():
        enter_new_netns()
        yield


def call_in_netns(name: str, function: Callable[[], T]) -> T:
    """Result of `function`, run on a short-lived thread inside /run/netns/`name`; its exception is raised here.

    A socket made there belongs to that namespace for good, and the calling thread never leaves its own.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            handle = open_netns(f"/run/netns/{name}")
            try:
                enter_netns(handle)
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
