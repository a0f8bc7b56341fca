"""Kernels as Debian ships them: looked up with apt, unpacked under ~/.cache/sixgate-e2e/kernels, kept by version."""

from __future__ import annotations

import lzma
import os
import re
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sixgate-e2e" / "kernels"
# Meta packages of bookworm; the first is the floor of what sixgate supports.
SERIES = {"6.1": "linux-image-cloud-amd64", "6.12": "linux-image-6.12-cloud-amd64"}


class ImageError(Exception):
    """A kernel cannot be had; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Image:
    """One kernel: its release as `uname -r` says, its bootable file, and the directory of its modules."""

    release: str
    vmlinuz: Path
    modules: Path

    def module_closure(self, names: tuple[str, ...]) -> list[tuple[str, bytes]]:
        """Contents of modules by name, each behind those it depends on; what is built in is left out."""
        files = {path.name.split(".ko")[0].replace("-", "_"): path for path in self.modules.rglob("*.ko*")}
        builtin = {line.rpartition("/")[2].split(".ko")[0] for line in self._builtin()}
        order: dict[str, bytes] = {}

        def add(name: str) -> None:
            if name in order or name in {each.replace("-", "_") for each in builtin}:
                return
            if name not in files:
                raise ImageError(f"Kernel {self.release} has no module {name}.")
            data = files[name].read_bytes()
            data = lzma.decompress(data) if files[name].suffix == ".xz" else data
            found = re.search(rb"\0depends=([^\0]*)\0", data)
            for needed in found[1].decode().split(",") if found and found[1] else ():
                add(needed.replace("-", "_"))
            order[name] = data

        for name in names:
            add(name)
        return list(order.items())

    def _builtin(self) -> list[str]:
        path = self.modules / "modules.builtin"
        return path.read_text().splitlines() if path.exists() else []


def fetch(series: str) -> Image:
    """The newest kernel of a series that apt knows; downloaded once. ImageError where there is none."""
    package = _concrete(SERIES[series])
    version = _field(package, "Version")
    home = CACHE / f"{package}_{version.replace(':', '%')}"
    if not home.is_dir():
        _download(package, home)
    return _image(home)


def _concrete(meta: str) -> str:
    match = re.search(r"linux-image-[\w.+-]+", _field(meta, "Depends"))
    if match is None:
        raise ImageError(f"Package {meta} depends on no kernel.")
    return match[0]


def _field(package: str, name: str) -> str:
    done = subprocess.run(
        ["apt-cache", "show", "--no-all-versions", package], capture_output=True, text=True, check=False
    )
    match = re.search(rf"^{name}: (.*)$", done.stdout, re.MULTILINE)
    if match is None:
        raise ImageError(f"apt knows no package {package}; `apt-get update` may help. {done.stderr.strip()}")
    return match[1]


def _download(package: str, home: Path) -> None:
    scratch = CACHE / f".{secrets.token_hex(6)}"
    scratch.mkdir(parents=True)
    try:
        done = subprocess.run(
            ["apt-get", "download", "-q", package], cwd=scratch, capture_output=True, text=True, check=False
        )
        packages = list(scratch.glob("*.deb"))
        if done.returncode or len(packages) != 1:
            raise ImageError(f"Package {package} cannot be downloaded: {done.stderr.strip()}")
        unpacked = scratch / "unpacked"
        subprocess.run(["dpkg-deb", "-x", str(packages[0]), str(unpacked)], check=True)
        if not home.exists():  # another process may have been faster
            unpacked.rename(home)
    finally:
        shutil.rmtree(scratch)


def _image(home: Path) -> Image:
    (modules,) = (home / "lib" / "modules").iterdir()
    return Image(modules.name, home / "boot" / f"vmlinuz-{modules.name}", modules)
