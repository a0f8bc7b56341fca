"""The bpffs directory: is it one, may it be mounted, and its subdirectories."""

from __future__ import annotations

import ctypes
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sixgate.errors import ApplyError
from sixgate.node import names
from sixgate.node.bpf.probe import is_bpffs

if TYPE_CHECKING:
    from sixgate.node.statedir import StateDir

_SYSTEM = Path("/sys/fs/bpf")


def ensure(root: Path, state: StateDir, *, mount: bool) -> None:
    """Make `root` and its subdirectories, mode 0700. ApplyError where `root` is on no bpffs and none may be mounted.

    A bpffs is mounted on /sys/fs/bpf for a directory below it, else on `root` itself, and recorded for `remove`.
    """
    if not _on_bpffs(root):
        target = _SYSTEM if root.is_relative_to(_SYSTEM) else root
        if not mount:
            raise ApplyError(
                f"{root} should be on a BPF file system, but is not; mount one with `mount -t bpf bpf {target}`."
            )
        state.remember(replace(state.remembered(), mounted=str(target)))
        _mount(target)
    try:
        for directory in (root, *(root / name for name in names.DIRECTORIES)):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ApplyError(f"{error.filename} cannot be made: {error.strerror}.", error.errno or 0) from error


def remove(root: Path, state: StateDir) -> list[str]:
    """Remove the empty directories, and the mount if `ensure` made it; sentences for what is left."""
    if not root.is_dir():
        return []
    left = [str(path) for path in sorted(root.rglob("*")) if not path.is_dir() and not path.name.endswith(".debug")]
    if left:
        return [f"{path} is still pinned." for path in left]
    mounted = state.remembered().mounted
    for directory in (*(root / name for name in names.DIRECTORIES), *(() if mounted == str(root) else (root,))):
        if directory.is_dir():
            directory.rmdir()
    if mounted and os.path.ismount(mounted):
        others = [path for path in Path(mounted).iterdir() if not path.name.endswith(".debug")]
        if not others and ctypes.CDLL(None, use_errno=True).umount(os.fsencode(mounted)) < 0:
            return [f"The bpffs on {mounted} could not be unmounted: {os.strerror(ctypes.get_errno())}."]
    return []


def exists(root: Path) -> bool:
    return root.is_dir() and _on_bpffs(root)


def _on_bpffs(path: Path) -> bool:
    existing = path
    while not existing.exists():
        existing = existing.parent
    return is_bpffs(existing)


def _mount(target: Path) -> None:
    if not target.exists():
        target.mkdir(mode=0o700, parents=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(target), b"bpf", ctypes.c_ulong(0), b"mode=0700") < 0:
        number = ctypes.get_errno()
        raise ApplyError(f"A BPF file system could not be mounted on {target}: {os.strerror(number)}.", number)
