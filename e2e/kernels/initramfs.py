"""A file system in memory for one boot: Python, libbpf, iproute2, the project's own files, and what a kernel lacks."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
import sysconfig
from functools import cache
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

from e2e.kernels.images import Image, ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("ip", "tc", "nft", "ethtool")
LIBRARIES = ("libbpf.so.1",)
MODULES = ("veth", "sch_ingress", "cls_bpf", "nf_tables")
PROJECT = ("operator/sixgate", "build/bpf", "e2e/kernels", "e2e/lab/netns.py", "tests/rfc", "tests/kept.py")
# Of the standard library: what a gateway's test never imports.
UNUSED = ("test", "idlelib", "tkinter", "lib2to3", "ensurepip", "pydoc_data", "site-packages", "distutils")
DIRECTORIES = ("proc", "sys", "dev", "tmp", "run", "root", "etc")
S_DIR, S_FILE = 0o040755, 0o100755


class Archive:
    """A cpio archive of the kernel's format `newc`, gathered in memory."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._made: set[str] = set()

    def directory(self, name: str) -> None:
        name = name.strip("/")
        if name and name not in self._made:
            self.directory(str(Path(name).parent) if "/" in name else "")
            self._entry(name, S_DIR, b"")

    def file(self, name: str, data: bytes) -> None:
        name = name.strip("/")
        self.directory(str(Path(name).parent))
        if name not in self._made:
            self._entry(name, S_FILE, data)

    def tree(self, source: Path, target: str, unused: tuple[str, ...] = ()) -> None:
        """A directory with everything in it, symbolic links as what they stand for."""
        for path in sorted(source.rglob("*")):
            below = path.relative_to(source)
            if path.is_file() and not set(below.parts[:1]) & set(unused):
                self.file(f"{target}/{below}", path.read_bytes())

    def data(self) -> bytes:
        parts = [*self._parts, self._header("TRAILER!!!", 0, 0)]
        return gzip.compress(b"".join(parts), 1)

    def _entry(self, name: str, mode: int, data: bytes) -> None:
        self._made.add(name)
        self._parts += [self._header(name, mode, len(data)), data, b"\0" * (-len(data) % 4)]

    def _header(self, name: str, mode: int, size: int) -> bytes:
        number = len(self._made) if mode else 0
        fields = (number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        return head + b"\0" * (-len(head) % 4)


def build(image: Image, payload: bytes, target: Path) -> None:
    """Writes the archive for a kernel; `payload` is what guest.py is to run."""
    archive = Archive()
    for name in DIRECTORIES:
        archive.directory(name)
    for data, name in _userland():
        archive.file(name, data)
    modules = image.module_closure(MODULES)
    for name, data in modules:
        archive.file(f"modules/{name}.ko", data)
    archive.file("modules/order", "\n".join(name for name, _ in modules).encode())
    archive.file("payload", payload)
    target.write_bytes(archive.data())


def project_files() -> dict[str, bytes]:
    """What guests have of this tree, by path in it."""
    found = {
        str(path.relative_to(ROOT)): path.read_bytes()
        for name in PROJECT
        for path in (ROOT / name, *sorted((ROOT / name).rglob("*")))
        if path.is_file() and "__pycache__" not in path.parts
    }
    return found | {f"{package}/__init__.py": b"" for package in ("e2e", "e2e/lab")}


@cache
def _userland() -> tuple[tuple[bytes, str], ...]:
    """Everything that no kernel brings, as (contents, path)."""
    found = dict[str, bytes]()
    interpreter = Path(sys.executable).resolve()
    programs = [interpreter, *(Path(_tool(name)) for name in TOOLS)]
    stdlib = Path(sysconfig.get_path("stdlib", vars={"base": sys.base_prefix, "installed_base": sys.base_prefix}))
    for path in sorted(stdlib.rglob("*")):
        below = path.relative_to(stdlib)
        if path.is_file() and below.parts[0] not in UNUSED and not below.parts[0].startswith("config-"):
            found[str(path)] = path.read_bytes()
    extensions = [Path(path) for path in found if path.endswith(".so")]
    for path in (*programs, *_linked((*programs, *extensions, *map(_library, LIBRARIES)))):
        found[str(path)] = path.read_bytes()
    found |= {f"/sixgate/{path}": data for path, data in project_files().items()}
    found["/init"] = f"#!{interpreter} -IS\n".encode() + b"exec(open('/sixgate/e2e/kernels/guest.py').read())\n"
    return tuple((data, name) for name, data in found.items())


def _tool(name: str) -> str:
    path = which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if path is None:
        raise ImageError(f"Program {name} is needed in the guest, and this machine has none; run `make bootstrap`.")
    return path


@cache
def _library(name: str) -> Path:
    """Where the dynamic linker finds a library."""
    listing = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    match = re.search(rf"^\s*{re.escape(name)} .*=> (\S+)$", listing, re.MULTILINE)
    if match is None:
        raise ImageError(f"Library {name} is needed in the guest, and this machine has none; run `make bootstrap`.")
    return Path(match[1])


def _linked(files: tuple[Path, ...]) -> Iterator[Path]:
    """Every library that the files need, their loader included, under the paths by which it is found."""
    seen: set[str] = set()
    for file in files:
        done = subprocess.run(["ldd", str(file)], capture_output=True, text=True, check=False)
        for path in re.findall(r"(?:=> )?(/\S+) \(0x", done.stdout):
            if path not in seen:
                seen.add(path)
                yield Path(path)
        if file.suffix != "" and str(file) not in seen:
            seen.add(str(file))
            yield file
