"""What maps, programs and links of the kernel have in common: an open descriptor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class Descriptor:
    """Owns `_fd`. A context manager: closed at its end."""

    _fd: int

    def close(self) -> None:
        """Closes the descriptor; what is pinned, attached or used by others stays. Twice is fine."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
