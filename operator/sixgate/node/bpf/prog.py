"""Loaded programs: pins, facts, and running a packet through one (BPF_PROG_TEST_RUN)."""

from __future__ import annotations

import ctypes
import os
from ctypes import Structure, c_uint8, c_uint32, c_uint64
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Self

from sixgate.node.bpf import info
from sixgate.node.bpf.descriptor import Descriptor
from sixgate.node.bpf.lib import TestRunOpts, check, libbpf

GROWTH_BYTES = 1 << 16


class ProgType(IntEnum):
    """enum bpf_prog_type, as far as sixgate loads."""

    SCHED_CLS = 3
    XDP = 6


class TestRunFlag(IntFlag):
    """Flags of BPF_PROG_TEST_RUN. LIVE_FRAMES (XDP) sends the frames for real and gives no packet back."""

    __test__ = False
    NONE = 0
    LIVE_FRAMES = 1 << 1


class _Skb(Structure):
    """struct __sk_buff."""

    _fields_ = [
        ("len", c_uint32),
        ("pkt_type", c_uint32),
        ("mark", c_uint32),
        ("queue_mapping", c_uint32),
        ("protocol", c_uint32),
        ("vlan_present", c_uint32),
        ("vlan_tci", c_uint32),
        ("vlan_proto", c_uint32),
        ("priority", c_uint32),
        ("ingress_ifindex", c_uint32),
        ("ifindex", c_uint32),
        ("tc_index", c_uint32),
        ("cb", c_uint32 * 5),
        ("hash", c_uint32),
        ("tc_classid", c_uint32),
        ("data", c_uint32),
        ("data_end", c_uint32),
        ("napi_id", c_uint32),
        ("family", c_uint32),
        ("remote_ip4", c_uint32),
        ("local_ip4", c_uint32),
        ("remote_ip6", c_uint32 * 4),
        ("local_ip6", c_uint32 * 4),
        ("remote_port", c_uint32),
        ("local_port", c_uint32),
        ("data_meta", c_uint32),
        ("flow_keys", c_uint64),
        ("tstamp", c_uint64),
        ("wire_len", c_uint32),
        ("gso_segs", c_uint32),
        ("sk", c_uint64),
        ("gso_size", c_uint32),
        ("tstamp_type", c_uint8),
        ("reserved", c_uint8 * 3),
        ("hwtstamp", c_uint64),
    ]


class _XdpMd(Structure):
    """struct xdp_md."""

    _fields_ = [
        ("data", c_uint32),
        ("data_end", c_uint32),
        ("data_meta", c_uint32),
        ("ingress_ifindex", c_uint32),
        ("rx_queue_index", c_uint32),
        ("egress_ifindex", c_uint32),
    ]


@dataclass(frozen=True, slots=True)
class SkbContext:
    """What a tc program is told of its packet; the fields of struct __sk_buff that the kernel lets a test set.

    `ifindex` 0 means the loopback device of this network namespace.
    """

    ifindex: int = 0
    ingress_ifindex: int = 0
    mark: int = 0
    priority: int = 0
    gso_size: int = 0
    gso_segs: int = 0
    wire_len: int = 0
    cb: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class XdpContext:
    """What an XDP program is told of its packet. `ingress_ifindex` 0 means the loopback device.

    The first `meta_bytes` of the data given are metadata in front of the packet.
    """

    ingress_ifindex: int = 0
    rx_queue_index: int = 0
    meta_bytes: int = 0


@dataclass(frozen=True, slots=True)
class TestResult:
    """`retval` is the verdict (XDP_*, TC_ACT_*), `data` the whole packet afterwards, `duration_ns` the mean of one run.

    `context` is the changed context of a tc program whose run was given one, else None.
    """

    __test__ = False
    retval: int
    data: bytes
    duration_ns: int
    context: SkbContext | None = None


class Program(Descriptor):
    """A loaded program, owned through a descriptor; `close` it or use it in `with`."""

    def __init__(self, fd: int, name: str = "") -> None:
        """Takes ownership of `fd`. `name` is the full name; the kernel keeps 15 characters."""
        self._fd = fd
        self.name = name or info.prog_info(fd).name

    @classmethod
    def from_pin(cls, path: str | os.PathLike[str]) -> Self:
        """The program pinned at `path`; BpfError with ENOENT where there is none."""
        return cls(info.open_pin(path, "program"))

    @property
    def fd(self) -> int:
        """The descriptor: for cls_bpf filters and links. Owned by this object."""
        return self._fd

    @property
    def info(self) -> info.ProgInfo:
        return info.prog_info(self._fd)

    def pin(self, path: str | os.PathLike[str]) -> None:
        """Pins it; BpfError with EEXIST where the path is taken."""
        info.pin(self._fd, path, f"program {self.name}")

    def test_run(
        self,
        data: bytes,
        *,
        repeat: int = 1,
        context: SkbContext | XdpContext | None = None,
        flags: TestRunFlag = TestRunFlag.NONE,
        batch_size: int = 0,
    ) -> TestResult:
        """Runs the program on a packet (link header first), `repeat` times; the result is that of the last run.

        With LIVE_FRAMES frames go where the verdict says, `repeat` of them in batches of `batch_size` (64 where 0).
        Raises BpfError: EINVAL for a context that the kernel does not take, ENODEV for an unknown device.
        """
        live = TestRunFlag.LIVE_FRAMES in flags
        source = ctypes.create_string_buffer(data, len(data))
        room = ctypes.create_string_buffer(0 if live else len(data) + GROWTH_BYTES)
        raw = _context(context, len(data))
        after = type(raw)() if raw is not None and not live else None
        opts = TestRunOpts(
            sz=ctypes.sizeof(TestRunOpts),
            data_in=ctypes.addressof(source),
            data_size_in=len(data),
            data_out=None if live else ctypes.addressof(room),
            data_size_out=0 if live else len(room),
            ctx_in=None if raw is None else ctypes.addressof(raw),
            ctx_size_in=0 if raw is None else ctypes.sizeof(raw),
            ctx_out=None if after is None else ctypes.addressof(after),
            ctx_size_out=0 if after is None else ctypes.sizeof(after),
            repeat=repeat,
            flags=int(flags),
            batch_size=batch_size,
        )
        check(libbpf().bpf_prog_test_run_opts(self._fd, ctypes.byref(opts)), f"running program {self.name} on a packet")
        out = b"" if live else room.raw[: opts.data_size_out]
        return TestResult(opts.retval, out, opts.duration, _read_context(after))


def _context(context: SkbContext | XdpContext | None, length: int) -> Structure | None:
    match context:
        case SkbContext():
            return _Skb(
                ifindex=context.ifindex,
                ingress_ifindex=context.ingress_ifindex,
                mark=context.mark,
                priority=context.priority,
                gso_size=context.gso_size,
                gso_segs=context.gso_segs,
                wire_len=context.wire_len,
                cb=(c_uint32 * 5)(*context.cb),
            )
        case XdpContext():
            return _XdpMd(
                data=context.meta_bytes,
                data_end=length,
                ingress_ifindex=context.ingress_ifindex,
                rx_queue_index=context.rx_queue_index,
            )
        case None:
            return None


def _read_context(raw: Structure | None) -> SkbContext | None:
    if not isinstance(raw, _Skb):
        return None
    first, second, third, fourth, fifth = raw.cb
    return SkbContext(
        ifindex=raw.ifindex,
        ingress_ifindex=raw.ingress_ifindex,
        mark=raw.mark,
        priority=raw.priority,
        gso_size=raw.gso_size,
        gso_segs=raw.gso_segs,
        wire_len=raw.wire_len,
        cb=(first, second, third, fourth, fifth),
    )
