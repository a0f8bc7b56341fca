"""The command line. The only place that reads the environment.

Exit codes: 0 all is well; 1 something is degraded or failed; 2 wrong usage or invalid manifests; 3 no permission.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from sixgate import __version__
from sixgate.cli import quick
from sixgate.errors import ManifestError, SixgateError

if TYPE_CHECKING:
    import typer

# Modules and the commands that they register, in the order of `--help`. A command imports no other's module: that is
# most of the time that a short one takes.
PARTS = {
    "standalone": ("standalone", "plan", "down"),
    "status": ("status",),
    "observe": ("observe",),
    "trace": ("trace",),
    "sysdump": ("sysdump",),
    "bigtcp": ("bigtcp",),
    "agent": ("agent",),
    "nat": ("nat",),
    "lb": ("lb",),
    "decap": ("decap",),
    "egress": ("egress",),
    "operator": ("operator",),
    "coredns": ("coredns",),
    "dns64": ("dns64",),
    "hook": ("hook",),
    "cluster.commands": ("cluster",),
    "complete": ("completion", "complete-for-kubectl"),
}


def version() -> None:
    """Print the version."""
    sys.stdout.write(f"sixgate {__version__}\n")


def build(command: str = "") -> typer.Typer:
    """All commands; where `command` is one of them, those of its module alone."""
    import typer  # noqa: PLC0415

    app = typer.Typer(
        name="sixgate",
        help="Gateways of an IPv6-first network: NAT46/64, egress, load balancing and BIG TCP in BPF.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    chosen = [part for part, commands in PARTS.items() if command in commands] or PARTS
    for part in chosen:
        import_module(f"sixgate.cli.{part}").register(app)
    app.command(name="version")(version)
    return app


def main() -> int:
    """Run one command; its exit code."""
    if sys.argv[1:2] == ["trace"] and (code := quick.trace(sys.argv[2:], os.environ)) is not None:
        return code
    return _run(build(sys.argv[1] if len(sys.argv) > 1 else ""), "sixgate")


def kubectl() -> int:
    """The same for the plugin of kubectl, which knows the commands about a whole cluster only."""
    from sixgate.cli.cluster.commands import build as build_cluster  # noqa: PLC0415

    app = build_cluster()
    app.command(name="version")(version)
    return _run(app, "kubectl sixgate")


def kubectl_complete() -> int:
    """What kubectl asks for completions of its plugin."""
    from sixgate.cli.cluster.commands import build as build_cluster  # noqa: PLC0415
    from sixgate.cli.complete import answer_kubectl  # noqa: PLC0415

    sys.stdout.write(answer_kubectl(build_cluster(), sys.argv[1:] or [""]))
    return 0


def _run(app: typer.Typer, name: str) -> int:
    from sixgate.cli.common import FAILED, NO_PERMISSION, USAGE, NoPermissionError, complain  # noqa: PLC0415

    try:
        app(prog_name=name)
    except NoPermissionError as error:
        complain(str(error))
        return NO_PERMISSION
    except ManifestError as error:
        complain(str(error))
        return USAGE
    except SixgateError as error:
        complain(str(error))
        return FAILED
    return 0
