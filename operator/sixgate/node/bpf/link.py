"""bpf_links: attachments of XDP and tcx that outlive the process when pinned and whose program changes in one step."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Literal, Self

from sixgate.errors import BpfError
from sixgate.node.bpf import info
from sixgate.node.bpf.descriptor import Descriptor
from sixgate.node.bpf.lib import LinkCreateOpts, LinkUpdateOpts, check, libbpf
from sixgate.node.bpf.prog import Program

XdpMode = Literal["native", "generic", "best-effort"]
XDP_MODE_FLAGS: dict[str, int] = {"best-effort": 0, "generic": 1 << 1, "native": 1 << 2}
BPF_F_REPLACE, BPF_F_BEFORE = 1 << 2, 1 << 3


class Link(Descriptor):
    """One attachment, owned through a descriptor. Unless it is pinned, closing the last descriptor detaches it."""

    def __init__(self, fd: int, name: str) -> None:
        """Takes ownership of `fd`; `name` says in messages what is attached where."""
        self._fd = fd
        self.name = name

    @classmethod
    def xdp(cls, program: Program, ifindex: int, mode: XdpMode = "best-effort") -> Self:
        """Attaches to XDP of a device. BpfError: EBUSY where a program sits already, EOPNOTSUPP where the driver has no
        native XDP, ENODEV, EINVAL."""
        name = f"{program.name} on xdp of device {ifindex}"
        doing = f"attaching {name} in {mode} mode"
        return cls(_create(program, ifindex, info.AttachType.XDP, flags=XDP_MODE_FLAGS[mode], doing=doing), name)

    @classmethod
    def tcx(
        cls,
        program: Program,
        ifindex: int,
        direction: Literal["ingress", "egress"] = "ingress",
        *,
        order: Literal["last", "first"] = "last",
    ) -> Self:
        """Attaches beside the programs of others: behind all of them, or in front (`first`).

        BpfError: EINVAL on kernels before 6.6, EEXIST where this very program is attached there already, ENODEV.
        """
        attach_type = info.AttachType.TCX_INGRESS if direction == "ingress" else info.AttachType.TCX_EGRESS
        flags = BPF_F_BEFORE if order == "first" else 0
        name = f"{program.name} on tcx {direction} of device {ifindex}"
        return cls(_create(program, ifindex, attach_type, flags=flags, doing=f"attaching {name}"), name)

    @classmethod
    def from_pin(cls, path: str | os.PathLike[str]) -> Self:
        """The link pinned at `path`; BpfError with ENOENT where there is none."""
        return cls(info.open_pin(path, "link"), f"link {os.fspath(path)}")

    @property
    def fd(self) -> int:
        return self._fd

    @property
    def info(self) -> info.LinkInfo:
        """Type, id, program and device; `ifindex` 0 where the device is gone."""
        return info.link_info(self._fd)

    def update(self, program: Program, old: Program | None = None) -> None:
        """Replaces the program in one step: every packet meets the old or the new one.

        With `old`, only where that one is attached (BpfError with EPERM else). ENOLINK: the device is gone; `is_gone`.
        """
        flags = BPF_F_REPLACE if old is not None else 0
        opts = LinkUpdateOpts(sz=ctypes.sizeof(LinkUpdateOpts), flags=flags, old_prog_fd=old.fd if old else 0)
        result = libbpf().bpf_link_update(self._fd, program.fd, ctypes.byref(opts))
        check(result, f"replacing the program of {self.name} by {program.name}")

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Pins it; BpfError with EEXIST where the path is taken."""
        info.pin(self._fd, path, self.name)

    def detach(self) -> None:
        """Takes the program off the hook now, even where the link is pinned; a link whose device is gone is fine."""
        result = libbpf().bpf_link_detach(self._fd)
        if result < 0 and -result not in (errno.ENOLINK, errno.ENODEV):
            check(result, f"detaching {self.name}")


def is_gone(error: BpfError) -> bool:
    """Whether an error of `Link.update` says that the link's device has gone, so that the pin should be removed."""
    return error.errno in (errno.ENOLINK, errno.ENODEV)


def _create(program: Program, ifindex: int, attach_type: int, *, flags: int, doing: str) -> int:
    opts = LinkCreateOpts(sz=ctypes.sizeof(LinkCreateOpts), flags=flags)
    result = libbpf().bpf_link_create(program.fd, ifindex, attach_type, ctypes.byref(opts))
    return check(result, doing)
