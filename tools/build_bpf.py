"""Compiles bpf_src/sg_*.bpf.c to build/bpf/*.bpf.o and writes manifest.json, recompiling only what changed.

    python tools/build_bpf.py [--source bpf_src] [--out build/bpf] [--force] [NAME ...]

Objects carry BTF but no DWARF and no path of this machine, so equal sources and an equal compiler give equal digests.
The manifest is `{"objects": {"sg_tc": "sha256:<64 hex digits of the file>"}}`, sorted; it names every object in the
output directory that has a source, and objects whose source is gone are removed. Exit code 1 where a compilation
fails; the compiler's own words are on stderr. Needs clang, llvm-strip and the headers of linux-libc-dev and libbpf-dev.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WARNINGS = ("-Wall", "-Wextra", "-Wpadded", "-Werror")


class BuildError(Exception):
    """A tool is missing or refused its input; the text is what a person needs to see."""


@dataclass(frozen=True, slots=True)
class Built:
    """One object file: where it is, its digest (`sha256:...`), and whether this run compiled it."""

    path: Path
    digest: str
    compiled: bool


@cache
def find_tool(name: str) -> str:
    """Absolute path of `name`, or of its newest versioned form (`clang-19`); BuildError where there is none."""
    found = shutil.which(name) or next(
        (path for version in range(25, 11, -1) if (path := shutil.which(f"{name}-{version}"))), None
    )
    if found is None:
        raise BuildError(f"The tool {name} is needed to build BPF objects and is not in PATH; install clang and llvm.")
    return found


@cache
def system_flags() -> tuple[str, ...]:
    """`-isystem` of the machine's multiarch headers (asm/types.h), which clang leaves out for the bpf target."""
    query = subprocess.run([find_tool("clang"), "-print-multiarch"], capture_output=True, text=True, check=False)
    names = [query.stdout.strip(), f"{os.uname().machine}-linux-gnu"]
    return tuple(
        f"-I/usr/include/{name}" for name in dict.fromkeys(names) if name and Path("/usr/include", name).is_dir()
    )


@cache
def compiler_version() -> str:
    """First line of `clang --version`; part of what decides whether an object is up to date."""
    return subprocess.run([find_tool("clang"), "--version"], capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )[0]


def compile_command(source: Path, output: Path, includes: tuple[Path, ...], warnings: tuple[str, ...]) -> list[str]:
    """The clang command for one object; paths below ROOT are given relative to it, so that BTF names no machine."""
    inside = [os.path.relpath(path, ROOT) for path in includes]
    return [
        find_tool("clang"), "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-std=gnu11", *warnings,
        f"-ffile-prefix-map={ROOT}=.", "-fdebug-compilation-dir=.",
        *(f"-I{path}" for path in inside), *system_flags(),
        "-MD", "-MF", f"{output}.d", "-c", os.path.relpath(source, ROOT), "-o", str(output),
    ]  # fmt: skip


def parse_depfile(text: str) -> list[str]:
    """Paths named by a make-style dependency file, without the target."""
    return text.replace("\\\n", " ").split(":", 1)[1].split()


def fingerprint(command: list[str], depends: list[str]) -> str:
    """Hash of the command, the compiler and the contents of every file that was read; "" where one of them is gone."""
    digest = hashlib.sha256(json.dumps([command, compiler_version()]).encode())
    for name in depends:
        try:
            digest.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
        except OSError:
            return ""
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """`sha256:` and 64 hex digits of a file's bytes."""
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def build_object(
    source: Path, output: Path, includes: tuple[Path, ...], *, warnings: tuple[str, ...] = WARNINGS, force: bool = False
) -> Built:
    """Compiles `source` to `output` unless nothing that it was made of has changed; the file appears in one rename.

    What was read is kept beside the object in a hidden stamp. Raises BuildError with the compiler's messages.
    """
    scratch = output.with_name(f".{output.name}.tmp{os.getpid()}")
    stamp = output.with_name(f".{output.name}.stamp")
    command = compile_command(source, scratch, includes, warnings)
    lasting = [word.replace(str(scratch), str(output)) for word in command]
    if not force and output.exists() and stamp.exists():
        known = json.loads(stamp.read_text())
        if known["output"] == file_digest(output) and known["inputs"] == fingerprint(lasting, known["depends"]):
            return Built(output, known["output"], compiled=False)
    output.parent.mkdir(parents=True, exist_ok=True)
    depfile = Path(f"{scratch}.d")
    try:
        run_tool(command, f"compiling {os.path.relpath(source, ROOT)}")
        run_tool([find_tool("llvm-strip"), "-g", str(scratch)], f"stripping {output.name}")
        depends = parse_depfile(depfile.read_text())
        digest = file_digest(scratch)
        scratch.replace(output)
    finally:
        scratch.unlink(missing_ok=True)
        depfile.unlink(missing_ok=True)
    # In one rename, too: another test process may be about to read what the object of both was made of.
    scratch.write_text(json.dumps({"depends": depends, "inputs": fingerprint(lasting, depends), "output": digest}))
    scratch.replace(stamp)
    return Built(output, digest, compiled=True)


def run_tool(command: list[str], doing: str) -> None:
    """Runs one tool from ROOT; BuildError with its stderr where it fails, its warnings are passed on."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{doing} failed with exit code {done.returncode}:\n{done.stderr.rstrip()}")
    sys.stderr.write(done.stderr)


def write_manifest(out: Path, digests: dict[str, str]) -> bool:
    """Writes `out`/manifest.json in one rename where it differs; returns whether it did."""
    path = out / "manifest.json"
    text = json.dumps({"objects": dict(sorted(digests.items()))}, indent=2) + "\n"
    if path.exists() and path.read_text() == text:
        return False
    scratch = out / f".manifest.tmp{os.getpid()}"
    scratch.write_text(text)
    scratch.replace(path)
    return True


def object_name(path: Path) -> str:
    """`sg_tc` of `sg_tc.bpf.c` and of `sg_tc.bpf.o`."""
    return path.name.split(".", 1)[0]


def publish(built: dict[str, Built], out: Path, sources: set[str]) -> dict[str, Built]:
    """Puts compiled objects and their manifest into `out` together; objects whose source is gone go last.

    Renames follow each other at once, so that a reader meets a manifest that does not fit no longer than that, and a
    compilation that fails before changes nothing.
    """
    ready: dict[Path, Path] = {}
    for name, each in built.items():
        path = out / f"{name}.bpf.o"
        if not path.exists() or file_digest(path) != each.digest:
            ready[path] = path.with_name(f".{path.name}.tmp{os.getpid()}")
            shutil.copyfile(each.path, ready[path])
    for path, scratch in ready.items():
        scratch.replace(path)
    present = {object_name(path): path for path in out.glob("sg_*.bpf.o")}
    write_manifest(out, {name: file_digest(path) for name, path in present.items() if name in sources})
    for name, path in present.items():
        if name not in sources:
            path.unlink()
    return {name: replace(each, path=out / f"{name}.bpf.o") for name, each in built.items()}


def build_all(source: Path, out: Path, names: tuple[str, ...] = (), *, force: bool = False) -> dict[str, Built]:
    """Builds every `sg_*.bpf.c` under `source` (or those named) and the manifest; raises BuildError.

    One build at a time: a second one waits for the first.
    """
    sources = {object_name(path): path for path in sorted(source.glob("sg_*.bpf.c"))}
    if unknown := [name for name in names if name not in sources]:
        raise BuildError(f"{source} holds no {unknown[0]}.bpf.c; it holds {', '.join(sources) or 'no object sources'}.")
    cache = out / ".cache"
    cache.mkdir(parents=True, exist_ok=True)
    includes = (source / "include", source / "lib", source)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = {
            name: build_object(path, cache / f"{name}.bpf.o", includes, force=force)
            for name, path in sources.items()
            if not names or name in names
        }
        return publish(built, out, set(sources))


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile the BPF objects of sixgate and write their manifest.")
    parser.add_argument("names", nargs="*", help="objects to build, such as sg_tc; all of them where none is named")
    parser.add_argument("--source", type=Path, default=ROOT / "bpf_src", help="directory of sg_*.bpf.c")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bpf", help="where objects and manifest.json go")
    parser.add_argument("--force", action="store_true", help="compile even what has not changed")
    args = parser.parse_args()
    try:
        built = build_all(args.source.resolve(), args.out.resolve(), tuple(args.names), force=args.force)
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for name, result in built.items():
        sys.stdout.write(f"{name} {result.digest[7:19]} {'compiled' if result.compiled else 'unchanged'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
