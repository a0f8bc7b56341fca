"""The command line without root: plan, usage, exit codes, tables."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from rich.console import Console

from sixgate.api.nodeconfig import NodeConfig
from sixgate.cli import PARTS, build, common
from sixgate.cli.status import merge, show
from sixgate.node.inspect import Count, HookRow, Inspection, TableRow
from tests.unit.test_standalone_directory import good

ROOT = Path(__file__).resolve().parents[2]
DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    path = tmp_path / "objects"
    path.mkdir()
    listed = dict.fromkeys(("sg_tc", "sg_slow", "sg_xdp"), DIGEST)
    (path / "manifest.json").write_text(json.dumps({"objects": listed}))
    return path


def sixgate(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sixgate", *words],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT / "operator"), "PATH": "/usr/bin:/bin", **environment},
    )


def plan(manifests: Path, objects: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return sixgate("plan", "-f", str(manifests), "--node", "gw-1", "--objects", str(objects), *more)


@pytest.mark.parametrize("output", ["yaml", "json"])
def test_plan_prints_a_node_config(tmp_path: Path, objects: Path, output: str) -> None:
    (tmp_path / "a.yaml").write_text(good())
    done = plan(tmp_path / "a.yaml", objects, "-o", output)
    assert (done.returncode, done.stderr) == (0, "")
    document = yaml.safe_load(done.stdout) if output == "yaml" else json.loads(done.stdout)
    config = NodeConfig.model_validate(document)
    assert config.metadata.name == "gw-1"
    assert config.spec.hashed().revision == config.spec.revision


def test_plan_of_another_node_is_empty_and_says_why(tmp_path: Path, objects: Path) -> None:
    (tmp_path / "a.yaml").write_text(good())
    done = sixgate("plan", "-f", str(tmp_path), "--node", "gw-2", "--objects", str(objects))
    assert done.returncode == 1
    assert "a.yaml:6: NAT46Gateway/a has a spec.nodeSelector that matches no node" in done.stderr
    assert yaml.safe_load(done.stdout)["spec"]["objects"] == []
    label = plan(tmp_path, objects, "--label", "kubernetes.io/hostname=gw-2")
    assert label.returncode == 1


def test_invalid_manifests(tmp_path: Path, objects: Path) -> None:
    (tmp_path / "a.yaml").write_text(good(prefix="2001:db8::/95"))
    done = plan(tmp_path, objects)
    assert done.returncode == 2
    assert done.stderr.startswith("a.yaml:9: NAT46Gateway/a: spec.prefix")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["plan", "-f", "/nonexistent", "--node", "x"], "/nonexistent should be a directory of manifests"),
        (["plan", "-f", "/tmp", "--node", "x", "--label", "novalue"], "KEY=VALUE"),
        (["standalone", "--node", "x"], "--manifests"),
        (["nonsense"], "nonsense"),
        (["plan", "-f", "/tmp", "--node", "x", "--objects", "/nonexistent"], "manifest.json must be the manifest"),
    ],
)
def test_wrong_usage(words: list[str], sentence: str) -> None:
    done = sixgate(*words, TERM="dumb", COLUMNS="300")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_objects_by_the_environment(tmp_path: Path, objects: Path) -> None:
    (tmp_path / "a.yaml").write_text(good())
    done = sixgate("plan", "-f", str(tmp_path), "--node", "gw-1", SIXGATE_OBJECTS=str(objects))
    assert done.returncode == 0
    assert DIGEST in done.stdout


def test_version() -> None:
    done = sixgate("version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "sixgate")


REPORTED: dict[str, Any] = {
    "node": "gw-1",
    "status": {
        "ready": True,
        "appliedRevision": "abc",
        "message": "",
        "objects": [{"owner": "NAT46Gateway/a", "state": "Programmed", "reason": "", "message": ""}],
        "devices": [{"name": "e0", "ifindex": 2, "hooks": {"tc-ingress": "tcx"}}],
        "kernel": {"release": "6.18"},
    },
    "problems": [],
}
SEEN = Inspection(
    hooks=(HookRow("e0", "tc-ingress", "tcx", "sg_tc", "sg_uplink_tc", 10, 20),),
    tables=(TableRow("sg_nat_map", 5, 2, 64), TableRow("sg_ipid", 6, None, 1)),
    counters={"SG_OK_64": Count(3, 300), "SG_DROP_TTL": Count()},
    traffic={"NAT46Gateway/a": {"to4": Count(3, 300), "to6": Count()}},
    process=0,
)


def test_status_is_ready_only_while_the_hooks_are_there() -> None:
    assert merge(REPORTED, SEEN)["ready"] is True
    lost = merge(REPORTED, Inspection((), (), {}, {}, 7))
    assert lost["ready"] is False
    assert lost["message"] == "Nothing of sixgate is attached to tc-ingress on e0 any more."
    assert lost["process"] == {"pid": 7, "running": True}
    problem = {"file": "a.yaml", "line": 3, "message": "wrong"}
    assert merge({**REPORTED, "problems": [problem]}, SEEN)["ready"] is False


def test_status_of_a_node_without_sixgate() -> None:
    body = merge({}, Inspection((), (), {}, {}, 0))
    assert (body["ready"], body["hooks"], body["appliedRevision"]) == (False, [], "")
    json.dumps(body)


def test_the_table_leaves_out_what_never_happened() -> None:
    out = io.StringIO()
    show(merge(REPORTED, SEEN), Console(file=out, width=100))
    text = out.getvalue()
    assert "node gw-1: ready, revision abc, no process; the data plane goes on" in text
    assert "SG_OK_64" in text
    assert "SG_DROP_TTL" not in text
    assert "sg_uplink_tc" in text


def commands_of(app: typer.Typer) -> set[str]:
    return set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_every_command_is_known_to_be_in_its_module() -> None:
    for part, commands in PARTS.items():
        for command in commands:
            assert commands_of(build(command)) == {*commands, "version"}, part
    assert commands_of(build()) == {command for commands in PARTS.values() for command in commands} | {"version"}
    assert commands_of(build("no-such-command")) == commands_of(build())


@pytest.mark.parametrize("words", [("trace", "--help"), ("--help",), ("cluster", "--help"), ("version",)])
def test_a_short_command_imports_little(words: tuple[str, ...]) -> None:
    """Models, netlink and tables take most of a second to import. (typer reads options by pydantic.)"""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "sixgate", *words],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT / "operator"), "PATH": "/usr/bin:/bin"},
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "typer" in imported
    assert imported.isdisjoint({"sixgate.api", "pyroute2", "rich", "yaml", "kubernetes", "kopf", "aiohttp", "ctypes"})


def test_a_node_without_anything_says_so() -> None:
    text = io.StringIO()
    show(merge({}, Inspection((), (), {}, {}, 0)), Console(file=text, width=120))
    assert text.getvalue().startswith("Nothing of sixgate is on this node.")


def test_what_is_no_address_is_refused_with_its_option() -> None:
    for text, strict in (("elsewhere", False), ("10.0.0.1/8", True)):
        with pytest.raises(typer.BadParameter, match=f"must be an address or a CIDR: .*{text}") as refused:
            common.as_network(text, "--from", strict=strict)
        assert refused.value.param_hint == "--from"
    assert str(common.as_network("10.0.0.1/8", "--from", strict=False)) == "10.0.0.0/8"
    with pytest.raises(typer.BadParameter, match=r"must be an address: .*10\.0\.0\.0"):
        common.as_address("10.0.0.0/8", "--pool")
