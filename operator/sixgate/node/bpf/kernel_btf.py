"""BTF that the kernel keeps for a map. Reading it by id needs SYS_ADMIN, so that every user has another way as well."""

from __future__ import annotations

import ctypes
from ctypes import c_uint32

from sixgate.errors import BpfError
from sixgate.node.bpf.btf import Btf
from sixgate.node.bpf.codec import Codec, Resolve
from sixgate.node.bpf.info import MapInfo
from sixgate.node.bpf.lib import captured_log, libbpf


def raw_btf(handle: int) -> bytes:
    """The bytes of a `struct btf *` of libbpf; b"" where it has none."""
    size = c_uint32(0)
    address = libbpf().btf__raw_data(handle, ctypes.byref(size))
    return ctypes.string_at(address, size.value) if address else b""


def codec_by_id(facts: MapInfo, resolve: Resolve | None, name: str) -> Codec | None:
    """Types of a map by the ids that the kernel keeps; None where it has none or hides them from this process."""
    if not facts.btf_id or not facts.btf_value_type_id:
        return None
    with captured_log():
        handle = libbpf().btf__load_from_kernel_by_id(facts.btf_id)
    if not handle:
        return None
    try:
        btf = Btf(raw_btf(handle))
        return Codec(btf.ctype(facts.btf_key_type_id), btf.ctype(facts.btf_value_type_id), resolve, name)
    except BpfError:
        return None
    finally:
        libbpf().btf__free(handle)
