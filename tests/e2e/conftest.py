"""One real API server per test process; every test finds it empty but for our CRDs, rights and policy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from e2e.apiserver import ApiServer
from e2e.apiserver.cluster import DIGESTS, ROOT, Cluster, OperatorProcess
from e2e.apiserver.kernel_node import KernelNode
from sixgate.node.bpf import missing_permission

if TYPE_CHECKING:
    from pathlib import Path

OBJECTS = ROOT / "build" / "bpf"
StartOperator = Callable[..., OperatorProcess]


@pytest.fixture(scope="session")
def server() -> Iterator[ApiServer]:
    with ApiServer.start() as server:
        Cluster(server).install()
        yield server


@pytest.fixture
def cluster(server: ApiServer) -> Iterator[Cluster]:
    cluster = Cluster(server)
    cluster.clean()
    yield cluster
    cluster.clean()


@pytest.fixture
def operator(cluster: Cluster, tmp_path: Path) -> Iterator[StartOperator]:
    """Starts `sixgate operator` as its service account; what still runs at the end of the test is killed."""
    with ExitStack() as stack:

        def start(
            *options: str,
            name: str = "operator",
            wait: bool = True,
            url: str = "",
            digests: Mapping[str, str] = DIGESTS,
        ) -> OperatorProcess:
            account = cluster.operator_account(server=url, label=f"-{name}")
            process = stack.enter_context(OperatorProcess(account, tmp_path, options, name, digests))
            if wait:
                process.wait_log("holds the lease")
            return process

        yield start


@pytest.fixture
def node(cluster: Cluster) -> Iterator[KernelNode]:
    """A node of the cluster that gateways and balancers select, with an agent that programs a kernel."""
    if reason := missing_permission():
        pytest.skip(reason)
    cluster.node("n1", {"gateway": "yes", "balancer": "yes"})
    with KernelNode(cluster, "n1", OBJECTS) as node:
        node.start()
        yield node


def digests() -> dict[str, str]:
    """Of the objects that were built, as an operator is told them."""
    found: dict[str, str] = json.loads((OBJECTS / "manifest.json").read_text())["objects"]
    return found


def gateway(name: str = "gw", prefix: str = "2001:db8:64::/96", *cidrs: str, **spec: Any) -> dict[str, Any]:
    """A valid NAT46Gateway on the nodes labelled gateway=yes; `spec` overrides fields, None removes one."""
    wanted: dict[str, Any] = {
        "nodeSelector": {"matchLabels": {"gateway": "yes"}},
        "prefix": prefix,
        "stateless": {"ipv4CIDRs": list(cidrs) or ["192.0.2.0/24"]},
    } | spec
    return {
        "apiVersion": "sixgate.io/v1alpha1",
        "kind": "NAT46Gateway",
        "metadata": {"name": name},
        "spec": {key: value for key, value in wanted.items() if value is not None},
    }
