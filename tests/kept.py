"""What holds things open until it is closed."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class Kept:
    """Closes what is on `stack`, the last first, by `close` or at the end of a `with` block."""

    def __init__(self) -> None:
        self.stack = ExitStack()

    def close(self) -> None:
        self.stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
