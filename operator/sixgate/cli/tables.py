"""Tables for people, and watching: what commands that show something share.

rich takes as long to import as everything else that a short command needs, so it is imported when a table is printed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar

import typer

from sixgate.cli import common

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rich.console import Console
    from rich.table import Table

WATCH_S = 2.0
PIPE_COLUMNS = 200  # of a line that no terminal bounds
T = TypeVar("T")
Output: TypeAlias = Literal["table", "wide", "json", "yaml"]
OutputOption = Annotated[
    Output, typer.Option("-o", "--output", help="How to print; wide is a table with all columns that there are.")
]
WatchOption = Annotated[
    bool, typer.Option("--watch", "-w", help="Print again whenever something has changed; SIGINT ends it with 0.")
]


def console() -> Console:
    """Standard output: colours on a terminal only, and lines that a script need not join."""
    from rich.console import Console  # noqa: PLC0415

    made = Console(highlight=False, markup=False)
    return made if made.is_terminal else Console(width=PIPE_COLUMNS, highlight=False, markup=False)


def table(*columns: str, title: str = "", right: Iterable[str] = ()) -> Table:
    """An empty table; columns of `right` are numbers."""
    from rich.table import Table  # noqa: PLC0415

    made = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    numeric = frozenset(right)
    for column in columns:
        made.add_column(column, justify="right" if column in numeric else "left", overflow="fold")
    return made


def show(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", right: Iterable[str] = ()) -> None:
    """Print a table."""
    made = table(*columns, title=title, right=right)
    for row in rows:
        made.add_row(*row)
    console().print(made)


def put(body: Any, output: str, people: Callable[[], None]) -> None:
    """Print `body` for machines, or, where `output` is a table, what `people` prints."""
    if output in {"table", "wide"}:
        people()
    else:
        common.document(body, output)


def tell(ask: Callable[[], T], show: Callable[[T], None], watch: bool, every_s: float = WATCH_S) -> T:
    """Ask and show, once, or with `watch` again whenever the answer is another one; the last answer. SIGINT is how one
    ends watching, and no failure.

    A terminal is cleared in between, so that one state is seen; anything else gets one after the other.
    """
    try:
        found = ask()
        show(found)
        while watch:
            time.sleep(every_s)
            now = ask()
            if now != found:
                found = now
                console().clear()  # does nothing but on a terminal
                show(found)
    except KeyboardInterrupt:
        if not watch:
            raise
        raise typer.Exit(common.OK) from None
    return found
