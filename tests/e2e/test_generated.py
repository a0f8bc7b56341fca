"""Generated bad objects: the API server refuses them, or they become a condition, and nothing else suffers.

A few hundred here; `python -m bench.operator --only bad` takes ten thousand.
"""

from __future__ import annotations

from e2e.apiserver.cluster import Cluster, Refused, path_of
from e2e.apiserver.generate import HOSTILE, generate
from e2e.apiserver.judge import judge
from sixgate.controller.store import without_nulls
from tests.e2e.conftest import StartOperator, gateway

LABEL = {"gateway": "yes"}


def test_what_the_server_takes_is_either_right_or_gets_a_sentence(cluster: Cluster) -> None:
    verdicts = [judge(cluster, document) for document in generate(400, seed=1)]
    assert not [verdict for verdict in verdicts if verdict.crash]
    refused = [verdict for verdict in verdicts if verdict.refused]
    assert len(refused) > 200, "the generator makes mostly bad objects"
    assert all(verdict.refused.startswith("spec") or "spec" in verdict.refused for verdict in refused)


def test_a_running_operator_stands_them_and_serves_the_others(cluster: Cluster, operator: StartOperator) -> None:
    cluster.node("n1", LABEL)
    cluster.apply(gateway())
    process = operator()
    process.wait_log("Wrote NodeConfig n1")
    good = cluster.get("NodeConfig", "n1")
    taken = 0
    for document in generate(200, seed=2):
        document["spec"] = _elsewhere(document["spec"])
        try:
            cluster.call("POST", path_of(document["kind"]) + "?fieldValidation=Strict", document)
            taken += 1
        except Refused:
            pass
    assert taken > 3
    everything = [(kind, item) for kind in ("NAT46Gateway", "EgressGateway", "BIGTCPPolicy", "LoadBalancer")
                  for item in cluster.list(kind)]  # fmt: skip
    cluster.wait(
        "a condition on each", lambda: all(cluster.conditions(k, n) for k, n in everything)
    )  # fmt: skip
    cluster.patch("NAT46Gateway", "gw", {"spec": {"stateless": {"ipv4CIDRs": ["192.0.2.0/25"]}}})
    cluster.wait("the good one served", lambda: cluster.get("NodeConfig", "n1") != good)
    assert process.running
    for word in ("Traceback", "ERROR", "CRITICAL"):
        assert word not in process.log()


def _elsewhere(spec: object) -> object:
    """The generated object must not select the node of the good one."""
    if isinstance(spec, dict) and isinstance(spec.get("nodeSelector"), dict):
        return {**spec, "nodeSelector": {"matchLabels": {"nobody": "here"}}}
    return spec


def test_hostile_strings_come_out_of_rendering_as_data(cluster: Cluster, operator: StartOperator) -> None:
    """Device patterns are the freest text that reaches a document."""
    cluster.node("n1", LABEL)
    devices = []
    for text in HOSTILE:
        try:
            cluster.call("POST", path_of("NAT46Gateway") + "?dryRun=All", gateway(devices=[text]))
            devices.append(text)
        except Refused:
            continue
    assert devices, "some hostile strings are valid device patterns"
    cluster.apply(gateway(devices=sorted(set(devices))))
    operator()
    config = cluster.wait("a NodeConfig", lambda: cluster.get("NodeConfig", "n1"))
    assert config["spec"] == without_nulls(config["spec"])
    found = {d for item in config["spec"]["objects"] for a in item["attachments"] for d in a["devices"]}
    assert set(devices) <= found
