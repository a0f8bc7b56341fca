"""Stack of every program in an object file, along its deepest chain of calls, as kernels before 6.9 count it.

    python tools/bpf_stack.py [build/bpf/NAME.bpf.o ...]

A frame is rounded up to 32 bytes there (to 16 later), a program has 512 bytes and 8 frames; calls of bpf_loop count
like others. So what loads on this machine may be refused by an older kernel. Exit code 1 where a program has too much.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from tools.build_bpf import find_tool  # noqa: E402

MAX_BYTES, MAX_FRAMES, ROUND_BYTES = 512, 8, 32
_CALL, _PSEUDO_CALL = 0x85, 1
_TEXT = ".text"


@dataclass(slots=True)
class Function:
    """Bytes of stack that it uses itself, and the functions that it calls or hands to a helper."""

    section: str
    bytes: int = 0
    calls: set[str] = field(default_factory=set)

    @property
    def frame_bytes(self) -> int:
        return (max(self.bytes, 1) + ROUND_BYTES - 1) // ROUND_BYTES * ROUND_BYTES


@dataclass(frozen=True, slots=True)
class Chain:
    """Functions from a program down, outermost first; bytes of all frames, and how deep any chain of it goes."""

    names: tuple[str, ...]
    bytes: int
    frames: int

    @property
    def fits(self) -> bool:
        return self.bytes <= MAX_BYTES and self.frames <= MAX_FRAMES


def read(path: Path) -> dict[str, Function]:
    """Functions of an object file by name."""
    places = _places(path)
    functions = {name: Function(section) for section, rows in places.items() for _, _, name in rows}
    section = current = ""
    index, raw = 0, b""
    for line in _run("llvm-objdump", "-dr", str(path)):
        if found := re.match(r"Disassembly of section (\S+):", line):
            section = found[1]
        elif found := re.match(r"\s+(\d+):\s+((?:[0-9a-f]{2} )+[0-9a-f]{2})\s+(.*)", line):
            index, raw = int(found[1]), bytes.fromhex(found[2])
            current = _at(places, section, index * 8)
            functions[current].bytes = max(functions[current].bytes, _deepest(found[3]))
            offset = int.from_bytes(raw[4:8], "little", signed=True)
            if raw[0] == _CALL and raw[1] >> 4 == _PSEUDO_CALL and offset != -1:
                functions[current].calls.add(_at(places, section, (index + 1 + offset) * 8))
        elif found := re.match(r"\s+[0-9a-f]+:\s+R_BPF_64_32\s+(\S+)", line):
            functions[current].calls.add(found[1])
        elif re.match(rf"\s+[0-9a-f]+:\s+R_BPF_64_64\s+\{_TEXT}$", line):
            functions[current].calls.add(_at(places, _TEXT, int.from_bytes(raw[4:8], "little")))
    return functions


def chains(path: Path) -> dict[str, Chain]:
    """The chain with most bytes of every program of an object file."""
    functions = read(path)
    known: dict[str, Chain] = {}

    def below(name: str) -> Chain:
        if name not in known:
            inner = [below(other) for other in functions[name].calls - {name}]
            most = max(inner, key=lambda chain: chain.bytes, default=Chain((), 0, 0))
            frames = 1 + max((chain.frames for chain in inner), default=0)
            known[name] = Chain((name, *most.names), functions[name].frame_bytes + most.bytes, frames)
        return known[name]

    return {name: below(name) for name, function in functions.items() if function.section != _TEXT}


def _places(path: Path) -> dict[str, list[tuple[int, int, str]]]:
    """Functions by section: offset, length and name."""
    numbers = {}
    for line in _run("llvm-readelf", "-SW", str(path)):
        if found := re.match(r"\s*\[\s*(\d+)\]\s+(\S+)", line):
            numbers[found[1]] = found[2]
    places: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for line in _run("llvm-readelf", "-sW", str(path)):
        words = line.split()
        if len(words) >= 8 and words[3] == "FUNC":
            places[numbers[words[6]]].append((int(words[1], 16), int(words[2], 0), words[7]))
    return places


def _at(places: dict[str, list[tuple[int, int, str]]], section: str, offset: int) -> str:
    return next(name for start, size, name in places[section] if start <= offset < start + size)


def _deepest(text: str) -> int:
    """The lowest byte of its frame that an instruction names."""
    found = [int(word, 0) for word in re.findall(r"r10 [-+] -?(0x[0-9a-f]+|\d+)", text)]
    if moved := re.search(r"r\d+ \+= -(0x[0-9a-f]+|\d+)", text):  # of a copy of r10; others move by less or more
        found.append(int(moved[1], 0))
    return max((number for number in found if number <= MAX_BYTES), default=0)


def _run(tool: str, *words: str) -> list[str]:
    done = subprocess.run([find_tool(tool), *words], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("objects", nargs="*", type=Path, help="object files (default: all of build/bpf)")
    right = True
    for path in parser.parse_args().objects or sorted((ROOT / "build" / "bpf").glob("sg_*.bpf.o")):
        for name, chain in chains(path).items():
            right &= chain.fits
            way = " > ".join(chain.names)
            print(f"{name}: {chain.bytes} of {MAX_BYTES} bytes, {chain.frames} of {MAX_FRAMES} frames: {way}")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
