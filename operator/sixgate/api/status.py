"""The status of every kind of the user: conditions in the shape of metav1.Condition, and how many nodes do it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sixgate.api.base import Spec

MAX_MESSAGE = 4096
Generation = Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})]


class Condition(Spec):
    """One condition, as metav1.Condition has it."""

    type: str = Field(
        max_length=64,
        description="Ready, Programmed, Conflicted, Degraded, of an EgressGateway Copied; Reconciling and Stalled only "
        "while they are True.",
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether the condition holds.")
    observed_generation: Generation = Field(
        default=0, description="Generation of the object that this condition was computed from."
    )
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})] = Field(
        max_length=40, description="When `status` last changed."
    )
    reason: str = Field(
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        description="The reason in one word, for machines.",
    )
    message: str = Field(max_length=MAX_MESSAGE, description="The reason in sentences, for people.")


class NodesStatus(Spec):
    """How many nodes the object is for, and how many of them have it."""

    desired: Annotated[int, Field(ge=0)] = Field(description="Nodes that spec.nodeSelector matches.")
    ready: Annotated[int, Field(ge=0)] = Field(description="Ready nodes that have programmed the object.")


class EgressAddressStatus(Spec):
    """A pair of source addresses, and who has it."""

    ipv4: str = Field(default="", max_length=15, description="IPv4 source address.")
    ipv6: str = Field(default="", max_length=45, description="IPv6 source address.")
    node: str = Field(default="", max_length=253, description="Node that has them; empty while no living one does.")
    epoch: Annotated[int, Field(ge=0)] = Field(default=0, description="How often the pair has changed hands.")
    reason: str = Field(default="", max_length=512, description="Why that node took them, or why no node does.")
    standby: str = Field(
        default="", max_length=253, description="Node that connections survive the other's death on; empty for none."
    )


class ObjectStatus(Spec):
    """What became of the object. Written by sixgate only."""

    observed_generation: Generation = Field(
        default=0, description="Generation of the object that this status was computed from."
    )
    conditions: tuple[Condition, ...] = Field(
        default=(),
        max_length=16,
        description="What holds of the object; Ready sums it up.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    nodes: NodesStatus | None = Field(default=None, description="How many nodes it is for, and how many have it.")
    addresses: tuple[EgressAddressStatus, ...] | None = Field(
        default=None,
        max_length=64,
        description="Of an EgressGateway: who has its addresses.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
