"""The command line. The only place that reads the environment.

Exit codes: 0 all is well; 1 something is degraded or failed; 2 wrong usage or invalid manifests; 3 no permission.
"""

from __future__ import annotations

import typer

from sixgate import __version__
from sixgate.cli import (
    agent,
    bigtcp,
    coredns,
    decap,
    dns64,
    egress,
    hook,
    lb,
    nat,
    observe,
    operator,
    standalone,
    status,
    sysdump,
    trace,
)
from sixgate.cli.cluster import commands as cluster
from sixgate.cli.common import FAILED, NO_PERMISSION, USAGE, NoPermissionError, complain
from sixgate.errors import ManifestError, SixgateError


def version() -> None:
    """Print the version."""
    typer.echo(f"sixgate {__version__}")


def build() -> typer.Typer:
    app = typer.Typer(
        name="sixgate",
        help="Gateways of an IPv6-first network: NAT46/64, egress, load balancing and BIG TCP in BPF.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    at_node = (standalone, status, observe, trace, sysdump, bigtcp, agent, nat, lb, decap, egress)
    for part in (*at_node, operator, coredns, dns64, hook):
        part.register(app)
    app.add_typer(cluster.build(), name="cluster")
    app.command(name="version")(version)
    return app


def main() -> int:
    """Run one command; its exit code."""
    return _run(build(), "sixgate")


def kubectl() -> int:
    """The same for the plugin of kubectl, which knows the commands about a whole cluster only."""
    app = cluster.build()
    app.command(name="version")(version)
    return _run(app, "kubectl sixgate")


def _run(app: typer.Typer, name: str) -> int:
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
