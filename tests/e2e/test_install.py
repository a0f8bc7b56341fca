"""What a user installs and applies, as the API server takes it."""

from __future__ import annotations

import pytest
import yaml

from e2e.apiserver.cluster import ROOT, Cluster, Json, path_of, user_kinds
from e2e.apiserver.generate import examples

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture
def crds(cluster: Cluster) -> dict[str, Json]:
    found = {item["spec"]["names"]["kind"]: item for item in cluster.call("GET", CRDS)["items"]}
    return {kind: item for kind, item in found.items() if item["spec"]["group"] == "sixgate.io"}


def test_crds_are_structural_established_and_have_a_status(crds: dict[str, Json]) -> None:
    assert set(crds) == {*user_kinds(), "NodeConfig"}
    for kind, crd in crds.items():
        conditions = {c["type"]: c["status"] for c in crd["status"]["conditions"]}
        assert conditions["Established"] == "True", kind
        assert conditions["NamesAccepted"] == "True", kind
        assert conditions.get("NonStructuralSchema", "False") == "False", kind
        (version,) = crd["spec"]["versions"]
        assert "status" in version["subresources"], kind
        assert crd["spec"]["scope"] == "Cluster", kind
        assert "sixgate" in crd["spec"]["names"]["categories"], kind


@pytest.mark.parametrize("document", examples(), ids=lambda d: f"{d['kind']}-{d['metadata']['name']}")
def test_every_example_applies_and_shows_in_its_category(cluster: Cluster, document: Json) -> None:
    done = cluster.server.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(document))
    assert "created" in done.stdout
    assert "Warning" not in done.stderr
    cluster.server.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(document))
    found = cluster.get(document["kind"], document["metadata"]["name"])
    assert found is not None
    assert found["metadata"]["generation"] == 1, "the same manifest again changes nothing"
    listed = cluster.server.kubectl("get", "sixgate").stdout
    assert f"/{document['metadata']['name']}" in listed
    assert "READY" in listed


def test_explain_describes_every_field(cluster: Cluster) -> None:
    """kubectl explain is the documentation that everybody has at hand."""
    for kind in (*user_kinds(), "NodeConfig"):
        plural = path_of(kind).rsplit("/", 1)[1]
        told = cluster.wait(
            "the published schema",
            lambda plural=plural: (
                t if "nodeSelector" in (t := _explain(cluster, plural)) or "formatVersion" in t else ""
            ),
        )
        assert "<no description>" not in told, kind


def _explain(cluster: Cluster, plural: str) -> str:
    return cluster.server.kubectl("explain", f"{plural}.spec", check=False).stdout


def test_examples_are_not_the_only_valid_objects_but_all_kinds_have_one() -> None:
    assert {document["kind"] for document in examples()} == set(user_kinds())
    assert all((ROOT / "crds" / f"sixgate.io_{path_of(k).rsplit('/', 1)[1]}.yaml").exists() for k in user_kinds())
