"""`sixgate trace` in the time that a question and its answer take.

Reading options by typer takes longer than an agent takes to trace a packet. So what is plainly such a question is read
here and asked; whatever else it is (help, a mistake, YAML, no process to ask) is left to trace.py, whose options these
are: a unit test compares the two.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from sixgate.node.asking import ask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BPFFS, STATE_DIR = "/sys/fs/bpf/sixgate", "/var/lib/sixgate"
TEXTS = {
    "--from": "source",
    "--to": "target",
    "--proto": "proto",
    "--device": "device",
    "--flags": "flags",
    "--bpffs": "bpffs",
    "--state-dir": "state_dir",
    "--objects": "objects",
    "--output": "output",
    "-o": "output",
}
NUMBERS = {"--length": "length", "--ttl": "ttl"}
DEFAULTS: dict[str, str | int] = {"proto": "tcp", "device": "", "length": 0, "flags": "syn", "ttl": 64}


def trace(words: Sequence[str], environment: Mapping[str, str]) -> int | None:
    """The exit code after an agent's answer was printed; None where nothing was done."""
    if "_SIXGATE_COMPLETE" in environment:
        return None
    given = _read(words)
    if given is None:
        return None
    output = str(given.pop("output", "text"))
    state_dir = str(given.pop("state_dir", STATE_DIR))
    objects = str(given.pop("objects", environment.get("SIXGATE_OBJECTS", "")))
    question = DEFAULTS | given
    question["bpffs"] = os.path.abspath(str(given.get("bpffs", BPFFS)))
    question["objects"] = os.path.abspath(objects) if objects else ""
    if output not in {"text", "json"}:
        return None
    answer = ask(state_dir, "trace", question)
    if answer is None:
        return None
    if "refused" in answer:
        sys.stderr.write(f"{answer['refused']}\n")
        return 1
    found = answer["answer"]
    sys.stdout.write(json.dumps(found, indent=2) if output == "json" else "\n".join(found["sentences"]))
    sys.stdout.write("\n")
    sys.stdout.flush()
    return 1 if found["dropped"] else 0


def _read(words: Sequence[str]) -> dict[str, str | int] | None:
    """Options by the names that a question has; None where typer should look at them."""
    given: dict[str, str | int] = {}
    rest = list(words)
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        if not equals:
            if not rest:
                return None
            value = rest.pop(0)
        if option in TEXTS:
            given[TEXTS[option]] = value
        elif option in NUMBERS and value.isdecimal():
            given[NUMBERS[option]] = int(value)
        else:
            return None
    return given if {"source", "target"} <= given.keys() else None
