"""Code blocks of the documentation, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "charts" / "sixgate" / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "reference"),
)
# Programs whose commands the documentation has. A block with one of them at the beginning of a line is one of commands.
OWN = frozenset({"sixgate", "kubectl", "helm", "make", "python"})
# Of other programs nothing but their being there is checked.
OTHERS = frozenset({"git", "cd", "export", "bpftool", "source", "ip"})
# What stands for something of the reader's, and what a test puts there.
PLACES = {
    "ADDR:PORT": "192.0.2.1:80",
    "ADDRESS": "192.0.2.1",
    "HOST:PORT": "127.0.0.1:9100",
    "NAME": "web",
    "DIR": "examples/nat46gateway",
    "NODE": "n1",
    "POD": "pay/checkout",
    "FILE": "/dev/null",
    "KEY=VALUE": "a=b",
    "SHELL": "bash",
    "N": "10",
    "S": "1",
    "URL": "https://example.org",
}


@dataclass(frozen=True, slots=True)
class Block:
    """`language` is that of the fence, empty for one without and for an indented block; `line` counts from 1."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True, slots=True)
class Command:
    """One command with its options, pipes and conditions taken apart; `words` has the reader's own things filled in."""

    where: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where} {' '.join(self.words)}"

    @property
    def program(self) -> str:
        return "python" if re.fullmatch(r"(\S+/)?python3?", self.words[0]) else self.words[0].removeprefix(".venv/bin/")


def blocks(path: Path) -> Iterator[Block]:
    """Fenced and indented blocks of one page."""
    page = path.relative_to(ROOT).as_posix()
    lines = [*path.read_text().splitlines(), ""]
    number, blank = 0, True
    while number < len(lines):
        fence = re.match(r"^( *)```(\S*)\s*$", lines[number])
        if fence:
            end = next(at for at in range(number + 1, len(lines)) if lines[at].strip() == "```")
            text = "\n".join(line.removeprefix(fence[1]) for line in lines[number + 1 : end])
            yield Block(page, number + 1, fence[2], text + "\n")
            number = end
        elif blank and lines[number].startswith("    ") and lines[number].strip():
            end = number
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            text = "\n".join(line[4:] for line in lines[number:end]).rstrip()
            yield Block(page, number + 1, "", text + "\n")
            number = end - 1
        blank = not lines[number].strip() if number < len(lines) else True
        number += 1


def is_commands(block: Block) -> bool:
    """Whether a block is one of commands: by its language, or where it has none by the first words of its lines."""
    if block.language in {"sh", "bash", "console"}:
        return True
    begins = {line.split()[0] for line in block.text.splitlines() if line and not line.startswith((" ", "#"))}
    return not block.language and bool(begins & OWN)


def lines_of(block: Block) -> Iterator[str]:
    """Command lines: of a console block what follows `$ `, of others all but comments; continued lines joined."""
    text = block.text.replace("\\\n", " ")
    for line in text.splitlines():
        if block.language == "console":
            if line.startswith("$ "):
                yield line[2:]
        elif line.strip() and not line.lstrip().startswith("#"):
            yield line


def commands(line: str, where: str) -> Iterator[Command]:
    """The commands of one line. ValueError where the shell could not read it."""
    lexer = shlex.shlex(re.sub(r"[<>]\(([^)]*)\)", r"; \1", line), posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;<>"):
            if words and words[0].endswith("="):
                words = words[1:]
            if words:
                yield Command(where, tuple(_filled(part) for part in words))
            words = []
        else:
            words.append(word)


def _filled(word: str) -> str:
    word = PLACES.get(word, word)
    for place, value in PLACES.items():
        if len(place) > 1:
            word = re.sub(rf"(?<![A-Za-z0-9_-]){re.escape(place)}(?![A-Za-z0-9_-])", value, word)
    return word


def spoken(path: Path) -> Iterator[Command]:
    """Commands that stand in the text of a page, between backquotes."""
    page = path.relative_to(ROOT).as_posix()
    text = re.sub(r"^( *)```.*?^\1```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`((?:sixgate|kubectl|helm|make) [a-z][^`]*)`", text):
        if "..." not in code:
            yield from commands(code.replace(" [", " ").replace("]", "") if " [-" in code else code, page)


def all_commands() -> tuple[Command, ...]:
    """Every command of every page, once a page."""
    found: dict[Command, None] = {}
    for path in PAGES:
        for block in blocks(path):
            if is_commands(block):
                for line in lines_of(block):
                    found |= dict.fromkeys(commands(line, block.page))
        found |= dict.fromkeys(spoken(path))
    return tuple(found)
