"""C programs and BPF objects of labs, tests and benchmarks, compiled on first use."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

from e2e.lab.run import LabError
from tools import build_bpf

BUILD = Path(__file__).resolve().parents[2] / "build" / "lab"


@cache
def program(source: Path, *libraries: str) -> str:
    """Path of a program of one C file; built again when the file, or a header beside it, is newer. LabError."""
    target = BUILD / source.stem
    newest = max(each.stat().st_mtime for each in (source, *source.parent.glob("*.h")))
    if not target.exists() or target.stat().st_mtime < newest:
        _build(source, target, ["-O2", "-Wall", "-Wextra", "-Werror"], [f"-l{name}" for name in libraries])
    return str(target)


@cache
def bpf_object(source: Path) -> Path:
    """The BPF object of a source that is in no release, built once per process. LabError."""
    target = BUILD / source.with_suffix(".o").name
    _build(source, target, ["-O2", "-g", "-target", "bpf", "-mcpu=v3", *build_bpf.system_flags(), "-c"], [])
    return target


def _build(source: Path, target: Path, flags: list[str], libraries: list[str]) -> None:
    """By clang, which the shipped objects need anyway; the target appears in one rename."""
    try:
        clang = build_bpf.find_tool("clang")
    except build_bpf.BuildError as error:
        raise LabError(str(error)) from error
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    words = [clang, *flags, "-o", str(scratch), str(source), *libraries]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{source.name} should compile, and clang said: {done.stderr[-2000:]}")
    scratch.replace(target)
