"""Completion for shells and for kubectl: scripts to install, and names of objects where a command wants one.

Shells ask through a variable of the environment, as Typer's scripts do it. kubectl asks a program beside its plugin,
`kubectl_complete-sixgate WORDS...`, which answers one candidate a line, a tab and what it is, and at last `:` with a
number of flags (https://kubernetes.io/docs/reference/kubectl/generated/kubectl_plugin/; 4: no names of files).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer._click.shell_completion import CompletionItem, ShellComplete
from typer._completion_shared import get_completion_script
from typer.main import get_command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


Shell = Literal["bash", "zsh", "fish", "kubectl"]
NO_FILES, FILES = 4, 0
API_TIMEOUT_S = 2.0
# kubectl runs this beside its plugin; where sixgate is installed by pip, the same program is there already.
KUBECTL = """#!/bin/sh
# Save as kubectl_complete-sixgate in a directory of PATH, executable.
exec sixgate complete-for-kubectl -- "$@"
"""


def completion(shell: Annotated[Shell, typer.Argument(help="The shell that the script is for.")]) -> None:
    """Print a script that completes commands, options and names of objects.

    Load it with `source <(sixgate completion bash)`, `source <(sixgate completion zsh)` after `compinit`, or
    `sixgate completion fish | source`. For `kubectl sixgate`, save that of `kubectl` as `kubectl_complete-sixgate`.
    """
    if shell == "kubectl":
        typer.echo(KUBECTL, nl=False)
        return
    typer.echo(get_completion_script(prog_name="sixgate", complete_var="_SIXGATE_COMPLETE", shell=shell))


def for_kubectl(words: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Answer kubectl's question for completions."""
    from sixgate.cli.cluster.commands import build  # noqa: PLC0415

    typer.echo(answer_kubectl(build(), words or [""]), nl=False)


class _Asker(ShellComplete):
    """The part of a shell's completion that no shell matters to."""

    name = "kubectl"
    source_template = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        return [], ""

    def format_completion(self, item: CompletionItem) -> str:
        return _line(item)

    def source_vars(self) -> dict[str, Any]:
        return {}


def answer_kubectl(app: typer.Typer, words: Sequence[str]) -> str:
    """What `kubectl_complete-sixgate` prints: `words` are those behind `kubectl sixgate`, the last one unfinished."""
    asker = _Asker(get_command(app), {}, "kubectl sixgate", "")
    *before, unfinished = words
    items = asker.get_completions(list(before), unfinished)
    found = [asker.format_completion(item) for item in items if item.type == "plain"]
    directive = FILES if any(item.type in {"file", "dir"} for item in items) else NO_FILES
    return "\n".join([*found, f":{directive}"]) + "\n"


def _line(item: CompletionItem) -> str:
    told = " ".join((item.help or "").split())
    return f"{item.value}\t{told}" if told else str(item.value)


def register(app: typer.Typer) -> None:
    """Adds `sixgate completion`, and what kubectl's script runs."""
    app.command(name="completion")(completion)
    app.command(name="complete-for-kubectl", hidden=True)(for_kubectl)


def names_on_node(*kinds: str) -> Callable[[Any, str], list[str]]:
    """Completes names of objects that this node has, as its last report says; nothing where there is no report."""

    def complete(ctx: Any, incomplete: str) -> list[str]:
        from sixgate.errors import SixgateError  # noqa: PLC0415
        from sixgate.node.statedir import StateDir  # noqa: PLC0415

        try:
            read = StateDir(Path(ctx.params.get("state_dir") or "/var/lib/sixgate")).read("status.json")
        except (SixgateError, OSError):
            return []
        reported = read if isinstance(read, dict) else {}
        rows = (reported.get("status") or {}).get("objects", [])
        owners = (str(row.get("owner", "")).partition("/") for row in rows if isinstance(row, dict))
        return _beginning((name for kind, _, name in owners if not kinds or kind in kinds), incomplete)

    return complete


def names_in_cluster(ctx: Any, incomplete: str) -> list[str]:
    """Completes names of objects of the command's kinds, as the API server lists them; nothing where it is silent."""
    import asyncio  # noqa: PLC0415

    from sixgate.cli.cluster import commands, fetch  # noqa: PLC0415
    from sixgate.errors import SixgateError  # noqa: PLC0415

    kinds = next((kinds for name, kinds, _ in commands.LISTS if name == ctx.info_name), ())

    async def ask() -> list[str]:
        async with await fetch.connect(ctx.params.get("kubeconfig"), ctx.params.get("context") or "") as client:
            return [row.name for row in await fetch.objects_of(client, kinds)]

    try:
        return _beginning(asyncio.run(asyncio.wait_for(ask(), API_TIMEOUT_S)), incomplete)
    except (SixgateError, OSError, TimeoutError):
        return []


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted({name for name in names if name.startswith(incomplete)})
