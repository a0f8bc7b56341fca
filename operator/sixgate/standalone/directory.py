"""A directory of manifests over time: what is valid now, and what was valid last where a file broke."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sixgate.api import UserObject, parse_object, ref_of
from sixgate.errors import ManifestError, Problem, Ref
from sixgate.standalone.manifests import Document, read_documents

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

SUFFIXES = (".yaml", ".yml", ".json")
BROKEN_FILE = "BrokenFile"
DUPLICATE = "Duplicate"

Signature = tuple[tuple[str, int, int, int], ...]  # name, time of change in ns, size, inode


@dataclass(frozen=True, slots=True)
class Located:
    """A problem and where it is: file and line, 0 and empty where it is in no file."""

    problem: Problem
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else ""
        return f"{where}{self.problem.message}"


@dataclass(frozen=True, slots=True)
class Held:
    """One object in force: its model, and the document it came from (of an earlier state of the file, maybe)."""

    item: UserObject
    document: Document


@dataclass(frozen=True, slots=True)
class Manifests:
    """Result of one look at the directory."""

    objects: tuple[UserObject, ...]
    problems: tuple[Located, ...]
    held: Mapping[Ref, Held] = field(default_factory=dict)

    def locate(self, problem: Problem) -> Located:
        """Where a problem of plan or render is."""
        found = self.held.get(problem.ref)
        if found is None:
            return Located(problem)
        return Located(problem, found.document.file, found.document.line_of(problem.field))


class Directory:
    """Objects of the files in one directory, or of one file.

    `now` gives RFC 3339 text: an object is as old as the moment it was first seen, so that of two that contradict each
    other the one that was there first stays. `memory` is what `memory` returned in an earlier process.
    """

    def __init__(self, path: Path, now: Callable[[], str], memory: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self._now = now
        memory = memory or {}
        self._first_seen: dict[str, str] = dict(memory.get("firstSeen", {}))
        self._held: dict[str, tuple[Held, ...]] = {}
        for file, raws in memory.get("files", {}).items():
            held = (self._held_from(Document(file, 1, raw, {})) for raw in raws)
            self._held[file] = tuple(one for one in held if one is not None)

    def signature(self) -> Signature | None:
        """Changes whenever a file does; None where the directory is gone."""
        try:
            stats = [(path.name, path.stat()) for path in self._files()]
        except OSError:
            return None
        return tuple((name, stat.st_mtime_ns, stat.st_size, stat.st_ino) for name, stat in stats)

    def read(self) -> Manifests:
        """What is in force now. ManifestError where the directory cannot be read at all."""
        try:
            files = self._files()
        except OSError as error:
            raise ManifestError(f"{self.path} should be a directory of manifests: {error.strerror}.") from error
        problems: list[Located] = []
        new: dict[str, tuple[Held, ...]] = {}
        for path in files:
            new[path.name] = self._read_file(path, problems)
        old, self._held = self._held, new
        chosen = self._choose(old, problems)
        self._first_seen = {str(ref): self._first_seen[str(ref)] for ref in chosen if str(ref) in self._first_seen}
        return Manifests(tuple(held.item for held in chosen.values()), tuple(problems), chosen)

    def memory(self) -> dict[str, Any]:
        """What to keep for the next start, as JSON."""
        files = {
            file: [one.item.model_dump(mode="json", by_alias=True, exclude_defaults=True) | _head(one) for one in held]
            for file, held in self._held.items()
        }
        return {"files": files, "firstSeen": self._first_seen}

    def _files(self) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        return sorted(p for p in self.path.iterdir() if p.suffix in SUFFIXES and p.name[0] != "." and p.is_file())

    def _read_file(self, path: Path, problems: list[Located]) -> tuple[Held, ...]:
        before = self._held.get(path.name, ())
        try:
            documents = read_documents(path.name, path.read_text())
        except ManifestError as error:
            problems.append(_broken(path.name, str(error), before))
            return before
        except (OSError, UnicodeDecodeError) as error:
            problems.append(_broken(path.name, f"{path.name}:1: the file cannot be read: {error}", before))
            return before
        good: list[Held] = []
        for document in documents:
            parsed = parse_object(self._aged(document.raw))
            if isinstance(parsed, UserObject):
                good.append(Held(parsed, document))
                continue
            ref = ref_of(document.raw)
            kept = [held for held in before if held.item.ref == ref]
            good += kept
            suffix = "; what runs of it stays as it was" if kept else ""
            for problem in parsed:
                line = document.line_of(problem.field)
                text = Problem(ref, problem.reason, f"{problem.message}{suffix}", problem.field)
                problems.append(Located(text, path.name, line))
        return tuple(good)

    def _choose(self, old: Mapping[str, tuple[Held, ...]], problems: list[Located]) -> dict[Ref, Held]:
        """One declaration of each object: of several the one in the file that had it before, else in the first file."""
        had = {held.item.ref: file for file, group in old.items() for held in group}
        chosen: dict[Ref, Held] = {}
        everything = [held for group in self._held.values() for held in group]
        for held in sorted(everything, key=lambda one: had.get(one.item.ref) != one.document.file):
            ref = held.item.ref
            first = chosen.setdefault(ref, held)
            if first is not held:
                message = (
                    f"{ref} is declared here and in {first.document.file}:{first.document.line}; "
                    f"the one in {first.document.file} counts"
                )
                problem = Problem(ref, DUPLICATE, message, "metadata.name")
                problems.append(Located(problem, held.document.file, held.document.line))
        return dict(sorted(chosen.items()))

    def _aged(self, raw: object) -> object:
        """The object with the moment it was first seen, unless it says itself when it was created."""
        if not isinstance(raw, dict) or not isinstance(raw.get("metadata"), dict):
            return raw
        metadata = raw["metadata"]
        if metadata.get("creationTimestamp"):
            return raw
        born = self._first_seen.setdefault(str(ref_of(raw)), self._now())
        return {**raw, "metadata": {**metadata, "creationTimestamp": born}}

    def _held_from(self, document: Document) -> Held | None:
        parsed = parse_object(document.raw)
        return Held(parsed, document) if isinstance(parsed, UserObject) else None


def _head(held: Held) -> dict[str, str]:
    return {"apiVersion": "sixgate.io/v1alpha1", "kind": held.item.ref.kind}


def _broken(file: str, message: str, before: tuple[Held, ...]) -> Located:
    kept = ", ".join(str(held.item.ref) for held in before)
    text = f"{message}; what runs of it stays as it was: {kept}" if kept else message
    where, _, _ = message.partition(": ")
    parts = where.split(":")
    line = int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0
    # The message begins with file and line already.
    text = text.removeprefix(f"{where}: ")
    return Located(Problem(Ref("File", file), BROKEN_FILE, text), file, line)
