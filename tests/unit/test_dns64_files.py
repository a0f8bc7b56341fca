"""A gateway's DNS64 as a plan, as files, and in `sixgate plan`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sixgate.api.nat46gateway import NAT46Gateway
from sixgate.cli import build
from sixgate.dns64.rules import Rules
from sixgate.errors import RenderError
from sixgate.plan.dns64 import dns64_plan, reverse_zone
from sixgate.render.dns64 import (
    CLIENTS,
    CONFIGURATION,
    COREFILE,
    RULES,
    ResolverFiles,
    ResolverHost,
    forward_to,
    render_resolver,
)

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "nat46gateway-dns64" / "lab.yaml"


def gateway(**dns64: Any) -> NAT46Gateway:
    body = yaml.safe_load(EXAMPLE.read_text())
    body["spec"]["dns64"] |= dns64
    return NAT46Gateway.model_validate(body)


def files(overrides: Path | None = None, **dns64: Any) -> ResolverFiles:
    plan = dns64_plan(gateway(**dns64))
    assert plan is not None
    return render_resolver(plan, ResolverHost("/run/sixgate/dns64/lab"), overrides)


def test_without_prefixes_that_of_the_gateway_represents_all() -> None:
    plan = dns64_plan(gateway())
    assert plan is not None
    assert [(item.ipv4, item.ipv6) for item in plan.ranges] == [("0.0.0.0/0", ("2001:db8:64::/96",))]
    assert plan.discovery == ("2001:db8:64::c000:aa", "2001:db8:64::c000:ab")
    assert plan.exclude_ipv6 == ("::ffff:0:0/96",)


def test_one_range_may_have_several_prefixes() -> None:
    listed = [{"ipv4CIDR": "0.0.0.0/0", "prefix": prefix} for prefix in ("2001:db8:1::/96", "2001:db8:2::/64")]
    plan = dns64_plan(gateway(prefixes=listed))
    assert plan is not None
    assert [(item.ipv4, item.ipv6) for item in plan.ranges] == [("0.0.0.0/0", ("2001:db8:1::/96", "2001:db8:2::/64"))]
    assert len(plan.discovery) == 4


def test_a_gateway_without_dns64_has_no_resolver() -> None:
    body = yaml.safe_load((ROOT / "examples" / "nat46gateway" / "lab.yaml").read_text())
    assert dns64_plan(NAT46Gateway.model_validate(body)) is None


def test_reverse_zone() -> None:
    from ipaddress import IPv6Network  # noqa: PLC0415

    assert reverse_zone(IPv6Network("64:ff9b::/96")) == "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.b.9.f.f.4.6.0.0.ip6.arpa"
    assert reverse_zone(IPv6Network("2001:db8::/32")) == "8.b.d.0.1.0.0.2.ip6.arpa"


def test_rules_are_read_by_the_resolver() -> None:
    rules = Rules.from_json(files().texts[RULES])
    assert len(rules.prefixes) == 1
    assert rules.represent(bytes([10, 0, 0, 1])) == ()


@pytest.mark.parametrize(("validate", "words"), [(True, "python validator iterator"), (False, "python iterator")])
def test_validation_is_a_module(validate: bool, words: str) -> None:
    text = files(validateDNSSEC=validate).texts[CONFIGURATION]
    assert f'module-config: "python dns64 {words}"' in text
    assert ("trust-anchor-file:" in text) is validate


def test_whoever_is_not_a_client_gets_nothing() -> None:
    lines = [line.strip() for line in files().texts[CONFIGURATION].splitlines() if "access-control" in line]
    assert lines == [
        "access-control: 0.0.0.0/0 deny",
        "access-control: ::/0 deny",
        'access-control: "2001:db8::/32" allow',
    ]


def test_a_template_of_the_site_that_fails_is_named(tmp_path: Path) -> None:
    (tmp_path / "dns64-unbound.conf.j2").write_text("{{ plan.nothing }}")
    with pytest.raises(RenderError, match=r"dns64-unbound\.conf\.j2 must write unbound\.conf for NAT46Gateway/lab"):
        files(tmp_path)


def test_a_value_cannot_end_its_line(tmp_path: Path) -> None:
    (tmp_path / "dns64-corefile.j2").write_text('{{ "a\\nb" | tojson }}')
    with pytest.raises(RenderError, match="have a meaning"):
        files(tmp_path)


def test_plan_shows_the_files() -> None:
    done = CliRunner().invoke(build(), ["plan", "-f", str(EXAMPLE), "--node", "gw-1", "-o", "yaml"])
    documents = list(yaml.safe_load_all(done.stdout))
    assert [item["kind"] for item in documents] == ["NodeConfig", "ConfigMap"]
    assert set(documents[1]["data"]) == {CONFIGURATION, RULES, COREFILE, CLIENTS}


def test_plan_shows_the_files_as_json() -> None:
    done = CliRunner().invoke(build(), ["plan", "-f", str(EXAMPLE), "--node", "gw-1", "-o", "json"])
    assert [item["kind"] for item in json.loads(done.stdout)["items"]] == ["NodeConfig", "ConfigMap"]


def test_another_node_has_no_resolver() -> None:
    done = CliRunner().invoke(build(), ["plan", "-f", str(EXAMPLE), "--node", "other"])
    assert "ConfigMap" not in done.stdout


COREDNS = ".:53 {\n    errors\n    forward . /etc/resolv.conf {\n       max_concurrent 1000\n    }\n    cache 30\n}\n"


@pytest.mark.parametrize(
    "line", ["forward . /etc/resolv.conf", "forward . 192.0.2.1 192.0.2.2", "forward  .  tls://9.9.9.9"]
)
def test_coredns_forwards_to_the_resolver(line: str) -> None:
    changed = forward_to(COREDNS.replace("forward . /etc/resolv.conf", line), ("fd00::64",))
    assert changed.split() == COREDNS.replace("forward . /etc/resolv.conf", "forward . fd00::64").split()


def test_a_corefile_that_forwards_nothing_is_told() -> None:
    with pytest.raises(ValueError, match=r"forward \."):
        forward_to(".:53 {\n    errors\n}\n", ("fd00::64",))


def test_the_command_changes_a_config_map() -> None:
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "coredns", "namespace": "kube-system", "resourceVersion": "7", "uid": "x"},
        "data": {"Corefile": COREDNS},
    }
    done = CliRunner().invoke(build(), ["coredns", "-f", str(EXAMPLE), "--gateway", "lab"], input=json.dumps(body))
    changed = json.loads(done.stdout)
    assert changed["metadata"] == {"name": "coredns", "namespace": "kube-system"}
    assert "forward . 2001:db8:6:1::1 {" in changed["data"]["Corefile"]
