"""`sixgate trace` by the short way: options as by the long one, and nothing done where there is nobody to ask."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import typer

from sixgate.cli import build, common, quick
from sixgate.node.answering import Answers
from sixgate.node.questions import TraceQuestion

if TYPE_CHECKING:
    from pathlib import Path

FOUND = {"sentences": ["It arrives.", "It leaves."], "dropped": False}
ENDS = ("--from", "192.0.2.1:1", "--to", "192.0.2.2:80")


def test_the_options_are_those_of_the_command() -> None:
    command = typer.main.get_command(build("trace")).commands["trace"]  # type: ignore[attr-defined]
    declared = {
        option: (str(param.name), isinstance(param.default, int))
        for param in command.params
        for option in (*param.opts, *param.secondary_opts)
    }
    known = {option: (name, False) for option, name in quick.TEXTS.items()}
    known |= {option: (name, True) for option, name in quick.NUMBERS.items()}
    assert known == declared
    defaults = {str(param.name): param.default for param in command.params}
    assert {name: defaults[name] for name in quick.DEFAULTS} == quick.DEFAULTS
    assert (str(common.BPFFS), str(common.STATE_DIR)) == (quick.BPFFS, quick.STATE_DIR)


class Asked:
    """A process that keeps a node, and what it was asked."""

    def __init__(self) -> None:
        self.questions: list[dict[str, Any]] = []
        self.answer: dict[str, Any] = FOUND

    def __call__(self, question: dict[str, Any]) -> dict[str, Any]:
        TraceQuestion.model_validate(question)
        self.questions.append(question)
        return self.answer


def test_a_question_is_asked_and_its_answer_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = Asked()
    where = ("--state-dir", str(tmp_path), "--bpffs=/sys/fs/bpf/x")
    with Answers(tmp_path, {"trace": asked}):
        assert quick.trace((*ENDS, *where, "--ttl", "3"), {}) == 0
        assert capsys.readouterr().out == "It arrives.\nIt leaves.\n"
        asked.answer = FOUND | {"dropped": True}
        assert quick.trace((*ENDS, *where, "-o", "json"), {"SIXGATE_OBJECTS": "/objects"}) == 1
        assert json.loads(capsys.readouterr().out) == asked.answer
    first, second = asked.questions
    assert (first["source"], first["bpffs"], first["ttl"], first["objects"]) == ("192.0.2.1:1", "/sys/fs/bpf/x", 3, "")
    assert (second["objects"], second["ttl"]) == ("/objects", 64)


@pytest.mark.parametrize(
    "more",
    [("--help",), ("-o", "yaml"), ("--ttl", "many"), ("--ttl",), ("--no-such-option", "1"), ("word",), ("--ttl", "-1")],
)
def test_what_is_not_plainly_a_question_is_left_to_the_command(tmp_path: Path, more: tuple[str, ...]) -> None:
    asked = Asked()
    with Answers(tmp_path, {"trace": asked}):
        assert quick.trace((*ENDS, "--state-dir", str(tmp_path), *more), {}) is None
        assert quick.trace(("--from", "192.0.2.1:1", "--state-dir", str(tmp_path)), {}) is None
        assert quick.trace((*ENDS, "--state-dir", str(tmp_path)), {"_SIXGATE_COMPLETE": "complete_bash"}) is None
    assert quick.trace((*ENDS, "--state-dir", str(tmp_path)), {}) is None
    assert asked.questions == []
