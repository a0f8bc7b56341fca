"""Short ways to write balancers, as objects of users and as parts of a NodeConfig, and to look at their plans."""

from __future__ import annotations

from typing import Any

from sixgate.api import UserObject
from sixgate.api.nodeconfig_lb import Balancer
from sixgate.errors import Problem, Ref
from sixgate.plan import PlanResult, Snapshot, plan
from sixgate.plan.lbplan import BalancerPlan
from sixgate.plan.snapshot import Endpoint, EndpointPort, Endpoints, ServiceKey
from tests.unit.objects import DIGESTS, make, nodes, on

CHECK = {"type": "TCP", "port": 80, "intervalMs": 100, "timeoutMs": 50}
WEB = Ref("LoadBalancer", "web")
KEY = ServiceKey("shop", "web")
HTTP = EndpointPort("http", "TCP", 8080)


def lb(name: str = "web", *where: str, age: int = 0, **spec: Any) -> UserObject:
    base = {
        "nodeSelector": on(*(where or ("a",))),
        "vips": ["192.0.2.80"],
        "ports": [{"port": 80}],
        "backends": [{"address": "203.0.113.11"}],
    }
    base.update(spec)
    return make("LoadBalancer", name, {key: value for key, value in base.items() if value is not None}, age=age)


def of_service(**spec: Any) -> UserObject:
    service = {"namespace": KEY.namespace, "name": KEY.name}
    return lb(service=service, backends=None, ports=[{"port": 80, "name": "http"}], **spec)


def with_endpoints(item: UserObject, *endpoints: Endpoint) -> PlanResult:
    known = {KEY: Endpoints(KEY, endpoints)} if endpoints else {}
    return plan(Snapshot((item,), nodes("a", "b"), endpoints=known, digests=DIGESTS))


def the_plan(result: PlanResult, node: str = "a") -> BalancerPlan:
    (found,) = result.nodes[node].balancers
    return found


def the_problem(result: PlanResult) -> Problem:
    (problem,) = result.problems
    return problem


def balancer(**more: Any) -> Balancer:
    document = {
        "owners": ["LoadBalancer/web"],
        "name": "LoadBalancer/web",
        "vips": [{"address": "192.0.2.80"}],
        "ports": [{"protocol": "TCP", "first": 80, "last": 80, "target": 80}],
        "backends": [{"address": f"203.0.113.{number}"} for number in (11, 12, 13)],
        "tableSize": 251,
        "seed": 7,
        **more,
    }
    return Balancer.model_validate(document)
