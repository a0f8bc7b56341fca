"""Pure functions from a snapshot of the cluster to one plan per node and a list of problems."""

from sixgate.plan.memo import PlanMemo
from sixgate.plan.nodeplan import NodePlan
from sixgate.plan.planner import plan
from sixgate.plan.result import PlanResult
from sixgate.plan.snapshot import Endpoint, EndpointPort, Endpoints, NodeInfo, ServiceKey, Snapshot
from sixgate.plan.status import NodeReport, first_status, object_status

__all__ = [
    "Endpoint",
    "EndpointPort",
    "Endpoints",
    "NodeInfo",
    "NodePlan",
    "NodeReport",
    "PlanMemo",
    "PlanResult",
    "ServiceKey",
    "Snapshot",
    "first_status",
    "object_status",
    "plan",
]
