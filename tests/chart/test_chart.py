"""What the chart makes: valid objects, no more rights than deploy/, no privileged container, refusals with a key."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Callable, Iterator
from subprocess import CompletedProcess
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.chart.conftest import CHART, ROOT, Document, Render

EVERYTHING: dict[str, Any] = {
    "enableIPv6BIGTCP": True,
    "enableIPv4BIGTCP": True,
    "bigTCP__pods": "Live",
    "agent__enterPodNamespaces": True,
    "agent__announce": True,
    "dns64__enabled": True,
    "prometheus__serviceMonitor__enabled": True,
    "commonLabels": {"team": "network"},
    "nat46Gateway": {
        "enabled": True,
        "spec": {
            "prefix": "64:ff9b::/96",
            "nodeSelector": {"matchLabels": {"kubernetes.io/os": "linux"}},
            "stateful": {"pools": [{"cidr": "192.0.2.64/28"}]},
        },
    },
}
FOREIGN = {"ServiceMonitor", "CustomResourceDefinition"}  # kinds that the validator has no schema of


@pytest.fixture(params=[{}, EVERYTHING], ids=["defaults", "everything"])
def documents(request: pytest.FixtureRequest, render: Render) -> list[Document]:
    return render(**request.param)


def containers(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    for document in documents:
        spec = document.get("spec") or {}
        pod = spec if document["kind"] == "Pod" else (spec.get("template") or {}).get("spec", {})
        for container in (*pod.get("initContainers", ()), *pod.get("containers", ())):
            yield f"{document['kind']}/{document['metadata']['name']}", container


def test_lint(call: Callable[..., CompletedProcess[str]]) -> None:
    done = call("lint", "--strict")
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout


def test_every_object_is_valid_and_none_is_there_twice(documents: list[Document]) -> None:
    names = [(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]) for d in documents]
    assert len(names) == len(set(names))
    for document in documents:
        if document["kind"] not in FOREIGN:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                kubernetes_validate.validate(document, "1.36", strict=True)


def test_labels_by_convention(documents: list[Document]) -> None:
    for document in documents:
        labels = document["metadata"].get("labels", {})
        assert labels.get("app.kubernetes.io/name") == "sixgate" or "dns64" in document["metadata"]["name"], document


def test_namespaced_objects_are_in_the_releases_namespace(documents: list[Document]) -> None:
    spaces = {d["metadata"].get("namespace") for d in documents}
    assert spaces <= {None, "net", "default"}
    in_default = {d["metadata"]["name"] for d in documents if d["metadata"].get("namespace") == "default"}
    assert in_default == {"sixgate-operator-events"}, "events of cluster-scoped objects live there"
    assert "sixgate-system" not in yaml.safe_dump_all(documents)


def test_no_container_is_privileged_and_the_rest_is_dropped(documents: list[Document]) -> None:
    for name, container in containers(documents):
        security = container["securityContext"]
        assert not security.get("privileged"), name
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["readOnlyRootFilesystem"] is True, name
        assert security["capabilities"]["drop"] == ["ALL"], name
        if name != "DaemonSet/sixgate-agent":
            assert "add" not in security["capabilities"], name


@pytest.mark.parametrize(("announce", "enter"), list(itertools.product((False, True), repeat=2)))
def test_capabilities_of_the_agent_are_those_that_the_values_need(render: Render, announce: bool, enter: bool) -> None:
    made = render(agent__announce=announce, agent__enterPodNamespaces=enter)
    (agent,) = (c for name, c in containers(made) if name == "DaemonSet/sixgate-agent")
    wanted = (
        {"BPF", "NET_ADMIN", "PERFMON"} | ({"NET_RAW"} if announce else set()) | ({"SYS_ADMIN"} if enter else set())
    )
    assert set(agent["securityContext"]["capabilities"]["add"]) == wanted
    assert ("/run/netns" in {m["mountPath"] for m in agent["volumeMounts"]}) == enter


def test_liveness_does_not_ask_for_the_api_server(documents: list[Document]) -> None:
    for name, container in containers(documents):
        if name in {"DaemonSet/sixgate-agent", "Deployment/sixgate-operator"}:
            assert container["livenessProbe"]["httpGet"]["path"] == "/healthz", name
            assert container["readinessProbe"]["httpGet"]["path"] == "/readyz", name


def test_rights_are_those_of_deploy_and_the_hooks(documents: list[Document]) -> None:
    def rules(found: list[Document]) -> dict[tuple[str, str], Any]:
        return {(d["kind"], d["metadata"]["name"]): d["rules"] for d in found if d["kind"] in {"Role", "ClusterRole"}}

    shipped = [d for p in sorted((ROOT / "deploy").glob("*.yaml")) for d in yaml.safe_load_all(p.read_text())]
    made = rules(documents)
    hooks = {key for key in made if key[1] == "sixgate-hooks"}
    assert {key: made[key] for key in made if key not in hooks} == rules(shipped)
    for rule in itertools.chain.from_iterable(made.values()):
        assert "secrets" not in rule["resources"]
        assert "*" not in (*rule["apiGroups"], *rule["resources"], *rule["verbs"])


def test_the_admission_policy_names_the_account_of_the_release(render: Render) -> None:
    (policy,) = (d for d in render() if d["kind"] == "ValidatingAdmissionPolicy")
    assert "system:serviceaccount:net:sixgate-agent" in policy["spec"]["matchConditions"][0]["expression"]


def test_crds_come_with_keep_or_without_or_not_at_all(render: Render) -> None:
    def crds(**values: Any) -> list[Document]:
        return [d for d in render(**values) if d["kind"] == "CustomResourceDefinition"]

    assert len(crds()) == len(list((ROOT / "crds").glob("*.yaml")))
    assert all(d["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep" for d in crds())
    assert not any("annotations" in d["metadata"] for d in crds(crds__keep=False))
    assert not crds(crds__install=False)


def test_the_file_of_crds_is_complete() -> None:
    asset = list(yaml.safe_load_all((ROOT / "charts" / "sixgate-crds.yaml").read_text()))
    sources = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    assert asset == sources


@pytest.mark.parametrize(("ipv6", "ipv4"), list(itertools.product((False, True), repeat=2)))
def test_the_default_policy_follows_the_two_switches(render: Render, ipv6: bool, ipv4: bool) -> None:
    made = render(enableIPv6BIGTCP=ipv6, enableIPv4BIGTCP=ipv4)
    (holder,) = (d for d in made if d["kind"] == "ConfigMap")
    objects = [d for d in yaml.safe_load_all(holder["data"]["objects.yaml"]) if d]
    if not (ipv6 or ipv4):
        assert objects == []
        return
    (policy,) = objects
    assert ({"ipv6", "ipv4"} & set(policy["spec"])) == {n for n, on in (("ipv6", ipv6), ("ipv4", ipv4)) if on}


def test_objects_of_the_chart_are_what_the_api_takes(render: Render) -> None:
    from sixgate.api.parse import parse_object  # noqa: PLC0415

    (holder,) = (d for d in render(**EVERYTHING) if d["kind"] == "ConfigMap")
    objects = [d for d in yaml.safe_load_all(holder["data"]["objects.yaml"]) if d]
    assert [d["kind"] for d in objects] == ["BIGTCPPolicy", "NAT46Gateway"]
    for document in objects:
        parse_object(document)


def test_keeping_the_data_plane_leaves_out_the_job_that_removes_it(render: Render) -> None:
    def jobs(**values: Any) -> set[str]:
        return {d["metadata"]["name"] for d in render(**values) if d["kind"] == "Job"}

    assert jobs() == {"sixgate-apply", "sixgate-leave"}
    assert jobs(uninstall__keepDataPlane=True) == {"sixgate-apply"}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"enableIPv6BigTcp": True}, "enableIPv6BigTcp"),
        ({"operator__replicas": "two"}, "replicas"),
        ({"operator__replicas": 0}, "replicas"),
        ({"agent__tolerations": "all"}, "tolerations"),
        ({"agent__healthPort": 80}, "healthPort"),
        ({"image__digest": "sha256:12"}, "digest"),
        ({"bigTCP__pods": "Sometimes"}, "pods"),
        ({"bigTCP__pods": "Live"}, "agent.enterPodNamespaces"),
        ({"nat46Gateway__enabled": True}, "nat46Gateway.spec"),
        ({"nat46Gateway": {"enabled": True, "spec": {"prefix": "64:ff9b::/96"}}}, "nodeSelector"),
        ({"prometheus__serviceMonitor__interval": "often"}, "interval"),
    ],
)
def test_wrong_values_are_refused_with_the_key(
    call: Callable[..., CompletedProcess[str]], values: dict[str, Any], told: str
) -> None:
    done = call("template sixgate", **values)
    assert done.returncode != 0
    assert told in done.stderr


def test_every_value_is_used_by_a_template() -> None:
    """A key that nothing reads is a promise that nothing keeps."""
    templates = "".join(path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file())
    used = set(re.findall(r"\.Values((?:\.[A-Za-z0-9_]+)+)", templates))
    # Read through `with` and `index`; `global` is of parent charts.
    used |= {f".image.{key}" for key in ("repository", "tag", "digest")}
    used |= {".prometheus.operatorPort", ".prometheus.agentPort", ".global"}
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def leaves(node: Any, path: str = "") -> Iterator[str]:
        if isinstance(node, dict) and node and path not in used:
            for key, value in node.items():
                yield from leaves(value, f"{path}.{key}")
        else:
            yield path

    assert {leaf for leaf in leaves(values) if leaf not in used} == set()


def test_the_notes_say_what_to_do_next(call: Callable[..., CompletedProcess[str]]) -> None:
    text = (CHART / "templates" / "NOTES.txt").read_text()
    for command in ("kubectl get nodeconfigs", "helm test", "helm uninstall"):
        assert command in text
