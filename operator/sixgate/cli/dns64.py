"""`sixgate dns64`: the resolver of one gateway, in a pod."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sixgate.cli import common
from sixgate.cli.operator import parse_address

if TYPE_CHECKING:
    from sixgate.dns64.follow import Follower


def dns64(  # noqa: PLR0917 - options, which are given by name
    gateway: Annotated[str, typer.Option(envvar="SIXGATE_GATEWAY", help="Name of the NAT46Gateway.")],
    config: Annotated[Path, typer.Option(help="Directory with the files that the operator has written.")] = Path(
        "/etc/sixgate/dns64"
    ),
    health: Annotated[str, typer.Option(help="Address and port of /healthz and /readyz; empty for none.")] = "",
    lameduck: Annotated[
        float, typer.Option(min=0, help="Seconds to go on answering after SIGTERM, while clients are sent elsewhere.")
    ] = 5,
    log_format: common.LogFormatOption = "text",
    verbose: common.VerboseOption = False,
) -> None:
    """Run the resolver of one gateway in a cluster, as its object's spec.dns64 says.

    The operator writes the files into the ConfigMap sixgate-dns64; this command follows them where it is mounted, and
    needs neither the API server nor any credentials.
    """
    import asyncio  # noqa: PLC0415

    from sixgate.cli.logs import configure  # noqa: PLC0415
    from sixgate.dns64.follow import Follower  # noqa: PLC0415
    from sixgate.render.dns64 import RESOLVER_DIR  # noqa: PLC0415

    configure(verbose, log_format)
    follower = Follower(gateway, config, Path(RESOLVER_DIR))
    raise typer.Exit(asyncio.run(_serve(follower, parse_address(health), lameduck)))


async def _serve(follower: Follower, health: tuple[str, int] | None, lameduck_s: float) -> int:
    """Until a signal, then 0; what makes the resolver's keeper end by itself is raised."""
    import asyncio  # noqa: PLC0415

    from sixgate.health import HealthServer, Pulse  # noqa: PLC0415

    pulse = Pulse()
    server = HealthServer(*health, pulse.late, follower.unready) if health else None
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    parts = {asyncio.create_task(follower.run()), asyncio.create_task(pulse.keep())}
    ended = asyncio.create_task(told.wait())
    try:
        done, _ = await asyncio.wait({ended, *parts}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        follower.leaving = True
        await asyncio.wait(parts, timeout=lameduck_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (*parts, ended):
            task.cancel()
        with contextlib.suppress(Exception):
            await asyncio.gather(*parts, return_exceptions=True)
        if server is not None:
            server.close()
    return 0


def register(app: typer.Typer) -> None:
    app.command(name="dns64")(dns64)
