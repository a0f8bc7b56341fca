"""A LoadBalancer in front of a Service: EndpointSlices of a real API server, down to the tables that packets meet."""

from __future__ import annotations

from typing import Any

from e2e.apiserver.cluster import Cluster
from e2e.apiserver.kernel_node import KernelNode
from sixgate.errors import BpfError
from sixgate.node.lb.inspect import BalancerRow, read_balancers
from tests.e2e.conftest import StartOperator, digests
from tests.e2e.test_endpoints import balancer, namespace, put_endpoints

__all__ = ["namespace"]

READY: dict[str, Any] = {}
LEAVING = {"ready": False, "serving": True, "terminating": True}
UNREADY = {"ready": False, "serving": False}
B1, B2, B3, B4 = (f"2001:db8:1::{n}" for n in range(1, 5))


class Eyes:
    """What the API server and the kernel have of the one balancer."""

    def __init__(self, cluster: Cluster, node: KernelNode) -> None:
        self.cluster, self.node = cluster, node

    def spec(self) -> dict[str, Any]:
        """The balancer of the NodeConfig."""
        config = self.cluster.get("NodeConfig", "n1") or {}
        (found,) = config.get("spec", {}).get("balancers") or [{}]
        return dict(found)

    def wanted(self) -> dict[str, str]:
        """Backends of the NodeConfig by state."""
        return {each["address"]: each.get("state", "Active") for each in self.spec().get("backends", ())}

    def row(self) -> BalancerRow | None:
        try:
            rows = read_balancers(self.node.bpffs, self.node.directory / "state")
        except BpfError:  # the agent replaces a map just now
            return None
        return rows[0] if rows else None

    def slots(self) -> set[str]:
        """Backends that new flows go to, in the kernel."""
        row = self.row()
        return {backend.address for backend in row.backends if backend.slots} if row else set()

    def formers(self) -> set[str]:
        """Backends that keep old flows, in the kernel."""
        row = self.row()
        return {backend.address for backend in row.backends if backend.former} if row else set()

    def reason(self) -> str:
        return str(self.cluster.conditions("LoadBalancer", "lb").get("Ready", {}).get("reason"))

    def follows(self, wanted: dict[str, str], slots: set[str], formers: set[str]) -> None:
        """Waits for the NodeConfig, then for the kernel."""
        self.cluster.wait(f"{wanted} in the NodeConfig", lambda: self.wanted() == wanted)
        self.cluster.wait(f"{slots} in the kernel", lambda: self.slots() == slots)
        self.cluster.wait(f"{formers} with old flows", lambda: self.formers() == formers)


def test_a_node_follows_the_endpoints_of_a_service(
    cluster: Cluster, operator: StartOperator, node: KernelNode, namespace: str
) -> None:
    """Endpoints appear, change, leave with a deadline, and vanish; another slice joins; the Service loses them all."""
    seen = Eyes(cluster, node)

    def put(name: str = "web-1", **endpoints: dict[str, Any]) -> str:
        addresses = {"b1": B1, "b2": B2, "b3": B3, "b4": B4}
        return put_endpoints(cluster, namespace, "web", {addresses[k]: v for k, v in endpoints.items()}, name=name)

    operator(digests=digests())
    cluster.apply(balancer(namespace, "web", drainSeconds=600))
    cluster.wait("a sentence about a Service without endpoints", lambda: seen.reason() == "NoEndpoints")
    assert not seen.slots()

    put(b1=READY, b2=READY, b3=UNREADY)
    seen.follows({B1: "Active", B2: "Active"}, {B1, B2}, set())
    assert seen.spec()["ports"] == [{"protocol": "TCP", "first": 80, "last": 80, "target": 8080}]
    cluster.server.kubectl("wait", "--for=condition=Ready", "--timeout=120s", "loadbalancers.sixgate.io/lb")

    put(b1=LEAVING, b2=READY, b3=READY)
    seen.follows({B1: "Terminating", B2: "Active", B3: "Active"}, {B2, B3}, {B1, B2})
    row = seen.row()
    assert row
    assert 0 < row.drain_s <= 600

    second = put("web-2", b4=READY)
    seen.follows({B1: "Terminating", B2: "Active", B3: "Active", B4: "Active"}, {B2, B3, B4}, {B1, B2})
    put(b2=READY, b3=READY)  # b1 is gone, and what still ends there is its own business until the drain is over
    seen.follows({B2: "Active", B3: "Active", B4: "Active"}, {B2, B3, B4}, {B1, B2})

    put(b2=LEAVING, b3=UNREADY)
    cluster.call("DELETE", second)
    seen.follows({B2: "Active"}, {B2}, {B1})  # all of them leave, and this one still serves
    put()
    seen.follows({}, set(), {B1, B2})
    assert seen.reason() == "NoEndpoints"
    cluster.delete("LoadBalancer", "lb")
    cluster.wait("nothing in the kernel", lambda: seen.row() is None)

    # The deadline of those that leave
    put(b1=READY, b2=READY)
    cluster.apply(balancer(namespace, "web", drainSeconds=3))
    seen.follows({B1: "Active", B2: "Active"}, {B1, B2}, set())
    put(b1=LEAVING, b2=READY)
    seen.follows({B1: "Terminating", B2: "Active"}, {B2}, {B1})
    cluster.wait("the end of the drain", lambda: not seen.formers())
    assert seen.slots() == {B2}
    assert seen.wanted()[B1] == "Terminating", "the pod is still there"
