"""Resolvers of a cluster: which there are, their files in one ConfigMap, what is written and what pods read of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from sixgate.api.nat46gateway import NAT46Gateway
from sixgate.controller.resolvers import LABEL, read_service
from sixgate.controller.writes import DIGEST, StoredResolvers, resolver_writes
from sixgate.dns64.follow import Follower, NoConfigurationError, read_files
from sixgate.errors import Ref
from sixgate.plan.dns64 import UNFIT_NAME, cluster_resolvers
from sixgate.plan.result import PlanResult
from sixgate.plan.status import ResolverReport, object_status
from sixgate.render.dns64 import CONFIG_MAP, POD_PORT, TEMPLATES, ClusterResolvers, render_cluster

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "nat46gateway-dns64" / "lab.yaml"
NOW = "2026-01-01T00:00:00Z"


def gateway(name: str, created: str = NOW, **dns64: Any) -> NAT46Gateway:
    body = yaml.safe_load(EXAMPLE.read_text())
    body["metadata"] = {"name": name, "creationTimestamp": created}
    body["spec"]["dns64"] |= dns64
    return NAT46Gateway.model_validate(body)


def rendered(*items: NAT46Gateway, overrides: Path | None = None) -> ClusterResolvers:
    plans, problems = cluster_resolvers(items, {item.ref for item in items})
    assert not problems
    return render_cluster(plans, "/run", {item.ref.name: (f"fd00::{item.ref.name}",) for item in items}, overrides)


def test_a_resolver_does_not_go_with_the_gateways_nodes() -> None:
    item = gateway("a")
    (plan,), _ = cluster_resolvers([item], {item.ref: ()})
    assert plan.owner == item.ref
    assert plan.listen == (), "a pod takes questions at its own addresses"
    assert cluster_resolvers([item], {}) == ((), ())


@pytest.mark.parametrize("name", ["a.b", "a" * 64])
def test_a_name_must_be_a_label(name: str) -> None:
    item = gateway(name)
    plans, (problem,) = cluster_resolvers([item], {item.ref})
    assert plans == ()
    assert (problem.ref, problem.reason) == (item.ref, UNFIT_NAME)


def test_files_are_named_by_their_gateway() -> None:
    found = rendered(gateway("a"), gateway("b"))
    assert set(found.data) == {f"{name}.{file}" for name in "ab" for file in TEMPLATES}
    assert f"port: {POD_PORT}\n" in found.data["a.unbound.conf"]
    assert 'directory: "/run/b"' in found.data["b.unbound.conf"]
    assert "interface: ::0" in found.data["a.unbound.conf"]
    assert 'forward . "fd00::b" {' in found.data["b.Corefile"]
    assert next(iter(yaml.safe_load_all(found.data["a.clients.yaml"]))) == {"clusterDNS": ["fd00::a"]}


def test_snippets_of_a_resolver_that_has_no_service_say_what_is_missing() -> None:
    plans, _ = cluster_resolvers([gateway("a", neverSynthesize=[])], {Ref("NAT46Gateway", "a")})
    data = render_cluster(plans, "/run", {}).data
    assert "forward . ADDRESS-OF-THE-RESOLVER {" in data["a.Corefile"]
    kubelet, pod = yaml.safe_load_all(data["a.clients.yaml"])
    assert kubelet == {"clusterDNS": ["ADDRESS-OF-THE-RESOLVER"]}
    assert pod["dnsConfig"]["searches"] == []


def test_what_does_not_fit_into_the_config_map_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    one = sum(map(len, rendered(gateway("old")).data.values()))
    monkeypatch.setattr("sixgate.render.dns64.MAX_CONFIG_MAP_BYTES", int(one * 1.5))
    found = rendered(gateway("new", "2026-02-01T00:00:00Z"), gateway("old", "2025-01-01T00:00:00Z"))
    assert {name.partition(".")[0] for name in found.data} == {"old"}
    (problem,) = found.problems
    assert (problem.ref.name, problem.reason) == ("new", "TooManyResolvers")


def test_files_of_a_gateway_whose_template_fails_stay(tmp_path: Path) -> None:
    (tmp_path / "dns64-unbound.conf.j2").write_text("{% if plan.owner.name == 'b' %}{{ plan.nothing }}{% endif %}")
    found = rendered(gateway("a"), gateway("b"), overrides=tmp_path)
    assert [problem.ref.name for problem in found.problems] == ["b"]
    before = {"b.unbound.conf": "b as it was", "c.unbound.conf": "of nobody", "a.unbound.conf": "a as it was"}
    (write,) = resolver_writes(found, StoredResolvers(before), "ns")
    assert write.data["b.unbound.conf"] == "b as it was"
    assert write.data["a.unbound.conf"] == found.data["a.unbound.conf"]
    assert "c.unbound.conf" not in write.data


def stored(data: Mapping[str, str], digest: str) -> StoredResolvers:
    return StoredResolvers.read({"metadata": {"annotations": {DIGEST: digest}}, "data": dict(data)})


def test_only_what_differs_is_written() -> None:
    wanted = ClusterResolvers({"a.unbound.conf": "x"})
    (write,) = resolver_writes(wanted, StoredResolvers(), "ns")
    assert write.body()["metadata"]["name"] == CONFIG_MAP
    assert write.body()["metadata"]["namespace"] == "ns"
    there = stored(wanted.data, write.digest)
    assert resolver_writes(wanted, there, "ns") == ()
    assert resolver_writes(wanted, stored({**wanted.data, "mine": "y"}, write.digest), "ns") == ()
    assert resolver_writes(wanted, stored({"a.unbound.conf": "edited"}, write.digest), "ns") == (write,)
    assert resolver_writes(wanted, stored(wanted.data, "other"), "ns") == (write,)
    (empty,) = resolver_writes(ClusterResolvers({}), there, "ns")
    assert empty.data == {}
    assert resolver_writes(ClusterResolvers({}), stored({}, empty.digest), "ns") == ()


def test_nothing_is_written_before_it_is_known_or_needed() -> None:
    assert resolver_writes(ClusterResolvers({"a.unbound.conf": "x"}), None, "ns") == ()
    assert resolver_writes(ClusterResolvers({}), StoredResolvers(), "ns") == ()


@pytest.mark.parametrize(
    ("spec", "addresses"),
    [
        ({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00::9"]}, ("10.96.0.9", "fd00::9")),
        ({"clusterIP": "10.96.0.9"}, ("10.96.0.9",)),
        ({"clusterIP": "None", "clusterIPs": ["None"]}, ()),
        ({}, ()),
    ],
)
def test_addresses_of_a_service(spec: dict[str, Any], addresses: tuple[str, ...]) -> None:
    found = read_service({"metadata": {"name": "s", "labels": {LABEL: "a"}}, "spec": spec})
    assert (found.gateway, found.name, found.addresses) == ("a", "s", addresses)


REPORTS = [
    (ResolverReport(known=False), "Unknown", "Programming", "to be listed"),
    (ResolverReport(namespace="ns", label="l=a"), "False", "ResolverFailing", "no Service of the namespace ns"),
    (ResolverReport(service="s", pods=2), "False", "ResolverFailing", "none of its 2 pods is ready"),
    (ResolverReport(service="s"), "False", "ResolverFailing", "it has no pod"),
    (ResolverReport(service="s", addresses=("fd00::9",), ready=1, pods=2), "True", "Programmed", "at fd00::9, 1 of 2"),
]


@pytest.mark.parametrize(("report", "ready", "reason", "says"), REPORTS)
def test_the_status_has_what_the_resolver_is(report: ResolverReport, ready: str, reason: str, says: str) -> None:
    ref = Ref("NAT46Gateway", "a")
    result = PlanResult({}, (), {ref: ()}, {ref: ()})
    status = object_status(ref, 1, result, problems=(), reports={}, previous=None, now=NOW, resolver=report)
    conditions = {item["type"]: item for item in status["conditions"]}
    assert (conditions["Ready"]["status"], conditions["Ready"]["reason"]) == (ready, reason)
    assert says in conditions["Ready"]["message"]
    assert (conditions["Degraded"]["status"] == "True") == (reason == "ResolverFailing")
    assert ("Reconciling" in conditions) == (ready == "Unknown")


def test_files_are_read_as_the_kubelet_mounts_them(tmp_path: Path) -> None:
    assert read_files(tmp_path, "a") is None
    (tmp_path / "..1").mkdir()
    for name in ("unbound.conf", "rules.json"):
        (tmp_path / "..1" / f"a.{name}").write_text(name)
    assert read_files(tmp_path, "a") is None
    (tmp_path / "..data").symlink_to("..1")
    assert read_files(tmp_path, "a") == {"unbound.conf": "unbound.conf", "rules.json": "rules.json"}
    assert read_files(tmp_path, "b") is None
    (tmp_path / "..1" / "a.rules.json").write_bytes(b"\xff")
    with pytest.raises(NoConfigurationError, match="The files of a must be readable"):
        read_files(tmp_path, "a")


def unready_once_told(follower: Follower) -> tuple[str, ...]:
    """What a follower says when it has looked at its directory."""

    async def look() -> tuple[str, ...]:
        task = asyncio.create_task(follower.run())
        async with asyncio.timeout(60):
            while (told := follower.unready()) and "the resolver is" in told[0]:
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return told

    return asyncio.run(look())


def test_a_resolver_that_no_gateway_wants_yet_holds_up_no_installation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    follower = Follower("a", tmp_path / "config", tmp_path / "run")
    assert follower.unready(), "before the first look nothing is known"
    assert unready_once_told(follower) == ()
    assert "has no files of the gateway a; is there such an object?" in caplog.text
    assert not (tmp_path / "run").exists()
    follower.leaving = True
    assert follower.unready() == ("This resolver is being ended.",)


def test_what_was_read_and_what_it_means_are_known_at_once(tmp_path: Path) -> None:
    """The directory is read on another thread, and who asks for readiness may come before the loop's next turn."""
    follower = Follower("a", tmp_path / "config", tmp_path / "run")
    follower._read()
    assert follower.unready() == ()


def test_a_resolver_whose_files_cannot_be_read_is_not_ready(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    (config / "a.unbound.conf").write_text("")
    (config / "a.rules.json").write_bytes(b"\xff")
    assert "The files of a must be readable" in unready_once_told(Follower("a", config, tmp_path / "run"))[0]


def test_the_shipped_manifests_fit_together() -> None:
    """Names, labels and ports that the operator, the Service and the pods must agree on."""
    documents = list(yaml.safe_load_all((ROOT / "deploy" / "dns64.yaml").read_text()))
    service, deployment = (next(d for d in documents if d["kind"] == kind) for kind in ("Service", "Deployment"))
    assert service["metadata"]["labels"][LABEL] == "nat64"
    template = deployment["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {ports[port["targetPort"]] for port in service["spec"]["ports"]} == {POD_PORT}
    assert "--gateway=nat64" in container["args"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    (config,) = (volume for volume in template["spec"]["volumes"] if volume["name"] == "config")
    assert config["configMap"] == {"name": CONFIG_MAP, "optional": True}
    assert mounts == {"config": "/etc/sixgate/dns64", "run": "/run/sixgate"}
    assert template["spec"]["automountServiceAccountToken"] is False
