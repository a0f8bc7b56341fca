"""Every exception that sixgate raises on purpose, and the one value that is not an exception.

A wrong object of a user is not an exception: `plan` returns a `Problem` for it and programs the rest.
An exception means that the environment failed (kernel, file, API server) and that a retry may help;
its text is one sentence that names object, expectation and finding, fit to be shown to a user as it is.
"""

from __future__ import annotations

from dataclasses import dataclass


class SixgateError(Exception):
    """Base of all errors raised on purpose."""


class ManifestError(SixgateError):
    """A file of objects cannot be read: names the file, line and field."""


class RenderError(SixgateError):
    """A template failed, or its output is not a valid NodeConfig."""


class BpfError(SixgateError):
    """A BPF object, map or link was refused; `errno` is the kernel's, 0 where there is none."""

    def __init__(self, message: str, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


class ApplyError(SixgateError):
    """The kernel refused an action on this node; `errno` is the kernel's, 0 where there is none."""

    def __init__(self, message: str, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """Names one object of a user; all kinds are cluster-scoped."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """What is wrong with one object: shown as a condition, while everything else is programmed.

    `reason` is CamelCase for machines (`Conflicted`, `DeviceMissing`), `message` one sentence for people,
    `field` the path inside the object (`spec.prefix`) where one is to blame.
    """

    ref: Ref
    reason: str
    message: str
    field: str = ""
