"""The chart as real Helm renders it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.apiserver.binaries import helm_binaries

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "sixgate"
Document = dict[str, Any]
Render = Callable[..., list[Document]]


@pytest.fixture(scope="session", params=[3, 4], ids=["helm3", "helm4"])
def helm(request: pytest.FixtureRequest) -> Path:
    return helm_binaries()[request.param]


@pytest.fixture(scope="session")
def call(helm: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `helm COMMAND NAME CHART` with values of dotted keys."""

    def run(command: str, *arguments: str, **values: Any) -> subprocess.CompletedProcess[str]:
        chosen = [w for k, v in values.items() for w in ("--set-json", f"{k.replace('__', '.')}={json.dumps(v)}")]
        return subprocess.run(
            [str(helm), *command.split(), str(CHART), *arguments, *chosen], capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(scope="session")
def render(call: Callable[..., subprocess.CompletedProcess[str]]) -> Render:
    """Documents of `helm template`; `agent__announce=True` sets agent.announce."""

    known: dict[str, str] = {}

    def run(*arguments: str, **values: Any) -> list[Document]:
        key = json.dumps([arguments, values], sort_keys=True)
        if key not in known:
            done = call("template sixgate", "--namespace", "net", *arguments, **values)
            assert done.returncode == 0, done.stderr
            known[key] = done.stdout
        return [document for document in yaml.load_all(known[key], yaml.CSafeLoader) if document]

    return run
