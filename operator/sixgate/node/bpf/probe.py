"""What this kernel and this process can do: asked once at start, reported in status."""

from __future__ import annotations

import ctypes
import errno
import os
import re
from ctypes import c_char, c_long, c_size_t
from dataclasses import dataclass
from pathlib import Path

from sixgate.node.bpf import info
from sixgate.node.bpf.lib import failure, libbpf, version
from sixgate.node.bpf.prog import ProgType

BPF_FS_MAGIC = 0xCAFE4A11
CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 12, 21, 38, 39
OLDEST = (6, 1)
NEEDED = {"CAP_BPF": CAP_BPF, "CAP_NET_ADMIN": CAP_NET_ADMIN, "CAP_PERFMON": CAP_PERFMON}
# mov64 r0, 0; exit
RETURN_ZERO = bytes([0xB7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0])


@dataclass(frozen=True, slots=True)
class Features:
    """Probed facts. `permission` is "" where BPF may be used, else a sentence that says what is missing."""

    release: str
    libbpf: str
    permission: str
    tcx: bool
    xdp: bool
    kernel_btf: bool


def probe() -> Features:
    """Asks the kernel; without permission everything that needs it is False."""
    permission = missing_permission()
    allowed = not permission
    return Features(
        release=os.uname().release,
        libbpf=version(),
        permission=permission,
        tcx=allowed and has_tcx(),
        xdp=allowed and can_load(ProgType.XDP),
        kernel_btf=Path("/sys/kernel/btf/vmlinux").exists(),
    )


def has_tcx() -> bool:
    """Linux 6.6 and newer: the kernel lists tcx programs of a device. Needs CAP_NET_ADMIN."""
    return info.knows_tcx()


def can_load(type_: ProgType) -> bool:
    """Whether a program of this type that returns 0 loads."""
    fd = _load_trivial(type_)
    if fd < 0:
        return False
    os.close(fd)
    return True


def too_old(release: str = "") -> str:
    """ "" where sixgate runs on this kernel; else a sentence. `release` is what `uname -r` says, given by tests."""
    running = release or os.uname().release
    found = re.match(r"(\d+)\.(\d+)", running)
    if found is None or (int(found[1]), int(found[2])) >= OLDEST:
        return ""
    return (
        f"The kernel of this node is Linux {running}, and sixgate needs {OLDEST[0]}.{OLDEST[1]} or newer: "
        "the verifiers of older ones refuse its programs."
    )


def missing_permission(status: str | None = None) -> str:
    """ "" where this process may load BPF programs; else a sentence that names the missing capability or other reason.

    `status` is the text of /proc/self/status, given by tests.
    """
    text = Path("/proc/self/status").read_text() if status is None else status
    held = int(next(line.split()[1] for line in text.splitlines() if line.startswith("CapEff:")), 16)
    # CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON, as it did before Linux 5.8.
    stands_for = {CAP_BPF, CAP_PERFMON} if held >> CAP_SYS_ADMIN & 1 else set()
    missing = [name for name, bit in NEEDED.items() if not held >> bit & 1 and bit not in stands_for]
    if missing:
        plural = "capabilities" if len(missing) > 1 else "capability"
        return f"This process may not use BPF: it lacks the {plural} {', '.join(missing)}."
    fd = _load_trivial(ProgType.SCHED_CLS)
    if fd in (-errno.EPERM, -errno.EACCES):
        return (
            "This process may not use BPF although it has the capabilities: seccomp, an LSM or kernel lockdown"
            f" refuses bpf(2) with {errno.errorcode[-fd]}."
        )
    if fd < 0:
        return f"This kernel does not load BPF programs: {os.strerror(-fd)}."
    os.close(fd)
    return ""


def is_bpffs(path: str | os.PathLike[str]) -> bool:
    """Whether `path` (a directory or file that exists) lies on a BPF file system. BpfError with ENOENT and the like."""
    buffer = (c_char * 256)()  # struct statfs: f_type is its first long on every 64-bit machine
    if libbpf().libc.statfs(os.fsencode(path), buffer) < 0:
        raise failure(ctypes.get_errno(), f"asking for the file system of {os.fspath(path)}")
    return c_long.from_buffer(buffer).value & 0xFFFFFFFF == BPF_FS_MAGIC


def mount_id(path: str | os.PathLike[str]) -> int:
    """Id of the mount that `path` lies on; it changes when another is mounted over it. BpfError as `is_bpffs`."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise failure(error.errno or errno.EIO, f"asking for the mount of {os.fspath(path)}") from error
    try:
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
    finally:
        os.close(fd)
    return next(int(line.split()[1]) for line in lines if line.startswith("mnt_id:"))


def _load_trivial(type_: ProgType) -> int:
    """A descriptor of a program that returns 0, or -errno. libbpf raises RLIMIT_MEMLOCK where that counts."""
    code = (c_char * len(RETURN_ZERO)).from_buffer_copy(RETURN_ZERO)
    result: int = libbpf().bpf_prog_load(
        int(type_), b"sg_probe", b"Dual BSD/GPL", code, c_size_t(len(RETURN_ZERO) // 8), None
    )
    return result
