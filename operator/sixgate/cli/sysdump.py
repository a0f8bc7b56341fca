"""`sixgate sysdump`: everything that a bug report about one node needs, in one file."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sixgate import __version__
from sixgate.cli import common
from sixgate.cli.archive import Archive
from sixgate.cli.common import BPFFS, STATE_DIR
from sixgate.errors import SixgateError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMAND_TIMEOUT_S = 10.0
OutputOption = Annotated[
    Path | None, typer.Option("-o", "--output", help="File to write; by default sixgate-sysdump-NODE-TIME.tar.gz here.")
]
# Name in the archive, words. What is not installed is left out, and said.
_COMMANDS = (
    ("net/links", "ip -d -s link show"),
    ("net/addresses", "ip addr show"),
    ("net/routes-ipv4", "ip -4 route show table all"),
    ("net/routes-ipv6", "ip -6 route show table all"),
    ("net/rules-ipv4", "ip -4 rule show"),
    ("net/rules-ipv6", "ip -6 rule show"),
    ("net/neighbours", "ip neigh show"),
    ("net/qdiscs", "tc -s qdisc show"),
    ("net/nft-tables", "nft list tables"),
    ("bpf/net", "bpftool net show"),
    ("bpf/programs", "bpftool prog show"),
    ("bpf/maps", "bpftool map show"),
    ("bpf/links", "bpftool link show"),
    ("logs/journal", "journalctl --no-pager -q -n 5000 -u sixgate* -t sixgate"),
)
_FILES = (
    "/proc/version",
    "/proc/cmdline",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/net/softnet_stat",
    "/proc/net/snmp",
)
_SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/core/bpf_jit_enable",
    "kernel/unprivileged_bpf_disabled",
)


def sysdump(
    output: OutputOption = None,
    bpffs: common.BpffsOption = BPFFS,
    state_dir: common.StateOption = STATE_DIR,
) -> None:
    """Collect what this node has and does into one file for a bug report. Credentials are neither read nor written."""
    common.require_permission()
    path = target(output, platform.node())
    with Archive(path, path.name.removesuffix(".tar.gz")) as archive:
        archive.json("about.json", {"version": __version__, "time": time.time(), "uname": list(os.uname())})
        for name, make in _own(bpffs.absolute(), state_dir.absolute()):
            try:
                _put(archive, name, make())
            except (SixgateError, OSError) as error:
                archive.missing(name, error)
        for name, words in _COMMANDS:
            _run(archive, f"{name}.txt", words.split())
        for file in (*_FILES, *(f"/proc/sys/{name}" for name in _SYSCTLS)):
            _copy(archive, Path(file))
        for kept in sorted(state_dir.absolute().glob("*.json")):
            _copy(archive, kept, "state")
    typer.echo(f"{path} holds {archive.total:,} bytes of this node, {len(archive.errors)} things could not be read.")


def target(output: Path | None, of: str) -> Path:
    """The file to write."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return (output or Path(f"sixgate-sysdump-{of}-{stamp}.tar.gz")).absolute()


def _own(bpffs: Path, state_dir: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """What sixgate's own commands say."""
    yield "status.json", lambda: _printed(lambda: _status(bpffs, state_dir))
    yield "nat.json", lambda: _nat(bpffs, state_dir)
    yield "bpf/pins.txt", lambda: "".join(f"{path.relative_to(bpffs)}\n" for path in sorted(bpffs.rglob("*")))
    yield "metrics.txt", lambda: _metrics(bpffs, state_dir)


def _status(bpffs: Path, state_dir: Path) -> None:
    from sixgate.cli import status  # noqa: PLC0415

    status.status(output="json", bpffs=bpffs, state_dir=state_dir)


def _nat(bpffs: Path, state_dir: Path) -> str:
    from sixgate.node.nat import NatState  # noqa: PLC0415
    from sixgate.node.statedir import StateDir  # noqa: PLC0415

    state = NatState(bpffs, StateDir(state_dir).numbers())
    return json.dumps({"objects": state.stats(), "sweeper": state.sweeper()}, indent=1, default=str) + "\n"


def _metrics(bpffs: Path, state_dir: Path) -> str:
    """Counters by reason, as the endpoint of the agent would tell them, whether it is alive or not."""
    from sixgate.exposition import Exposition  # noqa: PLC0415
    from sixgate.node.metrics import counted  # noqa: PLC0415
    from sixgate.node.state_metrics import nat_families  # noqa: PLC0415
    from sixgate.node.statedir import StateDir  # noqa: PLC0415

    numbers = StateDir(state_dir).numbers()
    sources = {"verdicts": lambda: counted(bpffs), "sessions": lambda: nat_families(bpffs, numbers)}
    return Exposition(sources).text().decode()


def _printed(call: Callable[[], None]) -> str:
    """What a command prints, whatever its exit code."""
    out = StringIO()
    with redirect_stdout(out):
        try:
            call()
        except typer.Exit:
            """Its exit code says whether all is well, which the text says, too."""
    return out.getvalue()


def _run(archive: Archive, name: str, words: list[str]) -> None:
    if shutil.which(words[0]) is None:
        archive.missing(name, f"{words[0]} is not installed")
        return
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", timeout=COMMAND_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        archive.missing(name, error)
        return
    archive.text(name, f"$ {' '.join(words)}\n{done.stdout}{done.stderr}", end=True)


def _copy(archive: Archive, file: Path, below: str = "") -> None:
    name = f"{below}/{file.name}" if below else str(file).removeprefix("/")
    try:
        text = file.read_text(errors="replace")
    except OSError as error:
        archive.missing(name, error.strerror)
        return
    _put(archive, name, text)


def _put(archive: Archive, name: str, text: str) -> None:
    """As JSON, where it is some, so that it still is afterwards."""
    try:
        archive.json(name, json.loads(text)) if name.endswith(".json") else archive.text(name, text)
    except json.JSONDecodeError:
        archive.text(name, text)


def register(app: typer.Typer) -> None:
    app.command(name="sysdump")(sysdump)
