"""One resolver as a child process: started, kept alive, reloaded, ended. Its files are in one directory of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sixgate.errors import ApplyError

log = logging.getLogger(__name__)

CONFIGURATION, CONTROL, CHECKED = "unbound.conf", "control", ".checked.conf"
# unbound-checkconf has a list of the orders of modules that it has heard of.
UNKNOWN_TO_CHECKER = ("python dns64 python ", "dns64 ")
# Files of this package that run inside unbound, by the name that they have there.
INSIDE = {
    "hook.py": "sixgate_dns64_hook.py",
    "rules.py": "sixgate_dns64_rules.py",
    "script.py": "sixgate_dns64_script.py",
}
PYTHON_PATH = "/usr/lib/python3/dist-packages"  # unboundmodule.py of Debian's python3-unbound
USER = "unbound"
READY_S = 10.0
PROBE_S = 1.0
PROBE_TIMEOUT_S = 3.0
PATIENCE = 3  # probes without answer before a resolver is thought to hang
SHORT_LIFE_S = 1.0
DELAYS_S = (0.0, 0.1, 0.3, 1.0, 3.0, 5.0)
END_S = 5.0


@dataclass(frozen=True, slots=True)
class ResolverStatus:
    """`state` is Starting, Ready or Failed; `message` a sentence where it is not Ready."""

    owner: str
    state: str = "Starting"
    message: str = ""
    pid: int = 0
    restarts: int = 0
    reloads: int = 0


class ResolverProcess:
    """Keeps one unbound running with the files last given to `want`. `on_status` is called when its status changes."""

    def __init__(self, owner: str, directory: Path, on_status: Callable[[ResolverStatus], None]) -> None:
        self.directory = directory
        self.status = ResolverStatus(owner)
        self._on_status = on_status
        self._wanted: Mapping[str, str] = {}
        self._changed = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    def want(self, texts: Mapping[str, str]) -> None:
        """The files that the resolver is to run with, from now on."""
        if texts != self._wanted:
            self._wanted = dict(texts)
            self._changed.set()

    async def run(self) -> None:
        """Until cancelled; the process has ended then, and its directory is gone."""
        try:
            await self._keep_alive()
        finally:
            await self._end()
            shutil.rmtree(self.directory, ignore_errors=True)

    async def _keep_alive(self) -> None:
        short_lives = 0
        while True:
            problem = ""
            if self._changed.is_set() or not self._path(CONFIGURATION).exists():
                self._changed.clear()
                problem = await self._write()
            if problem:
                self._tell(state="Failed", message=problem)
                await self._changed.wait()
                continue
            born = time.monotonic()
            message = await self._live()
            short_lives = short_lives + 1 if time.monotonic() - born < SHORT_LIFE_S else 0
            self._tell(state="Failed", message=message, pid=0, restarts=self.status.restarts + 1)
            log.error("%s: %s It is started anew.", self.status.owner, message)
            await asyncio.sleep(DELAYS_S[min(short_lives, len(DELAYS_S) - 1)])

    async def _live(self) -> str:
        """One life of the process; what ended it."""
        try:
            self._process = process = await self._start()
        except OSError as error:
            return f"The resolver cannot be started: {error}."
        ended = asyncio.create_task(process.wait())
        last_line = asyncio.create_task(self._follow_log(process))
        watched = asyncio.create_task(self._watch())
        try:
            await asyncio.wait({ended, watched}, return_when=asyncio.FIRST_COMPLETED)
            if watched.done() and not ended.done():
                process.kill()
                await ended
                return watched.result()
            line = await last_line
            return f"The resolver has ended with {process.returncode}{f': {line}' if line else '.'}"
        finally:
            for task in (ended, last_line, watched):
                task.cancel()

    async def _watch(self) -> str:
        """Probes, and reloads when other files are wanted. Returns when the process has to be started anew; why."""
        deadline = time.monotonic() + READY_S
        missed = 0
        while True:
            answer = await self._control("status")
            if answer is not None:
                missed = 0
                if self.status.state != "Ready":
                    self._tell(state="Ready", message="", pid=self._process.pid if self._process else 0)
            elif self.status.state == "Ready":
                missed += 1
            if missed >= PATIENCE or (self.status.state != "Ready" and time.monotonic() > deadline):
                return "The resolver does not answer."
            starting = self.status.state != "Ready"
            with contextlib.suppress(TimeoutError):
                # Not wait_for: on Python 3.11 it forgets a cancellation that comes together with the wake.
                async with asyncio.timeout(0.02 if starting else PROBE_S):
                    await self._changed.wait()
            if self._changed.is_set() and not starting:
                self._changed.clear()
                why = await self._reload()
                if why:
                    return why

    async def _reload(self) -> str:
        """The process with the files wanted now; empty, or why it has to be started anew for them."""
        before = _sockets(self.directory / CONFIGURATION)
        problem = await self._write()
        if problem:
            self._tell(message=f"{problem} The resolver goes on with what it has.")
            return ""
        if _sockets(self.directory / CONFIGURATION) != before:
            return "The resolver is to listen elsewhere."
        if await self._control("reload") is None:
            return "The resolver did not reload."
        self._tell(reloads=self.status.reloads + 1, message="")
        return ""

    async def _write(self) -> str:
        """Puts the files in place, all or none of them. Empty, or what is wrong with them."""
        texts = dict(self._wanted)
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o755)
            for source, name in INSIDE.items():
                texts[name] = Path(__file__).with_name(source).read_text()
            for name, text in texts.items():
                self._path(name, new=True).write_text(text)
            self._path(CHECKED).write_text(texts.get(CONFIGURATION, "").replace(*UNKNOWN_TO_CHECKER))
            if os.geteuid() == 0:
                shutil.chown(self.directory, USER, USER)
            problem = await self._check()
            for name in texts:
                if problem:
                    self._path(name, new=True).unlink()
                else:
                    self._path(name, new=True).replace(self._path(name))
        except (OSError, LookupError) as error:
            return f"The files of the resolver cannot be written to {self.directory}: {error}."
        return problem

    async def _check(self) -> str:
        checker = await asyncio.create_subprocess_exec(
            "unbound-checkconf",
            str(self._path(CHECKED)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment(),
        )
        _, said = await checker.communicate()
        if checker.returncode == 0:
            return ""
        return f"The configuration of the resolver is refused: {said.decode(errors='replace').strip()}"

    def _path(self, name: str, new: bool = False) -> Path:
        return self.directory / (f".new.{name}" if new else name)

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": f"{self.directory}:{PYTHON_PATH}"}

    async def _start(self) -> asyncio.subprocess.Process:
        words = ["unbound", "-c", str(self._path(CONFIGURATION))]
        if os.geteuid() == 0:
            capability = "-all,+net_bind_service"
            words = [
                *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"),
                *(f"--{kind}={capability}" for kind in ("inh-caps", "ambient-caps", "bounding-set")),
                *("--pdeathsig=TERM", "--", *words),
            ]
        self._path(CONTROL).unlink(missing_ok=True)
        return await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment(),
            start_new_session=True,
        )

    async def _follow_log(self, process: asyncio.subprocess.Process) -> str:
        """Passes on what the process says; its last line."""
        last = ""
        assert process.stderr is not None
        async for line in process.stderr:
            last = line.decode(errors="replace").strip()
            log.info("%s: %s", self.status.owner, last)
        return last

    async def _control(self, command: str) -> str | None:
        """The answer to one command of unbound-control; None where there is none."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(self._path(CONTROL))
                try:
                    writer.write(f"UBCT1 {command}\n".encode())
                    answer = (await reader.read()).decode(errors="replace")
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return None
        return None if answer.startswith("error") else answer

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), END_S)
        except TimeoutError:
            process.kill()
            await process.wait()

    def _tell(self, **changes: object) -> None:
        status = replace(self.status, **changes)  # type: ignore[arg-type]  # names and types are those of the class
        if status != self.status:
            if status.state == "Ready" != self.status.state:
                log.info("%s: the resolver answers, process %d", status.owner, status.pid)
            self.status = status
            self._on_status(status)


def _sockets(configuration: Path) -> tuple[str, ...]:
    """The lines of a configuration that a reload does not follow."""
    try:
        lines = configuration.read_text().splitlines()
    except OSError as error:
        raise ApplyError(f"{configuration} cannot be read: {error.strerror}.", error.errno or 0) from error
    words = ("interface:", "port:", "interface-automatic:", "ip-freebind:")
    return tuple(line.strip() for line in lines if line.strip().startswith(words))
