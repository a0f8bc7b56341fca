"""One resolver in a pod: its files come from a mounted ConfigMap, its readiness goes to the kubelet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sixgate.dns64.process import CONFIGURATION, ResolverProcess, ResolverStatus
from sixgate.errors import SixgateError

log = logging.getLogger(__name__)

FILES = (CONFIGURATION, "rules.json")
CURRENT = "..data"  # the kubelet changes a mounted ConfigMap by moving this link: all files at once
POLL_S = 1.0


class NoConfigurationError(SixgateError):
    """The directory cannot be read; the text names it."""


def read_files(directory: Path, gateway: str) -> Mapping[str, str] | None:
    """The files of one gateway by name, all of one moment; None where one is missing."""
    link = directory / CURRENT
    where = link.resolve() if link.exists() else directory
    try:
        return {name: (where / f"{gateway}.{name}").read_text() for name in FILES}
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise NoConfigurationError(f"The files of {gateway} must be readable in {directory}: {error}") from error


@dataclass(slots=True)
class Follower:
    """Runs the resolver of `gateway` with the files that `directory` has now, below `run_dir`.

    Files that vanish stop nothing: clients of a resolver are worse off without one than with its last configuration.
    """

    gateway: str
    directory: Path
    run_dir: Path
    leaving: bool = False
    """Set when the pod is on its way out: not ready any more, and still answering."""
    _process: ResolverProcess = field(init=False)
    _said: str = field(default="", init=False)
    _begun: bool = field(default=False, init=False)  # there was a gateway that wants a resolver

    def __post_init__(self) -> None:
        self._process = ResolverProcess(f"NAT46Gateway/{self.gateway}", self.run_dir / self.gateway, lambda _: None)

    @property
    def status(self) -> ResolverStatus:
        return self._process.status

    def unready(self) -> tuple[str, ...]:
        """Why no questions should come here; empty where they should.

        Also empty as long as no gateway has wanted a resolver: nobody asks then, and who installs the pods before the
        gateway (`helm install --wait`, a wave of Argo CD) would wait for each with the other.
        """
        if self.leaving:
            return ("This resolver is being ended.",)
        status = self.status
        if status.state == "Ready" or self._idle:
            return ()
        return (status.message or self._said or f"{status.owner}: the resolver is {status.state}.",)

    @property
    def _idle(self) -> bool:
        """Looked, and there is no gateway yet that wants a resolver."""
        return not self._begun and self._said == self._absent

    @property
    def _absent(self) -> str:
        return f"{self.directory} has no files of the gateway {self.gateway}; is there such an object?"

    async def run(self) -> None:
        """Until cancelled; the process has ended then."""
        running: asyncio.Task[None] | None = None
        try:
            while True:
                texts = await asyncio.to_thread(self._read)
                if texts is not None:
                    self._begun = True
                    self._process.want(texts)
                    running = running or asyncio.create_task(self._process.run())
                if running is not None and running.done():
                    running.result()
                await asyncio.sleep(POLL_S)
        finally:
            if running is not None:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    def _read(self) -> Mapping[str, str] | None:
        try:
            texts = read_files(self.directory, self.gateway)
            said = "" if texts is not None else self._absent
        except NoConfigurationError as error:
            texts, said = None, str(error)
        if said and said != self._said:
            log.warning("%s Going on with what there is.", said)
        self._said = said
        return texts
