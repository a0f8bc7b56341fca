"""`--watch` into a pipe: every state is printed as it comes, and SIGINT is how one ends it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.netns.standalone import PATIENCE_S, Gateway, environment, ready

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Watch:
    """A command that watches, and what it has printed."""

    def __init__(self, gateway: Gateway, *words: str) -> None:
        command = gateway.words(*words, "--watch")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
        self.text = ""

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def until(self, holds: Callable[[str], bool]) -> str:
        """What is printed until `holds` says yes."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + PATIENCE_S
        while not holds(self.text):
            assert select.select([self.process.stdout], [], [], deadline - time.monotonic())[0], self.text
            read = os.read(self.process.stdout.fileno(), 65536)
            assert read, f"it ended after {self.text}"
            self.text += read.decode()
        return self.text

    def end(self) -> tuple[int, str]:
        """Code and complaints after SIGINT."""
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, said.decode()


def documents(text: str) -> list[dict[str, Any]]:
    """Whole documents of a stream; what is not complete yet is left out."""
    found, at, decoder = [], 0, json.JSONDecoder()
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        try:
            document, at = decoder.raw_decode(text, at)
        except ValueError:
            break
        found.append(document)
    return found


@pytest.fixture
def running(gateway: Gateway) -> Iterator[Gateway]:
    gateway.write()
    gateway.start()
    gateway.wait(ready)
    return gateway


def test_every_state_is_printed_as_it_comes(running: Gateway) -> None:
    with Watch(running, "status", "-o", "json") as watch:
        (first, *_) = documents(watch.until(lambda text: bool(documents(text))))
        running.write(stateless={"ipv4CIDRs": ["192.0.2.0/25"]})

        def changed(text: str) -> bool:
            last = documents(text)[-1]
            return ready(last) and last["appliedRevision"] != first["appliedRevision"]

        watch.until(changed)
        assert watch.end() == (0, "")


def test_tables_in_a_pipe_are_plain_lines_until_nobody_reads_them(running: Gateway) -> None:
    with Watch(running, "status", "-o", "wide") as watch:
        text = watch.until(lambda text: "sg_work_tc" in text)
        assert "\x1b" not in text
        (heads,) = {line for line in text.splitlines() if line.startswith("device")}
        assert heads.split() == ["device", "hook", "attached", "by", "program", "id", "object", "link"]
        assert watch.process.stdout is not None
        watch.process.stdout.close()
        running.write(stateless={"ipv4CIDRs": ["192.0.2.0/25"]})
        watch.process.wait(timeout=PATIENCE_S)
        assert watch.process.stderr is not None
        assert b"Traceback" not in watch.process.stderr.read()


@pytest.mark.parametrize("words", [("lb", "list"), ("bigtcp", "status")])
def test_where_nothing_is_an_empty_list_is_printed_once(gateway: Gateway, words: tuple[str, ...]) -> None:
    with Watch(gateway, *words, "-o", "json") as watch:
        assert documents(watch.until(lambda text: text.endswith("]\n"))) == [[]]
        assert watch.end() == (0, "")
