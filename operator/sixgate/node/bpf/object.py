"""Object files: open, set constants, adopt pinned maps, load. All or nothing."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from ctypes import c_char, c_size_t
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from sixgate.errors import BpfError
from sixgate.node.bpf import info
from sixgate.node.bpf.btf import DATA, Btf
from sixgate.node.bpf.codec import Resolve, encode
from sixgate.node.bpf.ctype import MapSpec, Record
from sixgate.node.bpf.kernel_btf import raw_btf
from sixgate.node.bpf.lib import ObjectOpenOpts, captured_log, check, check_pointer, describe, libbpf
from sixgate.node.bpf.map import Map
from sixgate.node.bpf.mapspec import codec_of, incompatibility
from sixgate.node.bpf.prog import Program, ProgType

FAILED_PROGRAM = re.compile(r"prog '(\w+)': (?:BPF program load failed|failed to load)")
LOG_BYTES = 1 << 24
LOG_LINES = 6


class BpfLoadError(BpfError):
    """The kernel or libbpf refused an object; `log` is everything that the verifier and libbpf said."""

    def __init__(self, message: str, errno: int, log: str) -> None:
        super().__init__(message, errno)
        self.log = log


class BpfPinError(BpfError):
    """A pinned map does not fit the object that wants to use it; `path` is its pin."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message, errno.EINVAL)
        self.path = path


@dataclass(frozen=True, slots=True)
class ProgSpec:
    """A program in an object file: `section` is its SEC(), `type` a number of enum bpf_prog_type."""

    name: str
    section: str
    type: int
    autoload: bool


class BpfObject:
    """One object file on its way into the kernel: open, set constants, reuse pins, `load`, take maps and programs.

    Closing it closes its own descriptors; Maps and Programs that were taken from it have descriptors of their own and
    stay, as does what is pinned.
    """

    def __init__(self, name: str, data: bytes) -> None:
        """Parses `data`, an ELF file of clang; nothing reaches the kernel before `load`. Raises BpfError."""
        self.name = name
        self._data = ctypes.create_string_buffer(data, len(data))
        opts = ObjectOpenOpts(sz=ctypes.sizeof(ObjectOpenOpts), object_name=name.encode())
        with captured_log() as log:
            handle = libbpf().bpf_object__open_mem(self._data, len(data), ctypes.byref(opts))
        self._handle: int | None = check_pointer(handle, f"reading BPF object {name}", log)
        self._loaded = False
        try:
            self.btf = self._read_btf()
            self._maps = {name: each for each in self._each("map") if (name := _map_name(each))}
            self._programs = {_text(libbpf().bpf_program__name(each)): each for each in self._each("program")}
            self._specs = self._read_specs()
        except BaseException:
            self.close()
            raise
        self._pins: dict[str, Path] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, data: bytes | None = None) -> Self:
        """Opens an object file, or the bytes `data` of it that were hashed before; `path` then only names it."""
        name = Path(path).name.removesuffix(".o").removesuffix(".bpf")
        if data is None:
            try:
                data = Path(path).read_bytes()
            except OSError as error:
                raise BpfError(
                    f"BPF object {os.fspath(path)} cannot be read: {error.strerror}.", error.errno or 0
                ) from error
        return cls(name, data)

    # Before loading

    @property
    def maps(self) -> dict[str, MapSpec]:
        """Definitions of the named maps, with sizes as they are set now; `.rodata` and the like are not among them."""
        return {name: self._with_size(name) for name in self._maps}

    @property
    def programs(self) -> dict[str, ProgSpec]:
        """Programs by function name."""
        lib = libbpf()
        return {
            name: ProgSpec(
                name,
                _text(lib.bpf_program__section_name(each)),
                lib.bpf_program__type(each),
                lib.bpf_program__autoload(each),
            )
            for name, each in self._programs.items()
        }

    @property
    def constants(self) -> Record:
        """The `const volatile` variables as one record: names, offsets and types."""
        return self.btf.section(".rodata") or Record(".rodata", 0, ())

    def set_constants(self, values: Mapping[str, object], *, resolve: Resolve | None = None) -> bytes:
        """Sets `const volatile` variables by name; returns the section's bytes as they are now.

        A variable that is named is replaced whole (fields left out are zero), one that is not keeps what C gave it.
        BpfError for an unknown variable or field or a value that does not fit; then nothing is changed.
        """
        self._must_be(loaded=False, doing="setting constants")
        record, buffer = self.constants, self._rodata()
        fields = {field.name: field for field in record.fields}
        for name in values:
            if name not in fields:
                known = ", ".join(fields) or "none"
                raise BpfError(f"BPF object {self.name} has no constant {name!r}; it has {known}.")
        encoded = {
            name: encode(fields[name].type, value, resolve=resolve, where=name) for name, value in values.items()
        }
        for name, data in encoded.items():
            start = fields[name].offset
            buffer[start : start + len(data)] = data
        return bytes(buffer)

    def set_max_entries(self, name: str, max_entries: int) -> None:
        """Sets the size of a map that is created by `load`; a pinned one that is reused must have this size."""
        self._must_be(loaded=False, doing=f"resizing map {name}")
        handle = self._named_map(name)
        check(libbpf().bpf_map__set_max_entries(handle, max_entries), f"setting max_entries of {name} to {max_entries}")

    def set_autoload(self, names: Iterable[str]) -> None:
        """Exactly these programs are loaded; BpfError for a name that the object has not."""
        self._must_be(loaded=False, doing="choosing programs")
        wanted = set(names)
        for name in sorted(wanted):
            self._named_program(name)
        for name, handle in self._programs.items():
            check(libbpf().bpf_program__set_autoload(handle, name in wanted), f"choosing program {name}")

    def set_type(self, name: str, type_: ProgType) -> None:
        """Sets the program type where the section's name does not say it."""
        self._must_be(loaded=False, doing=f"setting the type of {name}")
        check(
            libbpf().bpf_program__set_type(self._named_program(name), int(type_)), f"setting the type of program {name}"
        )

    def reuse_pinned(self, directory: str | os.PathLike[str], names: Iterable[str] | None = None) -> tuple[str, ...]:
        """Shares maps by name with `directory`: those pinned there are used, the others are pinned by `load`.

        `names` limits this to some maps. Returns the names that were found. BpfPinError where a pinned map differs in
        type, key size, value size, max_entries or flags, naming old and new; then no map of this object is shared.
        """
        self._must_be(loaded=False, doing="reusing pinned maps")
        chosen = list(self._maps) if names is None else list(names)
        pins = {name: Path(directory, name) for name in chosen if self._named_map(name)}
        found: dict[str, int] = {}
        try:
            for name, path in pins.items():
                if (fd := self._open_fitting(name, path)) is not None:
                    found[name] = fd
            for name, fd in found.items():
                check(libbpf().bpf_map__reuse_fd(self._maps[name], fd), f"reusing the map pinned at {pins[name]}")
        finally:
            for fd in found.values():  # libbpf keeps a copy
                os.close(fd)
        self._pins |= {name: path for name, path in pins.items() if name not in found}
        return tuple(found)

    def load(self) -> None:
        """Creates the maps, loads the chosen programs, pins new maps where `reuse_pinned` was asked to. All or nothing.

        BpfLoadError with the verifier's last lines where a program is refused; EPERM without CAP_BPF and CAP_NET_ADMIN,
        EACCES from the verifier also without CAP_PERFMON. A failed object is closed: open it anew.
        """
        self._must_be(loaded=False, doing="loading")
        with ExitStack() as prototypes, mmap.mmap(-1, LOG_BYTES) as memory, captured_log() as log:
            self._give_prototypes(prototypes)
            view = (c_char * LOG_BYTES).from_buffer(memory)
            for name, handle in self._programs.items():
                check(libbpf().bpf_program__set_log_buf(handle, view, LOG_BYTES), f"giving {name} a log")
            result = libbpf().bpf_object__load(self._handle)
            for handle in self._programs.values():
                libbpf().bpf_program__set_log_buf(handle, None, 0)
            verifier = memory[: memory.find(b"\0")].decode(errors="replace")
            del view
        if result < 0:
            self.close()
            raise _load_error(self.name, -result, verifier, log)
        self._loaded = True
        try:
            self._pin_new()
        except BaseException:
            self.close()
            raise

    def _give_prototypes(self, stack: ExitStack) -> None:
        """Maps of maps get prototypes made as their inner maps will be; libbpf's own have BTF.

        Until Linux 6.4 an inner map is refused where one of both has BTF and the other has none: bpf_map_meta_equal()
        compares where a timer stands, and "none" differs from "not known".
        """
        for name, spec in self.maps.items():
            if spec.inner is not None:
                prototype = stack.enter_context(Map.create(spec.inner))
                result = libbpf().bpf_map__set_inner_map_fd(self._named_map(name), prototype.fd)
                check(result, f"giving map {name} of object {self.name} its prototype")

    # After loading

    def map(self, name: str, *, resolve: Resolve | None = None) -> Map:
        """A loaded map with a descriptor of its own."""
        self._must_be(loaded=True, doing=f"taking map {name}")
        fd = check(libbpf().bpf_map__fd(self._named_map(name)), f"taking map {name} of object {self.name}")
        return Map(os.dup(fd), codec_of(self._with_size(name), resolve), name)

    def program(self, name: str) -> Program:
        """A loaded program with a descriptor of its own; BpfError where it was not chosen to be loaded."""
        self._must_be(loaded=True, doing=f"taking program {name}")
        fd = libbpf().bpf_program__fd(self._named_program(name))
        if fd < 0:
            raise BpfError(f"Program {name} of BPF object {self.name} was not loaded.", errno.ENOENT)
        return Program(os.dup(fd), name)

    def close(self) -> None:
        """Frees everything that this object holds. Twice is fine."""
        if self._handle is not None:
            with captured_log():
                libbpf().bpf_object__close(self._handle)
            self._handle = None
            self._loaded = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Inside

    def _each(self, what: str) -> Iterator[int]:
        following = getattr(libbpf(), f"bpf_object__next_{what}")
        handle = following(self._handle, None)
        while handle:
            yield handle
            handle = following(self._handle, handle)

    def _read_btf(self) -> Btf:
        handle = libbpf().bpf_object__btf(self._handle)
        if not handle:
            raise BpfError(f"BPF object {self.name} has no BTF; compile it with clang -g.", errno.EINVAL)
        return Btf(raw_btf(handle))

    def _read_specs(self) -> dict[str, MapSpec]:
        specs = self.btf.maps()
        if missing := [name for name in self._maps if name not in specs]:
            raise BpfError(f"Map {missing[0]} of BPF object {self.name} has no BTF definition.", errno.EINVAL)
        return specs

    def _with_size(self, name: str) -> MapSpec:
        lib, handle = libbpf(), self._maps[name]
        entries, flags = lib.bpf_map__max_entries(handle), lib.bpf_map__map_flags(handle)
        return replace(self._specs[name], max_entries=entries, flags=flags)

    def _rodata(self) -> memoryview:
        size = c_size_t(0)
        for handle in self._each("map"):
            if _internal(handle) and _text(libbpf().bpf_map__name(handle)).endswith(".rodata"):
                address = libbpf().bpf_map__initial_value(handle, ctypes.byref(size))
                return memoryview((c_char * size.value).from_address(address)).cast("B")
        return memoryview(bytearray())

    def _named_map(self, name: str) -> int:
        if name not in self._maps:
            raise BpfError(f"BPF object {self.name} has no map {name!r}; it has {', '.join(self._maps) or 'none'}.")
        return self._maps[name]

    def _named_program(self, name: str) -> int:
        if name not in self._programs:
            raise BpfError(
                f"BPF object {self.name} has no program {name!r}; it has {', '.join(self._programs) or 'none'}."
            )
        return self._programs[name]

    def _open_fitting(self, name: str, path: Path) -> int | None:
        """A descriptor of the pinned map, None where nothing is pinned."""
        try:
            fd = info.open_pin(path, "map")
        except BpfError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        if differs := incompatibility(self._with_size(name), info.map_info(fd)):
            os.close(fd)
            raise BpfPinError(f"Map {name} pinned at {path} does not fit BPF object {self.name}: {differs}.", path)
        return fd

    def _pin_new(self) -> None:
        """Pins the maps that were made; where one cannot be pinned, those pinned before it are unpinned again."""
        done: list[Path] = []
        try:
            for name, path in self._pins.items():
                info.pin(libbpf().bpf_map__fd(self._maps[name]), path, f"map {name}")
                done.append(path)
        except BaseException:
            for path in done:
                path.unlink()
            raise

    def _must_be(self, *, loaded: bool, doing: str) -> None:
        if self._handle is None:
            raise BpfError(f"BPF object {self.name} is closed: {doing} is too late.", errno.EBADF)
        if loaded != self._loaded:
            state = "loaded already" if self._loaded else "not loaded yet"
            raise BpfError(f"BPF object {self.name} is {state}: {doing} is not possible.", errno.EINVAL)


def _load_error(name: str, number: int, verifier: str, log: list[str]) -> BpfLoadError:
    """One sentence with the last lines of the verifier's log, or of libbpf's where the verifier was not reached."""
    whole = "\n".join((*log, verifier))
    lines = [line for line in verifier.splitlines() if line.strip() and not line.startswith("processed ")]
    who, told = ("the verifier", lines) if lines else ("libbpf", log)
    tail = " | ".join(" ".join(line.split()) for line in told[-LOG_LINES:])
    said = f"; {who} says: {tail}" if tail else ""
    program = FAILED_PROGRAM.search(whole)
    where = f", program {program[1]}," if program else ""
    return BpfLoadError(f"Loading BPF object {name}{where} failed: {describe(number)}{said}", number, whole)


def _internal(handle: int) -> bool:
    return bool(libbpf().bpf_map__is_internal(handle))


def _map_name(handle: int) -> str:
    """As user space knows a map: a variable in a section of its own (`.data.sg_obs_conf`) is one, too. Empty for the
    sections that are the object's own affair."""
    name = _text(libbpf().bpf_map__name(handle))
    if not _internal(handle):
        return name
    return name.removeprefix(DATA) if name.startswith(DATA) else ""


def _text(value: bytes | None) -> str:
    return value.decode() if value else ""
