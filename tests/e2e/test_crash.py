"""kill -9 of the operator after each of its writes in turn: what a second one then makes of it is always the same.

The kill comes when the API server has done the write and before the operator hears of it. Reads change nothing, so a
kill after a read is a kill after the write before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from e2e.apiserver.cluster import Cluster, Json, OperatorProcess
from e2e.apiserver.proxy import Call, CallProxy
from tests.e2e.conftest import gateway

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LABEL = {"gateway": "yes"}
SLACK = 1  # of writes, by which runs differ: two looks become one, or do not
MANAGED = {"app.kubernetes.io/managed-by": "sixgate-operator"}


def lay_out(cluster: Cluster) -> None:
    """Work of every sort: NodeConfigs to make, to change and to delete, statuses good and bad, events."""
    cluster.clean()
    for name in ("n1", "n2"):
        cluster.node(name, LABEL)
    cluster.node("n3")
    for name in ("n1", "n3"):
        cluster.apply({"apiVersion": "sixgate.io/v1alpha1", "kind": "NodeConfig",
                       "metadata": {"name": name, "labels": MANAGED}, "spec": {"formatVersion": 1}},
                      manager="sixgate-operator")  # fmt: skip
    cluster.apply(gateway("a", "2001:db8:1::/96"))
    cluster.apply(gateway("b", "2001:db8:1::/96", "198.18.0.0/24"))


def timeless(value: Any) -> Any:
    """`value` without what differs from run to run."""
    if isinstance(value, dict):
        kept = {"managedFields", "uid", "resourceVersion", "creationTimestamp", "lastTransitionTime"}
        return {key: timeless(item) for key, item in value.items() if key not in kept}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def state(cluster: Cluster) -> Json:
    """Everything that the operator is answerable for. A NodeConfig's generation counts the writes of its spec."""
    found: Json = timeless({kind: cluster.list(kind) for kind in ("NodeConfig", "NAT46Gateway")})
    return found


def run_until(
    cluster: Cluster, directory: Path, name: str, stop: Callable[[int], bool]
) -> tuple[list[Call], OperatorProcess]:
    """An operator behind a proxy that kills it when `stop` says so of the number of writes done so far."""
    writes: list[Call] = []
    process: OperatorProcess | None = None

    def answered(call: Call) -> bool:
        if call.writes and "/leases" not in call.path:
            writes.append(call)
            if stop(len(writes)):
                assert process is not None
                process.kill()
                return False
        return True

    with CallProxy(cluster.server, answered) as proxy:
        process = OperatorProcess(cluster.operator_account(server=proxy.url, label=f"-{name}"), directory, (), name)
        with process:
            cluster.wait(f"{name} killed or settled", lambda: not process.running or _settled(process))
    return writes, process


def _settled(process: OperatorProcess) -> bool:
    return "0 left." in process.log() or "Nothing to write" in process.log()


def test_the_end_is_the_same_after_a_kill_at_any_write(cluster: Cluster, tmp_path: Path) -> None:
    lay_out(cluster)
    writes, _ = run_until(cluster, tmp_path, "clean", lambda count: False)
    wanted = state(cluster)
    assert {call.method for call in writes} == {"PATCH", "POST", "DELETE"}
    assert set(wanted["NodeConfig"]) == {"n1", "n2"}
    for number in range(1, len(writes) + 1):
        lay_out(cluster)
        done, killed = run_until(cluster, tmp_path, f"killed-{number}", lambda count, at=number: count == at)
        assert not killed.running
        if len(done) < number:
            # Two looks may become one where the machine is busy: this run had fewer writes, and nobody to kill it.
            assert number >= len(writes) - SLACK, "the kill must hit"
            assert state(cluster) == wanted
            break
        cluster.call("DELETE", "/apis/coordination.k8s.io/v1/namespaces/sixgate-system/leases")  # no need to wait
        again, _ = run_until(cluster, tmp_path, f"after-{number}", lambda count: False)
        assert state(cluster) == wanted, f"after a kill at {done[-1]}"
        # What was written before the kill is not written again, but for what was still under way in parallel.
        assert len(again) + number <= len(writes) + 1 + SLACK
