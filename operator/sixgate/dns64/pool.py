"""All resolvers of this node: one process for each that is wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from sixgate.dns64.process import ResolverProcess, ResolverStatus

POLL_S = 0.1


class ResolverPool:
    """Runs what `want` asks for, by owner. `on_change` is called when the status of any of them changes."""

    def __init__(self, directory: Path, on_change: Callable[[], None]) -> None:
        self.directory = directory
        self._on_change = on_change
        self._wanted: Mapping[str, tuple[str, Mapping[str, str]]] = {}
        self._running: dict[str, tuple[ResolverProcess, asyncio.Task[None]]] = {}

    def want(self, wanted: Mapping[str, tuple[str, Mapping[str, str]]]) -> None:
        """Owner to (name of its directory, files). From any thread; `run` follows within POLL_S."""
        self._wanted = dict(wanted)

    @property
    def statuses(self) -> tuple[ResolverStatus, ...]:
        """One for each that is wanted or still runs, by owner."""
        running = {owner: process.status for owner, (process, _) in self._running.items()}
        starting = {owner: ResolverStatus(owner) for owner in self._wanted}
        return tuple(status for _, status in sorted((starting | running).items()))

    async def run(self) -> None:
        """Until cancelled; every process has ended then."""
        try:
            while True:
                await self._follow(self._wanted)
                await asyncio.sleep(POLL_S)
        finally:
            await self._follow({})

    async def _follow(self, wanted: Mapping[str, tuple[str, Mapping[str, str]]]) -> None:
        gone = [self._running.pop(owner)[1] for owner in tuple(self._running) if owner not in wanted]
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        for owner, (name, texts) in wanted.items():
            if owner not in self._running:
                process = ResolverProcess(owner, self.directory / name, lambda _: self._on_change())
                self._running[owner] = (process, asyncio.create_task(process.run()))
            self._running[owner][0].want(texts)
        if gone:
            self._on_change()
