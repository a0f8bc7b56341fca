"""Commands of the documentation that change nothing, and those of the quick start, run for real on a node of their own.

The node is a network namespace and a mount namespace: /sys/fs/bpf, /var/lib and /run are its own, so the commands run
as they stand on the pages, and nothing of the machine is touched.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, all_commands, blocks, lines_of

READING = (
    ("plan",),
    ("status",),
    ("trace",),
    ("nat", "list"),
    ("nat", "stats"),
    ("lb", "list"),
    ("egress", "list"),
    ("bigtcp", "status"),
    ("completion",),
    ("version",),
)
QUICK = ROOT / "docs" / "index.md"
PARTS = 3  # so that no test is long where the machine is busy
SETUP = """
set -eu
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmpfs /var/lib
mount -t tmpfs tmpfs /run
ip link set lo up
ip link add up0 type veth peer name up1
ip link set up0 up
ip link set up1 up
ip addr add 2001:db8:6:1::1/64 dev up0 nodad
ip addr add 203.0.113.129/25 dev up0
ip neigh add 203.0.113.130 lladdr 02:00:00:00:00:01 dev up0
ip route add default via 203.0.113.130
"""


def on_a_node(script: str) -> subprocess.CompletedProcess[str]:
    """Runs a script of sh in fresh namespaces, from the root of the tree, with the programs of this environment."""
    return subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", f"PATH={Path(sys.executable).parent}:$PATH\n{SETUP}{script}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        stdin=subprocess.DEVNULL,
    )


def quick_start() -> list[str]:
    """The lines of the quick start's block without a cluster."""
    (block,) = [block for block in blocks(QUICK) if "sixgate standalone" in block.text]
    return list(lines_of(block))


def test_the_quick_start_works_as_it_stands() -> None:
    lines = quick_start()
    assert lines[-1] == "sixgate down"
    told = "\n".join(f"echo '## {line}'\n{line}" for line in lines[:-1])
    after = "sixgate status -o json >/run/before; sixgate down; ls /sys/fs/bpf; sixgate status || true"
    done = on_a_node(f"{told}\ncat /run/before 2>/dev/null || true\n{after}\necho '## before'; cat /run/before")
    assert done.returncode == 0, done.stdout + done.stderr
    before = json.loads(done.stdout.partition("## before\n")[2])
    assert before["ready"]
    assert [row["owner"] for row in before["objects"]] == ["NAT46Gateway/lab"]
    assert {row["device"] for row in before["hooks"]} >= {"up0"}
    assert "Nothing of sixgate is on this node." in done.stdout


def reading() -> list[str]:
    """Commands of all pages that only look, as they stand, once each."""
    found: dict[str, None] = {}
    for command in all_commands():
        if command.program == "sixgate" and any(command.words[1 : 1 + len(kind)] == kind for kind in READING):
            words = [word for word in command.words if word not in {"--watch", "-w"}]
            if all(word.isprintable() for word in words) and "--metrics" not in words:
                found[" ".join(f"'{word}'" for word in ("sixgate", *words[1:]))] = None
    return list(found)


@pytest.mark.parametrize("part", range(PARTS))
def test_commands_that_look_answer_on_a_node(part: int) -> None:
    """Each ends with 0 or 1, as the page of commands says, and never with a wrong usage or an exception."""
    lines = reading()[part::PARTS]
    assert len(lines) > 3
    tries = "\n".join(
        f'code=0; {line} >/run/out 2>&1 || code=$?; echo "## $code {index}"; cat /run/out'
        for index, line in enumerate(lines)
    )
    done = on_a_node(f"sixgate standalone --manifests examples/nat46gateway --node gw-1 --once\n{tries}\nsixgate down")
    assert done.returncode == 0, done.stdout + done.stderr
    parts = dict(part.split("\n", 1) for part in done.stdout.split("## ")[1:])
    codes = {lines[int(head.split()[1])]: (int(head.split()[0]), text) for head, text in parts.items()}
    assert set(codes) == set(lines)
    said_only = {"'sixgate' 'plan'", "'sixgate' 'trace'", "'sixgate' 'completion'"}  # named in a sentence, not shown
    wrong = {line: found for line, found in codes.items() if line not in said_only and found[0] not in {0, 1}}
    assert wrong == {}
    assert [line for line, (_, text) in codes.items() if "Traceback" in text] == []
