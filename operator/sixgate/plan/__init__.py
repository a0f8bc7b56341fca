"""Pure functions from a snapshot of the cluster to one plan per node and a list of problems."""

from sixgate.plan.nodeplan import NodePlan
from sixgate.plan.planner import PlanResult, plan
from sixgate.plan.snapshot import Endpoint, EndpointSlice, NodeInfo, Snapshot

__all__ = ["Endpoint", "EndpointSlice", "NodeInfo", "NodePlan", "PlanResult", "Snapshot", "plan"]
