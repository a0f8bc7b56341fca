"""Names of pins, the state directory, the lock, events and reports: what needs no kernel state."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sixgate.api.nodeconfig import NodeConfigSpec
from sixgate.errors import ApplyError, Problem, Ref
from sixgate.node import actions as act
from sixgate.node import names
from sixgate.node.events import RTPROT_SIXGATE, concerns_us
from sixgate.node.lock import NodeLock, holder
from sixgate.node.model import Attached, Desired, Device, Hook, Kernel, LinkPin, MapShape, Observed, Remembered
from sixgate.node.report import Failure, report
from sixgate.node.statedir import StateDir

if TYPE_CHECKING:
    from pathlib import Path


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1), min_size=1, max_size=4))
def test_pin_names_have_no_dot_and_can_be_read_back(parts: list[str]) -> None:
    joined = names.join(*parts)
    assert "." not in joined
    assert names.split(joined) == tuple(parts)


def test_pin_names_of_devices_that_differ_in_a_dot_differ() -> None:
    assert names.link_path(Hook("eth0.1", "xdp")) == "links/eth0%2e1:xdp"
    assert names.link_path(Hook("eth0%2e1", "xdp")) != names.link_path(Hook("eth0.1", "xdp"))


def test_a_long_outer_key_fits_a_file_name() -> None:
    assert len(names.inner_path("sg_out", names.outer_key_name(bytes(200)), "0" * 32)) < 255
    assert names.outer_key_name(bytes(200)) != names.outer_key_name(bytes(199) + b"\1")


def test_the_digest_of_a_table_is_of_its_shape_and_contents() -> None:
    shape, contents = MapShape(2, 4, 8, 1, 0), ((b"\0", b"a"),)
    digests = {
        names.contents_digest(contents, shape),
        names.contents_digest(contents, replace(shape, value_size=16)),
        names.contents_digest(((b"\0", b"b"),), shape),
    }
    assert len(digests) == 3


def test_the_state_directory_remembers_this_boot_only(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    remembered = Remembered(
        sysctls={"net/x": "0"},
        prog_ids=frozenset({1, 2}),
        qdiscs=frozenset({"eth0"}),
        filters=frozenset({"eth0", "eth1"}),
        tables=frozenset({"sg_tab"}),
        layouts={"maps/sg_tab": "1"},
        mounted="/sys/fs/bpf",
    )
    state.remember(remembered)
    assert StateDir(tmp_path / "state").remembered() == remembered
    raw = json.loads((tmp_path / "state" / "state.json").read_text())
    (tmp_path / "state" / "state.json").write_text(json.dumps({**raw, "boot": "another"}))
    assert state.remembered() == Remembered()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\xff"])
def test_a_damaged_state_file_is_forgotten(tmp_path: Path, content: str) -> None:
    (tmp_path / "state.json").write_bytes(content.encode("latin-1"))
    assert StateDir(tmp_path).remembered() == Remembered()


def test_an_unwritable_state_directory_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ApplyError, match="cannot be written"):
        StateDir(tmp_path / "file" / "state").write("x.json", {})


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from sixgate.node.lock import NodeLock;"
        f"NodeLock(Path({str(tmp_path)!r})).acquire(); print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, **_path()})
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        assert holder(tmp_path) == child.pid
        with pytest.raises(ApplyError, match=f"pid {child.pid}"):
            NodeLock(tmp_path).acquire()
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
    assert holder(tmp_path) is None
    lock = NodeLock(tmp_path)
    lock.acquire()
    lock.acquire()
    lock.remove()
    assert list(tmp_path.iterdir()) == []


def _path() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


def message(kind: int, body: bytes) -> bytes:
    padded = body + bytes(-len(body) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + padded


def route(dst_len: int, protocol: int) -> bytes:
    return message(24, bytes([2, dst_len, 0, 0, 254, protocol, 0, 1]) + bytes(4))


@pytest.mark.parametrize(
    ("data", "matters"),
    [
        (message(16, bytes(16)), True),
        (message(20, bytes(8)), True),
        (route(24, 186), False),
        (route(0, 186), True),
        (route(24, RTPROT_SIXGATE), True),
        (route(24, 186) + route(24, 186), False),
        (route(24, 186) + message(17, bytes(16)), True),
        (b"", False),
    ],
    ids=["link", "address", "foreign route", "default route", "our route", "two foreign", "route then link", "nothing"],
)
def test_which_events_matter(data: bytes, matters: bool) -> None:
    assert concerns_us(data) is matters


SPEC = NodeConfigSpec.model_validate(
    {
        "formatVersion": 1,
        "revision": "r1",
        "sysctls": [
            {"key": "net/a", "value": "1", "owners": ["G/a"]},
            {"key": "net/b", "value": "1", "owners": ["G/b"]},
            {"key": "net/c", "value": "1", "owners": ["G/c"]},
        ],
    }
)
HAVE = Observed(
    kernel=Kernel("6.18", tcx=True),
    devices={"e0": Device("e0", 2)},
    links={Hook("e0", "tc-ingress"): LinkPin(Hook("e0", "tc-ingress"), 20, 10, 2)},
    attached={Hook("e0", "tc-ingress"): (Attached(10, 20),)},
)


def test_the_report_names_each_owner_and_its_reasons() -> None:
    want = Desired(
        problems=(Problem(Ref("G", "a"), "DeviceMissing", "No device."),),
        notes=(Problem(Ref("G", "b"), "HookOccupied", "Somebody is there."),),
    )
    refused = Failure(act.SetSysctl(path="net/c", value="1", owners=("G/c",)), "Refused.", 1)
    status = report(SPEC, want, HAVE, (refused,))
    assert [(item.owner, item.state, item.reason, item.message) for item in status.objects] == [
        ("G/a", "Degraded", "DeviceMissing", "No device."),
        ("G/b", "Programmed", "HookOccupied", "Somebody is there."),
        ("G/c", "Degraded", "KernelRefused", "Refused."),
    ]
    assert (status.ready, status.applied_revision) == (False, "r1")
    assert status.message == "No device. Refused."
    assert [(device.name, device.hooks) for device in status.devices] == [("e0", {"tc-ingress": "tcx"})]


def test_an_acceleration_that_is_refused_degrades_nobody() -> None:
    action = act.Unpin(path="x", owners=("G/a",))
    status = report(SPEC, Desired(), HAVE, (Failure(action, "No XDP here.", degrades=False),))
    assert (status.ready, status.objects[0].state, status.objects[0].message) == (True, "Programmed", "No XDP here.")


def test_a_severed_link_is_no_hook() -> None:
    severed = replace(HAVE, links={Hook("e0", "tc-ingress"): LinkPin(Hook("e0", "tc-ingress"), 20, 10, 0)}, attached={})
    assert report(SPEC, Desired(), severed, ()).devices == ()
