"""Completion in real shells: `sixgate completion SHELL` completes commands, options and names of objects."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sixgate import __version__
from sixgate.cli.cluster.commands import build
from sixgate.cli.complete import answer_kubectl

BIN = Path(sys.executable).parent
STATUS = {
    "status": {"objects": [{"owner": "LoadBalancer/web"}, {"owner": "LoadBalancer/db"}, {"owner": "EgressGateway/pay"}]}
}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "status.json").write_text(json.dumps(STATUS))
    return tmp_path


def environment(home: Path) -> dict[str, str]:
    return {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(home), "TERM": "dumb", "PS1": "> ", "LC_ALL": "C.UTF-8"}


def run(home: Path, *command: str) -> str:
    done = subprocess.run(
        command,
        env=environment(home),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def in_bash(home: Path, *words: str) -> list[str]:
    """What bash offers for the last of `words`."""
    quoted = " ".join(f"'{word}'" for word in words)
    script = f"""
        source <(sixgate completion bash)
        COMP_WORDS=({quoted}) COMP_CWORD={len(words) - 1}
        _sixgate_completion sixgate
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return run(home, "bash", "--norc", "-c", script).split()


def in_fish(home: Path, line: str) -> list[str]:
    text = run(home, "fish", "--no-config", "-c", f"sixgate completion fish | source; complete -C '{line}'")
    return [row.partition("\t")[0] for row in text.splitlines()]


def typed(home: Path, shell: list[str], ready: str, keys: str, until: str) -> str:
    """All that an interactive shell shows: `ready` is typed first and prints READY, then `keys`; ends at `until`."""
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe(shell[0], shell, environment(home))
    shown, end, sent = "", time.monotonic() + 120, False
    try:
        os.write(terminal, f"{ready}; echo REA''DY\n".encode())
        while until not in shown and time.monotonic() < end:
            if not select.select([terminal], [], [], 1)[0]:
                continue
            shown += os.read(terminal, 65536).decode(errors="replace")
            if "READY" in shown and not sent:
                os.write(terminal, keys.encode())
                sent = True
    finally:
        os.close(terminal)
        os.kill(child, 9)
        os.waitpid(child, 0)
    return shown


def test_bash_completes_commands_options_and_names(state: Path) -> None:
    assert {"list", "show", "flows", "maglev"} <= set(in_bash(state, "sixgate", "lb", ""))
    assert "--manifests" in in_bash(state, "sixgate", "standalone", "--ma")
    assert in_bash(state, "sixgate", "lb", "show", "--state-dir", str(state), "") == ["db", "web"]
    assert in_bash(state, "sixgate", "lb", "show", "--state-dir", str(state), "w") == ["web"]
    assert in_bash(state, "sixgate", "egress", "flows", "--state-dir", str(state), "") == ["pay"]
    assert in_bash(state, "sixgate", "lb", "show", "--state-dir", str(state / "none"), "") == []


def test_fish_completes_commands_options_and_names(state: Path) -> None:
    assert {"list", "show", "flows", "maglev"} <= set(in_fish(state, "sixgate lb "))
    assert "--manifests" in in_fish(state, "sixgate standalone --ma")
    assert in_fish(state, f"sixgate lb show --state-dir {state} w") == ["web"]


@pytest.mark.parametrize(
    ("shell", "before"),
    [(["bash", "--norc", "-i"], ""), (["zsh", "-f", "-i"], "autoload -U compinit && compinit -u -D; ")],
    ids=["bash", "zsh"],
)
def test_a_key_completes_at_the_prompt(tmp_path: Path, shell: list[str], before: str) -> None:
    ready = f"{before}source <(sixgate completion {shell[0]})"
    shown = typed(tmp_path, shell, ready, "sixgate versi\t\n", f"sixgate {__version__}")
    assert f"sixgate {__version__}" in shown, shown


def test_zsh_completes_names(state: Path) -> None:
    ready = "autoload -U compinit && compinit -u -D; source <(sixgate completion zsh)"
    shown = typed(state, ["zsh", "-f", "-i"], ready, f"sixgate lb show --state-dir {state} w\t", "web")
    assert "web" in shown


def test_a_shell_that_is_not_known_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [BIN / "sixgate", "completion", "csh"], env=environment(tmp_path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "csh" in done.stderr


def test_kubectl_is_answered_in_its_own_way() -> None:
    lines = answer_kubectl(build(), [""]).splitlines()
    assert lines[-1] == ":4"
    assert {"status", "nodes", "gateways", "sysdump"} <= {line.partition("\t")[0] for line in lines}
    assert answer_kubectl(build(), ["status", "--wa"]).splitlines()[0].startswith("--wa")
    assert answer_kubectl(build(), ["lb", "-o", ""]).splitlines() == ["table", "wide", "json", "yaml", ":4"]
    assert answer_kubectl(build(), ["sysdump", "nothing", ""]).splitlines()[-1] in {":4", ":0"}


def test_the_script_for_kubectl_answers_as_the_plugin_does(tmp_path: Path) -> None:
    script = tmp_path / "kubectl_complete-sixgate"
    script.write_text(run(tmp_path, "sixgate", "completion", "kubectl"))
    script.chmod(0o755)
    assert run(tmp_path, str(script), "nod") == run(tmp_path, "kubectl_complete-sixgate", "nod")
