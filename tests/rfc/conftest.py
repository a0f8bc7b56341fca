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


@pytest.fixture(scope="module")
def gateway() -> Iterator[LiveGateway]:
    """A live gateway in namespaces of its own."""
    skip_unless_live()
    try:
        live = LiveGateway()
    except BpfError as error:
        if "tcx" not in str(error):
            raise
        pytest.skip(f"This kernel has no tcx: {error}")
    with live:
        yield live
