"""CustomResourceDefinitions from the models: structural schemas, CEL rules, printer columns.

pydantic writes JSON schema 2020; the API server wants its own subset: no references, no titles, no unions with null,
`additionalProperties` instead of patterns for keys, and never together with `properties`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from sixgate.api.base import GROUP, VERSION, Column, KindInfo
from sixgate.api.nodeconfig import NodeConfig, NodeConfigSpec, NodeConfigStatus
from sixgate.api.parse import KINDS
from sixgate.api.status import ObjectStatus

Schema = dict[str, Any]

NODE_CONFIG = KindInfo(
    plural="nodeconfigs",
    singular="nodeconfig",
    short="sgnode",
    columns=(
        Column("Ready", ".status.ready", "boolean", description="Whether the node has all that it should have"),
        Column("Wanted", ".spec.revision", description="Revision of what is wanted", priority=1),
        Column("Applied", ".status.appliedRevision", description="Revision of what the node has"),
        Column("Kernel", ".status.kernel.release", description="Kernel of the node", priority=1),
        Column("Message", ".status.message", description="What the node says"),
        Column("Age", ".metadata.creationTimestamp", "date"),
    ),
)
ANYTHING: Schema = {"x-kubernetes-preserve-unknown-fields": True}
DROPPED = frozenset({"title", "$defs", "propertyNames", "patternProperties", "discriminator"})


def definitions() -> Iterator[tuple[str, Schema]]:
    """Kind and CustomResourceDefinition of everything that sixgate declares, NodeConfig last."""
    for name, model in KINDS.items():
        spec = model.model_fields["spec"].annotation
        assert isinstance(spec, type)
        yield name, definition(name, model.info, (model.__doc__ or "").strip(), spec, ObjectStatus)
    text = (
        "What sixgate wants on one node, and what that node says it has. Written by sixgate only; the status by that "
        "node only."
    )
    yield NodeConfig.__name__, definition(NodeConfig.__name__, NODE_CONFIG, text, NodeConfigSpec, NodeConfigStatus)


def definition(kind: str, info: KindInfo, text: str, spec: type[BaseModel], status: type[BaseModel]) -> Schema:
    """The CustomResourceDefinition of one cluster-scoped kind."""
    root: Schema = {
        "type": "object",
        "description": text,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}"},
            "kind": {"type": "string", "description": kind},
            "metadata": {"type": "object"},
            "spec": structural(spec),
            "status": structural(status),
        },
    }
    names = {"kind": kind, "listKind": f"{kind}List", "plural": info.plural, "singular": info.singular}
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_column(column) for column in info.columns],
        "schema": {"openAPIV3Schema": root},
        "subresources": {"status": {}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{info.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": names | {"shortNames": [info.short], "categories": ["sixgate"]},
            "versions": [version],
        },
    }


def structural(model: type[BaseModel]) -> Schema:
    """The structural schema of one model."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    return _structural(schema, schema.get("$defs", {}))


def _column(column: Column) -> Schema:
    made: Schema = {"name": column.name, "type": column.kind, "jsonPath": column.path}
    if column.description:
        made["description"] = column.description
    if column.priority:
        made["priority"] = column.priority
    return made


def _structural(schema: Schema, defs: Schema) -> Schema:
    schema = _resolved(schema, defs)
    keys = [key for key in schema if key not in DROPPED]
    made: Schema = {}
    for key in keys:
        value = schema[key]
        match key:
            case "properties":
                made[key] = {name: _structural(field, defs) for name, field in value.items()}
            case "items":
                made[key] = _structural(value, defs)
            case "additionalProperties":
                if isinstance(value, dict):
                    made[key] = _structural(value, defs) or ANYTHING
                elif value is True:
                    made[key] = ANYTHING
            case "const":
                made["enum"] = [value]
            case "default":
                if value is not None and value != []:
                    made[key] = value
            case _:
                made[key] = value
    patterns = schema.get("patternProperties")
    if patterns:
        made["additionalProperties"] = _structural(next(iter(patterns.values())), defs)
    if "type" not in made and made.get("enum"):
        made["type"] = "integer" if isinstance(made["enum"][0], int) else "string"
    if "type" not in made:
        made |= ANYTHING
    return _ordered(made)


def _resolved(schema: Schema, defs: Schema) -> Schema:
    """`schema` without references and without unions with null; what stands beside them wins."""
    if "$ref" in schema:
        target: Schema = defs[schema["$ref"].rsplit("/", 1)[1]]
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return _resolved({**target, **rest}, defs)
    if "anyOf" in schema:
        options = [option for option in schema["anyOf"] if option.get("type") != "null"]
        if len(options) != 1:
            raise ValueError(f"a structural schema has no unions, found {schema['anyOf']}")
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        return _resolved({**options[0], **rest}, defs)
    return schema


def _ordered(schema: Schema) -> Schema:
    """Description and type first, properties last: the order in which people read."""
    first = (
        "description",
        "type",
        "format",
        "enum",
        "default",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "pattern",
    )
    last = ("x-kubernetes-validations", "required", "properties", "items", "additionalProperties")
    middle = sorted(key for key in schema if key not in first and key not in last)
    return {key: schema[key] for key in (*first, *middle, *last) if key in schema}
