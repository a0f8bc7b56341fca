"""What the kinds share: the base of their models, rules that hold in Python and in CEL, selectors, metadata."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from sixgate.api.nodeconfig import ObjectMeta
from sixgate.errors import Ref

GROUP = "sixgate.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of one model, said once for both worlds: `cel` for the API server, `holds` for everybody else.

    `cel` stays within has/size/all/exists/==/oldSelf, isIP/isCIDR and ip()/cidr() of Kubernetes 1.31. `holds` is None
    for a transition rule (`oldSelf`), which only the API server can check. `cel` is empty where the rule costs more
    than the API server's budget; then it becomes a condition.

    `found` is CEL for what was found, text that follows the message, for the API server does not show values by itself;
    it is part of the same budget, in which a number as text costs too much: its length is not known beforehand.
    """

    cel: str
    message: str
    holds: Callable[[Any], bool] | None = None
    field: str = ""
    found: str = ""

    def schema(self) -> dict[str, str]:
        """The entry of `x-kubernetes-validations`."""
        made = {"rule": self.cel, "message": self.message}
        if self.found:
            made["messageExpression"] = f"{_cel_text(f'{self.message}, found ')} + {self.found}"
        return made | ({"fieldPath": self.field} if self.field else {})


def _cel_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Spec(BaseModel):
    """Base of everything a user writes: camelCase only, unknown fields refused, rules checked after the fields."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, frozen=True)

    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _as_stored(cls, raw: Any) -> Any:
        """As the API server keeps it: a field that is null is left out, and 1.0 is the integer 1."""
        if not isinstance(raw, dict):
            return raw
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {
            key: int(value) if isinstance(value, float) and value.is_integer() else value
            for key, value in raw.items()
            if value is not None or key not in known
        }

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        broken = [rule.message for rule in self.rules if rule.holds is not None and not rule.holds(self)]
        broken += _repetitions(self)
        if broken:
            raise ValueError("; ".join(broken))
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        wanted = [rule.schema() for rule in cls.rules if rule.cel]
        if wanted:
            schema["x-kubernetes-validations"] = wanted
        return schema


def _repetitions(model: BaseModel) -> list[str]:
    """Sentences for items that a list of type `set` or `map` holds twice, as the API server refuses them."""
    found = []
    for name, field in type(model).model_fields.items():
        extra = field.json_schema_extra
        items = getattr(model, name)
        if not isinstance(extra, dict) or not isinstance(items, tuple) or len(items) < 2:
            continue
        keys = extra.get("x-kubernetes-list-map-keys")
        if extra.get("x-kubernetes-list-type") == "set":
            values = list(items)
        elif isinstance(keys, list):
            values = [tuple(item.model_dump(include=_names(item, keys)).values()) for item in items]
        else:
            continue
        first: dict[object, int] = {}
        for number, value in enumerate(values):
            if first.setdefault(value, number) != number:
                what = f" in {', '.join(map(str, keys))}" if isinstance(keys, list) else ""
                found.append(f"{field.alias or name}[{number}] repeats {field.alias or name}[{first[value]}]{what}")
    return found


def _names(item: BaseModel, aliases: list[Any]) -> set[str]:
    return {name for name, field in type(item).model_fields.items() if (field.alias or name) in aliases}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`; priority 1 shows with `-o wide` only."""

    name: str
    path: str
    kind: str = "string"
    priority: int = 0
    description: str = ""


def standing(ready: str) -> tuple[Column, ...]:
    """Columns that every kind ends with: how it stands. `ready` says what nodes are that have it."""
    condition = ".status.conditions[?(@.type=='Ready')]"
    return (
        Column("Desired", ".status.nodes.desired", "integer", description="Nodes that are selected"),
        Column("Nodes", ".status.nodes.ready", "integer", description=ready),
        Column("Ready", f"{condition}.status", description="Whether all of it works"),
        Column("Reason", f"{condition}.reason", priority=1),
        Column("Message", f"{condition}.message", priority=1),
        Column("Age", ".metadata.creationTimestamp", "date"),
    )


@dataclass(frozen=True, slots=True)
class KindInfo:
    """What a CRD says of a kind beside its schema."""

    plural: str
    singular: str
    short: str
    columns: tuple[Column, ...]


LabelKey = Annotated[
    str,
    Field(
        min_length=1,
        max_length=317,
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$",
    ),
]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]


def _values_fit_operator(requirement: Any) -> bool:
    return (requirement.operator in {"In", "NotIn"}) == bool(requirement.values)


class LabelRequirement(Spec):
    """One requirement on labels; all requirements of a selector must hold."""

    rules = (
        Rule(
            "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            "values must be given with In and NotIn and left out with Exists and DoesNotExist",
            _values_fit_operator,
        ),
    )

    key: LabelKey = Field(description="Label key.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(
        description="How the label's value is compared with `values`."
    )
    values: tuple[LabelValue, ...] = Field(
        default=(), max_length=64, description="Values for In and NotIn; empty for Exists and DoesNotExist."
    )


class LabelSelector(Spec):
    """Selects by labels. It must name at least one label: an empty selector never means everything."""

    rules = (
        Rule(
            "(has(self.matchLabels) && size(self.matchLabels) > 0) || "
            "(has(self.matchExpressions) && size(self.matchExpressions) > 0)",
            "a selector must name at least one label; an empty one does not select everything",
            lambda selector: bool(selector.match_labels or selector.match_expressions),
        ),
    )

    match_labels: dict[LabelKey, LabelValue] = Field(
        default_factory=dict, max_length=32, description="Labels and the values they must have."
    )
    match_expressions: tuple[LabelRequirement, ...] = Field(
        default=(), max_length=32, description="Requirements on labels; all must hold."
    )

    def matches(self, labels: dict[str, str]) -> bool:
        """Whether `labels` satisfy this selector, as Kubernetes defines it (NotIn holds for an absent label)."""
        if any(labels.get(key) != value for key, value in self.match_labels.items()):
            return False
        return all(_requirement_holds(requirement, labels) for requirement in self.match_expressions)


def _requirement_holds(requirement: LabelRequirement, labels: dict[str, str]) -> bool:
    present = requirement.key in labels
    match requirement.operator:
        case "In":
            return present and labels[requirement.key] in requirement.values
        case "NotIn":
            return not present or labels[requirement.key] not in requirement.values
        case "Exists":
            return present
        case _:
            return not present


DevicePattern = Annotated[
    str,
    Field(
        min_length=1,
        max_length=15,
        pattern=r"^[^/\s:]+$",
        description="A device name, a shell pattern such as `eth*`, or `auto` for every uplink that the node finds.",
    ),
]

Acceleration = Annotated[
    Literal["Disabled", "BestEffort", "Native"],
    Field(
        description="XDP in front of tc. With Native, a device that refuses it makes the object Degraded; one whose "
        "driver has none runs it in generic mode, which status says; BestEffort leaves such devices to tc."
    ),
]

StrictBool = Annotated[bool, Field(strict=True)]
StrictInt = Annotated[int, Field(strict=True)]
Port = Annotated[StrictInt, Field(ge=1, le=65535)]
Weight = Annotated[StrictInt, Field(ge=0, le=65535)]
Protocol = Literal["TCP", "UDP"]
DomainName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=253,
        pattern=r"^([A-Za-z0-9_]([-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?)"
        r"(\.[A-Za-z0-9_]([-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?)*\.?$",
    ),
]
SET: JsonDict = {"x-kubernetes-list-type": "set"}
Devices = Annotated[tuple[DevicePattern, ...], Field(min_length=1, max_length=32, json_schema_extra=SET)]
OBJECT: JsonDict = {"default": {}}  # an object whose fields all have defaults is filled in by the API server


def keyed_by(*fields: str) -> JsonDict:
    """Schema of a list whose items are told apart by `fields`: two writers can each own items of it."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(fields)}


class KindSpec(Spec):
    """Base of the four specs: each says first on which nodes it holds."""

    node_selector: LabelSelector = Field(description="Nodes that this object is for; must name at least one label.")


class UserObject(BaseModel):
    """Base of the user's kinds: metadata and spec as read; status is written, never read."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, frozen=True)

    info: ClassVar[KindInfo]

    metadata: ObjectMeta
    spec: KindSpec

    @property
    def ref(self) -> Ref:
        return Ref(type(self).__name__, self.metadata.name)

    @property
    def age_key(self) -> tuple[str, str, str]:
        """Sorts the older first, then by name: the order in which objects keep what they have."""
        return (self.metadata.creation_timestamp, self.metadata.name, type(self).__name__)
