"""Network namespaces of pods, entered through the files by which the container runtime keeps them (/run/netns). Needs
CAP_SYS_ADMIN, and no procfs of the host."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sixgate.errors import ApplyError
from sixgate.node import rtlink
from sixgate.node.model import Pod
from sixgate.node.netlink import devices_with

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Set

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_CAP_SYS_ADMIN = 21


def may_enter() -> bool:
    """Whether this process has CAP_SYS_ADMIN."""
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> _CAP_SYS_ADMIN & 1)


def inside(netns: str, function: Callable[[], T]) -> T:
    """Result of `function` on a thread of its own inside a network namespace; its exception is raised here. ApplyError
    where the namespace cannot be entered."""

    def body() -> T:
        enter(netns)
        return function()

    return _aside(body)


def _aside(function: Callable[[], T]) -> T:
    """Result of `function` on a thread that may go wherever it likes and ends afterwards."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="sixgate-netns") as pool:
        return pool.submit(function).result()


def enter(netns: str) -> None:
    """Moves the calling thread."""
    try:
        fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        text = f"The network namespace {netns} cannot be opened: {error.strerror}."
        raise ApplyError(text, error.errno or 0) from error
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise ApplyError(f"The network namespace {netns} cannot be entered: {os.strerror(number)}.", number)
    finally:
        os.close(fd)


def find(directories: Iterable[Path], wanted: Set[int]) -> tuple[Pod, ...]:
    """Namespaces that devices of this one lead into, `wanted` by their numbers here. One that vanishes meanwhile is
    passed over."""
    numbers = {}
    for path in sorted(path for directory in directories if directory.is_dir() for path in directory.iterdir()):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            numbers[str(path)] = rtlink.netns_id(fd)
        finally:
            os.close(fd)
    chosen = {path: number for path, number in numbers.items() if number in wanted}
    return _aside(lambda: tuple(_visit(chosen))) if chosen else ()


def _visit(numbers: Mapping[str, int]) -> Iterator[Pod]:
    """One thread goes through all of them: a node may have hundreds."""
    for path, number in numbers.items():
        try:
            enter(path)
        except ApplyError:
            continue
        yield Pod(path, number, devices_with({}), rtlink.forwarding6())
