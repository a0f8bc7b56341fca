"""Fixtures of tests that compare the real gateway with the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sixgate.errors import BpfError
from sixgate.node.bpf import is_bpffs, missing_permission
from tests.rfc.live import BPFFS, LiveGateway

if TYPE_CHECKING:
    from collections.abc import Iterator


def skip_unless_live() -> None:
    """Skips with the reason where this machine cannot run a live gateway."""
    if reason := missing_permission():
        pytest.skip(reason)
    if not BPFFS.is_dir() or not is_bpffs(BPFFS):
        pytest.skip(f"No BPF file system is mounted at {BPFFS}.")


def started(*, xdp: bool = False) -> LiveGateway:
    """A live gateway in namespaces of its own."""
    skip_unless_live()
    try:
        return LiveGateway(xdp=xdp)
    except BpfError as error:
        if "tcx" not in str(error):
            raise
        pytest.skip(f"This kernel has no tcx: {error}")


@pytest.fixture(scope="module")
def gateway() -> Iterator[LiveGateway]:
    with started() as live:
        yield live


@pytest.fixture(scope="module")
def xdp_gateway() -> Iterator[LiveGateway]:
    """With sg_xdp on both devices, in front of sg_tc."""
    with started(xdp=True) as live:
        yield live
