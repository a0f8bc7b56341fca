"""libbpf.so.1 through ctypes: every function used, with its types, its errors and its log.

Nothing here knows of maps or programs as objects; the other modules of this package are built on `libbpf()`, `check`
and `captured_log`. All calls take and give plain integers and buffers. Works with libbpf 1.1.2 (Debian 12) and newer;
what libbpf 1.1.2 cannot do (BPF_PROG_QUERY with link ids) goes through bpf(2) itself, see `bpf_syscall`.
"""

from __future__ import annotations

import ctypes
import errno as errno_names
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_bool,
    c_char_p,
    c_int,
    c_long,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
)
from functools import cache
from typing import Any

from sixgate.errors import BpfError

SONAME = "libbpf.so.1"
MESSAGE_BYTES = 1 << 16
ENOTSUPP = 524  # internal to the kernel, but leaks to user space from map operations
SYSCALL_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}


class ObjectOpenOpts(Structure):
    """struct bpf_object_open_opts of libbpf 1.0."""

    _fields_ = [
        ("sz", c_size_t),
        ("object_name", c_char_p),
        ("relaxed_maps", c_bool),
        ("pin_root_path", c_char_p),
        ("reserved", c_uint32),
        ("kconfig", c_char_p),
        ("btf_custom_path", c_char_p),
        ("kernel_log_buf", c_void_p),
        ("kernel_log_size", c_size_t),
        ("kernel_log_level", c_uint32),
        ("tail", c_uint32),
    ]


class MapCreateOpts(Structure):
    """struct bpf_map_create_opts of libbpf 1.0."""

    _fields_ = [
        ("sz", c_size_t),
        ("btf_fd", c_uint32),
        ("btf_key_type_id", c_uint32),
        ("btf_value_type_id", c_uint32),
        ("btf_vmlinux_value_type_id", c_uint32),
        ("inner_map_fd", c_uint32),
        ("map_flags", c_uint32),
        ("map_extra", c_uint64),
        ("numa_node", c_uint32),
        ("map_ifindex", c_uint32),
    ]


class BatchOpts(Structure):
    """struct bpf_map_batch_opts."""

    _fields_ = [("sz", c_size_t), ("elem_flags", c_uint64), ("flags", c_uint64)]


class LinkCreateOpts(Structure):
    """The common head of struct bpf_link_create_opts; what follows depends on the attach type and stays zero."""

    _fields_ = [
        ("sz", c_size_t),
        ("flags", c_uint32),
        ("iter_info", c_void_p),
        ("iter_info_len", c_uint32),
        ("target_btf_id", c_uint32),
    ]


class LinkUpdateOpts(Structure):
    """struct bpf_link_update_opts; `flags` BPF_F_REPLACE makes `old_prog_fd` count."""

    _fields_ = [("sz", c_size_t), ("flags", c_uint32), ("old_prog_fd", c_uint32)]


class TestRunOpts(Structure):
    """struct bpf_test_run_opts."""

    __test__ = False  # not a test class, whatever its name says
    _fields_ = [
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_void_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    ]


class XdpQueryOpts(Structure):
    """struct bpf_xdp_query_opts of libbpf 1.0."""

    _fields_ = [
        ("sz", c_size_t),
        ("prog_id", c_uint32),
        ("drv_prog_id", c_uint32),
        ("hw_prog_id", c_uint32),
        ("skb_prog_id", c_uint32),
        ("attach_mode", ctypes.c_uint8),
    ]


P = c_void_p
RING_CALLBACK = CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t)  # ring_buffer_sample_fn: context, record, its bytes
PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "bpf_object__open_mem": (P, [P, c_size_t, POINTER(ObjectOpenOpts)]),
    "bpf_object__load": (c_int, [P]),
    "bpf_object__close": (None, [P]),
    "bpf_object__btf": (P, [P]),
    "bpf_object__next_map": (P, [P, P]),
    "bpf_object__next_program": (P, [P, P]),
    "bpf_map__name": (c_char_p, [P]),
    "bpf_map__fd": (c_int, [P]),
    "bpf_map__max_entries": (c_uint32, [P]),
    "bpf_map__set_max_entries": (c_int, [P, c_uint32]),
    "bpf_map__key_size": (c_uint32, [P]),
    "bpf_map__value_size": (c_uint32, [P]),
    "bpf_map__map_flags": (c_uint32, [P]),
    "bpf_map__type": (c_int, [P]),
    "bpf_map__is_internal": (c_bool, [P]),
    "bpf_map__initial_value": (P, [P, POINTER(c_size_t)]),
    "bpf_map__reuse_fd": (c_int, [P, c_int]),
    "bpf_map__set_inner_map_fd": (c_int, [P, c_int]),
    "bpf_program__name": (c_char_p, [P]),
    "bpf_program__section_name": (c_char_p, [P]),
    "bpf_program__type": (c_int, [P]),
    "bpf_program__set_type": (c_int, [P, c_int]),
    "bpf_program__autoload": (c_bool, [P]),
    "bpf_program__set_autoload": (c_int, [P, c_bool]),
    "bpf_program__set_log_buf": (c_int, [P, P, c_size_t]),
    "bpf_program__fd": (c_int, [P]),
    "btf__raw_data": (P, [P, POINTER(c_uint32)]),
    "btf__load_from_kernel_by_id": (P, [c_uint32]),
    "btf__free": (None, [P]),
    "bpf_map_create": (c_int, [c_int, c_char_p, c_uint32, c_uint32, c_uint32, POINTER(MapCreateOpts)]),
    "bpf_map_update_elem": (c_int, [c_int, P, P, c_uint64]),
    "bpf_map_lookup_elem": (c_int, [c_int, P, P]),
    "bpf_map_delete_elem": (c_int, [c_int, P]),
    "bpf_map_get_next_key": (c_int, [c_int, P, P]),
    "bpf_map_update_batch": (c_int, [c_int, P, P, POINTER(c_uint32), POINTER(BatchOpts)]),
    "bpf_map_lookup_batch": (c_int, [c_int, P, P, P, P, POINTER(c_uint32), POINTER(BatchOpts)]),
    "bpf_map_delete_batch": (c_int, [c_int, P, POINTER(c_uint32), POINTER(BatchOpts)]),
    "bpf_obj_pin": (c_int, [c_int, c_char_p]),
    "bpf_obj_get": (c_int, [c_char_p]),
    "bpf_obj_get_info_by_fd": (c_int, [c_int, P, POINTER(c_uint32)]),
    "bpf_link_create": (c_int, [c_int, c_int, c_int, POINTER(LinkCreateOpts)]),
    "bpf_link_update": (c_int, [c_int, c_int, POINTER(LinkUpdateOpts)]),
    "bpf_link_detach": (c_int, [c_int]),
    "bpf_prog_test_run_opts": (c_int, [c_int, POINTER(TestRunOpts)]),
    "bpf_prog_load": (c_int, [c_int, c_char_p, c_char_p, P, c_size_t, P]),
    "bpf_xdp_query": (c_int, [c_int, c_int, POINTER(XdpQueryOpts)]),
    "ring_buffer__new": (P, [c_int, RING_CALLBACK, P, P]),
    "ring_buffer__free": (None, [P]),
    "ring_buffer__consume": (c_int, [P]),
    "ring_buffer__epoll_fd": (c_int, [P]),
    "libbpf_num_possible_cpus": (c_int, []),
    "libbpf_version_string": (c_char_p, []),
}

PRINT_CALLBACK = CFUNCTYPE(c_int, c_int, c_void_p, c_void_p)


class Libbpf:
    """The loaded library: one attribute per function of PROTOTYPES, and the log of the calling thread."""

    def __init__(self) -> None:
        try:
            self.dll = ctypes.CDLL(SONAME, use_errno=True)
        except OSError as error:
            raise BpfError(
                f"{SONAME} cannot be loaded: {error}; install libbpf 1.1 or newer (Debian: libbpf1)."
            ) from error
        for name, (restype, argtypes) in PROTOTYPES.items():
            try:
                function = getattr(self.dll, name)
            except AttributeError as error:
                raise BpfError(f"{SONAME} has no {name}; install libbpf 1.1 or newer.") from error
            function.restype, function.argtypes = restype, argtypes
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.vsnprintf.restype = c_int
        self.libc.vsnprintf.argtypes = [P, c_size_t, P, P]
        self.libc.syscall.restype = c_long
        self.libc.statfs.restype = c_int
        self.libc.statfs.argtypes = [c_char_p, P]
        self.threads = threading.local()
        # Kept as an attribute: libbpf calls it for as long as the process lives.
        self.callback = PRINT_CALLBACK(self.on_print)
        self.dll.libbpf_set_print.restype = P
        self.dll.libbpf_set_print.argtypes = [PRINT_CALLBACK]
        self.dll.libbpf_set_print(self.callback)

    def on_print(self, level: int, form: int, arguments: int) -> int:
        """Receives one message of libbpf; a va_list is passed as a pointer on every ABI that sixgate runs on."""
        lines: list[str] | None = getattr(self.threads, "lines", None)
        if lines is None or level > 1:  # LIBBPF_DEBUG
            return 0
        buffer = ctypes.create_string_buffer(MESSAGE_BYTES)
        self.libc.vsnprintf(buffer, MESSAGE_BYTES, form, arguments)
        lines.extend(buffer.value.decode(errors="replace").rstrip().splitlines())
        return 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.dll, name)


@cache
def libbpf() -> Libbpf:
    """The library, loaded at first use; BpfError where it is missing or too old."""
    return Libbpf()


@contextmanager
def captured_log() -> Iterator[list[str]]:
    """Collects what libbpf says in this thread meanwhile, line by line, without its `libbpf: ` prefix."""
    threads = libbpf().threads
    outer = getattr(threads, "lines", None)
    lines: list[str] = []
    threads.lines = lines
    try:
        yield lines
    finally:
        threads.lines = outer
        lines[:] = [line.removeprefix("libbpf: ") for line in lines]


def describe(number: int) -> str:
    """`File exists (EEXIST)` for an errno."""
    if number == ENOTSUPP:
        return "Operation not supported (ENOTSUPP)"
    return f"{os.strerror(number)} ({errno_names.errorcode.get(number, number)})"


def check(result: int, doing: str, log: list[str] | None = None) -> int:
    """Gives a non-negative `result` back; else raises BpfError `doing: reason` with the last lines of `log`.

    `doing` names object and expectation ("pinning map sg_dev at /sys/fs/bpf/x"). libbpf 1.x returns -errno.
    """
    if result >= 0:
        return result
    raise failure(-result, doing, log)


def failure(number: int, doing: str, log: list[str] | None = None) -> BpfError:
    """The error that `check` raises, for a call that failed with errno `number`."""
    tail = f"; libbpf says: {' | '.join(log[-3:])}" if log else ""
    return BpfError(f"{doing} failed: {describe(number)}{tail}", number)


def check_pointer(pointer: int | None, doing: str, log: list[str] | None = None) -> int:
    """The same for functions that return a pointer and set errno."""
    if pointer:
        return pointer
    raise failure(ctypes.get_errno(), doing, log)


def bpf_syscall(command: int, attributes: Structure) -> int:
    """bpf(2) itself, for what libbpf 1.1.2 does not wrap. The result or -errno; BpfError on an unknown machine."""
    number = SYSCALL_BPF.get(platform.machine())
    if number is None:
        raise BpfError(f"The number of bpf(2) on machine {platform.machine()} is not known to sixgate.")
    size = ctypes.sizeof(attributes)
    result: int = libbpf().libc.syscall(c_long(number), c_int(command), ctypes.byref(attributes), c_uint32(size))
    return result if result >= 0 else -ctypes.get_errno()


@cache
def possible_cpus() -> int:
    """How many values a per-CPU map holds per key: possible CPUs, which may be more than are online."""
    return check(libbpf().libbpf_num_possible_cpus(), "counting the possible CPUs of this machine")


def version() -> str:
    """Version of libbpf, `v1.1`."""
    text: bytes = libbpf().libbpf_version_string()
    return text.decode()
