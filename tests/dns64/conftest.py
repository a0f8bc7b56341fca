"""A resolver as sixgate runs it, in a network namespace of its own, before a scripted authoritative server."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.query
import pytest

from e2e.lab.netns import new_netns
from e2e.lab.resolvers import PoolThread
from sixgate.api.nat46gateway import NAT46Gateway
from sixgate.plan.dns64 import dns64_plan
from sixgate.render.dns64 import ResolverFiles, ResolverHost, render_resolver
from tests.dns64.cases import NAMES, SPEC
from tests.dns64.signed import SignedZone
from tests.dns64.upstream import Upstream

RESOLVER, UPSTREAM, STRANGER = "fd00::53", "fd00::1", "fd01::1"
PATIENCE_S = 60.0  # beside any load


class Running:
    """The resolver and who is around it."""

    def __init__(self, directory: Path, upstream: Upstream, signed: SignedZone) -> None:
        self.directory, self.upstream, self.signed = directory, upstream, signed
        self.anchors = directory / "anchors"
        self.anchors.write_text(signed.anchor())
        self._resolvers = PoolThread(directory / "dns64")
        self.pool, self.close = self._resolvers.pool, self._resolvers.close

    def files(self, **changes: Any) -> ResolverFiles:
        spec = {**SPEC, "dns64": {**SPEC["dns64"], **changes}}
        body = {"apiVersion": "sixgate.io/v1alpha1", "kind": "NAT46Gateway", "metadata": {"name": "lab"}, "spec": spec}
        plan = dns64_plan(NAT46Gateway.model_validate(body))
        assert plan is not None
        return render_resolver(
            plan, ResolverHost(str(self.directory / "dns64" / "lab"), trust_anchors=str(self.anchors))
        )

    def want(self, **changes: Any) -> None:
        self.pool.want({"NAT46Gateway/lab": ("lab", self.files(**changes).texts)})

    def wait(self, holds: Callable[[Any], bool]) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for status in self.pool.statuses:
                if holds(status):
                    return status
            time.sleep(0.01)
        raise AssertionError(f"{self.pool.statuses}")

    @staticmethod
    def ask(
        name: str, rtype: str = "AAAA", do: bool = False, cd: bool = False, timeout: float = 30.0, **more: Any
    ) -> dns.message.Message:
        query = dns.message.make_query(name, rtype, want_dnssec=do, rdclass=more.pop("rdclass", "IN"))
        if cd:
            query.flags |= dns.flags.CD
        return dns.query.udp(query, RESOLVER, timeout=timeout, **more)


@pytest.fixture(scope="session")
def resolver() -> Iterator[Running]:
    if os.geteuid():
        pytest.skip("needs root: the resolver is started in a network namespace")
    directory = Path(tempfile.mkdtemp(prefix="sgt-dns64-"))
    directory.chmod(0o755)  # the resolver is another user
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory)
        stack.enter_context(new_netns())
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for address in (RESOLVER, UPSTREAM, STRANGER):
            subprocess.run(["ip", "addr", "add", f"{address}/128", "dev", "lo", "nodad"], check=True)
        signed = SignedZone("signed.example")
        upstream = Upstream(UPSTREAM, NAMES, signed.answer)
        stack.callback(upstream.close)
        running = Running(directory, upstream, signed)
        stack.callback(running.close)
        running.want()
        running.wait(lambda status: status.state == "Ready")
        yield running
