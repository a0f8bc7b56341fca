"""What the two service accounts may do, asked of the real authorizer and the real admission policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from e2e.apiserver.cluster import NAMESPACE, ROOT, Cluster, Refused, path_of
from tests.e2e.conftest import gateway

if TYPE_CHECKING:
    from e2e.apiserver import Kubeconfig

EMPTY_CONFIG = {"apiVersion": "sixgate.io/v1alpha1", "kind": "NodeConfig", "spec": {"formatVersion": 1}}


def config(name: str) -> dict[str, object]:
    return {**EMPTY_CONFIG, "metadata": {"name": name}}


def write_status(cluster: Cluster, user: Kubeconfig, name: str) -> None:
    body = {"status": {"ready": True, "appliedRevision": "x"}}
    path = path_of("NodeConfig", name) + "/status"
    cluster.call("PATCH", path, body, user=user, content_type="application/merge-patch+json")


@pytest.fixture
def nodes(cluster: Cluster) -> Cluster:
    for name in ("n1", "n2"):
        cluster.node(name)
        cluster.apply(config(name))
    return cluster


def test_an_agent_writes_the_status_of_its_own_node_and_of_no_other(nodes: Cluster) -> None:
    agent = nodes.agent_account("n1")
    nodes.wait("the policy at work", lambda: _denied(nodes, agent, "n2"))  # the server compiles it in the background
    write_status(nodes, agent, "n1")
    found = nodes.get("NodeConfig", "n1")
    assert found is not None
    assert found["status"]["appliedRevision"] == "x"
    with pytest.raises(Refused, match="the token is of node n1, the NodeConfig of node n2"):
        write_status(nodes, agent, "n2")


def _denied(cluster: Cluster, user: Kubeconfig, name: str) -> bool:
    try:
        write_status(cluster, user, name)
    except Refused as refused:
        return refused.status == 403
    return False


def test_a_token_of_no_node_writes_nothing(nodes: Cluster) -> None:
    unbound = nodes.server.service_account(NAMESPACE, "sixgate-agent", label="-unbound")
    nodes.wait("the policy at work", lambda: _denied(nodes, unbound, "n2"))
    with pytest.raises(Refused, match="the token is of no node"):
        write_status(nodes, unbound, "n1")


def test_an_agent_writes_no_spec_not_even_its_own(nodes: Cluster) -> None:
    agent = nodes.agent_account("n1")
    for method, path, body in (
        ("PATCH", path_of("NodeConfig", "n1"), {"spec": {"tables": []}}),
        ("PUT", path_of("NodeConfig", "n1"), config("n1")),
        ("DELETE", path_of("NodeConfig", "n1"), None),
        ("POST", path_of("NodeConfig"), config("n9")),
    ):
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        with pytest.raises(Refused) as refused:
            nodes.call(method, path, body, user=agent, content_type=kind)
        assert refused.value.status == 403


def test_the_operator_writes_no_spec_of_a_users_object(cluster: Cluster) -> None:
    cluster.apply(gateway())
    operator = cluster.operator_account(label="-rights")
    with pytest.raises(Refused) as refused:
        cluster.apply(gateway(), manager="x", user=operator)
    assert refused.value.status == 403
    with pytest.raises(Refused) as refused:
        cluster.call("DELETE", path_of("NAT46Gateway", "gw"), user=operator)
    assert refused.value.status == 403


@pytest.mark.parametrize(
    ("path", "kind", "name"),
    [
        (f"/api/v1/namespaces/{NAMESPACE}/configmaps", "ConfigMap", "other"),
        ("/api/v1/namespaces/default/configmaps", "ConfigMap", "sixgate-dns64"),
        (f"/api/v1/namespaces/{NAMESPACE}/services", "Service", "sixgate-dns64"),
        (f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", "Deployment", "sixgate-dns64"),
    ],
)
def test_the_operator_writes_one_config_map_and_starts_nothing(
    cluster: Cluster, path: str, kind: str, name: str
) -> None:
    operator = cluster.operator_account(label="-rights")
    body = {"apiVersion": "apps/v1" if kind == "Deployment" else "v1", "kind": kind, "metadata": {"name": name}}
    with pytest.raises(Refused) as refused:
        cluster.call("PATCH", f"{path}/{name}?fieldManager=x", body, user=operator,
                     content_type="application/apply-patch+yaml")  # fmt: skip
    assert refused.value.status == 403
    with pytest.raises(Refused) as refused:
        cluster.call("GET", f"{path}/other", user=operator)
    assert refused.value.status == 403


@pytest.mark.parametrize("account", ["sixgate-operator", "sixgate-agent"])
@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/secrets",
        f"/api/v1/namespaces/{NAMESPACE}/secrets",
        "/api/v1/configmaps",
        "/api/v1/pods",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    ],
)
def test_nobody_reads_what_is_not_needed(cluster: Cluster, account: str, path: str) -> None:
    if (account, path) == ("sixgate-agent", "/api/v1/pods"):
        path = "/api/v1/nodes"  # egress needs an agent to know the pods of its node, see deploy/agent.yaml
    user = cluster.server.service_account(NAMESPACE, account, label="-reads")
    with pytest.raises(Refused) as refused:
        cluster.call("GET", path, user=user)
    assert refused.value.status == 403


def test_the_shipped_rules_name_no_secret_and_no_wildcard() -> None:
    roles = [
        document
        for path in sorted((ROOT / "deploy").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if document["kind"] in {"Role", "ClusterRole"}
    ]
    assert {role["metadata"]["name"] for role in roles} >= {"sixgate-operator", "sixgate-agent"}
    for role in roles:
        for rule in role["rules"]:
            assert "secrets" not in rule["resources"]
            assert "*" not in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])
