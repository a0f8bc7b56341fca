"""What there is in the API server: examples are taken, and nobody of sixgate writes what Git owns."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from e2e.apiserver.generate import examples
from e2e.cluster.cluster import ClusterError
from e2e.cluster.release import NAME, NAMESPACE

if TYPE_CHECKING:
    from e2e.cluster.cluster import Cluster
    from e2e.cluster.proofs import Scene

GROUP = "sixgate.io"
KINDS = ("bigtcppolicies", "nat46gateways", "egressgateways", "loadbalancers")
CHART_KINDS = "deployments,daemonsets,configmaps,serviceaccounts,services,roles,rolebindings,poddisruptionbudgets"


def apply_examples(scene: Scene) -> str:
    """Every object of examples/ is taken and gets a status; then they are removed."""
    cluster, found = scene.cluster, examples()
    names = [(item["kind"].lower(), item["metadata"]["name"]) for item in found]
    cluster.apply(*found)
    for kind, name in names:
        cluster.wait(f"a status of {kind}/{name}", lambda k=kind, n=name: _told(cluster.find(k, n)))  # type: ignore[misc]
    for kind, name in dict.fromkeys(names):
        cluster.kubectl("delete", kind, name)
    return f"{len(names)} objects"


def _told(found: dict[str, Any]) -> bool:
    status = found.get("status", {})
    return bool(status.get("observedGeneration") == found["metadata"]["generation"] and status.get("conditions"))


def no_drift(scene: Scene) -> str:
    """Managers of sixgate own `status` of users' objects and nothing of the chart's, and everything of the chart is as
    Helm has it: what an Argo CD or a Flux would find if it looked now."""
    looked = 0
    for kind in KINDS:
        for item in scene.cluster.items(kind, "--show-managed-fields"):
            looked += 1
            for entry in _ours(item):
                if set(entry["fieldsV1"]) - {"f:status"}:
                    raise ClusterError(f"{entry['manager']} may own status only, and of {_name(item)} it owns {entry}.")
    for item in scene.cluster.items(CHART_KINDS, "-n", NAMESPACE, "-l", f"app.kubernetes.io/instance={NAME}",
                                    "--show-managed-fields"):  # fmt: skip
        looked += 1
        if _ours(item):
            raise ClusterError(f"Nobody of sixgate may write what the chart made, and somebody wrote {_name(item)}.")
    if not looked:
        raise ClusterError("There must be objects to look at, and there are none.")
    manifest = scene.cluster.helm("get", "manifest", NAME, "--namespace", NAMESPACE).stdout
    differs = scene.cluster.kubectl("diff", "-f", "-", stdin=manifest, check=False)
    if differs.strip():
        raise ClusterError(f"Everything must be as Helm has made it, and `kubectl diff` says: {differs[:2000]}")
    return f"managed fields of {looked} objects, kubectl diff of the release, {_age_s(scene):.0f} s after it was made"


def _age_s(scene: Scene) -> float:
    made = scene.cluster.find("deployment", "sixgate-operator", NAMESPACE)["metadata"]["creationTimestamp"]
    return (datetime.now(UTC) - datetime.fromisoformat(made)).total_seconds()


def not_ours(cluster: Cluster) -> set[str]:
    """Names of the CRDs and of the namespace that an installation would leave behind, where they are there already."""
    found = {item["metadata"]["name"] for item in cluster.items("crd") if item["spec"]["group"] == GROUP}
    return found | ({NAMESPACE} if cluster.find("namespace", NAMESPACE) else set())


def tidy(cluster: Cluster, before: set[str]) -> str:
    """Removes the CRDs and the namespace that were not there `before`."""
    removed = sorted(not_ours(cluster) - before)
    for name in removed:
        cluster.kubectl("delete", "namespace" if name == NAMESPACE else "crd", name)
    return ", ".join(removed) or "nothing: all of it was there before"


def _ours(item: dict[str, Any]) -> list[dict[str, Any]]:
    managers = ("sixgate-operator", "sixgate-agent")
    return [entry for entry in item["metadata"].get("managedFields", ()) if entry["manager"].startswith(managers)]


def _name(item: dict[str, Any]) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"
