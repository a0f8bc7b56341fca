"""An archive for a bug report: bounded, and without secrets.

What goes in is chosen file by file, so that no credential is asked for in the first place; what a text holds all the
same (a token in a log line, a password in an argument) is struck out before it is written.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from sixgate.errors import SixgateError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

MAX_ENTRY_BYTES = 4 << 20
MAX_TOTAL_BYTES = 64 << 20  # before compression
STRUCK = "[redacted]"
_SECRET_WORDS = (
    r"[\w.-]*(?:token|password|passwd|secret|api[_-]?key|private[_-]?key|client-key-data|authorization|credential)s?"
)
_PATTERNS = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"),  # a JSON web token
    re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/-]{8,}=*"),
    re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b"),  # a bootstrap token of Kubernetes
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),  # user and password in an address
)
_ASSIGNED = re.compile(rf"(?i)(\"?\b{_SECRET_WORDS}\"?\s*[:=]\s*)(\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s,;{{}}\[\]]+)")
_SECRET = re.compile(rf"(?i){_SECRET_WORDS}")
_PLAIN = re.compile(
    r"(?i)(?:true|false|null|none|\d+|\"\"|''|/\S*|\"/[^\"]*\")"
)  # says nothing: a switch, a count, a path


def redact(text: str) -> str:
    """The same without what looks like a credential."""
    for pattern in _PATTERNS:
        text = pattern.sub(STRUCK, text)

    def assigned(match: re.Match[str]) -> str:
        if _PLAIN.fullmatch(match[2]):
            return match[0]
        quote = match[2][0] if match[2][0] in "\"'" else ""
        return f"{match[1]}{quote}{STRUCK}{quote}"

    return _ASSIGNED.sub(assigned, text)


def redact_value(value: Any) -> Any:
    """The same for what is to become JSON: strings one by one, so that the document stays one."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list | tuple):
        return [redact_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        str(key): STRUCK
        if isinstance(item, str) and _SECRET.fullmatch(str(key)) and item and not _PLAIN.fullmatch(item)
        else redact_value(item)
        for key, item in value.items()
    }


@dataclass(slots=True)
class Archive:
    """A tar.gz under construction; it comes into being whole when the `with` block ends without an error."""

    path: Path
    root: str
    errors: list[str] = field(default_factory=list)
    total: int = 0
    _tar: tarfile.TarFile = field(init=False)

    def __enter__(self) -> Self:
        try:
            self._part.unlink(missing_ok=True)
            self._part.touch(mode=0o600)  # for whoever asked, and nobody else
            self._tar = tarfile.open(self._part, "w:gz")
        except OSError as error:
            raise SixgateError(f"The archive should be written to {self.path}: {error.strerror}.") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self.errors:
            self._put("errors.txt", "\n".join(self.errors) + "\n")
        self._tar.close()
        if kind is None:
            self._part.replace(self.path)
        else:
            self._part.unlink(missing_ok=True)

    @property
    def _part(self) -> Path:
        return self.path.with_name(f".{self.path.name}.part")

    def text(self, name: str, text: str, *, end: bool = False) -> None:
        """One file. What is too long is cut; with `end`, its beginning is what goes."""
        self._cut(name, redact(text), end)

    def json(self, name: str, value: Any) -> None:
        self._cut(name, json.dumps(redact_value(value), indent=1, ensure_ascii=False, default=str) + "\n")

    def _cut(self, name: str, text: str, end: bool = False) -> None:
        if len(text) > MAX_ENTRY_BYTES:
            cut = f"[{len(text) - MAX_ENTRY_BYTES:,} characters were cut here]"
            text = f"{cut}\n{text[-MAX_ENTRY_BYTES:]}" if end else f"{text[:MAX_ENTRY_BYTES]}\n{cut}\n"
        if self.total + len(text) > MAX_TOTAL_BYTES:
            self.missing(name, f"the archive would be larger than {MAX_TOTAL_BYTES >> 20} MiB")
            return
        self._put(name, text)

    def missing(self, name: str, why: object) -> None:
        """Say in the archive that something could not be collected."""
        self.errors.append(f"{name}: {redact(str(why))}")

    def _put(self, name: str, text: str) -> None:
        data = text.encode(errors="replace")
        entry = tarfile.TarInfo(f"{self.root}/{name}")
        entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
        self._tar.addfile(entry, io.BytesIO(data))
        self.total += len(data)
