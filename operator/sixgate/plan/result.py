"""What planning gives: a plan per node, and reasons of what is wrong with an object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sixgate.errors import Problem, Ref
from sixgate.plan.nodeplan import NodePlan

CONFLICTED = "Conflicted"
NO_NODES = "NoNodes"
TOO_MANY = "TooManyGateways"
DUPLICATE = "Duplicate"
COVERS = "CoversCluster"
OBJECT_MISSING = "ObjectMissing"
NO_ADDRESS = "NoAddress"
TOO_MUCH = "TooMuchState"
TOO_MANY_ADDRESSES = "TooManyAddresses"


@dataclass(frozen=True, slots=True)
class PlanResult:
    """A plan for every node of the snapshot, empty where nothing is wanted, and what is wrong with whose object.

    `selected` are the nodes that an object's selector means, `programmed` those of them whose plan contains it,
    `unready` all nodes of the snapshot that are not Ready.
    """

    nodes: Mapping[str, NodePlan]
    problems: tuple[Problem, ...]
    selected: Mapping[Ref, tuple[str, ...]]
    programmed: Mapping[Ref, tuple[str, ...]]
    unready: frozenset[str] = frozenset()
