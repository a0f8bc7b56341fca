"""Standalone mode: a directory of YAML files, the whole pipeline, and the node, in one process."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sixgate.dns64.pool import ResolverPool
from sixgate.errors import ManifestError, Problem, Ref
from sixgate.metrics import Family
from sixgate.node.egress.pods import read_signature
from sixgate.standalone.directory import BROKEN_FILE, Located, Manifests
from sixgate.standalone.pipeline import DNS64, RUN_DIR, Compiled, compile_node, read_nodes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from sixgate.api.nodeconfig import NodeConfigSpec, NodeConfigStatus
    from sixgate.node.agent import NodeAgent
    from sixgate.node.statedir import StateDir
    from sixgate.render.renderer import Renderer
    from sixgate.standalone.directory import Directory

log = logging.getLogger(__name__)

POLL_S = 0.25
SETTLE_S = 0.05  # an editor or `cp` truncates a file and then writes it: half of it must not take objects away
MEMORY_FILE = "manifests.json"
STATUS_FILE = "status.json"
APPLIED_FILE = "applied.json"  # the NodeConfig's spec, for `sixgate trace`


@dataclass(frozen=True, slots=True)
class Site:
    """What a standalone node is: its name, its labels beside the hostname, and the digests of its BPF objects."""

    node: str
    labels: Mapping[str, str]
    digests: Callable[[], Mapping[str, str]]
    run_dir: Path = RUN_DIR
    cluster: Path | None = None  # Node, Namespace and Pod objects


@dataclass(slots=True)
class Standalone:
    """Feeds a NodeAgent from a directory, and keeps `status.json` in the state directory."""

    site: Site
    directory: Directory
    renderer: Renderer
    agent: NodeAgent
    state: StateDir
    _compiled: Compiled | None = None
    _manifests: Manifests = field(default_factory=lambda: Manifests((), ()))
    _status: dict[str, Any] = field(default_factory=dict)
    _said: frozenset[str] = frozenset()
    _resolvers: ResolverPool | None = None

    def compile(self) -> Compiled:
        """Read the directory and compute what the node has to do. ManifestError where it cannot be read at all."""
        self._manifests = self.directory.read()
        site = self.site
        nodes = read_nodes(site.cluster) if site.cluster is not None else ()
        compiled = compile_node(
            self._manifests, site.node, site.labels, site.digests(), self.renderer, site.run_dir.absolute(), nodes
        )
        self._announce(compiled.problems)
        self._compiled = compiled
        return compiled

    def once(self) -> tuple[Compiled, NodeConfigStatus]:
        """Apply the directory as it is now."""
        compiled = self.compile()
        status = self.agent.apply(compiled.spec) if compiled.spec is not None else self.agent.status
        self._remember(status)
        return compiled, status

    def broken(self) -> bool:
        """Whether some file or object of the last look could not be read."""
        return bool(self._manifests.problems)

    async def run(self) -> None:
        """Follow the directory until cancelled."""
        self._resolvers = ResolverPool(self.site.run_dir.absolute() / DNS64, self._write_status)
        resolvers = asyncio.create_task(self._resolvers.run())
        try:
            await self.agent.run(self.specs(), self.on_status)
        finally:
            resolvers.cancel()
            await asyncio.gather(resolvers, return_exceptions=True)

    async def specs(self) -> AsyncIterator[NodeConfigSpec]:
        """The spec of this node whenever it becomes another one."""
        seen: object = None
        last: NodeConfigSpec | None = None
        while True:
            signature = await self._settled(seen)
            if signature != seen or self._compiled is None:
                seen = signature
                spec = await asyncio.to_thread(self._follow)
                if spec is not None and spec != last:
                    last = spec
                    yield spec
            await asyncio.sleep(POLL_S)

    async def _settled(self, seen: object) -> object:
        """The files as they are now; while somebody writes them (two looks in a row differ) as they were."""
        signature = await asyncio.to_thread(self._signature)
        if signature == seen or self._compiled is None:
            return signature
        await asyncio.sleep(SETTLE_S)
        return signature if await asyncio.to_thread(self._signature) == signature else seen

    def _signature(self) -> object:
        cluster = self.site.cluster
        return (self.directory.signature(), read_signature(cluster) if cluster is not None else None)

    async def on_status(self, status: NodeConfigStatus) -> None:
        await asyncio.to_thread(self._remember, status)

    def _follow(self) -> NodeConfigSpec | None:
        """One look at a directory that has changed; what runs stays where it cannot be read."""
        try:
            compiled = self.compile()
        except ManifestError as error:
            problem = Located(Problem(Ref("File", str(self.directory.path)), BROKEN_FILE, str(error)))
            before = self._compiled or Compiled(None, (), {})
            self._compiled = Compiled(None, (problem,), before.counters)
            self._announce((problem,))
            compiled = self._compiled
        if self._resolvers is not None and compiled.spec is not None:
            wanted = {str(made.owner): (made.owner.name, made.texts) for made in compiled.resolvers}
            self._resolvers.want(wanted)
        self._write_status()
        return compiled.spec

    def _remember(self, status: NodeConfigStatus) -> None:
        self._status = status.model_dump(mode="json", by_alias=True)
        self.state.write(MEMORY_FILE, self.directory.memory())
        if self._compiled is not None and self._compiled.spec is not None:
            self.state.write(APPLIED_FILE, self._compiled.spec.model_dump(mode="json", by_alias=True))
        self._write_status()

    def _write_status(self) -> None:
        """For `sixgate status`, which works when this process is dead."""
        compiled = self._compiled
        if not self._status:  # nothing is applied yet: what a former process wrote stays true
            return
        self.state.write(
            STATUS_FILE,
            {
                "node": self.site.node,
                "pid": os.getpid(),
                "status": self._status,
                "problems": [problem_row(located) for located in (compiled.problems if compiled else ())],
                "counters": compiled.counters if compiled else {},
                "resolvers": [asdict(status) for status in self._resolvers.statuses] if self._resolvers else [],
            },
        )

    def metrics(self) -> Iterator[Family]:
        """What the files and the resolvers beside the node tell Prometheus."""
        problems = len(self._compiled.problems) if self._compiled is not None else 0
        text = "Problems of manifests as the last look found them."
        yield Family("gauge", "sixgate_manifest_problems", text, (), (((), float(problems)),))
        statuses = self._resolvers.statuses if self._resolvers is not None else ()
        names = [(status.owner.rpartition("/")[2], status) for status in statuses]
        text = "Whether the DNS64 resolver of a NAT46Gateway answers."
        ready = tuple(((name,), float(status.state == "Ready")) for name, status in names)
        yield Family("gauge", "sixgate_dns64_resolver_ready", text, ("name",), ready)
        for what, text in (
            ("restarts", "Times that the resolver was started anew."),
            ("reloads", "Times that the resolver was given another configuration."),
        ):
            rows = tuple(((name,), float(getattr(status, what))) for name, status in names)
            yield Family("counter", f"sixgate_dns64_resolver_{what}", text, ("name",), rows)

    def _announce(self, problems: tuple[Located, ...]) -> None:
        """Each problem is said once, when it comes, and once more when it has gone."""
        now = {str(located) for located in problems}
        for text in sorted(now - self._said):
            log.error("%s", text)
        for text in sorted(self._said - now):
            log.info("No longer so: %s", text)
        self._said = frozenset(now)


def problem_row(located: Located) -> dict[str, Any]:
    problem = located.problem
    return {
        "object": str(problem.ref),
        "reason": problem.reason,
        "field": problem.field,
        "file": located.file,
        "line": located.line,
        "message": problem.message,
    }
