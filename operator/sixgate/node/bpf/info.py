"""BPF_OBJ_GET_INFO_BY_FD for maps, programs and links, BPF_PROG_QUERY, and pins. Needs no SYS_ADMIN."""

from __future__ import annotations

import ctypes
import errno
import os
from ctypes import Structure, c_char, c_uint8, c_uint32, c_uint64
from dataclasses import dataclass
from enum import IntEnum
from socket import if_indextoname
from typing import TYPE_CHECKING, Literal, TypeVar

from sixgate.errors import BpfError
from sixgate.node.bpf.lib import XdpQueryOpts, bpf_syscall, check, failure, libbpf

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")
Hook = Literal["tc-ingress", "tc-egress", "xdp"]


class AttachType(IntEnum):
    """enum bpf_attach_type, as far as sixgate attaches."""

    XDP = 37
    TCX_INGRESS = 46
    TCX_EGRESS = 47


class LinkType(IntEnum):
    """enum bpf_link_type, as far as sixgate meets it."""

    UNSPEC = 0
    CGROUP = 3
    XDP = 6
    TCX = 11
    NETKIT = 13


ATTACH_TYPES: dict[str, AttachType] = {
    "tc-ingress": AttachType.TCX_INGRESS,
    "tc-egress": AttachType.TCX_EGRESS,
    "xdp": AttachType.XDP,
}


class _MapInfo(Structure):
    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("key_size", c_uint32),
        ("value_size", c_uint32),
        ("max_entries", c_uint32),
        ("map_flags", c_uint32),
        ("name", c_char * 16),
        ("ifindex", c_uint32),
        ("btf_vmlinux_value_type_id", c_uint32),
        ("netns_dev", c_uint64),
        ("netns_ino", c_uint64),
        ("btf_id", c_uint32),
        ("btf_key_type_id", c_uint32),
        ("btf_value_type_id", c_uint32),
        ("reserved", c_uint32),
        ("map_extra", c_uint64),
    ]


class _ProgInfo(Structure):
    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("tag", c_uint8 * 8),
        ("jited_prog_len", c_uint32),
        ("xlated_prog_len", c_uint32),
        ("jited_prog_insns", c_uint64),
        ("xlated_prog_insns", c_uint64),
        ("load_time", c_uint64),
        ("created_by_uid", c_uint32),
        ("nr_map_ids", c_uint32),
        ("map_ids", c_uint64),
        ("name", c_char * 16),
        ("ifindex", c_uint32),
        ("gpl_compatible", c_uint32),
        ("netns_dev", c_uint64),
        ("netns_ino", c_uint64),
        ("nr_jited_ksyms", c_uint32),
        ("nr_jited_func_lens", c_uint32),
        ("jited_ksyms", c_uint64),
        ("jited_func_lens", c_uint64),
        ("btf_id", c_uint32),
        ("func_info_rec_size", c_uint32),
        ("func_info", c_uint64),
        ("nr_func_info", c_uint32),
        ("nr_line_info", c_uint32),
        ("line_info", c_uint64),
        ("jited_line_info", c_uint64),
        ("nr_jited_line_info", c_uint32),
        ("line_info_rec_size", c_uint32),
        ("jited_line_info_rec_size", c_uint32),
        ("nr_prog_tags", c_uint32),
        ("prog_tags", c_uint64),
        ("run_time_ns", c_uint64),
        ("run_cnt", c_uint64),
        ("recursion_misses", c_uint64),
        ("verified_insns", c_uint32),
        ("attach_btf_obj_id", c_uint32),
        ("attach_btf_id", c_uint32),
        ("reserved", c_uint32),
    ]


class _LinkInfo(Structure):
    """struct bpf_link_info; XDP and tcx both have the ifindex first in the union, tcx the attach type behind it."""

    _fields_ = [
        ("type", c_uint32),
        ("id", c_uint32),
        ("prog_id", c_uint32),
        ("reserved", c_uint32),
        ("ifindex", c_uint32),
        ("attach_type", c_uint32),
        ("rest", c_uint64 * 4),
    ]


class _QueryAttr(Structure):
    """The query part of union bpf_attr since Linux 6.6."""

    _fields_ = [
        ("target_ifindex", c_uint32),
        ("attach_type", c_uint32),
        ("query_flags", c_uint32),
        ("attach_flags", c_uint32),
        ("prog_ids", c_uint64),
        ("count", c_uint32),
        ("reserved", c_uint32),
        ("prog_attach_flags", c_uint64),
        ("link_ids", c_uint64),
        ("link_attach_flags", c_uint64),
        ("revision", c_uint64),
    ]


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says of a map; sizes in bytes, `name` cut to 15 characters by the kernel."""

    type: int
    id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: str
    btf_id: int
    btf_key_type_id: int
    btf_value_type_id: int


@dataclass(frozen=True, slots=True)
class ProgInfo:
    """What the kernel says of a program; `tag` is 16 hex digits, `map_ids` the maps it uses."""

    type: int
    id: int
    tag: str
    name: str
    verified_insns: int
    map_ids: tuple[int, ...]
    run_count: int
    run_time_ns: int


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """What the kernel says of a link; `ifindex` 0 when the device is gone or the link is detached."""

    type: int
    id: int
    prog_id: int
    ifindex: int
    attach_type: int


@dataclass(frozen=True, slots=True)
class Attached:
    """One program on a hook. `link_id` 0: attached without a link, or XDP, where the kernel does not tell."""

    prog_id: int
    link_id: int
    mode: str = ""


def map_info(fd: int) -> MapInfo:
    raw = _MapInfo()
    _fill(fd, raw, "map")
    return MapInfo(
        type=raw.type,
        id=raw.id,
        key_size=raw.key_size,
        value_size=raw.value_size,
        max_entries=raw.max_entries,
        flags=raw.map_flags,
        name=raw.name.decode(errors="replace"),
        btf_id=raw.btf_id,
        btf_key_type_id=raw.btf_key_type_id,
        btf_value_type_id=raw.btf_value_type_id,
    )


def prog_info(fd: int) -> ProgInfo:
    raw = _ProgInfo()
    _fill(fd, raw, "program")
    ids = (c_uint32 * raw.nr_map_ids)()
    if raw.nr_map_ids:
        raw = _ProgInfo(nr_map_ids=len(ids), map_ids=ctypes.addressof(ids))
        _fill(fd, raw, "program")
    return ProgInfo(
        type=raw.type,
        id=raw.id,
        tag=bytes(raw.tag).hex(),
        name=raw.name.decode(errors="replace"),
        verified_insns=raw.verified_insns,
        map_ids=tuple(ids),
        run_count=raw.run_cnt,
        run_time_ns=raw.run_time_ns,
    )


def link_info(fd: int) -> LinkInfo:
    raw = _LinkInfo()
    _fill(fd, raw, "link")
    attach_type = raw.attach_type if raw.type == LinkType.TCX else 0
    if raw.type == LinkType.XDP:
        attach_type = AttachType.XDP
    return LinkInfo(type=raw.type, id=raw.id, prog_id=raw.prog_id, ifindex=raw.ifindex, attach_type=attach_type)


def query_attached(ifindex: int, hook: Hook) -> list[Attached]:
    """Programs on a hook of a device in this network namespace, in the order in which they run.

    tc hooks: tcx programs only, with link ids where they have links (BPF_PROG_QUERY; CAP_NET_ADMIN, no SYS_ADMIN); none
    on a kernel without tcx. XDP: at most one per mode, by netlink, without link id. BpfError, ENODEV for no device.
    """
    return _query_xdp(ifindex) if hook == "xdp" else query_tcx(ifindex, hook)[0]


def query_tcx(ifindex: int, hook: Hook) -> tuple[list[Attached], int]:
    """tcx programs on a hook and its revision, which changes with every attach, detach and update."""
    room = 64
    while True:
        programs, links = (c_uint32 * room)(), (c_uint32 * room)()
        attr = _QueryAttr(
            target_ifindex=ifindex,
            attach_type=ATTACH_TYPES[hook],
            prog_ids=ctypes.addressof(programs),
            link_ids=ctypes.addressof(links),
            count=room,
        )
        result = bpf_syscall(16, attr)
        if result == -errno.ENOSPC:
            room = max(room * 2, attr.count)
            continue
        if result == -errno.EINVAL and not knows_tcx():
            return [], 0
        check(result, f"listing programs on {hook} of device {ifindex}")
        return [Attached(programs[i], links[i], "tcx") for i in range(attr.count)], attr.revision


def knows_tcx() -> bool:
    """Linux 6.6 and newer; older kernels refuse the query with EINVAL as they refuse a bad argument."""
    attr = _QueryAttr(target_ifindex=0x7FFFFFFF, attach_type=AttachType.TCX_INGRESS)
    return bpf_syscall(16, attr) == -errno.ENODEV


def _query_xdp(ifindex: int) -> list[Attached]:
    try:  # libbpf gives no error for a device that does not exist
        if_indextoname(ifindex)
    except OSError as error:
        raise failure(errno.ENODEV, f"reading the XDP program of device {ifindex}") from error
    opts = XdpQueryOpts(sz=ctypes.sizeof(XdpQueryOpts))
    check(libbpf().bpf_xdp_query(ifindex, 0, ctypes.byref(opts)), f"reading the XDP program of device {ifindex}")
    modes = {"native": opts.drv_prog_id, "generic": opts.skb_prog_id, "offload": opts.hw_prog_id}
    found = [Attached(number, 0, mode) for mode, number in modes.items() if number]
    if not found and opts.prog_id:
        found = [Attached(opts.prog_id, 0, {1: "native", 2: "generic", 3: "offload"}.get(opts.attach_mode, ""))]
    return found


def pin(fd: int, path: str | os.PathLike[str], what: str) -> None:
    """Pins `fd`; BpfError with EEXIST where the path is taken, naming `what`."""
    check(libbpf().bpf_obj_pin(fd, os.fsencode(path)), f"pinning {what} at {os.fspath(path)}")


def open_pin(path: str | os.PathLike[str], kind: Literal["map", "program", "link"]) -> int:
    """A new descriptor of what is pinned at `path`; BpfError, ENOENT where nothing is, EINVAL for another kind."""
    fd = check(libbpf().bpf_obj_get(os.fsencode(path)), f"opening the {kind} pinned at {os.fspath(path)}")
    found = _kind_of(fd)
    if found != kind:
        os.close(fd)
        raise BpfError(f"{os.fspath(path)} holds a {found}, where a {kind} is expected.", errno.EINVAL)
    return fd


def ask_pin(path: str | os.PathLike[str], kind: Literal["map", "program", "link"], ask: Callable[[int], _T]) -> _T:
    """What `ask`, which takes a descriptor, says of what is pinned at `path`; errors as `open_pin`."""
    fd = open_pin(path, kind)
    try:
        return ask(fd)
    finally:
        os.close(fd)


def _kind_of(fd: int) -> str:
    target = os.readlink(f"/proc/self/fd/{fd}")
    names = {"anon_inode:bpf-map": "map", "anon_inode:bpf-prog": "program", "anon_inode:bpf_link": "link"}
    return names.get(target.replace("[", "").replace("]", "").replace("bpf-link", "bpf_link"), target)


def _fill(fd: int, raw: Structure, what: str) -> None:
    length = c_uint32(ctypes.sizeof(raw))
    result = libbpf().bpf_obj_get_info_by_fd(fd, ctypes.byref(raw), ctypes.byref(length))
    if result < 0:
        raise failure(-result, f"reading what the kernel knows of {what} descriptor {fd}")
