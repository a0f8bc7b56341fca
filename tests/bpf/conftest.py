"""Fixtures of tests that load BPF: test objects compiled on demand, bpffs directories, private network namespaces."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from e2e.lab.netns import coming_back, enter_new_netns
from sixgate.node.bpf import BpfObject, Manifest, is_bpffs, load_manifest, missing_permission
from tests.bpf.harness import OBJECTS, ROOT
from tests.bpf.nat_lab import NatLab
from tools.build_bpf import build_all, build_object

SOURCES = Path(__file__).with_name("src")
CACHE = ROOT / "build" / "tests" / "bpf"
BPFFS = Path("/sys/fs/bpf")


@pytest.fixture(scope="session", autouse=True)
def may_use_bpf() -> None:
    """Skips where this process may not load programs, and says which capability is missing."""
    if reason := missing_permission():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def compiled() -> Callable[[str], Path]:
    """Compiles tests/bpf/src/NAME.bpf.c; kept in build/tests/bpf until their source changes."""

    def build(name: str) -> Path:
        return build_object(SOURCES / f"{name}.bpf.c", CACHE / f"{name}.bpf.o", (SOURCES,)).path

    return build


@pytest.fixture
def opened(compiled: Callable[[str], Path]) -> Iterator[Callable[[str], BpfObject]]:
    """Opens a test object by name; closed at the end."""
    objects: list[BpfObject] = []

    def open_one(name: str) -> BpfObject:
        objects.append(BpfObject.open(compiled(name)))
        return objects[-1]

    yield open_one
    for each in objects:
        each.close()


@pytest.fixture(scope="session")
def shipped() -> Manifest:
    """The objects of `make bpf`, built now where they are missing."""
    if not (OBJECTS / "manifest.json").exists():
        build_all(ROOT / "bpf_src", OBJECTS)
    return load_manifest(OBJECTS)


@pytest.fixture
def bpffs() -> Iterator[Path]:
    """An empty directory on bpffs with a random name; what is pinned in it goes with it."""
    if not BPFFS.is_dir() or not is_bpffs(BPFFS):
        pytest.skip(f"No BPF file system is mounted at {BPFFS}.")
    path = BPFFS / f"sgtest-{secrets.token_hex(6)}"
    path.mkdir(mode=0o700)
    yield path
    shutil.rmtree(path)


@dataclass(frozen=True, slots=True)
class Pair:
    """A veth pair in a private network namespace: names and indices of both ends."""

    names: tuple[str, str]
    indices: tuple[int, int]


@pytest.fixture
def private_net() -> Iterator[None]:
    """Moves this thread into a new network namespace, which goes when it comes back: nothing is named or left."""
    with coming_back():
        try:
            enter_new_netns()
        except OSError as error:
            pytest.skip(f"{error.strerror}.")
        yield


@pytest.fixture
def veth(private_net: None) -> Pair:
    """A veth pair that is up, in a private network namespace."""
    left, right = (f"sg{side}{secrets.token_hex(3)}" for side in "ab")
    with IPRoute() as route:
        route.link("add", ifname=left, kind="veth", peer={"ifname": right})
        indices = (route.link_lookup(ifname=left)[0], route.link_lookup(ifname=right)[0])
        for index in indices:
            route.link("set", index=index, state="up")
        # The kernel notices the carrier a little later, and routes by IPv6 only then.
        until = time.monotonic() + 10
        while any(route.link("get", index=index)[0].get_attr("IFLA_OPERSTATE") != "UP" for index in indices):
            assert time.monotonic() < until, f"devices {left} and {right} do not come up"
            time.sleep(0.01)
    return Pair((left, right), indices)


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """Keeps this thread on one CPU: what programs remember per CPU is there for the next packet."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield
    os.sched_setaffinity(0, allowed)


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Fails where the test leaves more descriptors open than it found."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints how many instructions the verifier walked for each shipped program (test_load_all.py)."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    told = sorted(
        {str(text) for report in reports for name, text in report.user_properties if name == "verified_insns"}
    )
    if told:
        terminalreporter.section("instructions verified, most of all combinations of constants")
        for line in told:
            terminalreporter.write_line(line)


@pytest.fixture
def lab() -> Iterator[NatLab]:
    """Stateful NAT with one object, NAT64 with a pool of two addresses."""
    with NatLab() as made:
        yield made
