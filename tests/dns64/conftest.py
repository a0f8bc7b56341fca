"""A resolver as sixgate runs it, in a network namespace of its own, before a scripted authoritative server."""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.query
import pytest

from sixgate.api.nat46gateway import NAT46Gateway
from sixgate.dns64.pool import ResolverPool
from sixgate.plan.dns64 import dns64_plan
from sixgate.render.dns64 import ResolverFiles, ResolverHost, render_resolver
from tests.dns64.cases import NAMES, SPEC
from tests.dns64.signed import SignedZone
from tests.dns64.upstream import Upstream

CLONE_NEWNET = 0x40000000
RESOLVER, UPSTREAM, STRANGER = "fd00::53", "fd00::1", "fd01::1"
PATIENCE_S = 15.0


def enter(path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(handle, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"{path}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(handle)


class Running:
    """The resolver and who is around it."""

    def __init__(self, directory: Path, upstream: Upstream, signed: SignedZone) -> None:
        self.directory, self.upstream, self.signed = directory, upstream, signed
        self.anchors = directory / "anchors"
        self.anchors.write_text(signed.anchor())
        self._loop = asyncio.new_event_loop()
        self.pool = ResolverPool(directory / "dns64", lambda: None)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self._task = self._loop.create_task(self.pool.run())
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            self._loop.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

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
        name: str, rtype: str = "AAAA", do: bool = False, cd: bool = False, timeout: float = 5.0, **more: Any
    ) -> dns.message.Message:
        query = dns.message.make_query(name, rtype, want_dnssec=do, rdclass=more.pop("rdclass", "IN"))
        if cd:
            query.flags |= dns.flags.CD
        return dns.query.udp(query, RESOLVER, timeout=timeout, **more)


@pytest.fixture(scope="session")
def resolver() -> Iterator[Running]:
    if os.geteuid():
        pytest.skip("needs root: the resolver is started in a network namespace")
    name = f"sgt-{secrets.token_hex(4)}"
    home = f"/proc/{os.getpid()}/ns/net"
    directory = Path(tempfile.mkdtemp(prefix="sgt-dns64-"))
    directory.chmod(0o755)  # the resolver is another user
    subprocess.run(["ip", "netns", "add", name], check=True)
    original = os.open(home, os.O_RDONLY)
    closers: list[Callable[[], None]] = []
    try:
        enter(f"/run/netns/{name}")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for address in (RESOLVER, UPSTREAM, STRANGER):
            subprocess.run(["ip", "addr", "add", f"{address}/128", "dev", "lo", "nodad"], check=True)
        signed = SignedZone("signed.example")
        upstream = Upstream(UPSTREAM, NAMES, signed.answer)
        closers.append(upstream.close)
        running = Running(directory, upstream, signed)
        closers.append(running.close)
        running.want()
        running.wait(lambda status: status.state == "Ready")
        yield running
    finally:
        for close in reversed(closers):
            close()
        enter(f"/proc/self/fd/{original}")
        os.close(original)
        subprocess.run(["ip", "netns", "del", name], check=True)
        shutil.rmtree(directory)
