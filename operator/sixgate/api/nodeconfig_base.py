"""What all parts of a NodeConfig have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

DeviceName = Annotated[str, Field(min_length=1, max_length=15, pattern=r"^[^/\s:]+$")]
MapName = Annotated[str, Field(pattern=r"^sg_[a-z0-9_]{1,12}$")]
OwnerRef = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+/[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]


class Model(BaseModel):
    """Base of every model whose bytes come from outside: camelCase on the wire, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True, frozen=True)


class Owned(Model):
    owners: tuple[OwnerRef, ...] = Field(
        default=(), description="The users' objects that need this item, as Kind/name; results are reported under them."
    )
