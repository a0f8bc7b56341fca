"""kubectl commands of the documentation, run for real against an API server with sixgate's CRDs."""

from __future__ import annotations

import pytest
import yaml

from e2e.apiserver.cluster import Cluster
from e2e.lab.egress import egress_gateway
from tests.docs.blocks import ROOT, Command, all_commands

# What reads, and what applies or labels; the others need kubelets (logs), or take the CRDs away from other tests.
VERBS = ("get", "describe", "apply", "label", "cordon", "uncordon", "events")
NODE_CONFIG = {
    "apiVersion": "sixgate.io/v1alpha1",
    "kind": "NodeConfig",
    "metadata": {"name": "n1"},
    "spec": {"formatVersion": 1},
}


def runnable() -> list[Command]:
    found = {command.words: command for command in all_commands() if command.words[0] == "kubectl"}
    kept = []
    for command in found.values():
        if command.words[1] not in VERBS or "-" in command.words or len(command.words) < 3:
            continue
        files = [word for word in command.words if word.endswith(".yaml")]
        # The file of all CRDs is applied by the fixture; a label of a namespace needs that namespace.
        if all(name.startswith("examples/") for name in files) and "namespace" not in command.words:
            kept.append(command)
    return kept


@pytest.mark.parametrize("command", runnable(), ids=str)
def test_a_command_of_the_documentation_works(cluster: Cluster, command: Command) -> None:
    cluster.node("n1", {})
    cluster.apply(NODE_CONFIG)
    cluster.apply(egress_gateway("web"))  # what tests take NAME for (tests/docs/blocks.py)
    words = [str(ROOT / word) if word.startswith("examples/") else word for word in command.words[1:]]
    done = cluster.server.kubectl(*words, check=False)
    assert done.returncode == 0, done.stderr


def test_there_are_some() -> None:
    verbs = {command.words[1] for command in runnable()}
    assert {"get", "describe", "apply", "label", "cordon"} <= verbs
    assert yaml.safe_load((ROOT / "examples" / "nat46gateway" / "lab.yaml").read_text())["kind"] == "NAT46Gateway"
