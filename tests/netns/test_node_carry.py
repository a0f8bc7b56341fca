"""State survives an upgrade of the object, a change of its map's size, and the agent's death at any point of either."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sixgate.node.actions import Action, CarryEntries, UpdateLink
from sixgate.node.bpf.codec import Codec
from sixgate.node.bpf.ctype import Raw
from sixgate.node.bpf.map import Map
from tests.netns.conftest import Node

STATE = "sg_state"
ROOM = 600_000
LIVE = 500_000


class Dies(Exception):
    """Stands for kill -9 between two actions."""


def setup(entries: int = 4096) -> dict[str, Any]:
    return {"maps": [{"name": STATE, "maxEntries": entries, "carry": True}]}


def state(node: Node, value_bytes: int) -> Map:
    return Map.from_pin(node.root / "maps" / STATE, codec=Codec(Raw(8), Raw(value_bytes)))


def flows(count: int, start: int = 2) -> list[tuple[bytes, bytes]]:
    return [(struct.pack("=Q", n), struct.pack("=II", n & 0xFFFF, 0xABCD)) for n in range(start, start + count)]


def grown(entry: bytes) -> tuple[int, int, int, int]:
    """added, packets, mark, last of the larger layout."""
    added, packets, mark, last = struct.unpack("=QIIQ", entry)
    return added, packets, mark, last


def upgraded(node: Node, variants: dict[str, Path]) -> None:
    node.objects = variants["grown"]


def test_a_layout_that_grows_keeps_every_flow(any_node: Node, variants: dict[str, Path]) -> None:
    node = any_node
    assert node.agent().apply(node.spec(**setup())).ready
    with state(node, 8) as old:
        old.update_batch(flows(1000))
    upgraded(node, variants)
    assert node.agent().apply(node.spec(**setup())).ready
    with state(node, 24) as new:
        found = dict(new.lookup_batch())
    assert len(found) == 1000
    assert all(grown(found[key])[1:3] == struct.unpack("=II", value) for key, value in flows(1000))
    assert {grown(value)[0] for value in found.values()} == {0} == {grown(value)[3] for value in found.values()}
    assert STATE not in node.pins("maps-new")


def test_half_a_million_flows_with_new_ones_before_the_switch(node: Node, variants: dict[str, Path]) -> None:
    """The second pass finds what came in after the first; what the new program wrote meanwhile stays."""
    assert node.agent().apply(node.spec(**setup(ROOM))).ready
    with state(node, 8) as old:
        old.update_batch(flows(LIVE))
    late = flows(1000, start=LIVE + 2)
    newer = (struct.pack("=Q", LIVE + 2), struct.pack("=QIIQ", 5, 6, 7, 8))

    def traffic(run: Callable[[Action], None]) -> Callable[[Action], None]:
        def step(action: Action) -> None:
            if isinstance(action, UpdateLink):
                with state(node, 8) as old:
                    old.update_batch(late)
            run(action)
            if isinstance(action, UpdateLink):
                path = node.root / "maps-new" / STATE
                with Map.from_pin(path, codec=Codec(Raw(8), Raw(24))) as new:
                    new.update_batch([newer])

        return step

    upgraded(node, variants)
    assert node.agent(around=traffic).apply(node.spec(**setup(ROOM))).ready
    with state(node, 24) as new:
        found = dict(new.lookup_batch())
    assert len(found) == LIVE + len(late)
    assert found[newer[0]] == newer[1]


@pytest.mark.parametrize(("before", "after"), [(512, 4096), (4096, 512)])
def test_another_size_keeps_what_fits(node: Node, before: int, after: int) -> None:
    assert node.agent().apply(node.spec(**setup(before))).ready
    with state(node, 8) as old:
        old.update_batch(flows(400))
    assert node.agent().apply(node.spec(**setup(after))).ready
    with state(node, 8) as new:
        assert new.info.max_entries == after
        assert dict(new.lookup_batch()) == dict(flows(400))


def test_entries_beyond_a_smaller_size_are_told(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    assert node.agent().apply(node.spec(**setup(4096))).ready
    with state(node, 8) as old:
        old.update_batch(flows(300))
    assert node.agent().apply(node.spec(**setup(200))).ready
    with state(node, 8) as new:
        assert len(new.lookup_batch()) == 200
    assert "100 entries of sg_state were lost: the new map holds 200." in caplog.text


def test_a_layout_that_shrinks_again_keeps_every_flow(node: Node, variants: dict[str, Path]) -> None:
    assert node.agent().apply(node.spec(**setup())).ready
    with state(node, 8) as old:
        old.update_batch(flows(100))
    small = node.objects
    upgraded(node, variants)
    assert node.agent().apply(node.spec(**setup())).ready
    node.objects = small
    assert node.agent().apply(node.spec(**setup())).ready
    with state(node, 8) as back:
        assert dict(back.lookup_batch()) == dict(flows(100))


@pytest.mark.parametrize("steps", range(1, 13))
def test_death_between_any_two_steps_loses_nothing(node: Node, variants: dict[str, Path], steps: int) -> None:
    assert node.agent().apply(node.spec(**setup())).ready
    with state(node, 8) as old:
        old.update_batch(flows(1000))
    upgraded(node, variants)
    taken: list[Action] = []

    def until(run: Callable[[Action], None]) -> Callable[[Action], None]:
        def step(action: Action) -> None:
            if len(taken) == steps:
                raise Dies
            taken.append(action)
            run(action)

        return step

    spec = node.spec(**setup())
    with contextlib.suppress(Dies):
        node.agent(around=until).apply(spec)
    assert node.agent().apply(spec).ready
    with state(node, 24) as new:
        assert len(new.lookup_batch()) == 1000
    assert any(isinstance(action, CarryEntries) for action in taken) or steps < 3


def test_rows_of_an_array_keep_what_was_written_last(node: Node, variants: dict[str, Path]) -> None:
    """A row that changes before the switch is carried again; one that the new program has written stays."""
    maps = {"maps": [{"name": "sg_rows", "carry": True}]}
    assert node.agent().apply(node.spec(**maps)).ready

    def rows(value_bytes: int, folder: str = "maps") -> Map:
        return Map.from_pin(node.root / folder / "sg_rows", codec=Codec(Raw(4), Raw(value_bytes)))

    def row(number: int, value: int) -> tuple[bytes, bytes]:
        return struct.pack("=I", number), struct.pack("=II", value, value)

    with rows(8) as old:
        old.update_batch([row(number, number + 1) for number in range(5000)])
    newer = struct.pack("=QIIQ", 9, 9, 9, 9)

    def traffic(run: Callable[[Action], None]) -> Callable[[Action], None]:
        def step(action: Action) -> None:
            if isinstance(action, UpdateLink):
                with rows(8) as old:
                    old.update_batch([row(1, 77), row(2, 78), row(6000, 79)])
            run(action)
            if isinstance(action, UpdateLink):
                with rows(24, "maps-new") as new:
                    new.update_batch([(struct.pack("=I", 2), newer), (struct.pack("=I", 6001), newer)])

        return step

    upgraded(node, variants)
    assert node.agent(around=traffic).apply(node.spec(**maps)).ready
    with rows(24) as new:
        found = {int.from_bytes(key, "little"): value for key, value in new.lookup_batch()}
    assert grown(found[0])[1:3] == (1, 1)
    assert grown(found[4999])[1:3] == (5000, 5000)
    assert grown(found[1])[1:3] == (77, 77), "it changed after the first pass"
    assert grown(found[6000])[1:3] == (79, 79), "it came after the first pass"
    assert found[2] == newer, "the new program has written it"
    assert found[6001] == newer
    assert not any(found[8000])


def test_a_restart_carries_nothing(node: Node) -> None:
    assert node.agent().apply(node.spec(**setup())).ready
    with state(node, 8) as old:
        old.update_batch(flows(10))
        before = old.info.id
    assert node.agent().apply(node.spec(**setup())).ready
    with state(node, 8) as same:
        assert same.info.id == before
        assert len(same.lookup_batch()) == 10


def test_a_map_that_the_object_lacks_is_told(node: Node) -> None:
    status = node.agent().apply(node.spec(maps=[{"name": "sg_other", "carry": True}]))
    assert not status.ready
    assert "Map sg_other should be set up, but no wanted object has that map." in status.message
