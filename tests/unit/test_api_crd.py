"""The CRDs are what the API server takes, bounded, described, and generated."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from pydantic import BaseModel

from sixgate.api.crd import definitions, structural
from sixgate.api.parse import parse_object

ROOT = Path(__file__).resolve().parents[2]
CRDS = dict(definitions())
EXAMPLES = sorted((ROOT / "examples").glob("*/*.yaml"))


def schema_of(kind: str, part: str) -> dict[str, Any]:
    root: dict[str, Any] = CRDS[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return root["properties"][part]  # type: ignore[no-any-return]


def fields(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field below `schema` with its path, items and map values included."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from fields(field, f"{path}.{name}")
    for inner in ("items", "additionalProperties"):
        if isinstance(schema.get(inner), dict):
            yield f"{path}[]", schema[inner]
            yield from fields(schema[inner], f"{path}[]")


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", CRDS)
def test_every_field_is_described(kind: str) -> None:
    parts = [(part, path, field) for part in ("spec", "status") for path, field in fields(schema_of(kind, part), part)]
    bare = [path for _, path, field in parts if not path.endswith("[]") and not field.get("description")]
    assert not bare


@pytest.mark.parametrize("kind", [kind for kind in CRDS if kind != "NodeConfig"])
def test_every_list_and_string_is_bounded(kind: str) -> None:
    """The API server bounds the cost of a CEL rule by these."""
    loose = []
    for path, field in fields(schema_of(kind, "spec"), "spec"):
        kind_of_field = field.get("type")
        if kind_of_field == "string" and "enum" not in field and "maxLength" not in field:
            loose.append(path)
        if kind_of_field == "array" and "maxItems" not in field:
            loose.append(path)
        if "additionalProperties" in field and "maxProperties" not in field:
            loose.append(path)
    assert not loose


@pytest.mark.parametrize("kind", CRDS)
def test_schema_is_structural(kind: str) -> None:
    forbidden = {"$ref", "$defs", "title", "anyOf", "oneOf", "patternProperties", "propertyNames", "const"}
    forbidden |= {"exclusiveMinimum", "exclusiveMaximum"}  # numbers in JSON Schema, booleans in a CRD
    for part in ("spec", "status"):
        for path, field in fields(schema_of(kind, part), part):
            assert not forbidden & set(field), path
            assert "type" in field or field.get("x-kubernetes-preserve-unknown-fields"), path
            assert not ("properties" in field and "additionalProperties" in field), path
            keys = field.get("x-kubernetes-list-map-keys", ())
            item = field.get("items", {})
            for key in keys:
                known = item["properties"][key]
                assert key in item.get("required", ()) or "default" in known, f"{path} {key}"


@pytest.mark.parametrize(
    ("kind", "short", "columns"),
    [
        ("NAT46Gateway", "n46", ["Prefix", "Desired", "Nodes", "Ready", "Reason", "Message", "Age"]),
        ("EgressGateway", "egw", ["IPv4", "IPv6", "Desired", "Nodes", "Ready", "Reason", "Message", "Age"]),
        (
            "BIGTCPPolicy",
            "bigtcp",
            ["IPv6", "IPv4", "Pods", "Priority", "Desired", "Nodes", "Ready", "Reason", "Message", "Age"],
        ),
        ("LoadBalancer", "sglb", ["VIPs", "Port", "Mode", "Desired", "Nodes", "Ready", "Reason", "Message", "Age"]),
        ("NodeConfig", "sgnode", ["Ready", "Wanted", "Applied", "Kernel", "Message", "Age"]),
    ],
)
def test_names_and_columns(kind: str, short: str, columns: list[str]) -> None:
    spec = CRDS[kind]["spec"]
    assert (spec["scope"], spec["names"]["shortNames"], spec["names"]["categories"]) == (
        "Cluster",
        [short],
        ["sixgate"],
    )
    version = spec["versions"][0]
    assert [column["name"] for column in version["additionalPrinterColumns"]] == columns
    assert version["subresources"] == {"status": {}}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_examples_fit_schema_and_models(path: Path) -> None:
    for raw in yaml.safe_load_all(path.read_text()):
        Draft202012Validator(schema_of(raw["kind"], "spec")).validate(raw["spec"])
        assert not isinstance(parse_object(raw), tuple)


@pytest.mark.parametrize(("name", "folder"), [("gen_crds", "crds"), ("gen_reference", "docs/reference")])
def test_generated_files_are_up_to_date(name: str, folder: str) -> None:
    wanted: dict[str, str] = tool(name).files()
    assert wanted
    for file, text in wanted.items():
        assert (ROOT / folder / file).read_text() == text, f"{folder}/{file} is old: run make generate"


def test_generated_files_that_nothing_makes_are_removed(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("x")
    tool("gen_crds").write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(tool("gen_crds").files())


def test_a_union_is_refused() -> None:
    class Wrong(BaseModel):
        either: int | str

    with pytest.raises(ValueError, match="has no unions"):
        structural(Wrong)


def test_bounds_are_such_as_kubernetes_reads() -> None:
    """OpenAPI 3.0 has exclusiveMaximum as a boolean beside maximum; JSON schema, which pydantic writes, as a number."""
    for kind, body in definitions():
        assert "exclusiveM" not in json.dumps(body), f"{kind}: use ge= and le=, not gt= and lt="
