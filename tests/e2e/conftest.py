"""One real API server per test process; every test finds it empty but for our CRDs, rights and policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from e2e.apiserver import ApiServer
from e2e.apiserver.cluster import DIGESTS, Cluster, OperatorProcess

if TYPE_CHECKING:
    from pathlib import Path

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
