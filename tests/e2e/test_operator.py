"""The operator against a real API server, as its own service account."""

from __future__ import annotations

import json
from typing import Any

import yaml

from e2e.apiserver.cluster import DIGESTS, Cluster
from sixgate.api.nodeconfig import NodeConfigSpec
from sixgate.api.parse import parse_object
from sixgate.plan.planner import plan
from sixgate.plan.snapshot import NodeInfo, Snapshot
from sixgate.render.renderer import Renderer
from tests.e2e.conftest import StartOperator, gateway

LABEL = {"gateway": "yes"}


def ready(cluster: Cluster, name: str = "gw") -> str:
    return cluster.conditions("NAT46Gateway", name).get("Ready", {}).get("status", "")


def test_nodes_that_are_selected_get_a_nodeconfig_and_the_object_becomes_ready(
    cluster: Cluster, operator: StartOperator
) -> None:
    for name in ("n1", "n2"):
        cluster.node(name, LABEL)
    cluster.node("n3")
    cluster.apply(gateway())
    operator()
    cluster.wait("NodeConfigs of both", lambda: set(cluster.list("NodeConfig")) == {"n1", "n2"})
    first = cluster.wait("a first status", lambda: cluster.conditions("NAT46Gateway", "gw"))
    assert first["Ready"]["status"] == "Unknown"
    assert first["Reconciling"]["status"] == "True"
    assert first["Ready"]["observedGeneration"] == 1
    cluster.report()
    done = cluster.server.kubectl("wait", "--for=condition=Ready", "--timeout=120s", "n46/gw")
    assert "condition met" in done.stdout
    status = cluster.get("NAT46Gateway", "gw")["status"]  # type: ignore[index]
    assert status["nodes"] == {"desired": 2, "ready": 2}
    assert {c["type"] for c in status["conditions"]} == {"Ready", "Programmed", "Conflicted", "Degraded"}


def test_a_change_of_an_object_reaches_its_nodes_and_an_annotation_does_not(
    cluster: Cluster, operator: StartOperator
) -> None:
    cluster.node("n1", LABEL)
    cluster.apply(gateway())
    process = operator()
    process.wait_log("Wrote NodeConfig n1")
    cluster.patch("NAT46Gateway", "gw", {"spec": {"stateless": {"ipv4CIDRs": ["192.0.2.0/25"]}}})
    config = cluster.wait(
        "the new CIDR at the node",
        lambda: (c := cluster.get("NodeConfig", "n1")) and c["metadata"]["generation"] == 2 and c,
    )
    assert "192.0.2.0" in json.dumps(config) or config["spec"]["tables"]
    cluster.patch("NAT46Gateway", "gw", {"metadata": {"annotations": {"a": "b"}}})
    cluster.patch("NAT46Gateway", "gw", {"spec": {"stateless": {"ipv4CIDRs": ["192.0.2.0/26"]}}})
    cluster.wait("generation 3", lambda: cluster.get("NodeConfig", "n1")["metadata"]["generation"] == 3)  # type: ignore[index]
    found = cluster.get("NAT46Gateway", "gw")
    assert found is not None
    assert found["metadata"].get("finalizers") is None
    assert found["metadata"]["annotations"] == {"a": "b"}


def test_a_deleted_object_goes_at_once_and_takes_its_nodeconfigs_with_it(
    cluster: Cluster, operator: StartOperator
) -> None:
    cluster.node("n1", LABEL)
    cluster.apply(gateway())
    cluster.apply({"apiVersion": "sixgate.io/v1alpha1", "kind": "NodeConfig", "metadata": {"name": "by-hand"},
                   "spec": {"formatVersion": 1}})  # fmt: skip
    process = operator()
    process.wait_log("Wrote NodeConfig n1")
    process.kill()
    cluster.delete("NAT46Gateway", "gw")
    assert cluster.get("NAT46Gateway", "gw") is None, "nothing may hold an object while the operator is away"
    operator(name="second")
    cluster.wait("the NodeConfig gone", lambda: cluster.get("NodeConfig", "n1") is None)
    assert cluster.get("NodeConfig", "by-hand") is not None


def test_a_node_that_comes_or_goes_or_changes_its_labels(cluster: Cluster, operator: StartOperator) -> None:
    cluster.node("n1", LABEL)
    cluster.apply(gateway())
    operator()
    cluster.wait("n1", lambda: set(cluster.list("NodeConfig")) == {"n1"})
    cluster.node("n2", LABEL)
    cluster.wait("n2 too", lambda: set(cluster.list("NodeConfig")) == {"n1", "n2"})
    cluster.patch("Node", "n1", {"metadata": {"labels": {"gateway": "no"}}})
    cluster.wait("n2 only", lambda: set(cluster.list("NodeConfig")) == {"n2"})
    cluster.delete("Node", "n2")
    cluster.wait("none", lambda: not cluster.list("NodeConfig"))
    cluster.wait("no node", lambda: cluster.conditions("NAT46Gateway", "gw")["Ready"]["reason"] == "NoNodes")


def test_what_somebody_else_writes_into_a_nodeconfig_is_put_right(cluster: Cluster, operator: StartOperator) -> None:
    cluster.node("n1", LABEL)
    cluster.apply(gateway())
    process = operator()
    process.wait_log("Wrote NodeConfig n1")
    good = cluster.get("NodeConfig", "n1")
    assert good is not None
    cluster.patch("NodeConfig", "n1", {"spec": {"tables": []}})  # with the revision of what was there before
    cluster.wait("the tables back", lambda: (c := cluster.get("NodeConfig", "n1")) and c["spec"] == good["spec"])
    cluster.delete("NodeConfig", "n1")
    cluster.wait("the object back", lambda: (c := cluster.get("NodeConfig", "n1")) and c["spec"] == good["spec"])


def test_a_restart_writes_nothing(cluster: Cluster, operator: StartOperator) -> None:
    for name in ("n1", "n2"):
        cluster.node(name, LABEL)
    for number in range(5):
        cluster.apply(gateway(f"gw{number}", f"2001:db8:{number + 1}::/96", f"198.18.{number}.0/24"))
    cluster.apply(gateway("loser", "2001:db8:1::/96"))
    process = operator()
    process.wait_settled()
    cluster.report()
    cluster.wait("all ready", lambda: all(ready(cluster, f"gw{n}") == "True" for n in range(5)))
    before = {kind: cluster.list(kind) for kind in ("NAT46Gateway", "NodeConfig")}
    assert process.terminate() == 0
    writes = cluster.writes()
    second = operator("--verbose", "--audit-seconds", "1", name="second")
    second.wait_log("Nothing to write")
    cluster.server.kubectl("annotate", "node", "n1", "seen=yes")  # and what is no news causes no write either
    second.wait_log("Compared")
    assert cluster.writes() == writes
    assert before == {kind: cluster.list(kind) for kind in ("NAT46Gateway", "NodeConfig")}
    assert "not delivered" not in second.log()


def test_operator_and_standalone_give_the_same_nodeconfigs(cluster: Cluster, operator: StartOperator) -> None:
    for name in ("n1", "n2"):
        cluster.node(name, LABEL)
    documents = [gateway("a", "2001:db8:1::/96", "198.18.0.0/24"), gateway("b", "2001:db8:2::/96", "198.19.0.0/24")]
    for document in documents:
        cluster.apply(document)
    operator().wait_settled()
    objects = [parse_object(yaml.safe_load(yaml.safe_dump(document))) for document in documents]
    nodes = tuple(NodeInfo(name, labels=LABEL) for name in ("n1", "n2"))
    alone = Renderer().render_all(plan(Snapshot(tuple(objects), nodes, digests=DIGESTS)))  # type: ignore[arg-type]
    stored = {name: config["spec"] for name, config in cluster.list("NodeConfig").items()}
    assert {name: NodeConfigSpec.model_validate(spec) for name, spec in stored.items()} == dict(alone.specs)
    assert all(NodeConfigSpec.model_validate(spec).hashed().revision == spec["revision"] for spec in stored.values())


def test_a_site_template_that_fails_is_a_condition_and_the_node_keeps_what_it_has(
    cluster: Cluster, operator: StartOperator, tmp_path: Any
) -> None:
    cluster.node("n1", LABEL)
    cluster.apply(gateway())
    process = operator()
    process.wait_log("Wrote NodeConfig n1")
    good = cluster.get("NodeConfig", "n1")
    assert process.terminate() == 0
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "nat46.json.j2").write_text("{{ nat.no_such_thing }}")
    operator("--templates", str(tmp_path / "templates"), name="second")
    cluster.wait("RenderFailed", lambda: cluster.conditions("NAT46Gateway", "gw")["Ready"]["reason"] == "RenderFailed")
    kept = cluster.get("NodeConfig", "n1")
    assert good is not None
    assert kept is not None
    assert kept["spec"] == good["spec"]
    assert "nat46.json.j2" in cluster.conditions("NAT46Gateway", "gw")["Ready"]["message"]


def test_a_node_that_dies_does_not_count_until_it_is_back(cluster: Cluster, operator: StartOperator) -> None:
    for name in ("n1", "n2"):
        cluster.node(name, LABEL)
    cluster.apply(gateway())
    operator()
    cluster.wait("NodeConfigs of both", lambda: set(cluster.list("NodeConfig")) == {"n1", "n2"})
    cluster.report()
    cluster.wait("ready", lambda: ready(cluster) == "True")
    for state, told in (("Unknown", "Unknown"), ("True", "True")):
        condition = {"type": "Ready", "status": state, "reason": "Simulated", "message": ""}
        cluster.patch("Node", "n2", {"status": {"conditions": [condition]}}, "status")
        cluster.wait(f"Ready {told}", lambda told=told: ready(cluster) == told)
        status = cluster.get("NAT46Gateway", "gw")["status"]  # type: ignore[index]
        assert status["nodes"] == {"desired": 2, "ready": 2 if state == "True" else 1}
        if state != "True":
            assert "n2" in cluster.conditions("NAT46Gateway", "gw")["Ready"]["message"]


def test_events_tell_what_turned(cluster: Cluster, operator: StartOperator) -> None:
    cluster.node("n1", LABEL)
    cluster.apply(gateway())
    process = operator()
    process.wait_log("Wrote NodeConfig n1")
    cluster.report()
    cluster.wait("ready", lambda: ready(cluster) == "True")
    cluster.report(state="Degraded", message="eth0 refuses sg_uplink_tc: no such device.")
    cluster.wait("not ready", lambda: ready(cluster) == "False")

    def told() -> list[tuple[str, str]]:
        items = cluster.call("GET", "/apis/events.k8s.io/v1/namespaces/default/events")["items"]
        return [(e["type"], e["reason"]) for e in items if e["regarding"]["name"] == "gw"]

    cluster.wait("events", lambda: {("Normal", "Programmed"), ("Warning", "Degraded")} <= set(told()))
    notes = cluster.server.kubectl("describe", "n46/gw").stdout
    assert "eth0 refuses sg_uplink_tc" in notes


def test_the_crds_may_come_later_than_the_operator(cluster: Cluster, operator: StartOperator) -> None:
    cluster.node("n1", LABEL)
    cluster.server.kubectl("delete", "crd", "nat46gateways.sixgate.io")
    try:
        process = operator(wait=False)
        process.wait_log("Are the CRDs installed?")
    finally:
        cluster.install()
    process.wait_log("holds the lease")
    cluster.apply(gateway())
    process.wait_log("Wrote NodeConfig n1")
