"""What a node says when it cannot do its work: in the status of its NodeConfig, and so in `kubectl describe`."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from e2e.apiserver.cluster import Cluster
from e2e.apiserver.kernel_node import MNT_DETACH, KernelNode
from sixgate.node.bpf import missing_permission
from tests.e2e.conftest import OBJECTS, StartOperator, digests, gateway

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def node(cluster: Cluster, operator: StartOperator) -> Iterator[KernelNode]:
    """A gateway node whose agent does not run yet."""
    if reason := missing_permission():
        pytest.skip(reason)
    cluster.node("n1", {"gateway": "yes"})
    operator(digests=digests())
    cluster.apply(gateway(acceleration="Native"))
    with KernelNode(cluster, "n1", OBJECTS) as node:
        yield node


def refused(cluster: Cluster, part: str) -> str:
    """The message of the NodeConfig, once it has `part`; `kubectl describe` must show all of it."""

    def message() -> str:
        status = (cluster.get("NodeConfig", "n1") or {}).get("status", {})
        said: str = status.get("message", "")
        return said if part in said else ""

    said = cluster.wait(part, message)
    told = " ".join(cluster.server.kubectl("describe", "nodeconfig", "n1").stdout.split())
    assert " ".join(said.split()) in told
    assert "Ready: false" in told
    return said


def test_a_kernel_that_is_too_old(cluster: Cluster, node: KernelNode) -> None:
    node.start("setarch", os.uname().machine, "--uname-2.6")
    said = refused(cluster, "needs 6.1 or newer")
    assert said.startswith("The kernel of this node is Linux 2.6.")
    cluster.server.kubectl("wait", "--for=condition=Ready=False", "--timeout=120s", "n46/gw")
    assert "needs 6.1 or newer" in cluster.server.kubectl("describe", "n46/gw").stdout
    assert not node.bpffs.exists(), "nothing was begun"


def test_no_bpf_file_system(cluster: Cluster, node: KernelNode) -> None:
    """On a node that was well before: what it has said of itself then must not keep it from saying this."""
    node.start()
    cluster.wait("a first report", lambda: (cluster.get("NodeConfig", "n1") or {}).get("status", {}).get("kernel"))
    node.kill()
    ctypes.CDLL(None).umount2(os.fsencode(node.bpffs.parent), MNT_DETACH)
    node.start()
    assert "should be on a BPF file system, but is not; mount one with `mount -t bpf bpf" in refused(cluster, "mount")


def test_another_program_on_the_device(cluster: Cluster, node: KernelNode, tmp_path: Path) -> None:
    """Somebody else's XDP program where the gateway is to have its own, and nothing but XDP will do."""
    source = tmp_path / "other.c"
    source.write_text(
        '__attribute__((section("xdp"), used)) int other(void *c) { return 2; }\n'
        'char name[] __attribute__((section("license"), used)) = "GPL";\n'
    )
    subprocess.run(["clang", "-O2", "-target", "bpf", "-c", str(source), "-o", str(tmp_path / "other.o")], check=True)
    node.ip("link", "set", "e0", "xdpdrv", "object", str(tmp_path / "other.o"), "section", "xdp")
    node.start()
    assert "e0" in refused(cluster, "of somebody else")
