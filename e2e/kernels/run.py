"""Boots a kernel with the shipped objects and reads what its guest found."""

from __future__ import annotations

import json
import pickle
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from e2e.kernels.images import Image, ImageError, fetch
from e2e.kernels.initramfs import build
from tests.bpf.test_load_all import all_constants
from tests.rfc.cases import CASES

QEMU = "qemu-system-x86_64"
BOOT_SECONDS = 1500  # emulation on a busy machine
MARK = "RESULT "


@dataclass(frozen=True, slots=True)
class Translated:
    """What became of the named cases with one way to attach; `faults` are sentences."""

    cases: int
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """One kernel: `insns` are the most verified instructions of each program, `ways` the ways to attach by name."""

    release: str
    features: dict[str, object]
    insns: dict[str, int]
    ways: dict[str, Translated]
    errors: dict[str, str]


def try_kernel(series: str) -> Report:
    """Downloads, boots and reads one kernel. ImageError where it cannot be had, or says nothing."""
    image = fetch(series)
    with tempfile.TemporaryDirectory(prefix="sixgate-kernel-") as scratch:
        archive = Path(scratch, "initramfs")
        build(image, _payload(), archive)
        return _parse(_boot(image, archive))


def _payload() -> bytes:
    """What guest.py is to do: only values of modules that it can import."""
    ordered = sorted(CASES, key=lambda case: repr(case.node))
    cases = [(case.id, case.node, case.packet, case.expect) for case in ordered]
    # Emulated verifiers are slow: everything off, and everything on. Other combinations are tried on this machine.
    every = max(values["features"] for values in all_constants())
    constants = [values for values in all_constants() if values["features"] in {0, every}]
    return pickle.dumps({"constants": constants, "cases": cases})


def _boot(image: Image, archive: Path) -> str:
    qemu = which(QEMU)
    if qemu is None:
        raise ImageError(f"{QEMU} is needed to boot kernels; install it: apt-get install qemu-system-x86")
    argv = [
        qemu,
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-smp",
        "2",
        "-m",
        "2048",
        "-nodefaults",
        "-display",
        "none",
    ]
    argv += ["-serial", "stdio", "-no-reboot", "-kernel", str(image.vmlinuz), "-initrd", str(archive)]
    argv += ["-append", "console=ttyS0 panic=-1 quiet mitigations=off no_timer_check"]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=BOOT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        tail = (error.stdout or b"").decode(errors="replace")[-2000:]
        raise ImageError(
            f"Kernel {image.release} did not finish within {BOOT_SECONDS} s; its console ends:\n{tail}"
        ) from error
    return done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")


def _parse(console: str) -> Report:
    for line in console.splitlines():
        if line.startswith(MARK):
            found = json.loads(line[len(MARK) :])
            ways = {
                name: Translated(found[name]["cases"], tuple(found[name]["faults"]))
                for name in ("tc", "clsact", "xdp")
                if name in found
            }
            errors = found.get("errors", {})
            return Report(found["release"], found["features"], found.get("insns", {}), ways, errors)
    raise ImageError(f"The kernel printed no result; its console ends:\n{console[-3000:]}")
